"""Errors to Sentry, where a DSN is given: what broke and where, scrubbed; never who it happened to.

Only what our logs call an error is sent, with its exception if there is one. Local variables, request bodies, headers and
breadcrumbs are not collected at all, so that the scrubber is the second line and not the first.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from streams.telemetry import scrub
from streams.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

_TAGS = ("request_id", "event_id", "trace_id", "topic", "partition", "route", "service")
_on = False


def configure(service: str, settings: TelemetrySettings) -> None:
    """Once per process; without a DSN nothing is sent, ever."""
    global _on
    if settings.sentry_dsn is None:
        return
    import sentry_sdk

    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.deployment_environment,
        server_name=service,
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        send_client_reports=False,
        send_default_pii=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        max_request_body_size="never",
        propagate_traces=False,
        before_send=_scrubbed,
    )
    _on = True


def report(_: Any, level: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of the logs: what is logged as an error goes to Sentry too, with the ids of its line."""
    if not _on or level not in ("error", "exception", "critical"):
        return entry
    import sentry_sdk

    said = str(entry.get("event", ""))
    with sentry_sdk.new_scope() as scope:
        for name in _TAGS:
            if name in entry:
                scope.set_tag(name, str(entry[name]))
        if entry.get("exc_info"):
            scope.set_extra("message", said)
            sentry_sdk.capture_exception(_exception(entry["exc_info"]))
        else:
            rest = {name: value for name, value in entry.items() if name not in (*_TAGS, "event")}
            for name, value in rest.items():
                scope.set_extra(name, scrub.field(name, value))
            sentry_sdk.capture_message(said, level="error")
    return entry


def flush(timeout_s: float = 2.0) -> None:
    """Wait for what is on its way."""
    if _on:
        import sentry_sdk

        sentry_sdk.flush(timeout_s)


def _exception(
    given: Any,
) -> BaseException | tuple[type[BaseException], BaseException, TracebackType] | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return cast(BaseException | None, given[1])
    return sys.exc_info()[1]


def _scrubbed(event: Event, _: Hint) -> Event | None:
    return cast("Event", scrub.value(cast(dict[str, Any], event)))
