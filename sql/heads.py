"""The first eleven arguments of every function that commits a stream's batch, in one place."""

from collections.abc import Sequence
from typing import Any

from sql.batches import Bad, Head, Progress, encode_bad
from sql.ids import uuid7


def head_arguments(head: Head, progress: Progress, bad: Sequence[Bad]) -> list[Any]:
    """batch_id, topic, partition, consumer_group, epoch, from, to, last_offset, digest, progress, bad."""
    return [
        uuid7(),
        head.topic,
        head.partition,
        head.group,
        head.epoch,
        head.from_offset,
        head.to_offset,
        head.last_offset,
        head.last_digest,
        progress.encode(),
        encode_bad(bad) if bad else None,
    ]
