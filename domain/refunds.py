"""Refunds of credit packs: how much money may go back, how many credits go with it, and what becomes debt.

The policy is pro-rata over the whole lot; RETIER is the staff's alternative for a partial refund. All
functions answer for one lot and one payment; that refunds stay within the captured amount is checked under
the payment's lock.
"""

from dataclasses import dataclass, replace

from domain.gst import GstSplit, refund_split
from domain.lots import Lot, Place, Reversal, reverse
from domain.money import Credits, Paise, div_ceil, div_floor, div_half_up
from domain.packs import PACKS, Pack, credits_bought_by


def refund_slice(lot: Lot, refund_paise: Paise) -> tuple[GstSplit, Paise]:
    """The slice of the sale that money paid back stands for, and how much of it the offer had paid.

    The offer is given up in proportion, half-up on the running total, so a full refund in any slicing gives up
    exactly the offer, and reverses exactly the invoice. Errors: ValueError beyond what was paid.
    """
    offer_paise = 0
    if lot.offer_paise:
        share = div_half_up((lot.paid_back_paise + refund_paise) * lot.offer_paise, lot.paid_paise)
        offer_paise = share - lot.offer_returned_paise
    part = refund_split(
        lot.invoice, refunded_before_paise=lot.refunded_paise, refund_paise=refund_paise + offer_paise
    )
    return part, offer_paise


def refundable_paise(lot: Lot, *, pending_paise: Paise = 0, held_for_refunds: Credits = 0) -> Paise:
    """The most a customer may still get back for this lot.

    max(0, floor(P * (C - used - held by others) / C) - refunds done - pending). `pending_paise` are refunds
    under way, whose own holds (`held_for_refunds`) are not others'. Credits that paid a debt are used.
    """
    kept = lot.used + lot.held - held_for_refunds
    ceiling = div_floor(lot.paid_paise * (lot.granted - kept), lot.granted)
    return max(0, ceiling - lot.paid_back_paise - pending_paise)


def pro_rata_credits(
    *, paid_paise: Paise, granted: Credits, refunded_total_paise: Paise, reversed_before: Credits
) -> Credits:
    """How many credits a refund reverses: max(0, ceil(R_total * C / P) - reversed before).

    `refunded_total_paise` includes the refund in question. The bonus part is the same formula on the bonus.
    """
    return max(0, div_ceil(refunded_total_paise * granted, paid_paise) - reversed_before)


def retier_credits(lot: Lot, refund_paise: Paise, packs: tuple[Pack, ...] = PACKS) -> Credits | None:
    """How many credits a RETIER refund reverses: all but what the net paid amount would have bought.

    None when that is more than the lot's free credits: the refund is refused.
    """
    net_paise = lot.paid_paise - lot.paid_back_paise - refund_paise
    assert net_paise >= 0
    entitled = credits_bought_by(net_paise, packs)
    take = max(0, lot.granted - lot.reversed - lot.owed - entitled)
    return None if take > lot.free else take


@dataclass(frozen=True, slots=True)
class ForcedReversal:
    """A chargeback or automatic refund on a lot: what was there is reversed, the rest is owed.

    `debt` (credits) and `receivable_paise` are 0 when the lot could give everything; else the money that
    deferred revenue could not cover is receivable, not rounding.
    """

    reversal: Reversal
    debt: Credits
    receivable_paise: Paise

    @property
    def rounding_paise(self) -> Paise:
        return self.reversal.rounding_paise - self.receivable_paise


def force_reversal(lot: Lot, refund_paise: Paise) -> tuple[Lot, ForcedReversal]:
    """Reverse a refund that nobody asked us about, beyond the free credits if need be (W8)."""
    total = lot.paid_back_paise + refund_paise
    wanted = pro_rata_credits(
        paid_paise=lot.paid_paise,
        granted=lot.granted,
        refunded_total_paise=total,
        reversed_before=lot.reversed + lot.owed,
    )
    part, offer_paise = refund_slice(lot, refund_paise)
    after, reversal = reverse(lot, min(wanted, lot.free), Place.FREE, part, offer_paise=offer_paise)
    debt = wanted - reversal.credits
    receivable = max(0, reversal.rounding_paise) if debt else 0
    after = replace(after, owed=lot.owed + debt)
    return after, ForcedReversal(reversal, debt, receivable)


@dataclass(frozen=True, slots=True)
class DebtPayment:
    """What a new lot pays of a wallet's credit debt.

    `deferred_paise` leaves the lot's deferred revenue, `receivable_paise` the receivable. They differ when
    the debt is paid with credits of another price than it was made of; the difference is rounding.
    """

    credits: Credits
    deferred_paise: Paise
    receivable_paise: Paise


def pay_debt(
    *, credits: Credits, deferred_paise: Paise, debt: Credits, receivable_paise: Paise
) -> DebtPayment:
    """Settle `credits` of a debt, worth `deferred_paise`; its last credit clears the whole receivable."""
    assert 0 < credits <= debt
    cleared = receivable_paise if credits == debt else min(deferred_paise, receivable_paise)
    return DebtPayment(credits, deferred_paise, cleared)
