"""The last step of a trace: the first snapshot of the live page that contains the payment, or the usage of a request."""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final

from opentelemetry.trace import Span

from sql import usage, webhooks
from sql.errors import Unavailable
from streams.telemetry import tracing
from web.services import Services

_LOOK_BACK: Final = timedelta(minutes=2)
_REMEMBERED: Final = 10_000


class ShownSpans:
    """Knows which traced payments and requests the page has shown already."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def of_new(self, services: Services) -> list[Span]:
        """A span for each that this snapshot shows first; the caller ends them once it is sent."""
        since, group = datetime.now(UTC) - _LOOK_BACK, services.settings.consumer_group
        try:
            payments = await webhooks.get_shown(services.db, group, since)
            requests = await usage.get_shown(services.db, group, since)
        except Unavailable:
            return []
        shown = [(str(payment.payment_id), payment.traceparent) for payment in payments]
        shown += [(request.first_key, request.traceparent) for request in requests]
        begun = [self._begin(known, parent) for known, parent in shown if known not in self._seen]
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return [span for span in begun if span is not None]

    def _begin(self, known: str, traceparent: str) -> Span | None:
        self._seen[known] = None
        return tracing.start("dashboard", parent=traceparent, attributes={"ids": known})
