"""`python -m gateway.simulator --port 8099 --webhook-url http://127.0.0.1:8080/v1/webhooks/cashfree`"""

from __future__ import annotations

import argparse
from pathlib import Path

import uvloop
from aiohttp import web

from gateway.settings import GatewaySettings
from gateway.simulator.app import make_app
from gateway.simulator.sim import SimConfig


def main() -> None:
    """Serve until SIGINT or SIGTERM.

    The merchant's credentials and the webhook secret come from the product's own settings
    (CASHFREE_CLIENT_ID, CASHFREE_CLIENT_SECRET, the first of CASHFREE_WEBHOOK_SECRETS), so one
    environment sets up both sides.
    """
    parser = argparse.ArgumentParser(prog="gateway.simulator", description="A simulated Cashfree.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--public-url", help="how browsers reach it, if not by host and port")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--webhook-url", help="where webhooks go unless an order names its own notify_url")
    parser.add_argument(
        "--settle-every", type=float, metavar="SECONDS", help="settle by itself, on its clock"
    )
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="keep orders in this file, so that a crash forgets none"
    )
    args = parser.parse_args()
    merchant = GatewaySettings()
    secrets = merchant.webhook_secrets()
    if not merchant.cashfree_client_id or not secrets:
        parser.error("CASHFREE_CLIENT_ID and CASHFREE_CLIENT_SECRET say which merchant to be")
    config = SimConfig(
        client_id=merchant.cashfree_client_id,
        client_secret=merchant.cashfree_client_secret.get_secret_value(),
        webhook_secret=secrets[0].decode(),
        webhook_url=args.webhook_url,
        seed=args.seed,
        public_url=args.public_url or f"http://{args.host}:{args.port}",
        settle_every_s=args.settle_every,
        journal=args.journal,
    )
    web.run_app(
        make_app(config),
        host=args.host,
        port=args.port,
        access_log=None,
        shutdown_timeout=1.0,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
