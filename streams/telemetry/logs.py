"""Logs: one JSON object per line for Loki, or lines for eyes on a terminal; ids bound, nothing personal.

Ours come from structlog, with whatever is bound (`request_id`, `event_id`) and, inside a traced span,
`trace_id` and `span_id`. Warnings of libraries take the same way through the same scrubber.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson
import structlog

from streams.telemetry import faults, scrub, tracing
from streams.telemetry.settings import TelemetrySettings

_KEEP: Final = frozenset({"level", "logger", "timestamp", "trace_id", "span_id", "service"})
Entry = MutableMapping[str, Any]


def configure(service: str, settings: TelemetrySettings, *, level: str | None = None) -> None:
    """Once per process, before its first line. `service` is on every line; `level` overrides the settings'."""
    threshold = logging.getLevelNamesMapping()[(level or settings.log_level).upper()]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())

    def named(logger: Any, _: str, entry: Entry) -> Entry:
        entry["service"] = service
        if isinstance(logger, _Line):
            entry["logger"] = logger.name
        return entry

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        named,
        _spans,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        faults.report,
        structlog.processors.format_exc_info,
        scrubbed,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(serializer=_json)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=(structlog.PrintLoggerFactory() if console else _Line),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _decoded(renderer)],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _Line(structlog.BytesLogger):
    """Writes lines to standard output, and knows which of our modules it speaks for."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stdout.buffer)
        self.name = name


def scrubbed(_: Any, __: str, entry: Entry) -> Entry:
    """Nothing personal, no secret: every field by its name and its form."""
    for name, said in entry.items():
        if name in _KEEP:
            continue
        if said is not None and type(said) is not bool:
            entry[name] = scrub.field(name, said)
    return entry


def _spans(_: Any, __: str, entry: Entry) -> Entry:
    ids = tracing.current_ids()
    if ids is not None:
        entry["trace_id"], entry["span_id"] = ids
    return entry


def _json(entry: Any, **_: Any) -> bytes:
    return orjson.dumps(entry, default=str)


def _decoded(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    """The standard library writes text."""

    def render(logger: Any, name: str, entry: Entry) -> str:
        line = renderer(logger, name, entry)
        return line.decode() if isinstance(line, bytes) else str(line)

    return render
