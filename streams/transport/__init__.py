"""The Faust transport `rabbitmq-stream://` (or `rabbitmq-streams://`, TLS): super streams, single active
consumers, epochs that fence. Faust loads it through the entry point group `faust.transports`, or after
`register()`.

    consumer    Faust's consumer: its drain, its acknowledgements, its offsets
    producer    Faust's producer
    conductor   Faust's conductor, with less per message
    reader      the connection: who owns which partition, and which records may flow
    partition   one partition: its gate, its records from the first uncommitted one on, its credit
    credit      how much the broker may send
    claims      claims of many partitions in few statements
    watchdog    finds what the broker does not tell: lost tails, silent partitions
"""

from __future__ import annotations

from typing import Any, cast

from faust.exceptions import ImproperlyConfigured
from faust.transport import base, drivers
from mode.utils.times import want_seconds

from streams.address import PLAIN, TLS, Address
from streams.topics import PartitionMismatch, Topic, declare, partition_of, partitions_now, whole
from streams.transport.conductor import Conductor
from streams.transport.consumer import Consumer
from streams.transport.producer import Producer
from streams.wire import Wire


class Transport(base.Transport):
    """Where the broker is, and how many partitions each topic has."""

    Consumer = Consumer
    Producer = Producer
    Conductor = Conductor
    default_port = 5552
    driver_version = "rabbitmq-stream 1"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = cast(Address, getattr(self.app, "address", None) or Address.parse(str(self.url[0])))
        self.known_partitions: dict[str, int] = {}
        self._turn = 0

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """The partition of a key; without one, in turn. Errors: KeyError if the topic was never asked for."""
        count = self.known_partitions[topic]
        if key is None:
            self._turn += 1
            return self._turn % count
        return partition_of(key, count)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions the topic has. Errors: ImproperlyConfigured if it does not exist
        and may not be made, or has not as many as the app is told.
        """
        if topic not in self.known_partitions:
            wire = await Wire.connect(self.address, name=f"{self.app.conf.id} topics")
            try:
                found = len(await partitions_now(wire, topic))
                if found:
                    found = self.app.conf.topic_partitions
                    await whole(wire, topic, found)
            except PartitionMismatch as error:
                raise ImproperlyConfigured(str(error)) from error
            finally:
                await wire.close()
            if not found and self.app.conf.topic_allow_declare:
                await self.create_topic(topic, self.app.conf.topic_partitions, 1)
                return self.known_partitions[topic]
            if not found:
                raise ImproperlyConfigured(f"topic {topic} does not exist; declare it first")
            self.known_partitions[topic] = found
        return self.known_partitions[topic]

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a super stream. Errors: those of `declare`."""
        retention = options.get("retention")
        wanted = (
            Topic(topic, "key", max_age=f"{int(want_seconds(retention))}s")
            if retention
            else Topic(topic, "key")
        )
        await declare(self.address, partitions, replicas=replication or 1, topics=[wanted])
        self.known_partitions[topic] = partitions


def register() -> None:
    """Teach Faust the two schemes, for when the entry point is not installed."""
    for scheme in (PLAIN, TLS):
        drivers.TRANSPORTS.aliases[scheme] = "streams.transport:Transport"
