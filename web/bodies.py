"""Bodies, read within a size, a time and a room that all of them share: a refusal comes before the bytes are kept."""

import asyncio
from typing import Final

from aiohttp import web

from web.problems import Problem
from web.services import SERVICES

UTF8: Final = frozenset({None, "utf-8", "utf8", "us-ascii"})


async def read_json_body(request: web.Request, limit: int) -> bytes:
    """The body of a JSON request. Errors: Problem 400, 408, 413, 415, 503."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "encoded_body", "send the body as it is, without Content-Encoding")
    if request.can_read_body:
        if request.content_type != "application/json":
            raise Problem(415, "not_json", "send Content-Type: application/json")
        charset = request.charset
        if charset is not None and charset.lower() not in UTF8:
            raise Problem(415, "not_utf8", "JSON is sent as UTF-8")
    return await read_body(request, limit)


async def read_body(request: web.Request, limit: int) -> bytes:
    """At most `limit` bytes, in a bounded time, without long pauses. Errors: Problem 408, 413, 503."""
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        raw = (
            request.content.read_nowait(-1)
            if request.content.is_eof()
            else await _read_slowly(request, limit)
        )
    except web.RequestPayloadError as error:
        raise Problem(
            400, "malformed_body", "the body is not framed as its head says", headers={"Connection": "close"}
        ) from error
    if len(raw) > limit:
        raise _too_large(limit)
    return raw


async def _read_slowly(request: web.Request, limit: int) -> bytes:
    services = request.app[SERVICES]
    settings, room = services.settings, services.room
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.web_body_s):
            while not request.content.at_eof():
                async with asyncio.timeout(settings.web_stall_s):
                    part = await request.content.readany()
                if size + len(part) > limit:
                    raise _too_large(limit)
                room.take(len(part))
                size += len(part)
                parts.append(part)
    except TimeoutError as error:
        raise Problem(408, "body_too_slow", headers={"Connection": "close"}) from error
    finally:
        room.give(size)
    return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"at most {limit} bytes", headers={"Connection": "close"})
