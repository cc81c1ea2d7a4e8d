"""A worker process for the tests: commits every record of some topics to SQLite. Arguments: URL,
file, topics.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from streams.app import make_app, run_worker
from streams.runner import run_batches
from streams.settings import StreamSettings
from tests.streams.sqlite_ownership import SqliteOwnership


def main() -> None:
    url, path, topics, owner = sys.argv[1:5]
    ownership = SqliteOwnership(Path(path), owner)
    app = make_app(StreamSettings(stream_url=url, partitions=4, consumer_group="tests"), ownership)
    for name in topics.split(","):

        async def agent(stream: Any) -> None:
            await run_batches(app, stream, ownership.commit)

        app.agent(app.topic(name), name=name)(agent)
    run_worker(app)


if __name__ == "__main__":
    main()
