"""The Faust app of the workers, and how a worker process runs and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import faust
import structlog
import uvloop

from streams.address import PLAIN, TLS, Address
from streams.batches import Ownership
from streams.settings import StreamSettings
from streams.topics import TOPICS
from streams.transport import register
from streams.transport.consumer import Consumer

log = structlog.get_logger(__name__)

SHUTDOWN_DEADLINE_S = 10.0
"""A worker that was told to stop is gone after this, whatever hangs."""
DRAIN_DEADLINE_S = 3.0


class CoreApp(faust.App):
    """A Faust app that knows its broker and who owns its partitions. When it stops it finishes the batches in
    hand, hands its partitions over, and calls `drain`, so that what was committed is also sent.
    """

    ownership: Ownership
    address: Address
    drain: Callable[[], Awaitable[None]] | None = None

    async def on_stop(self) -> None:
        consumer = self._consumer
        if isinstance(consumer, Consumer):
            await consumer.leave()
        if self.drain is not None:
            try:
                await asyncio.wait_for(self.drain(), DRAIN_DEADLINE_S)
            except TimeoutError:
                log.warning("stopped_before_it_was_drained")
        await super().on_stop()


def make_app(
    settings: StreamSettings, ownership: Ownership, *, topics: Iterable[str] = tuple(TOPICS), **conf: Any
) -> CoreApp:
    """The app of one worker. `topics` are those it may name; `conf` overrides Faust's settings.

    Events are raw bytes, so agents decode with `streams.messages`. Errors: ValueError for an unknown topic.
    """
    unknown = set(topics) - set(TOPICS)
    if unknown:
        raise ValueError(f"no such topics: {', '.join(sorted(unknown))}")
    register()
    address = settings.address
    app = CoreApp(
        settings.consumer_group,
        **{
            "broker": f"{TLS if address.tls else PLAIN}://{address.host}:{address.port}",
            "autodiscover": False,
            "broker_commit_interval": 1.0,
            "datadir": tempfile.gettempdir(),
            "key_serializer": "raw",
            "value_serializer": "raw",
            "stream_buffer_maxsize": 4096,
            "stream_recovery_delay": 0.0,
            "stream_wait_empty": False,
            "topic_allow_declare": False,
            "topic_disable_leader": True,
            "topic_partitions": settings.partitions,
            "web_enabled": False,
            **conf,
        },
    )
    app.ownership, app.address = ownership, address
    return app


def run_worker(app: faust.App, *, loglevel: str = "warning") -> None:
    """Run the app until SIGTERM or SIGINT; does not return (SystemExit). Ends under `SHUTDOWN_DEADLINE_S`."""
    loop = uvloop.new_event_loop()
    worker = _Worker(
        app,
        loop=loop,
        loglevel=loglevel,
        quiet=True,
        redirect_stdouts=False,
        override_logging=False,
        debug=False,
    )
    worker.spinner = None
    worker.execute_from_commandline()


class _Worker(faust.Worker):
    """Faust's worker, with a deadline on its way out."""

    def _schedule_shutdown(self, signal: Any) -> None:
        timer = threading.Timer(SHUTDOWN_DEADLINE_S, _give_up)
        timer.daemon = True
        timer.start()
        super()._schedule_shutdown(signal)


def _give_up() -> None:
    logging.getLogger(__name__).critical("the worker did not stop in %s s", SHUTDOWN_DEADLINE_S)
    os._exit(70)
