"""What must have become of an order: from what the gateway knows of it and what we were told, in no order.

Independent of the code it judges, but for the state machine of `domain.payments`, which is the specification.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from domain.money import div_ceil
from domain.payments import Action, Event, State, step

SUCCESS: Final = "SUCCESS"
WORD_OF: Final = {
    State.CREATED: "created",
    State.ACTIVE: "active",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
    State.PAID: "verified",
    State.HELD: "held",
    State.CREDITED: "credited",
    State.MISMATCH: "mismatch",
}
FURTHER: Final = ("USER_DROPPED", "FAILED", SUCCESS)
"""Which status of one attempt stands when it was told of several, the later the further."""


@dataclass
class Known:
    """One order: what we sold, what the gateway has of it, and what reached us."""

    price_paise: int
    credits: int
    order_paise: int = 0
    """The order's amount as the gateway has it; 0 is ours."""
    currency: str = "INR"
    expired: bool = False
    successes: list[str] = field(default_factory=list)
    """Attempts that paid, at the gateway."""
    told: set[tuple[str, str]] = field(default_factory=set)
    """(attempt, status) of webhooks that were answered 200."""
    refunds: list[int] = field(default_factory=list)
    """Paise that went back of the sale, each at the gateway's SUCCESS."""
    refund_told: bool = False
    """A webhook told us of a refund that we had not asked for."""

    @property
    def claims(self) -> set[str]:
        """Attempts that a genuine signature called successful."""
        return {attempt for attempt, status in self.told if status == SUCCESS}

    @property
    def sold(self) -> bool:
        """Paid, as we sold it."""
        return bool(self.successes) and (self.order_paise or self.price_paise, self.currency) == (
            self.price_paise,
            "INR",
        )


def status_of(known: Known) -> str:
    """The payment's final status, by folding what happened over the specification."""
    events = [Event.OPENED]
    events += [
        Event.SUCCESS_CLAIMED if status == SUCCESS else Event.ATTEMPT_FAILED for _, status in known.told
    ]
    if known.expired:
        events.append(Event.ORDER_EXPIRED)
    if known.successes:
        events += [Event.VERIFIED, Event.CLEARED, Event.CREDITED] if known.sold else [Event.MISMATCHED]
        events += [Event.PAID_AGAIN] * (len(known.successes) - 1)
    state = State.CREATED
    for event in events:
        after = step(state, event)
        assert after.action is not Action.ALERT, (state, event)
        state = after.state
    if state is State.CREDITED and refunded_paise(known) == known.price_paise:
        return "refunded"
    return WORD_OF[state]


def attempts_of(known: Known) -> dict[str, str]:
    """Each attempt we were told of, and its status."""
    found: dict[str, str] = {}
    for attempt, status in known.told:
        found[attempt] = max(status, found.get(attempt, status), key=FURTHER.index)
    return found


def refunded_paise(known: Known) -> int:
    """What has gone back of the sale, as far as anybody told us."""
    return sum(known.refunds) if known.sold else 0


def balance_of(known: Known) -> int:
    """Credits that the order left in its wallet: granted once if sold, less those of its refunds."""
    if not known.sold:
        return 0
    return known.credits - div_ceil(refunded_paise(known) * known.credits, known.price_paise)


def receipts_of(known: Known) -> set[int]:
    """How many successes are no sale: paid again, or never as sold. As far as we had a reason to look; whoever
    had to look at the attempts to verify the payment may have seen a second one that nobody told us of.
    """
    if known.currency != "INR" or not known.successes:
        return {0}
    if not known.sold:
        return {len(known.successes)}
    again = len(known.successes) - 1
    return {again} if looked_at(known) else {0, again}


def looked_at(known: Known) -> bool:
    """Whether something made us look at the whole order."""
    return len(known.claims) > 1 or known.refund_told
