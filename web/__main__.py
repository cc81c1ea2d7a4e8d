"""`python -m web [--port N] [--host H]`: the web process, until SIGTERM or SIGINT; requests under way are finished."""

import argparse
import asyncio
import gc
import resource
import signal

import structlog
import uvloop
from aiohttp import web

from streams import telemetry
from web.app import make_app, make_runner
from web.settings import WebSettings

log = structlog.get_logger("web")


async def serve(settings: WebSettings) -> None:
    """Serve until a signal; then stop listening, finish, close."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    allow_connections(settings.web_connections)
    runner = make_runner(make_app(settings), settings)
    await runner.setup()
    site = web.TCPSite(runner, settings.web_host, settings.web_port, backlog=1024, reuse_address=True)
    await site.start()
    rest_the_collector()
    log.info("listening", host=settings.web_host, port=_port(runner))
    await stopping.wait()
    log.info("stopping")
    await runner.cleanup()
    log.info("stopped")


def allow_connections(most: int) -> None:
    """As many files as connections, and some more, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + 256 if hard == resource.RLIM_INFINITY else min(most + 256, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def rest_the_collector() -> None:
    """What the start left behind is never looked through again, and young garbage is collected less often: requests leave
    few cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _port(runner: web.AppRunner) -> int:
    address: tuple[str, int] = runner.addresses[0]
    return address[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m web", description=__doc__)
    parser.add_argument("--port", type=int, help="default: WEB_PORT")
    parser.add_argument("--host", help="default: WEB_HOST")
    args = parser.parse_args()
    given = {"web_port": args.port, "web_host": args.host}
    settings = WebSettings(**{name: value for name, value in given.items() if value is not None})
    telemetry.start("web", level=settings.web_log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
