"""`./dev queue`: what waits, what died, what stopped, and how far each group is; and to do something about it.

Whoever changes something says why; who, why and when are in the audit log.
"""

import argparse
import asyncio
import getpass
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from agents.archiver import Archive, replay_segments
from deploy.broker import BrokerError, Management
from sql import queues, recovery
from sql.db import Database
from sql.errors import Unavailable
from streams.address import Address
from streams.seek import extents, offset_at
from streams.settings import StreamSettings
from streams.topics import TOPICS
from streams.wire import Refused

Command = Callable[[argparse.Namespace, Database], Awaitable[int]]


def table(rows: Iterable[Sequence[object]], *head: str) -> None:
    """Print aligned columns."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


async def show_counts(options: argparse.Namespace, db: Database) -> int:
    """Per topic: waiting, due, dead; the breakers that are not closed; the newest dead letters."""
    rows = await queues.count_queues(db)
    table(
        [(q.topic, q.waiting, q.due, q.dead, f"{q.oldest_s:.0f}") for q in rows],
        "topic", "waiting", "due", "dead", "oldest s",
    )  # fmt: skip
    letters = await queues.get_dead_letters(
        db, limit=options.limit, topic=options.topic, state="purged" if options.purged else "dead"
    )
    print()
    table(
        [(x.id, x.topic, x.partition, x.offset, x.key, x.attempt, (x.error or x.reason)[:80]) for x in letters],
        "id", "topic", "partition", "offset", "key", "attempts", "error",
    )  # fmt: skip
    return 0


async def show_letter(options: argparse.Namespace, db: Database) -> int:
    """One item whole, with what people did to it."""
    letter = await queues.get_dead_letter(db, options.id)
    if letter is None:
        print(f"there is no item {options.id}", file=sys.stderr)
        return 1
    story = await queues.get_story(db, options.id)
    told: dict[str, Any] = {name: getattr(letter, name) for name in letter.__slots__}
    told["story"] = [{name: getattr(deed, name) for name in deed.__slots__} for deed in story]
    print(json.dumps(told, indent=2, default=str))
    return 0


async def replay(options: argparse.Namespace, db: Database) -> int:
    """Try dead items again."""
    ids = options.ids or await queues.get_dead_ids(db, options.topic, limit=options.limit)
    done = await queues.replay_dead(db, ids, actor=options.actor, why=options.why)
    print(f"{len(done)} of {len(ids)} are tried again")
    return 0 if len(done) == len(ids) else 1


async def purge(options: argparse.Namespace, db: Database) -> int:
    """Give dead items up."""
    done = await queues.purge_dead(db, options.ids, actor=options.actor, why=options.why)
    print(f"{len(done)} of {len(options.ids)} are given up")
    if len(done) < len(options.ids):
        print("the others are not dead, or are payments that nobody was credited: replay or refund those")
    return 0 if len(done) == len(options.ids) else 1


async def show_lag(options: argparse.Namespace, db: Database) -> int:
    """Per partition: stored, committed, behind, and how much may still be deleted before it is read."""
    settings = StreamSettings()
    standings = [
        s
        for s in await recovery.get_standings(db, options.group)
        if s.topic in TOPICS and options.topic in (None, s.topic)
    ]
    found = await extents(settings.address, [(s.topic, s.partition) for s in standings])
    rows: list[Sequence[object]] = []
    sums: dict[str, int] = {}
    for s in standings:
        extent = found[s.topic, s.partition]
        behind = max(0, extent.end - s.next_offset)
        sums[s.topic] = sums.get(s.topic, 0) + behind
        rows.append(
            (
                s.topic,
                s.partition,
                extent.first,
                s.next_offset,
                extent.end,
                behind,
                s.next_offset - extent.first,
                s.owner,
            )
        )
    if options.topic is None:
        table(sums.items(), "topic", f"behind ({options.group})")
    else:
        table(rows, "topic", "partition", "first", "next", "end", "behind", "to deletion", "owner")
    return 0


async def rewind(options: argparse.Namespace, db: Database) -> int:
    """Send a group back; what it reads again changes nothing."""
    address, moved = StreamSettings().address, 0
    standings = [
        s
        for s in await recovery.get_standings(db, options.group)
        if s.topic == options.topic and options.partition in (None, s.partition)
    ]
    for s in standings:
        target = options.to_offset
        if target is None:
            target = await offset_at(address, s.topic, s.partition, options.to_time)
        first = (await extents(address, [(s.topic, s.partition)]))[s.topic, s.partition].first
        if target < first:
            print(
                f"{s.topic}-{s.partition}: {target} is deleted, {first} is the first; older ones are in the archive"
            )
            target = first
        if target >= s.next_offset:
            continue
        if await recovery.rewind_partition(
            db, s.topic, s.partition, options.group, target, actor=options.actor, why=options.why
        ):
            moved += 1
            print(f"{s.topic}-{s.partition}: from {s.next_offset} to {target}")
    print(f"{moved} of {len(standings)} partitions are read again")
    return 0 if standings else 1


async def show_breakers(options: argparse.Namespace, db: Database) -> int:
    """Every topic's breaker; with --close, let a topic go on."""
    if options.close:
        closed = await queues.close_breaker(db, options.close, actor=options.actor, why=options.why or "")
        print(f"{options.close} goes on" if closed else f"{options.close} was not stopped")
        return 0 if closed else 1
    table(
        [
            (b.topic, b.state, b.trips, f"{b.failures}/{b.records}", b.retry_at or "", (b.error or "")[:80])
            for b in (await queues.get_breakers(db)).values()
        ],
        "topic", "state", "trips", "failures", "tried at", "error",
    )  # fmt: skip
    return 0


