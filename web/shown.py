"""The last step of a payment's trace: the first snapshot of the live page that contains it."""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from opentelemetry.trace import Span

from sql import webhooks
from sql.errors import Unavailable
from streams.telemetry import tracing
from web.services import Services

_LOOK_BACK: Final = timedelta(minutes=2)
_REMEMBERED: Final = 10_000


class ShownSpans:
    """Knows which traced payments the page has shown already."""

    def __init__(self) -> None:
        self._seen: OrderedDict[UUID, None] = OrderedDict()

    async def of_new(self, services: Services) -> list[Span]:
        """A span for each traced payment that this snapshot shows first; the caller ends them once it is sent."""
        try:
            since = datetime.now(UTC) - _LOOK_BACK
            shown = await webhooks.get_shown(services.db, services.settings.consumer_group, since)
        except Unavailable:
            return []
        begun = [self._begin(payment) for payment in shown if payment.payment_id not in self._seen]
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return [span for span in begun if span is not None]

    def _begin(self, payment: webhooks.Shown) -> Span | None:
        self._seen[payment.payment_id] = None
        return tracing.start(
            "dashboard", parent=payment.traceparent, attributes={"ids": str(payment.payment_id)}
        )
