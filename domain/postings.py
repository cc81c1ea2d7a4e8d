"""The double entry of every business event, as data: MONEY's postings, one function each.

Two assets, INR (paise) and CREDIT (credits); a debit is positive, a credit negative, and the legs of one
transaction sum to zero per asset. Parts that are zero leave no leg. Wallet accounts belong to the
transaction's wallet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from domain.gst import GstSplit
from domain.lots import Reversal
from domain.money import Credits, Paise
from domain.refunds import DebtPayment, ForcedReversal


class Asset(StrEnum):
    INR = "INR"
    CREDIT = "CREDIT"


class Account(StrEnum):
    """Every account there is. `asset` says what it counts."""

    WALLET = "wallet"
    WALLET_HELD = "wallet_held"
    WALLET_DEBT = "wallet_debt"
    CREDITS_ISSUED = "credits_issued"
    CREDITS_SPENT = "credits_spent"
    CREDITS_EXPIRED = "credits_expired"
    CREDITS_REVERSED = "credits_reversed"

    GATEWAY_CLEARING = "gateway_clearing"
    BANK = "bank"
    GATEWAY_FEE = "gateway_fee"
    GST_INPUT = "gst_input"
    CGST_PAYABLE = "cgst_payable"
    SGST_PAYABLE = "sgst_payable"
    IGST_PAYABLE = "igst_payable"
    DEFERRED_REVENUE = "deferred_revenue"
    REVENUE = "revenue"
    BREAKAGE = "breakage"
    ROUNDING = "rounding"
    OFFER_DISCOUNT = "offer_discount"
    CREDIT_DEBT_RECEIVABLE = "credit_debt_receivable"
    UNAPPLIED_RECEIPTS = "unapplied_receipts"
    PLATFORM_FEE = "platform_fee"
    GATEWAY_COST_RECOVERED = "gateway_cost_recovered"
    TCS_PAYABLE = "tcs_payable"
    TDS_PAYABLE = "tds_payable"
    COMMUNITY_PAYABLE = "community_payable"

    @property
    def asset(self) -> Asset:
        return Asset.CREDIT if self in _CREDIT_ACCOUNTS else Asset.INR


_CREDIT_ACCOUNTS: Final = frozenset(
    {
        Account.WALLET,
        Account.WALLET_HELD,
        Account.WALLET_DEBT,
        Account.CREDITS_ISSUED,
        Account.CREDITS_SPENT,
        Account.CREDITS_EXPIRED,
        Account.CREDITS_REVERSED,
    }
)
_CLOSED_LOOP: Final = _CREDIT_ACCOUNTS | {
    Account.DEFERRED_REVENUE,
    Account.REVENUE,
    Account.BREAKAGE,
    Account.CREDIT_DEBT_RECEIVABLE,
}


@dataclass(frozen=True, slots=True)
class Leg:
    """One entry: a debit is positive, a credit negative; paise or credits by the account's asset."""

    account: Account
    amount: int


Legs = tuple[Leg, ...]


def legs_of(*pairs: tuple[Account, int]) -> Legs:
    """Legs from (account, signed amount), without the zeros. An unbalanced set is a bug of ours.

    Also refuses, for every transaction, what the closed loop forbids: prepaid credits or their money in one
    transaction with a partner's payable.
    """
    legs = tuple(Leg(account, amount) for account, amount in pairs if amount)
    assert_balanced(legs)
    accounts = {leg.account for leg in legs}
    if Account.COMMUNITY_PAYABLE in accounts and accounts & _CLOSED_LOOP:
        raise ValueError("credits never become a partner's money (closed loop)")
    return legs


def assert_balanced(legs: Iterable[Leg]) -> None:
    totals = dict.fromkeys(Asset, 0)
    for leg in legs:
        totals[leg.account.asset] += leg.amount
    assert not any(totals.values()), f"unbalanced transaction: {totals}"


def _tax(split: GstSplit, sign: int) -> list[tuple[Account, int]]:
    return [
        (Account.CGST_PAYABLE, sign * split.cgst_paise),
        (Account.SGST_PAYABLE, sign * split.sgst_paise),
        (Account.IGST_PAYABLE, sign * split.igst_paise),
    ]


def grant(credits: Credits) -> Legs:
    """Credits come into a wallet without money (a promotion)."""
    return legs_of((Account.CREDITS_ISSUED, credits), (Account.WALLET, -credits))


def capture(split: GstSplit, credits: Credits, *, offer_paise: Paise = 0) -> Legs:
    """A verified payment becomes a lot. `offer_paise` of the price came from an offer on record."""
    return legs_of(
        (Account.GATEWAY_CLEARING, split.total_paise - offer_paise),
        (Account.OFFER_DISCOUNT, offer_paise),
        *_tax(split, -1),
        (Account.DEFERRED_REVENUE, -split.taxable_paise),
    ) + grant(credits)


