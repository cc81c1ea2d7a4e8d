"""Spans, to a collector over OTLP; where no endpoint is configured, nothing at all.

Whether a request is traced is decided where it comes in, by chance (`trace_sample_ratio`), before a span
exists; what is not sampled carries no context, so nobody after it has anything to decide or to pay for.
A context between processes is a W3C `traceparent`: on messages (see `carriers`) and on the inbox row.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from sql import db
from streams.telemetry import scrub
from streams.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool]
NOTHING: Final[Attributes] = {}

_FORM: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]")
_KINDS: Final = {
    name: SpanKind[name.upper()] for name in ("internal", "server", "client", "producer", "consumer")
}
_CALLED: Final = re.compile(
    r"\b(?:FROM|SELECT)\s+(?!unnest|coalesce|count|sum|exists)([a-z_0-9]+)\s*\(", re.IGNORECASE
)
_READ: Final = re.compile(r"\bFROM\s+(?!unnest)([a-z_0-9]+)", re.IGNORECASE)
_FLUSH_S: Final = 2.0

_tracer: Tracer | None = None
_provider: TracerProvider | None = None
_ratio: float = 0.0
_accepts_parent = False


def configure(service: str, settings: TelemetrySettings) -> None:
    """Once per process. The SDK is not even imported where nobody collects."""
    global _tracer, _provider, _ratio, _accepts_parent
    if settings.otel_exporter_otlp_endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    endpoint = settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"
    names = {"service.name": service, "deployment.environment.name": settings.deployment_environment}
    _provider = TracerProvider(
        resource=Resource.create(names),
        span_limits=SpanLimits(max_links=64, max_span_attributes=32),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_FLUSH_S)
    _provider.add_span_processor(
        BatchSpanProcessor(
            exporter, schedule_delay_millis=500, max_queue_size=4096, max_export_batch_size=512
        )
    )
    _tracer = _provider.get_tracer("commdesk")
    _ratio, _accepts_parent = settings.trace_sample_ratio, settings.trace_accept_parent
    db.observe(_statement)


def stop() -> None:
    """Send what is left, no longer than a moment."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        db.observe(None)
        provider.force_flush(round(_FLUSH_S * 1000))
        provider.shutdown()


def on() -> bool:
    """Whether anything is traced at all."""
    return _tracer is not None


def accepts_parents() -> bool:
    """Whether a context from outside is followed (`TRACE_ACCEPT_PARENT`)."""
    return _accepts_parent


def request(name: str, given: str | None, attributes: Attributes) -> AbstractContextManager[Span | None]:
    """The span of something that came in from outside, if it is to be traced. `given` is its `traceparent`."""
    if _tracer is None:
        return nullcontext()
    parent = given if _accepts_parent and parsed(given) is not None else None
    if parent is None and random.random() >= _ratio:
        return nullcontext()
    return _opened(name, parent=parent, kind="server", attributes=attributes)


def child(
    name: str, attributes: Attributes = NOTHING, *, kind: Kind = "internal"
) -> AbstractContextManager[Span | None]:
    """A span within the current one; nothing where nothing is traced."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        return nullcontext()
    return _opened(name, parent=None, kind=kind, attributes=attributes)


@contextmanager
def _opened(name: str, *, parent: str | None, kind: Kind, attributes: Attributes) -> Iterator[Span]:
    span = start(name, parent=parent, kind=kind, attributes=attributes)
    assert span is not None
    with current_as(span):
        try:
            yield span
        except BaseException as error:
            failed(span, error)
            raise
        finally:
            span.end()


def start(
    name: str,
    *,
    parent: str | None = None,
    links: Sequence[str] = (),
    kind: Kind = "internal",
    start_ns: int | None = None,
    attributes: Attributes = NOTHING,
) -> Span | None:
    """A span that its caller ends; None while nothing is traced. `parent` and `links` are traceparents;
    without a parent it belongs to the current span, if there is one. `start_ns` is since the epoch.
    """
    if _tracer is None:
        return None
    above = parsed(parent)
    return _tracer.start_span(
        name,
        context=None if above is None else trace.set_span_in_context(trace.NonRecordingSpan(above)),
        kind=_KINDS[kind],
        links=[Link(context) for context in map(parsed, links) if context is not None],
        start_time=start_ns,
        attributes={
            key: scrub.text(said) if isinstance(said, str) else said for key, said in attributes.items()
        },
    )


def current_as(span: Span) -> AbstractContextManager[Span]:
    """Make it the current span of the block; it is not ended by that."""
    return trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def failed(span: Span, error: BaseException) -> None:
    """Mark a span with what ended it; what an exception says is not kept, only what it is."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))


def traceparent(span: Span) -> str:
    """A span's context as text."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def current() -> str | None:
    """The current span's context as text; None where nothing is traced."""
    if _tracer is None:
        return None
    span = trace.get_current_span()
    return traceparent(span) if span.get_span_context().is_valid else None


def current_ids() -> tuple[str, str] | None:
    """The current trace's and span's id in hex, for the logs."""
    if _tracer is None:
        return None
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


def parsed(text: str | None) -> SpanContext | None:
    """A W3C `traceparent` that says sampled; None for any other text."""
    found = None if text is None else _FORM.fullmatch(text)
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return SpanContext(int(found[1], 16), int(found[2], 16), True, TraceFlags(TraceFlags.SAMPLED))


def _statement(query: str) -> AbstractContextManager[Any]:
    """A statement within a traced span; named for the function it calls or the table it reads."""
    if not trace.get_current_span().get_span_context().is_valid:
        return nullcontext()
    found = _CALLED.search(query) or _READ.search(query)
    name = found[1] if found is not None else "query"
    return child(f"sql {name}", {"db.system.name": "postgresql"}, kind="client")


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
