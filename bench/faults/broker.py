"""Faults of the broker's data: tails cut off, streams deleted, records retained away unread."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import quote

from bench.faults import books
from bench.faults.kinds import Kind, Scene, fault, truncations
from bench.faults.stack import PARTITIONS, WORKERS, topic_arguments
from bench.faults.tails import cut_tail
from deploy.broker import VHOST, Management
from streams.topics import partition_stream

TOPICS: Final = (
    "wallet.debit",
    "analytics.billing",
    "wallet.credit",
    "fraud.detection",
    "webhook.processing",
)
"""Where something flows all the time, the busiest first."""
_VHOST: Final = quote(VHOST, safe="")
_POLICY: Final = f"/api/policies/{_VHOST}/shrunk"
FLOOD: Final = 3000


def chosen_topic(source: random.Random) -> str:
    return source.choices(TOPICS, weights=(5, 3, 1, 1, 1))[0]


@fault
async def cut_tails(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """kill -9, and the disk has lied: the last records of some partitions are gone, confirmed or not."""
    system, topic = scene.system, chosen_topic(source)
    partitions = source.sample(range(PARTITIONS), source.randint(2, PARTITIONS))
    share = source.uniform(0.4, 0.95)
    before = await books.ends(system)
    system.broker.kill9()
    async with system.database() as db:
        stand = await books.positions(db)
        noticed = await books.incidents(db)
    for partition in partitions:
        cut_tail(system.broker, partition_stream(topic, partition), share=share)
    await system.broker.start()
    after = await books.ends(system)
    places = [(topic, partition) for partition in partitions]
    cut = truncations(before, {place: after[place] for place in places}, stand, noticed)
    scene.truncations += cut
    scene.raw_at_risk += topic == "wallet.debit"
    lost = sum(t.before - t.after for t in cut)
    yield f"{topic}, {len(cut)} of {PARTITIONS} partitions, {lost} records"


@fault
async def delete_stream(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """A partition's stream is deleted; after a while somebody declares it again, empty."""
    topic, partition = chosen_topic(source), source.randrange(PARTITIONS)
    stream = partition_stream(topic, partition)
    queue = f"/api/queues/{_VHOST}/{quote(stream, safe='')}"
    scene.raw_at_risk += topic == "wallet.debit"
    async with Management(scene.system.broker.management_url) as management:
        await management.request("DELETE", queue)
        try:
            yield stream
        finally:
            arguments = {**topic_arguments(topic), "x-queue-type": "stream"}
            await management.request("PUT", queue, {"durable": True, "arguments": arguments})
            binding = f"/api/bindings/{_VHOST}/e/{quote(topic, safe='')}/q/{quote(stream, safe='')}"
            key = {"routing_key": str(partition), "arguments": {"x-stream-partition-order": partition}}
            await management.request("POST", binding, key)


@fault
async def shrink_retention(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Nobody reads for a moment, much is written, and the broker is told to keep next to nothing."""
    system = scene.system
    # A worker that was killed is not frozen but started again: what it reads meanwhile is not lost.
    frozen = [system.processes[name] for name in WORKERS]
    pids = [process.pid for process in frozen]
    for process in frozen:
        process.send(signal.SIGSTOP)
    scene.raw_at_risk += 1
    try:
        flood = asyncio.ensure_future(scene.load.flood(FLOOD))
        async with Management(system.broker.management_url) as management:
            await asyncio.sleep(source.uniform(1.5, 3.0))
            shrunk = {"pattern": r"^wallet\.debit-\d+$", "apply-to": "streams"}
            await management.request("PUT", _POLICY, {**shrunk, "definition": {"max-length-bytes": 1}})
            await asyncio.sleep(1.5)
            await management.request("DELETE", _POLICY)
        async with system.database() as db:
            stand = await books.positions(db)
        places = [("wallet.debit", partition) for partition in range(PARTITIONS)]
        first = await books.firsts(system, places)
        gone = [place for place in places if place in stand and first[place] > stand[place]["next_offset"]]
    finally:
        _wake(pids)
    await flood
    yield f"wallet.debit, {len(gone)} of {PARTITIONS} partitions cut before they were read"


def _wake(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


KINDS: Final = (
    Kind("rabbitmq", "tails cut", cut_tails, alerts=("StreamTruncated", "RabbitMQFailing")),
    Kind("rabbitmq", "stream deleted", delete_stream, (0.5, 3.0), alerts=("StreamTruncated",)),
    Kind(
        "rabbitmq",
        "retention shrunk",
        shrink_retention,
        alerts=("StreamTruncated", "PartitionHalted", "ProcessDown"),
    ),
)
