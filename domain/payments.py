"""The life of a payment: one state machine, total over (state, event), and what matches an order.

The gateway's news comes late, twice and in any order. Only a verified success is final: FAILED then SUCCESS
is normal, a FAILED replayed after it changes nothing, and a success after expiry counts. Nothing here is
credited: a transition names the next thing to do, and doing it comes back as an event.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domain.money import Paise


class State(StrEnum):
    """Where a payment is. `paid` means verified with the gateway; `credited` that the ledger has it."""

    CREATED = "created"
    ACTIVE = "active"
    FAILED = "failed"
    EXPIRED = "expired"
    PAID = "paid"
    HELD = "held"
    CREDITED = "credited"
    MISMATCH = "mismatch"


class Event(StrEnum):
    """What can happen to a payment. A claim is the gateway's word; verified is our own look at its order."""

    OPENED = "opened"
    ATTEMPT_PENDING = "attempt_pending"
    ATTEMPT_FAILED = "attempt_failed"
    SUCCESS_CLAIMED = "success_claimed"
    ORDER_EXPIRED = "order_expired"
    VERIFIED = "verified"
    MISMATCHED = "mismatched"
    PAID_AGAIN = "paid_again"
    """Another attempt of the same order succeeded too (verified)."""
    SUSPECTED = "suspected"
    CLEARED = "cleared"
    CREDITED = "credited"


class Action(StrEnum):
    """What a transition asks to be done next."""

    NOTHING = "nothing"
    VERIFY = "verify"
    SCORE = "score"
    CREDIT = "credit"
    QUARANTINE = "quarantine"
    SET_ASIDE = "set_aside"
    """Book the money as an unapplied receipt, to be refunded."""
    ALERT = "alert"
    """Cannot happen by our own order of work: tell a person, change nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    action: Action = Action.NOTHING


_UNPAID: Final = (State.CREATED, State.ACTIVE, State.FAILED, State.EXPIRED)

_TABLE: Final[dict[tuple[State, Event], Step]] = {
    (State.CREATED, Event.OPENED): Step(State.ACTIVE),
    (State.CREATED, Event.ATTEMPT_PENDING): Step(State.ACTIVE),
    (State.CREATED, Event.ATTEMPT_FAILED): Step(State.FAILED),
    (State.CREATED, Event.ORDER_EXPIRED): Step(State.EXPIRED),
    (State.ACTIVE, Event.ATTEMPT_FAILED): Step(State.FAILED),
    (State.ACTIVE, Event.ORDER_EXPIRED): Step(State.EXPIRED),
    (State.FAILED, Event.ATTEMPT_PENDING): Step(State.ACTIVE),
    (State.FAILED, Event.ORDER_EXPIRED): Step(State.EXPIRED),
    **{(state, Event.SUCCESS_CLAIMED): Step(state, Action.VERIFY) for state in _UNPAID},
    **{(state, Event.VERIFIED): Step(State.PAID, Action.SCORE) for state in _UNPAID},
    **{(state, Event.MISMATCHED): Step(State.MISMATCH, Action.QUARANTINE) for state in _UNPAID},
    **{(state, Event.PAID_AGAIN): Step(state, Action.SET_ASIDE) for state in State if state not in _UNPAID},
    (State.PAID, Event.SUSPECTED): Step(State.HELD),
    (State.PAID, Event.CLEARED): Step(State.PAID, Action.CREDIT),
    (State.PAID, Event.CREDITED): Step(State.CREDITED),
    (State.HELD, Event.CLEARED): Step(State.PAID, Action.CREDIT),
}

_IMPOSSIBLE: Final[frozenset[tuple[State, Event]]] = frozenset(
    [(state, event) for state in _UNPAID for event in (Event.SUSPECTED, Event.CLEARED, Event.CREDITED)]
    + [(state, Event.PAID_AGAIN) for state in _UNPAID]
    + [(state, Event.MISMATCHED) for state in (State.PAID, State.HELD, State.CREDITED)]
    + [(State.MISMATCH, event) for event in (Event.VERIFIED, Event.CLEARED, Event.CREDITED)]
    + [(State.HELD, Event.CREDITED)]
)


def step(state: State, event: Event) -> Step:
    """The next state and action. Total: what is neither news nor impossible changes nothing."""
    if (state, event) in _IMPOSSIBLE:
        return Step(state, Action.ALERT)
    return _TABLE.get((state, event), Step(state))


class AttemptState(StrEnum):
    """One try at paying an order. Words of the gateway that we do not know are `unknown` and kept aside."""

    PENDING = "pending"
    FAILED = "failed"
    DROPPED = "dropped"
    SUCCEEDED = "succeeded"
    UNKNOWN = "unknown"


def newer_attempt(known: AttemptState, news: AttemptState) -> AttemptState:
    """The attempt's state after news of it: success is final, any other known word replaces the last one."""
    if known is AttemptState.SUCCEEDED or news is AttemptState.UNKNOWN:
        return known
    return news


class Mismatch(StrEnum):
    """Why a paid order of the gateway's is not the one we made."""

    CURRENCY = "currency_mismatch"
    ORDER_AMOUNT = "order_amount_mismatch"
    PAID_AMOUNT = "paid_amount_mismatch"


def mismatch_of(
    *,
    expected_paise: Paise,
    expected_currency: str,
    order_paise: Paise,
    currency: str,
    paid_paise: Paise,
    offer_paise: Paise = 0,
) -> Mismatch | None:
    """Why a PAID order must not be credited; None if it matches our row.

    The order's amount and currency equal ours, and what was paid equals the order less the offer on record
    (whose part is then posted to `offer_discount`).
    """
    if currency != expected_currency:
        return Mismatch.CURRENCY
    if order_paise != expected_paise:
        return Mismatch.ORDER_AMOUNT
    if offer_paise < 0 or paid_paise != order_paise - offer_paise or paid_paise <= 0:
        return Mismatch.PAID_AMOUNT
    return None
