"""The live page and its stream: one snapshot a second, computed once and shared by everyone who looks."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from sql.errors import Unavailable
from streams.telemetry import tracing
from web.auth import Caller
from web.headers import protect
from web.problems import not_found
from web.services import Services
from web.shown import ShownSpans
from web.snapshot import Observer

log = structlog.get_logger("web.live")

EVERY_S: Final = 1.0
MAX_VIEWERS: Final = 200
STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Hub:
    """Whoever looks; while nobody does, nothing is asked."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._viewers: set[EventSourceResponse] = set()
        self._looked_at = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled: a snapshot a second to every viewer."""
        observer = Observer(self.services)
        spans = ShownSpans()
        while True:
            await self._looked_at.wait()
            try:
                event = msgspec.json.encode(await observer.snapshot()).decode()
            except Unavailable as error:
                event = msgspec.json.encode({"error": "database_unavailable", "detail": str(error)}).decode()
            except Exception:
                log.exception("no snapshot")
                event = '{"error":"internal_error"}'
            shown = await spans.of_new(self.services) if tracing.on() else ()
            await asyncio.gather(*(self._send(viewer, event) for viewer in list(self._viewers)))
            for span in shown:
                span.end()
            await asyncio.sleep(EVERY_S)

    async def _send(self, viewer: EventSourceResponse, event: str) -> None:
        """A viewer that does not take its snapshot in a second loses its stream."""
        try:
            async with asyncio.timeout(EVERY_S):
                await viewer.send(event)
        except (ConnectionError, TimeoutError):
            self.leave(viewer)
            viewer.stop_streaming()

    def join(self, viewer: EventSourceResponse) -> None:
        """Send it every snapshot from now on."""
        self._viewers.add(viewer)
        self._looked_at.set()
        self.services.metrics.viewers.set(len(self._viewers))

    def leave(self, viewer: EventSourceResponse) -> None:
        """Send it nothing any more."""
        self._viewers.discard(viewer)
        if not self._viewers:
            self._looked_at.clear()
        self.services.metrics.viewers.set(len(self._viewers))

    @property
    def full(self) -> bool:
        """No more viewers are taken."""
        return len(self._viewers) >= MAX_VIEWERS

    def close(self) -> None:
        """End every stream."""
        for viewer in list(self._viewers):
            viewer.stop_streaming()


HUB: Final = web.AppKey("hub", Hub)


async def stream(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /v1/live: server-sent events, one snapshot a second."""
    hub = request.app[HUB]
    if hub.full:
        return web.Response(status=503, headers={"Retry-After": "5"})
    viewer = EventSourceResponse(
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        ping_interval=15,
        send_timeout=EVERY_S,
    )
    protect(viewer.headers, tls=hub.services.proxies.secure(request))
    await viewer.prepare(request)
    hub.join(viewer)
    try:
        await viewer.wait()
    finally:
        hub.leave(viewer)
    return viewer


async def page(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /: the live page."""
    return web.Response(
        body=(STATIC / "index.html").read_bytes(),
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"},
    )


async def static(request: web.Request, _: Caller) -> web.StreamResponse:
    """GET /static/...: the page's own files, no others."""
    path = request.match_info["path"]
    file = _FILES.get(path)
    if file is None:
        raise not_found("file")
    return web.Response(
        body=file.read_bytes(),
        content_type=_TYPES[file.suffix],
        charset="utf-8",
        headers={"Cache-Control": "no-cache"},
    )


_FILES: Final = {
    str(file.relative_to(STATIC)): file
    for file in STATIC.rglob("*")
    if file.is_file() and file.suffix in _TYPES
}
