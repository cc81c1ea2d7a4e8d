"""The commands behind `./dev`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy import commands
from deploy.broker import BrokerError
from deploy.local.process import ServerError


def parser() -> argparse.ArgumentParser:
    """Every command with its options; `action` is what to call with the parsed options."""
    root = argparse.ArgumentParser(prog="./dev", description="CommDesk's financial core, on this machine.")
    add = root.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser

    run = add("run", help="set everything up and run the whole system with demo traffic until Ctrl-C")
    run.add_argument(
        "--for", dest="seconds", type=float, metavar="S", help="end by itself after S seconds of traffic"
    )
    run.add_argument("--no-demo", action="store_true", help="run the system without traffic")
    run.add_argument("--fresh", action="store_true", help="drop local data first")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the demo's figures to FILE")
    run.add_argument("--workers", type=int, metavar="N", help="number of workers (default: one per core)")
    run.add_argument(
        "--docker", action="store_true", help="servers from compose.yaml instead of private ones"
    )
    run.add_argument("--trace", action="store_true", help="trace one request in fifty; see ./dev trace")
    run.set_defaults(action=commands.run)

    up = add("up", help="the servers alone, in the foreground")
    up.add_argument("--fresh", action="store_true", help="drop local data first")
    up.set_defaults(action=commands.up)

    test = add("test", help="run the tests; further arguments are pytest's")
    test.set_defaults(action=commands.test)

    check = add("check", help="lint, types, import contracts, SQL lint, secrets scan, images")
    check.add_argument("--fix", action="store_true", help="let the linters correct what they can")
    check.set_defaults(action=commands.check)

    trace = add("trace", help="one payment from webhook to dashboard, after ./dev run --trace")
    trace.add_argument(
        "subject", nargs="?", metavar="PAYMENT_ID", help="default: the newest on the dashboard"
    )
    trace.add_argument("--svg", type=Path, metavar="FILE", help="draw it too")
    trace.set_defaults(action=commands.trace)

    add("env", help="URLs of the running local stack, as shell exports").set_defaults(action=commands.env)

    verify = add("verify", help="run every invariant on a database; exit 1 and the rows if one fails")
    verify.add_argument("url", nargs="?", metavar="DATABASE_URL", help="default: the running stack's")
    verify.set_defaults(action=commands.verify)

    psql = add("psql", help="a psql session on the running stack; further arguments are psql's")
    psql.add_argument(
        "--role", default="readonly", choices=["readonly", "operator", "web", "worker", "migrator", "admin"]
    )
    psql.set_defaults(action=commands.psql)

    reconcile = add(
        "reconcile",
        help="the cases of reconciliation: list, show, assign, resolve, run, clearing",
        add_help=False,
    )
    reconcile.set_defaults(action=commands.reconcile)

    queue = add(
        "queue",
        help="parked and dead events, breakers, lag, rewind, archive; ./dev queue --help",
        add_help=False,
    )
    queue.set_defaults(action=commands.queue)

    audit = add("audit", help="the audit log: verify, anchor, export; ./dev audit --help", add_help=False)
    audit.set_defaults(action=commands.audit)

    bench = add("bench", help="measure one thing; ./dev bench --help names them", add_help=False)
    bench.set_defaults(action=commands.bench)

    faults = add("faults", help="break a system of its own under load and judge it", add_help=False)
    faults.set_defaults(action=commands.faults)

    security = add("security", help="attack a system of its own at every door", add_help=False)
    security.set_defaults(action=commands.security)

    simulate = add(
        "simulate", help="play seeds of the simulated pipeline: ./dev simulate --help", add_help=False
    )
    simulate.set_defaults(action=commands.simulate)

    mutants = add("mutants", help="break the code on purpose; the tests must notice", add_help=False)
    mutants.set_defaults(action=commands.mutants)

    add("events", help="write the event types' JSON Schemas to docs/events").set_defaults(
        action=commands.events
    )
    add("lock", help="renew requirements.lock from pyproject.toml").set_defaults(action=commands.lock)
    return root


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    root = parser()
    options, rest = root.parse_known_args(arguments)
    passes_on = options.command in (
        "test",
        "psql",
        "bench",
        "faults",
        "security",
        "simulate",
        "mutants",
        "reconcile",
        "queue",
        "audit",
    )
    if rest and not passes_on:
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    action: Callable[[argparse.Namespace], int] = options.action
    try:
        return action(options)
    except (ServerError, BrokerError) as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
