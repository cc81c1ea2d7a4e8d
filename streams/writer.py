"""Publishing lists of messages to known partitions, for the relay of the workers: fast,
confirmed, nothing resent.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from streams import amqp
from streams.address import Address
from streams.link import Link, Outcome
from streams.topics import partition_stream
from streams.wire import Refused

log = structlog.get_logger(__name__)


class Outgoing(Protocol):
    """One message to publish, to a known partition. `value` None is a tombstone."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def key(self) -> str | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class BatchWriter:
    """`async with BatchWriter(url, name="relay") as writer: outcomes = await writer.publish(messages)`.

    Messages of one partition are stored in the order of the calls and of each list. At most
    `max_unconfirmed` wait for their confirm; beyond, `publish` waits.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        name: str = "writer",
        ca_file: Path | str | None = None,
        max_unconfirmed: int = 50_000,
        wait_s: float = 10.0,
    ) -> None:
        address = url if isinstance(url, Address) else Address.parse(url, ca_file=ca_file)
        self._link = Link(address, name=name, max_unconfirmed=max_unconfirmed)
        self._wait_s = wait_s
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __aenter__(self) -> BatchWriter:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect once, so that what is wrong shows now. Errors: those of `Wire.connect`."""
        await self._link.start()

    async def stop(self) -> None:
        """Wait shortly for confirms under way, and leave."""
        await self._link.stop()

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        """Publish, and wait for the broker's word on each message: one outcome per message, in order.

        `UNKNOWN` may or may not be stored, or was never sent: publish it again. `REFUSED` will not be stored
        as things are; the log says why. Errors: ValueError for a message that is too large.
        """
        outcomes = [Outcome.UNKNOWN] * len(messages)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for index, message in enumerate(messages):
            places[partition_stream(message.topic, message.partition)].append(index)
        await asyncio.gather(
            *(self._publish(stream, indexes, messages, outcomes) for stream, indexes in places.items())
        )
        return outcomes

    async def _publish(
        self, stream: str, indexes: list[int], messages: Sequence[Outgoing], outcomes: list[Outcome]
    ) -> None:
        payloads = []
        for index in indexes:
            message = messages[index]
            key = None if message.key is None else message.key.encode()
            payloads.append(amqp.encode(key, message.value, message.headers))
        try:
            async with self._turns[stream]:
                ticket = await self._link.send(stream, payloads, wait_s=self._wait_s)
            await ticket.settled
        except ConnectionError as error:
            log.warning("not_published", stream=stream, messages=len(payloads), error=str(error))
            return
        except Refused as error:
            log.error("publish_refused", stream=stream, messages=len(payloads), error=str(error))
            for index in indexes:
                outcomes[index] = Outcome.REFUSED
            return
        for index, outcome in zip(indexes, ticket.outcomes(), strict=True):
            outcomes[index] = outcome
