"""The ten topics: what each is keyed by, how long it is kept, and which partition a key belongs to.

A topic is a RabbitMQ super stream; partition `i` is the stream `<topic>-<i>`. The partition of a key is
murmur3_x86_32(key as UTF-8, seed 104729) modulo the number of partitions, unsigned, which is what
RabbitMQ's own clients (Java, .NET, Go, Rust) do by default, so any of them may publish beside us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mmh3
from rstream.exceptions import StreamAlreadyExists

from streams.address import Address
from streams.wire import Refused, Wire

HASH_SEED = 104729
"""Seed of the hash routing strategy that RabbitMQ's stream clients share."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `keyed_by` names the field whose text decides the partition, and so the order
    that is kept.
    """

    name: str
    keyed_by: str
    max_age: str = "14D"
    max_length_bytes: int = 20_000_000_000
    segment_bytes: int = 100_000_000

    def arguments(self, *, replicas: int) -> dict[str, str]:
        """Arguments of each partition stream, as the broker's `CreateSuperStream` takes them."""
        return {
            "max-age": self.max_age,
            "max-length-bytes": str(self.max_length_bytes),
            "stream-max-segment-size-bytes": str(self.segment_bytes),
            "initial-cluster-size": str(replicas),
            "queue-leader-locator": "balanced",
        }


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("webhook.processing", "order_id"),
        Topic("payment.processing", "order_id"),
        Topic("wallet.credit", "wallet_id"),
        Topic("wallet.debit", "wallet_id"),
        Topic("refund.processing", "payment_id"),
        Topic("fraud.detection", "entity"),
        Topic("invoice.generate", "payment_id"),
        Topic("notifications.billing", "user_id"),
        Topic("settlements.processing", "settlement_id"),
        Topic("analytics.billing", "dimension"),
    )
}


def partition_of(key: str | bytes, partitions: int) -> int:
    """Partition of `key`, in 0..partitions-1.

    Source: RabbitMQ stream Java client, HashRoutingStrategy (murmur3 32 bit, seed 104729, unsigned modulo).
    """
    return int(mmh3.hash(key, HASH_SEED, signed=False)) % partitions


def partition_stream(topic: str, partition: int) -> str:
    """Name of the stream behind one partition."""
    return f"{topic}-{partition}"


def dead_stream(topic: str) -> str:
    """Name of the plain stream of a topic's dead letters."""
    return f"{topic}.dead"


DEAD_ARGUMENTS = {
    "max-age": "90D",
    "max-length-bytes": "1000000000",
    "stream-max-segment-size-bytes": "50000000",
}


@dataclass(frozen=True, slots=True)
class Permissions:
    """RabbitMQ permissions of a broker user: three regular expressions over stream names."""

    configure: str
    write: str
    read: str


def _partitions_of(*names: str, dead: bool = False) -> str:
    escaped = "|".join(name.replace(".", r"\.") for name in names)
    return rf"^({escaped})(-\d+|\.dead)?$" if dead else rf"^({escaped})(-\d+)?$"


ROLES: dict[str, Permissions] = {
    "admin": Permissions(configure=".*", write=".*", read=".*"),
    "worker": Permissions(
        configure="^$", write=_partitions_of(*TOPICS, dead=True), read=_partitions_of(*TOPICS, dead=True)
    ),
    "service": Permissions(configure="^$", write=_partitions_of("wallet.debit"), read="^$"),
}
"""Broker users by role. A service writes usage onto `wallet.debit` and reads nothing; only the worker writes
the other nine; only the admin declares. Read by whatever sets up a broker, tried by the tests."""


RECOVERY_S = 20.0
"""How long a restarted broker may take to find the partitions of its super streams."""
SETTLE_S = 0.25
"""How long a number of partitions must stay the same to be believed."""


class PartitionMismatch(Exception):
    """A topic exists with another number of partitions: keys would lie where nobody looks for them."""


async def declare(
    url: str | Address,
    partitions: int,
    *,
    replicas: int = 1,
    topics: Iterable[Topic] | None = None,
    ca_file: Path | str | None = None,
) -> None:
    """Create the topics (all ten if not said) that do not exist, with `partitions` each, and the streams of
    their dead letters. The user must be an admin.

    Errors: PartitionMismatch, UnsupportedBroker, Refused, ConnectionError.
    """
    address = url if isinstance(url, Address) else Address.parse(url, ca_file=ca_file)
    wire = await Wire.connect(address, name="declare")
    try:
        for topic in TOPICS.values() if topics is None else topics:
            streams = [partition_stream(topic.name, index) for index in range(partitions)]
            try:
                await wire.request(
                    f"creating {topic.name}",
                    wire.create_super_stream(
                        topic.name,
                        streams,
                        [str(index) for index in range(partitions)],
                        topic.arguments(replicas=replicas),
                    ),
                )
            except Refused as error:
                if error.code != StreamAlreadyExists.code:
                    raise
            await whole(wire, topic.name, partitions)
            if topic.name in TOPICS:
                await _declare_dead(wire, topic.name, replicas)
    finally:
        await wire.close()


async def _declare_dead(wire: Wire, topic: str, replicas: int) -> None:
    stream, arguments = dead_stream(topic), {**DEAD_ARGUMENTS, "initial-cluster-size": str(replicas)}
    try:
        await wire.request(f"creating {stream}", wire.create_stream(stream, arguments))
    except Refused as error:
        if error.code != StreamAlreadyExists.code:
            raise


async def whole(wire: Wire, topic: str, partitions: int) -> None:
    """Return once the topic has exactly so many partitions.

    A broker that has just restarted recovers the bindings last: a super stream has none for a while, then some,
    then all. Who took some for all would look for keys where they don't lie; fewer are waited for, `RECOVERY_S` long.
    Errors: PartitionMismatch; those of `Wire.request`.
    """
    streams = {partition_stream(topic, index) for index in range(partitions)}
    end = time.monotonic() + RECOVERY_S
    while (found := set(await partitions_now(wire, topic))) != streams:
        if found - streams or time.monotonic() > end:
            raise PartitionMismatch(f"{topic} has {len(found)} partitions, not {partitions}")
        await asyncio.sleep(SETTLE_S)


async def settled(wire: Wire, topic: str) -> int:
    """How many partitions the topic has, for who is not told how many it must have: said twice, `SETTLE_S` apart,
    because of a broker that has just restarted (see `whole`). 0 if there is no such topic.
    Errors: those of `Wire.request`.
    """
    found, before = len(await partitions_now(wire, topic)), 0
    while found != before:
        await asyncio.sleep(SETTLE_S)
        found, before = len(await partitions_now(wire, topic)), found
    return found


async def partitions_now(wire: Wire, topic: str) -> list[str]:
    """The streams that the broker names just now; none if there is no such topic. Errors: those of `Wire.request`."""
    streams: list[str] = await wire.request(f"partitions of {topic}", wire.partitions(topic))
    return streams