def spend(credits: Credits, recognised_paise: Paise, *, held: bool = False) -> Legs:
    """Credits are used up; from a hold when `held`."""
    return legs_of(
        (Account.WALLET_HELD if held else Account.WALLET, credits),
        (Account.CREDITS_SPENT, -credits),
        (Account.DEFERRED_REVENUE, recognised_paise),
        (Account.REVENUE, -recognised_paise),
    )


def hold(credits: Credits) -> Legs:
    """Credits are set aside: available to held."""
    return legs_of((Account.WALLET, credits), (Account.WALLET_HELD, -credits))


def release(credits: Credits) -> Legs:
    """Credits set aside come back: held to available."""
    return legs_of((Account.WALLET_HELD, credits), (Account.WALLET, -credits))


def expire(credits: Credits, recognised_paise: Paise) -> Legs:
    """Free credits lapse; what was deferred for them is breakage."""
    return legs_of(
        (Account.WALLET, credits),
        (Account.CREDITS_EXPIRED, -credits),
        (Account.DEFERRED_REVENUE, recognised_paise),
        (Account.BREAKAGE, -recognised_paise),
    )


def refund(reversal: Reversal, *, held: bool = False) -> Legs:
    """Money goes back and credits with it; the slice's tax is reversed, what is not deferred is rounding, and the
    offer's part of it is given up.
    """
    return legs_of(
        (Account.WALLET_HELD if held else Account.WALLET, reversal.credits),
        (Account.CREDITS_REVERSED, -reversal.credits),
        *_tax(reversal.slice, 1),
        (Account.DEFERRED_REVENUE, reversal.returned_paise),
        (Account.ROUNDING, reversal.rounding_paise),
        (Account.GATEWAY_CLEARING, reversal.offer_paise - reversal.slice.total_paise),
        (Account.OFFER_DISCOUNT, -reversal.offer_paise),
    )


def chargeback(forced: ForcedReversal) -> Legs:
    """A forced reversal: credits that are missing are the wallet's debt, their money is receivable."""
    reversal = forced.reversal
    return legs_of(
        (Account.WALLET, reversal.credits),
        (Account.WALLET_DEBT, forced.debt),
        (Account.CREDITS_REVERSED, -(reversal.credits + forced.debt)),
        *_tax(reversal.slice, 1),
        (Account.DEFERRED_REVENUE, reversal.returned_paise),
        (Account.CREDIT_DEBT_RECEIVABLE, forced.receivable_paise),
        (Account.ROUNDING, forced.rounding_paise),
        (Account.GATEWAY_CLEARING, reversal.offer_paise - reversal.slice.total_paise),
        (Account.OFFER_DISCOUNT, -reversal.offer_paise),
    )


def debt_paid(payment: DebtPayment) -> Legs:
    """A new lot pays a wallet's debt: its deferred revenue settles the receivable, and no revenue is new."""
    return legs_of(
        (Account.WALLET, payment.credits),
        (Account.WALLET_DEBT, -payment.credits),
        (Account.DEFERRED_REVENUE, payment.deferred_paise),
        (Account.CREDIT_DEBT_RECEIVABLE, -payment.receivable_paise),
        (Account.ROUNDING, payment.receivable_paise - payment.deferred_paise),
    )


def settle(*, bank_paise: Paise, fee_paise: Paise, fee_gst_paise: Paise) -> Legs:
    """The gateway pays out: bank and its fee (with input tax) clear what it owed us."""
    return legs_of(
        (Account.BANK, bank_paise),
        (Account.GATEWAY_FEE, fee_paise),
        (Account.GST_INPUT, fee_gst_paise),
        (Account.GATEWAY_CLEARING, -(bank_paise + fee_paise + fee_gst_paise)),
    )


def unapplied(amount_paise: Paise) -> Legs:
    """Money without a sale: paid twice, of the wrong amount, or for an unknown order."""
    return legs_of((Account.GATEWAY_CLEARING, amount_paise), (Account.UNAPPLIED_RECEIPTS, -amount_paise))


def unapplied_refunded(amount_paise: Paise) -> Legs:
    """Money without a sale goes back."""
    return legs_of((Account.UNAPPLIED_RECEIPTS, amount_paise), (Account.GATEWAY_CLEARING, -amount_paise))


def unapplied_applied(split: GstSplit, credits: Credits) -> Legs:
    """Money without a sale finds its sale: it becomes a lot after all."""
    return legs_of(
        (Account.UNAPPLIED_RECEIPTS, split.total_paise),
        *_tax(split, -1),
        (Account.DEFERRED_REVENUE, -split.taxable_paise),
    ) + grant(credits)
