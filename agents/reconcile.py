"""`./dev reconcile` (`python -m agents.reconcile`): the cases of reconciliation at a terminal.

list [--state open] [--kind KIND]     the newest first
show CASE                             one, with its history
assign CASE OWNER                     whose it is
resolve CASE --note WHY [--accept]    closed; opens again if found again, unless accepted with these very values
run                                   compare the books now, here; exit 1 while cases are open
clearing                              what the gateway owes us, by the ledger
"""

import argparse
import asyncio
import getpass
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from agents.core import Core, Outgoing
from agents.reconciler import LOOK_BACK, NotOurs, Reconciler
from gateway.client import open_client
from gateway.errors import GatewayError
from gateway.settings import GatewaySettings
from sql import reconciliation
from sql.db import Database
from sql.errors import Unavailable
from sql.reconciliation import Case


class _Silent:
    """A reconciliation publishes nothing."""

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        raise AssertionError("a reconciliation publishes nothing")


async def main(args: argparse.Namespace) -> int:
    """Do one command; the exit code: 0 done, 1 not so (or cases are open), 2 nothing could be reached."""
    async with await Database.connect(attempts=2) as db:
        match args.command:
            case "list":
                cases = await reconciliation.get_cases(db, limit=args.limit, state=args.state, kind=args.kind)
                print("\n".join([*map(_row, cases), f"{len(cases)} cases"]))
                return 0
            case "show":
                case = await reconciliation.get_case(db, args.case)
                if case is None:
                    return _said("unknown")
                print(_whole(case))
                return 0
            case "assign":
                return _said(await reconciliation.assign_case(db, args.case, args.owner, actor=args.actor))
            case "resolve":
                return _said(
                    await reconciliation.resolve_case(
                        db, args.case, args.note, actor=args.actor, accept=args.accept
                    )
                )
            case "clearing":
                clearing = await reconciliation.get_clearing(db)
                wrong = await reconciliation.violations(db, datetime.now(UTC) - LOOK_BACK)
                print(
                    f"gateway_clearing {clearing.balance} paise: captured {clearing.captured}, refunded {clearing.refunded},"
                )
                print(f"settled {clearing.settled}, without a sale {clearing.unapplied}")
                for row in wrong:
                    print(json.dumps(row, default=str))
                return 1 if wrong else 0
            case _:
                return await _run(db)


async def _run(db: Database) -> int:
    async with open_client(GatewaySettings()) as gateway:
        core = Core(db, _Silent(), "commdesk", 1)
        summary = await Reconciler(core, gateway, holder=f"cli-{os.getpid()}").now()
    print(json.dumps(summary.as_dict(), indent=2))
    waiting = await reconciliation.get_waiting(db)
    print(f"{waiting.cases} cases open")
    return 1 if waiting.cases else 0


def _row(case: Case) -> str:
    return f"{case.id}  {case.created_at:%Y-%m-%d %H:%M}  {case.state:<8}  {case.owner or '-':<12}  {case.kind}  {case.subject}"


def _whole(case: Case) -> str:
    story = "\n".join(f"  {json.dumps(event, sort_keys=True)}" for event in case.history)
    return f"{_row(case)}\nexpected {json.dumps(case.expected)}\nactual   {json.dumps(case.actual)}\nhistory\n{story}"


def _said(outcome: str) -> int:
    print(outcome)
    return 0 if outcome in ("assigned", "resolved", "exists") else 1


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Errors: SystemExit with what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.reconcile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--actor", default=getpass.getuser(), help="who says so, for the audit log")
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list")
    listed.add_argument("--state", choices=["open", "resolved"])
    listed.add_argument("--kind")
    listed.add_argument("--limit", type=int, default=100)
    commands.add_parser("show").add_argument("case", type=UUID)
    assign = commands.add_parser("assign")
    assign.add_argument("case", type=UUID)
    assign.add_argument("owner")
    resolve = commands.add_parser("resolve")
    resolve.add_argument("case", type=UUID)
    resolve.add_argument("--note", required=True)
    resolve.add_argument("--accept", action="store_true")
    commands.add_parser("run")
    commands.add_parser("clearing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parse())))
    except NotOurs as busy:
        sys.exit(f"not now: {busy}")
    except (Unavailable, GatewayError) as error:
        print(f"out of reach: {error}", file=sys.stderr)
        sys.exit(2)
