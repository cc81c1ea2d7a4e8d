"""A disk that lied about a flush: the tail of a stream's log is gone, confirms or not."""

import struct
from pathlib import Path

from deploy.local.rabbitmq import RabbitMQ

_SEGMENT_HEADER_BYTES = 8
_CHUNK = struct.Struct(">BBHIqQQIIIB")
_CHUNK_HEADER_BYTES = 48


def cut_tail(node: RabbitMQ, stream: str, *, share: float = 1 / 3) -> int:
    """Take the last `share` off the last segment of a stream of a stopped node. Bytes cut; 0 if it holds nothing.

    Its first chunk stays whole, since RabbitMQ 4.0 does not repair a segment that begins with a torn one; a segment of
    one chunk is lost as a file, and the cut goes on in the one before it.
    """
    segments = sorted(node.disk.glob(f"**/*{stream.replace('.', '_')}_*/*.segment"))
    cut = 0
    if len(segments) > 1 and segments[-1].stat().st_size <= _first_end(segments[-1]):
        newest = segments.pop()
        cut = newest.stat().st_size
        newest.with_suffix(".index").unlink(missing_ok=True)
        newest.unlink()
    for segment in segments[-1:]:
        size = segment.stat().st_size
        kept = max(size - int(size * share), min(size, _first_end(segment)))
        with segment.open("r+b") as file:
            file.truncate(kept)
        cut += size - kept
    return cut


def _first_end(segment: Path) -> int:
    """Where the first chunk of a segment ends (osiris: header, filter, entries, trailer)."""
    with segment.open("rb") as file:
        head = file.read(_SEGMENT_HEADER_BYTES + _CHUNK_HEADER_BYTES)
    if len(head) < _SEGMENT_HEADER_BYTES + _CHUNK_HEADER_BYTES:
        return _SEGMENT_HEADER_BYTES
    *_, entries, trailer, bloom = _CHUNK.unpack_from(head, _SEGMENT_HEADER_BYTES)
    return len(head) + int(bloom) + int(entries) + int(trailer)
