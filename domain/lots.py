"""Lots: which credits a wallet holds, in which order they go, and how much deferred revenue goes with them.

A purchase makes one lot (base and bonus together) and a promotion one of its own. Every credit of a lot is
at any moment in exactly one place: free, held, or one of the four ways out (spent, expired, reversed,
debt_paid). The functions take a lot and return the next one; who moved what is the caller's record (`Move`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.gst import NOTHING, GstSplit
from domain.money import Credits, Paise, div_floor


class Place(StrEnum):
    """Where a lot's credits are. Each is also the name of the lot's column."""

    FREE = "free"
    HELD = "held"
    SPENT = "spent"
    EXPIRED = "expired"
    REVERSED = "reversed"
    DEBT_PAID = "debt_paid"


@dataclass(frozen=True, slots=True)
class Lot:
    """One batch of credits of one wallet; credits and paise, all zero or more.

    granted = spent + debt_paid + reversed + expired + held + free (I17), and
    deferred_paise = invoice.taxable - returned - recognised, never below zero and 0 once free + held = 0.
    """

    id: UUID
    wallet_id: UUID
    granted: Credits
    free: Credits
    effective_at: datetime
    expires_at: datetime | None = None
    priority: int = 0
    promotional: bool = False
    bonus: Credits = 0
    """How many of `granted` were not paid for: the pack's bonus, or all of a promotion."""
    held: Credits = 0
    spent: Credits = 0
    expired: Credits = 0
    reversed: Credits = 0
    debt_paid: Credits = 0
    owed: Credits = 0
    """Of the credits that are gone, how many forced reversals made the wallet's debt."""
    invoice: GstSplit = NOTHING
    """What was paid for it; nothing for a promotion."""
    refunded_paise: Paise = 0
    """How much of the paid total went back to the payer."""
    returned_paise: Paise = 0
    """Deferred revenue that refunds took back."""
    offer_paise: Paise = 0
    """What an offer paid of the price: no money of the buyer's, none that goes back to them."""
    offer_returned_paise: Paise = 0
    """What of it refunds gave up; `refunded_paise` includes it."""
    recognised_paise: Paise = 0
    """Deferred revenue that was earned: as revenue, as breakage, or by paying a credit debt."""

    @property
    def paid_paise(self) -> Paise:
        """What the buyer paid."""
        return self.invoice.total_paise - self.offer_paise

    @property
    def paid_back_paise(self) -> Paise:
        """What the buyer got back."""
        return self.refunded_paise - self.offer_returned_paise

    @property
    def used(self) -> Credits:
        """Credits whose share of the price is earned."""
        return self.spent + self.expired + self.debt_paid

    @property
    def open(self) -> bool:
        return self.free + self.held > 0

    @property
    def deferred_paise(self) -> Paise:
        return self.invoice.taxable_paise - self.returned_paise - self.recognised_paise

    def due(self, at: datetime) -> bool:
        """Whether free credits of this lot must expire before anything that happens at `at`."""
        return self.free > 0 and self.expires_at is not None and self.expires_at <= at


@dataclass(frozen=True, slots=True)
class Move:
    """What one transaction did to one lot: so many credits from one place to another, and what that earned.

    `recognised_paise` left deferred revenue (negative when a debit is undone); only spent, expired and
    debt_paid earn, as revenue, breakage and debt settled.
    """

    lot_id: UUID
    source: Place
    target: Place
    credits: Credits
    recognised_paise: Paise = 0


BurnKey = tuple[int, datetime, bool, datetime, bytes]
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def burn_key(lot: Lot) -> BurnKey:
    """The order in which lots are consumed.

    Priority ascending, soonest expiry (none last), promotional before purchased, earlier effective, lower id
    (by its bytes, as PostgreSQL compares uuids).
    """
    return (
        lot.priority,
        _NEVER if lot.expires_at is None else lot.expires_at,
        not lot.promotional,
        lot.effective_at,
        lot.id.bytes,
    )


def in_burn_order(lots: Iterable[Lot]) -> list[Lot]:
    return sorted(lots, key=burn_key)


