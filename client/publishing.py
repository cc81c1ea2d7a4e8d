"""Direct publishing: `streams.publish.Publisher`, told over the API what it may forget."""

from typing import Any

from client.answers import Watermarks
from client.calls import Caller
from streams.publish import Publisher


def publisher(caller: Caller, stream_url: str, *, name: str, secret: bytes, **more: Any) -> Publisher:
    """A publisher whose watermarks come from GET /v1/publishers/{name}/sessions/{session}/watermarks."""

    async def watermarks(session: str) -> dict[int, int]:
        found = await caller.get(f"/v1/publishers/{name}/sessions/{session}/watermarks", Watermarks)
        return {item.partition: item.covered_seq for item in found.items}

    return Publisher(stream_url, name=name, secret=secret, watermarks=watermarks, **more)
