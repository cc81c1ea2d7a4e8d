"""The life of a refund: one state machine, total over (state, event).

Credits are set aside before the gateway hears of a refund, and leave the wallet only when it says SUCCESS.
No answer and no unknown word ever gives them back: the gateway is asked again, under the same id. The
functions of the database take these very steps; the tests hold both together.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a refund is. Money of the open ones counts as gone already."""

    REQUESTED = "requested"
    """Decided, credits held; refund.processing has not seen it yet."""
    DUE = "due"
    """To be sent to the gateway, perhaps sent already."""
    PENDING = "pending"
    """The gateway has it (also on hold, or in a word we do not know)."""
    REVIEW = "review"
    """The gateway's refund of our id is not what we asked for: a person must look."""
    PAYOUT_REQUESTED = "payout_requested"
    """Too old for the gateway: a payout that waits for approval."""
    PAYOUT_APPROVED = "payout_approved"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """We said no: more than is refundable, or a payout not approved."""
    REVERSED = "reversed"
    """A forced reversal that was won back."""


class Event(StrEnum):
    """What can happen to a refund."""

    MARKED = "marked"
    """refund.processing saw it, or a webhook spoke of it: ask the gateway now."""
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """The gateway's definite no to our first request: nothing happened there."""
    MISMATCHED = "mismatched"
    NO_ANSWER = "no_answer"
    APPROVED = "approved"
    DECLINED = "declined"
    PAID_OUT = "paid_out"
    WON_BACK = "won_back"


class Action(StrEnum):
    """What a transition books or asks for."""

    NOTHING = "nothing"
    ASK = "ask"
    """Ask the gateway, at once or after a growing pause."""
    POST = "post"
    """Credits from the hold, money out of the books, a credit note."""
    RELEASE = "release"
    """The hold ends; the credits are available again."""
    FORCE = "force"
    """The money is gone though its credits were given back: reverse what is left, the rest is debt."""
    REINSTATE = "reinstate"
    ALERT = "alert"
    """Cannot happen by the gateway's own rules: tell a person, change nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    action: Action = Action.NOTHING


OPEN: Final = (State.REQUESTED, State.DUE, State.PENDING, State.REVIEW)
"""The gateway may still have something to say about these, and their credits are held."""
ACTIVE: Final = (*OPEN, State.PAYOUT_REQUESTED, State.PAYOUT_APPROVED)
"""Their money counts against what may still be refunded."""
_GAVE_BACK: Final = (State.FAILED, State.CANCELLED)

_TABLE: Final[dict[tuple[State, Event], Step]] = {
    (State.REQUESTED, Event.MARKED): Step(State.DUE, Action.ASK),
    (State.DUE, Event.MARKED): Step(State.DUE, Action.ASK),
    (State.PENDING, Event.MARKED): Step(State.PENDING, Action.ASK),
    **{
        (state, event): Step(state, Action.ASK)
        for state in _GAVE_BACK
        for event in (Event.MARKED, Event.NO_ANSWER)
    },
    **{
        (state, Event.PENDING): Step(State.PENDING, Action.ASK) for state in OPEN if state is not State.REVIEW
    },
    **{(state, Event.NO_ANSWER): Step(state, Action.ASK) for state in OPEN if state is not State.REVIEW},
    **{(state, Event.SUCCEEDED): Step(State.DONE, Action.POST) for state in OPEN},
    **{(state, Event.FAILED): Step(State.FAILED, Action.RELEASE) for state in OPEN},
    **{(state, Event.REFUSED): Step(State.FAILED, Action.RELEASE) for state in OPEN},
    **{(state, Event.CANCELLED): Step(State.CANCELLED, Action.RELEASE) for state in OPEN},
    **{(state, Event.MISMATCHED): Step(State.REVIEW, Action.ALERT) for state in OPEN},
    **{(state, Event.SUCCEEDED): Step(State.DONE, Action.FORCE) for state in _GAVE_BACK},
    **{
        (State.DONE, event): Step(State.DONE, Action.ALERT)
        for event in (Event.FAILED, Event.CANCELLED, Event.REFUSED, Event.MISMATCHED)
    },
    (State.PAYOUT_REQUESTED, Event.APPROVED): Step(State.PAYOUT_APPROVED),
    (State.PAYOUT_REQUESTED, Event.DECLINED): Step(State.REJECTED, Action.RELEASE),
    (State.PAYOUT_APPROVED, Event.PAID_OUT): Step(State.DONE, Action.POST),
    (State.PAYOUT_APPROVED, Event.DECLINED): Step(State.REJECTED, Action.RELEASE),
    (State.DONE, Event.WON_BACK): Step(State.REVERSED, Action.REINSTATE),
}

_WORDS: Final = {"SUCCESS": Event.SUCCEEDED, "FAILED": Event.FAILED, "CANCELLED": Event.CANCELLED}


def heard(status: str) -> Event:
    """What the gateway's word for a refund means. Any other word, ONHOLD too, is: ask again."""
    return _WORDS.get(status, Event.PENDING)


def step(state: State, event: Event) -> Step:
    """The next state and action. Total: what is no news changes nothing."""
    return _TABLE.get((state, event), Step(state))
