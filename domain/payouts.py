"""Paying communities out: whose turn it is, and how a payout lives."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from domain.money import Paise


class PayoutState(StrEnum):
    QUEUED = "queued"
    PENDING_APPROVAL = "pending_approval"
    PROCESSING = "processing"
    PAID = "paid"
    FAILED = "failed"
    REVERSED = "reversed"


_NEXT: Final[dict[PayoutState, frozenset[PayoutState]]] = {
    PayoutState.QUEUED: frozenset({PayoutState.PENDING_APPROVAL, PayoutState.FAILED}),
    PayoutState.PENDING_APPROVAL: frozenset({PayoutState.PROCESSING, PayoutState.FAILED}),
    PayoutState.PROCESSING: frozenset({PayoutState.PAID, PayoutState.FAILED, PayoutState.REVERSED}),
    PayoutState.PAID: frozenset({PayoutState.REVERSED}),
    PayoutState.FAILED: frozenset(),
    PayoutState.REVERSED: frozenset(),
}


def may_follow(state: PayoutState, news: PayoutState) -> bool:
    """Whether a payout may move so. A failed or reversed one never moves again: a new payout takes a new key,
    and the payable is restored exactly once."""
    return news in _NEXT[state]


def payable_now(payable_paise: Paise) -> Paise:
    """What may be paid out of a payable: nothing while refunds made it negative (later sales net it)."""
    return max(0, payable_paise)


def affordable(queue: Sequence[tuple[str, Paise]], balance_paise: Paise) -> list[str]:
    """Which payouts (id, amount) the balance can pay: first come first served, passing over one too large."""
    chosen: list[str] = []
    for payout_id, amount_paise in queue:
        if amount_paise <= balance_paise:
            chosen.append(payout_id)
            balance_paise -= amount_paise
    return chosen
