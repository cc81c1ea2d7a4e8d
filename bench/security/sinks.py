"""Where a core tells what happens: a Sentry and a collector of spans, both ours, that keep all they are told."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from deploy.local.ports import HOST, free_port
from deploy.observability import collector


@dataclass
class Sinks:
    """`environment` makes a process of ours tell them; what they were told is kept as text."""

    spans: Path
    port: int
    envelopes: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Everything traced, every error told, every line of log JSON."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{self.port}",
            "TRACE_SAMPLE_RATIO": "1",
            "SENTRY_DSN": f"http://public@{HOST}:{self.port}/7",
            "LOG_FORMAT": "json",
        }

    def told(self) -> dict[str, str]:
        """What each has heard so far."""
        spans = self.spans.read_text(errors="replace") if self.spans.exists() else ""
        return {"the spans": spans, "Sentry": "\n".join(self.envelopes)}

    async def take(self, request: web.Request) -> web.Response:
        """POST /api/<project>/envelope/: as a Sentry takes it."""
        raw = await request.read()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        self.envelopes.append(text.decode(errors="replace"))
        return web.json_response({"id": "0" * 32})


@asynccontextmanager
async def open_sinks(directory: Path) -> AsyncIterator[Sinks]:
    """Both, on one free port, as long as the block lasts."""
    sinks = Sinks(directory / "spans.jsonl", free_port())
    app = collector.make_app(sinks.spans)
    app.router.add_post("/api/{project}/envelope/", sinks.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, sinks.port).start()
        yield sinks
    finally:
        await runner.cleanup()
