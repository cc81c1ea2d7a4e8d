"""A disk that lied about a flush: the tail of a stream's log is gone, confirms or not."""

from pathlib import Path

from deploy.local.rabbitmq import RabbitMQ


def cut_tail(node: RabbitMQ, stream: str, *, share: float = 1 / 3) -> int:
    """Take the last `share` off the log of a stream of a stopped node. Bytes cut; 0 if it holds nothing."""
    cut = 0
    for segment in Path(node._directory).glob(f"**/*{stream.replace('.', '_')}_*/*.segment"):
        size = segment.stat().st_size
        with segment.open("r+b") as file:
            file.truncate(size - int(size * share))
        cut += int(size * share)
    return cut
