"""A collector for this machine: takes spans by OTLP over HTTP and appends them to a file, one JSON object a line.

In production a real one stands here (Tempo, Jaeger, the OpenTelemetry collector). `./dev run --trace` starts
this one; `python -m deploy.observability.collector --port N --file F` is what it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from deploy.local.ports import HOST

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 256 * 1024 * 1024
"""Beyond this the file is begun anew; it is for looking, not for keeping."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span: ids in hex, times in ns since the epoch, links as (trace, span)."""

    trace: str
    span: str
    parent: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool = False


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of an export."""
    for resource in request.resource_spans:
        names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    service=names.get("service.name", "?"),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes={pair.key: _plain(pair.value) for pair in span.attributes},
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    failed=span.status.code == 2,
                )


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def make_app(file: Path) -> web.Application:
    """An application that serves POST /v1/traces and appends to `file`."""

    async def take(request: web.Request) -> web.Response:
        raw = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        lines = [msgspec.json.encode(span) for span in spans_of(ExportTraceServiceRequest.FromString(raw))]
        begin_anew = file.exists() and file.stat().st_size > MAX_FILE_BYTES
        with file.open("wb" if begin_anew else "ab") as out:
            out.write(b"".join(line + b"\n" for line in lines))
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1/traces", take)
    return app


async def serve(port: int, file: Path) -> None:
    """Until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    runner = web.AppRunner(make_app(file), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await stopping.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.observability.collector", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.file))


if __name__ == "__main__":
    main()