async def show_incidents(options: argparse.Namespace, db: Database) -> int:
    """What the broker lost, as noticed."""
    rows = await recovery.get_incidents(db, limit=options.limit, topic=options.topic)
    table(
        [(i.at, f"{i.topic}-{i.partition}", i.kind, i.expected_offset, i.found_offset, i.detail) for i in rows],
        "at", "partition", "kind", "expected", "found", "detail",
    )  # fmt: skip
    return 0


async def restore(options: argparse.Namespace, db: Database) -> int:
    """Make a deleted partition stream again, empty; what it held comes again from the outbox and the inboxes."""
    del db
    vhost = unquote(urlsplit(os.environ["STREAM_URL"]).path.lstrip("/"))
    async with Management(os.environ["STREAM_MANAGEMENT_URL"]) as management:
        await management.restore_partition(vhost, options.topic, options.partition)
    print(f"{options.topic}-{options.partition} is there")
    return 0


async def show_archive(options: argparse.Namespace, db: Database) -> int:
    """What of a topic lies in the archive."""
    ends = await recovery.get_archive_ends(db)
    rows = []
    for topic, partition in sorted(ends):
        if options.topic in (None, topic):
            segments = await recovery.get_archived(db, topic, partition)
            records = sum(s.n_records for s in segments)
            size = sum(s.size_bytes for s in segments)
            rows.append(
                (topic, partition, len(segments), records, size, segments[0].first_at, segments[-1].last_at)
            )
    table(rows, "topic", "partition", "segments", "records", "bytes", "from", "to")
    return 0


