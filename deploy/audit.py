"""`./dev audit`: is the log what it was, what are its heads, and all of it as a file."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from sql import audit
from sql.audit import Anchor, Wanted
from sql.db import Database
from sql.errors import Unavailable


async def verify(options: argparse.Namespace, db: Database) -> int:
    """Every chain from its first row to its head, and against anchors; 1 and the places if it is broken."""
    kept = list(read_anchors(options.anchors.read_text().splitlines())) if options.anchors else []
    broken = await audit.find_broken(db, kept)
    entries, chains = await audit.count(db)
    for place in broken:
        print(f"{place.chain} {place.seq} (row {place.id}): {place.what}")
    anchors = len(kept) + len(await audit.get_anchors(db))
    print(f"{entries} rows in {chains} chains, {anchors} anchors: {len(broken)} places broken")
    return 1 if broken else 0


async def anchor(options: argparse.Namespace, db: Database) -> int:
    """Keep the heads now, and print all that were kept, one JSON object a line: put them where nobody here can write."""
    del options
    await audit.anchor(db)
    for kept in await audit.get_anchors(db):
        print(json.dumps(asdict(kept), default=str))
    return 0


async def export(options: argparse.Namespace, db: Database) -> int:
    """Rows as JSON, one a line, the newest first."""
    wanted = Wanted(
        actor=options.actor, object_kind=options.kind, object_id=options.id, since=options.since, until=options.until
    )  # fmt: skip
    out = options.out.open("w") if options.out else sys.stdout
    async for page in audit.read_all(db, wanted):
        for entry in page:
            print(json.dumps(asdict(entry), default=str), file=out)
    if options.out:
        out.close()
    return 0


def read_anchors(lines: Iterable[str]) -> Iterable[Anchor]:
    """Anchors of JSON lines: of `./dev audit anchor`, or of the workers' log, whose other lines are passed over."""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and {"chain", "seq", "link"} <= said.keys():
            at = datetime.fromisoformat(
                said.get("created_at") or said.get("at") or "1970-01-01T00:00:00+00:00"
            )
            yield Anchor(str(said["chain"]), int(said["seq"]), str(said["link"]), at)


def parser() -> argparse.ArgumentParser:
    """The commands of `./dev audit`."""
    root = argparse.ArgumentParser(prog="./dev audit", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    checks = commands.add_parser("verify", help=verify.__doc__)
    checks.add_argument("--anchors", type=Path, metavar="FILE", help="anchors that were kept elsewhere")
    checks.set_defaults(action=verify)
    commands.add_parser("anchor", help=anchor.__doc__).set_defaults(action=anchor)
    exports = commands.add_parser("export", help=export.__doc__)
    for name in ("--actor", "--kind", "--id"):
        exports.add_argument(name, help="only of this")
    for name in ("--since", "--until"):
        exports.add_argument(
            name, type=datetime.fromisoformat, metavar="TIME", help="RFC 3339, with its zone"
        )
    exports.add_argument("--out", type=Path, metavar="FILE")
    exports.set_defaults(action=export)
    return root


async def run(options: argparse.Namespace) -> int:
    """One command on the database of the environment. Errors: Unavailable."""
    async with Database() as db:
        done: int = await options.action(options, db)
        return done


def main(arguments: Sequence[str]) -> int:
    """The command's exit code."""
    try:
        return asyncio.run(run(parser().parse_args(arguments)))
    except Unavailable as error:
        print(f"./dev audit: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