def burn_plan(lots: Iterable[Lot], amount: Credits) -> list[tuple[Lot, Credits]] | None:
    """Which lots give how much so that `amount` free credits go, in burn order; None if there are too few."""
    plan: list[tuple[Lot, Credits]] = []
    for lot in in_burn_order(lots):
        if amount == 0:
            break
        if lot.free > 0:
            plan.append((lot, min(lot.free, amount)))
            amount -= plan[-1][1]
    return plan if amount == 0 else None


def earned_paise(lot: Lot) -> Paise:
    """How much of the lot's price is earned by now: the floor of the used share, cumulative over its life.

    What refunds took back cannot be earned, and the event that leaves nothing free or held earns all that is
    left, so a finished lot defers exactly 0. A function of the lot's state alone: recognising after every
    debit or once a batch gives the same total.
    """
    ceiling = lot.invoice.taxable_paise - lot.returned_paise
    if not lot.open:
        return ceiling
    return min(ceiling, div_floor(lot.invoice.taxable_paise * lot.used, lot.granted))


def move(lot: Lot, amount: Credits, source: Place, target: Place) -> tuple[Lot, Move]:
    """Move credits between two places of a lot and recognise what that earned (less, when a debit is undone).

    Moving into `reversed` earns nothing: use `reverse`, which also takes the deferred revenue back.
    """
    assert amount > 0
    assert target is not Place.REVERSED
    moved = _moved(lot, amount, source, target)
    earned = earned_paise(moved)
    return (
        replace(moved, recognised_paise=earned),
        Move(lot.id, source, target, amount, earned - lot.recognised_paise),
    )


@dataclass(frozen=True, slots=True)
class Reversal:
    """One refund slice on one lot: the credits taken back and the parts of the money (paise).

    `returned_paise` left deferred revenue; `rounding_paise` is the rest of the slice's taxable value,
    negative when a finished lot gave back more than the slice (its residue). `offer_paise` of the slice was the
    offer's and goes back to nobody.
    """

    lot_id: UUID
    credits: Credits
    slice: GstSplit
    returned_paise: Paise
    rounding_paise: Paise
    offer_paise: Paise = 0


def reverse(
    lot: Lot, amount: Credits, source: Place, refund: GstSplit, *, offer_paise: Paise = 0
) -> tuple[Lot, Reversal]:
    """Take credits of a lot back against a refund (its `total_paise` may be 0: credits without money).

    Deferred revenue gives min(taxable, what is left), or all that is left when the lot is finished by it.
    """
    moved = _moved(lot, amount, source, Place.REVERSED)
    returned = min(refund.taxable_paise, lot.deferred_paise) if moved.open else lot.deferred_paise
    after = replace(
        moved,
        refunded_paise=lot.refunded_paise + refund.total_paise,
        returned_paise=lot.returned_paise + returned,
        offer_returned_paise=lot.offer_returned_paise + offer_paise,
    )
    rounding = refund.taxable_paise - returned
    return after, Reversal(lot.id, amount, refund, returned, rounding, offer_paise)


def _moved(lot: Lot, amount: Credits, source: Place, target: Place) -> Lot:
    have: Credits = getattr(lot, source)
    assert 0 <= amount <= have, f"{amount} of {have} {source} credits"
    # The place is the name of the field; mypy cannot see that, the tests of I17 do.
    return replace(lot, **{source.value: have - amount, target.value: getattr(lot, target) + amount})


def restore(lots: Sequence[Lot], moves: Iterable[Move]) -> tuple[list[Lot], list[Move]]:
    """Undo a debit by its record: each lot gets back what was taken from it, whatever today's burn order is.

    Returns the lots as they are then, in the order given, and the records of the correction. A lot already
    past its expiry is restored too; the caller expires it at once, so that both are visible.
    """
    by_id = {lot.id: lot for lot in lots}
    undone: list[Move] = []
    for taken in moves:
        lot = by_id[taken.lot_id]
        by_id[taken.lot_id], correction = move(lot, taken.credits, taken.target, taken.source)
        undone.append(correction)
    return [by_id[lot.id] for lot in lots], undone