async def replay_archive(options: argparse.Namespace, db: Database) -> int:
    """Publish archived records again, to the end of their partitions."""
    ends = await recovery.get_archive_ends(db)
    address: Address = StreamSettings().address
    for topic, partition in sorted(ends):
        if topic == options.topic and options.partition in (None, partition):
            segments, records = await replay_segments(
                db, Archive.from_environment(), address, topic, partition,
                since=options.since, actor=options.actor, why=options.why,
            )  # fmt: skip
            print(f"{topic}-{partition}: {records} records of {segments} segments")
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Errors: SystemExit with what is wrong."""
    parser = argparse.ArgumentParser(prog="./dev queue", description=__doc__)
    parser.add_argument("--actor", default=getpass.getuser(), help="who says so, for the audit log")
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    group = os.environ.get("CONSUMER_GROUP", "commdesk")

    def changes(name: str, action: Command, text: str) -> argparse.ArgumentParser:
        command = add(name, help=text)
        command.add_argument("--why", required=True, help="for the audit log")
        command.set_defaults(action=action)
        return command

    def reads(name: str, action: Command, text: str) -> argparse.ArgumentParser:
        command = add(name, help=text)
        command.set_defaults(action=action)
        return command

    listed = reads("list", show_counts, "what waits and what died")
    listed.add_argument("topic", nargs="?", choices=sorted(TOPICS), metavar="TOPIC")
    listed.add_argument("--purged", action="store_true", help="those that were given up")
    listed.add_argument("--limit", type=int, default=50)
    reads("show", show_letter, "one item, whole").add_argument("id", type=int)
    again = changes("replay", replay, "try dead items again")
    which = again.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", type=int, nargs="*", default=[], metavar="ID")
    which.add_argument("--topic", choices=sorted(TOPICS), metavar="TOPIC", help="all of a topic")
    again.add_argument("--limit", type=int, default=1000)
    changes("purge", purge, "give dead items up").add_argument("ids", type=int, nargs="+", metavar="ID")
    lag = reads("lag", show_lag, "how far a group is behind; per partition for a TOPIC")
    lag.add_argument("topic", nargs="?", choices=sorted(TOPICS), metavar="TOPIC")
    lag.add_argument("--group", default=group)
    back = changes("rewind", rewind, "have a group read again")
    back.add_argument("topic", choices=sorted(TOPICS), metavar="TOPIC")
    back.add_argument("--partition", type=int)
    back.add_argument("--group", default=group)
    target = back.add_mutually_exclusive_group(required=True)
    target.add_argument("--to-offset", type=int)
    target.add_argument("--to-time", type=datetime.fromisoformat, metavar="RFC3339")
    breakers = reads("breakers", show_breakers, "topics that are stopped; --close TOPIC lets one go on")
    breakers.add_argument("--close", choices=sorted(TOPICS), metavar="TOPIC")
    breakers.add_argument("--why", help="for the audit log")
    incidents = reads("incidents", show_incidents, "what the broker lost, as noticed")
    incidents.add_argument("topic", nargs="?", choices=sorted(TOPICS), metavar="TOPIC")
    incidents.add_argument("--limit", type=int, default=50)
    made = reads("restore", restore, "make a deleted partition stream again")
    made.add_argument("topic", choices=sorted(TOPICS), metavar="TOPIC")
    made.add_argument("partition", type=int)
    kept = reads("archive", show_archive, "what lies in the archive")
    kept.add_argument("topic", nargs="?", choices=sorted(TOPICS), metavar="TOPIC")
    old = changes("replay-archive", replay_archive, "publish archived records again")
    old.add_argument("topic", choices=sorted(TOPICS), metavar="TOPIC")
    old.add_argument("--partition", type=int)
    old.add_argument("--since", type=datetime.fromisoformat, metavar="RFC3339", help="default: all of them")
    options = parser.parse_args(argv)
    if options.command == "breakers" and options.close and not options.why:
        parser.error("--close needs --why")
    return options


async def main(options: argparse.Namespace) -> int:
    """Run one command; its exit code. Errors: Unavailable, OSError, Refused, BrokerError."""
    async with Database() as db:
        action: Command = options.action
        return await action(options, db)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parse())))
    except (Unavailable, OSError, Refused, BrokerError) as error:
        print(f"./dev queue: {error}", file=sys.stderr)
        sys.exit(2)
