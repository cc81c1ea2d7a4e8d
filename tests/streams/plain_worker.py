"""A worker with plain Faust agents, as anybody writes them, for the tests. Arguments: URL, file, topics,
name.

The first agent forwards each event of wallet.debit to wallet.credit; the second writes down what arrives
there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import faust

from streams.transport import register
from tests.streams.sqlite_ownership import SqliteOwnership


def main() -> None:
    url, path, _, name = sys.argv[1:5]
    register()
    app = faust.App(
        "plain",
        broker=url,
        datadir=Path(path).parent,
        broker_commit_interval=0.3,
        topic_partitions=4,
        topic_disable_leader=True,
        web_enabled=False,
        stream_wait_empty=False,
        autodiscover=False,
    )
    ownership = SqliteOwnership(Path(path), name)
    setattr(app, "ownership", ownership)  # noqa: B010 - Faust knows no such attribute
    debits = app.topic("wallet.debit", key_type=str, value_type=str, value_serializer="raw")
    credits = app.topic("wallet.credit", key_type=bytes, value_type=bytes, value_serializer="raw")

    @app.agent(debits)
    async def forward(stream: Any) -> None:
        async for event in stream.events():
            await credits.send(
                key=event.value.split(":")[0].encode(),
                value=event.value.encode(),
                headers={"from": name.encode()},
            )

    @app.agent(credits)
    async def write_down(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            assert dict(event.headers)["from"]
            ownership.db.execute(
                "INSERT INTO records VALUES (?, ?, 1, ?, ?)",
                (message.topic, message.partition, message.offset, event.value),
            )

    sys.argv = ["faust", "worker", "-l", "warn", "--without-web"]
    app.main()


if __name__ == "__main__":
    main()
