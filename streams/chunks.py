"""What the broker delivers: chunks of messages, as they lie in the log.

A chunk holds entries; an entry is one message, or a sub-batch of messages that its publisher compressed
together. Layout: RabbitMQ Stream Protocol, "Deliver" and "SubEntryBatch"; all numbers big-endian.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

_HEADER = struct.Struct(">BbbHIqQQIIII")
_HEADER_AT = 4
_BODY_AT = _HEADER_AT + _HEADER.size
_SIZE = struct.Struct(">I")
_SUB_BATCH = struct.Struct(">BHII")
_STAMP = struct.Struct(">q")
_USER_CHUNK, _PLAIN, _GZIP = 0, 0, 1
_COMPRESSIONS = {2: "snappy", 3: "lz4", 4: "zstd"}
_MAX_UNPACKED_BYTES = 64 << 20
DIGEST_BYTES = 16


class CorruptChunk(Exception):
    """A chunk whose bytes are not what its checksum says, or that makes no sense."""


class Unreadable(bytes):
    """A message inside a sub-batch that cannot be unpacked, for the reason `why`.

    Its publisher is at fault, so it must not stop the partition: the first message of the sub-batch stands
    for its packed bytes, the others are empty, and the offsets stay as the broker counts them.
    """

    why: str = ""


@dataclass(slots=True)
class Chunk:
    """One delivered chunk, still as bytes. It covers the offsets `first`..`end` - 1.

    `timestamp_ms` is when the broker stored it. `user` is False for the broker's own bookkeeping chunks.
    """

    first: int
    end: int
    timestamp_ms: int
    entries: int
    crc: int
    frame: bytes
    user: bool = True

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self.frame)

    def messages(self) -> list[bytes]:
        """The raw messages in order; message i has offset `first` + i.

        Errors: CorruptChunk.
        """
        frame = self.frame
        if zlib.crc32(memoryview(frame)[_BODY_AT:]) != self.crc:
            raise CorruptChunk(f"checksum of the chunk at offset {self.first}")
        found: list[bytes] = []
        add, size_at, position = found.append, _SIZE.unpack_from, _BODY_AT
        try:
            for _ in range(self.entries):
                if frame[position] & 0x80:
                    position = self._sub_batch(position, found)
                    continue
                (size,) = size_at(frame, position)
                position += 4
                add(frame[position : position + size])
                position += size
        except (struct.error, IndexError) as error:
            raise CorruptChunk(f"entries of the chunk at offset {self.first}: {error}") from error
        if position != len(frame) or len(found) != self.end - self.first:
            raise CorruptChunk(f"length of the chunk at offset {self.first}")
        return found

    def _sub_batch(self, position: int, found: list[bytes]) -> int:
        head, records, _unpacked, length = _SUB_BATCH.unpack_from(self.frame, position)
        position += _SUB_BATCH.size
        packed = self.frame[position : position + length]
        try:
            found.extend(_unpack((head >> 4) & 7, packed, records))
        except (ValueError, struct.error, zlib.error) as error:
            for number in range(records):
                message = Unreadable(b"" if number else packed)
                message.why = str(error)
                found.append(message)
        return int(position + length)


def _unpack(compression: int, packed: bytes, records: int) -> list[bytes]:
    if compression == _GZIP:
        unpacker = zlib.decompressobj(wbits=31)
        packed = unpacker.decompress(packed, _MAX_UNPACKED_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("a sub-batch that unpacks to more than 64 MiB")
    elif compression != _PLAIN:
        name = _COMPRESSIONS.get(compression, f"method {compression}")
        raise ValueError(f"a sub-batch compressed with {name}; publish with gzip or none")
    found, at = [], 0
    for _ in range(records):
        (size,) = _SIZE.unpack_from(packed, at)
        at += 4
        if at + size > len(packed):
            raise ValueError("a sub-batch that is cut short")
        found.append(packed[at : at + size])
        at += size
    return found


def parse_deliver(frame: bytes) -> tuple[int, Chunk]:
    """Subscription id and chunk of a Deliver frame (without its length prefix). Messages are parsed only on
    demand.
    """
    subscription, _magic, kind, entries, records, stamp, _epoch, first, crc, _length, _trailer, _reserved = (
        _HEADER.unpack_from(frame, _HEADER_AT)
    )
    return subscription, Chunk(first, first + records, stamp, entries, crc, frame, kind == _USER_CHUNK)


def digest(timestamp_ms: int, raw: bytes) -> bytes:
    """Fingerprint of one stored message: 16 bytes over the time the broker stored it and its bytes.

    Kept with the offset, it tells a record that was read before from another that later took the same
    offset; the time makes that true even of equal messages.
    """
    return hashlib.blake2b(_STAMP.pack(timestamp_ms) + raw, digest_size=DIGEST_BYTES).digest()
