"""An archived stretch of a partition as a file: every record as it was stored, compressed, with its digest.

A gzip of: one line of JSON (topic, partition, life, from_offset, to_offset, n_records), then per record
offset (u64), time the broker stored it (i64, ms), length (u32), all big-endian, and its bytes.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from streams.chunks import digest
from streams.transport.partition import Stored

_RECORD = struct.Struct(">QqI")


class BadArchive(ValueError):
    """The file is not what its digest, or its head, says."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A file and what it holds. `last_digest` is that of its last record, as consumers keep it."""

    data: bytes
    from_offset: int
    to_offset: int
    n_records: int
    first_ms: int
    last_ms: int
    last_digest: bytes


def pack(topic: str, partition: int, life: int, records: Sequence[Stored]) -> Packed:
    """Records in order of their offsets, at least one, as a file. The same records give the same bytes."""
    first, last = records[0], records[-1]
    head = {
        "topic": topic,
        "partition": partition,
        "life": life,
        "from_offset": first.offset,
        "to_offset": last.offset + 1,
        "n_records": len(records),
    }
    parts = [json.dumps(head).encode(), b"\n"]
    for record in records:
        parts += [_RECORD.pack(record.offset, record.timestamp_ms, len(record.raw)), record.raw]
    return Packed(
        gzip.compress(b"".join(parts), compresslevel=1, mtime=0),
        first.offset,
        last.offset + 1,
        len(records),
        first.timestamp_ms,
        last.timestamp_ms,
        digest(last.timestamp_ms, last.raw),
    )


def unpack(data: bytes) -> list[Stored]:
    """The records of a file. Errors: BadArchive."""
    try:
        raw = gzip.decompress(data)
        line, _, body = raw.partition(b"\n")
        head = json.loads(line)
        records, at = [], 0
        while at < len(body):
            offset, stamp, size = _RECORD.unpack_from(body, at)
            at += _RECORD.size
            records.append(Stored(offset, stamp, body[at : at + size]))
            at += size
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise BadArchive(f"unreadable: {error}") from error
    if at != len(body) or len(records) != head["n_records"] or not records:
        raise BadArchive("cut short")
    if (records[0].offset, records[-1].offset + 1) != (head["from_offset"], head["to_offset"]):
        raise BadArchive("other offsets than its head says")
    return records
