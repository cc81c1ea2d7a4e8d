"""A disk that lied about a flush: the tail of a stream's log is gone, confirms or not."""

from deploy.local.rabbitmq import RabbitMQ

_EMPTY_BYTES = 2048
"""A segment that was just begun; what a lost tail takes is then the file itself, and of the one before it."""


def cut_tail(node: RabbitMQ, stream: str, *, share: float = 1 / 3) -> int:
    """Take the last `share` off the last segment of a stream of a stopped node. Bytes cut; 0 if it holds nothing."""
    segments = sorted(node.disk.glob(f"**/*{stream.replace('.', '_')}_*/*.segment"))
    cut = 0
    if len(segments) > 1 and segments[-1].stat().st_size < _EMPTY_BYTES:
        newest = segments.pop()
        cut = newest.stat().st_size
        newest.with_suffix(".index").unlink(missing_ok=True)
        newest.unlink()
    for segment in segments[-1:]:
        size = segment.stat().st_size
        with segment.open("r+b") as file:
            file.truncate(size - int(size * share))
        cut += int(size * share)
    return cut
