"""The postings of MONEY §4, to the paisa, and what no transaction may do."""

import pytest

from domain.gst import split_inclusive
from domain.postings import (
    Account,
    Asset,
    Leg,
    Legs,
    assert_balanced,
    capture,
    expire,
    legs_of,
    settle,
    spend,
    unapplied,
    unapplied_applied,
    unapplied_refunded,
)
from tests.domain.worlds import Desk, days


def entries(legs: Legs) -> list[tuple[str, int]]:
    return [(leg.account.value, leg.amount) for leg in legs]


def test_a_500_rupee_pack_is_posted_in_both_assets() -> None:
    assert entries(capture(split_inclusive(50_000, inter_state=False), 5_500)) == [
        ("gateway_clearing", 50_000),
        ("cgst_payable", -3_814),
        ("sgst_payable", -3_814),
        ("deferred_revenue", -42_372),
        ("credits_issued", 5_500),
        ("wallet", -5_500),
    ]


def test_an_offer_on_record_pays_its_part_of_the_price() -> None:
    legs = capture(split_inclusive(50_000, inter_state=True), 5_500, offer_paise=2_500)
    assert entries(legs)[:2] == [("gateway_clearing", 47_500), ("offer_discount", 2_500)]


def test_a_settlement_clears_what_the_gateway_owed() -> None:
    assert entries(settle(bank_paise=48_849, fee_paise=975, fee_gst_paise=176)) == [
        ("bank", 48_849),
        ("gateway_fee", 975),
        ("gst_input", 176),
        ("gateway_clearing", -50_000),
    ]


def test_a_debit_and_the_expiry_of_the_rest_recognise_the_pack_exactly() -> None:
    desk = Desk()
    desk.buy(50_000, expires_at=days(30))
    spent = desk.posted("spend", 1_200)
    assert spent.legs == spend(1_200, 9_244)
    desk.do("spend", 1, occurred_at=days(30))
    expired = desk.ledger.transactions[-1]
    assert expired.legs == expire(4_300, 33_128)
    assert entries(expired.legs) == [
        ("wallet", 4_300),
        ("credits_expired", -4_300),
        ("deferred_revenue", 33_128),
        ("breakage", -33_128),
    ]


def test_money_without_a_sale_waits_apart_until_it_is_refunded_or_applied() -> None:
    split = split_inclusive(15_000, inter_state=False)
    assert entries(unapplied(15_000) + unapplied_refunded(15_000)) == [
        ("gateway_clearing", 15_000),
        ("unapplied_receipts", -15_000),
        ("unapplied_receipts", 15_000),
        ("gateway_clearing", -15_000),
    ]
    late = unapplied(15_000) + unapplied_applied(split, 1_500)
    assert sum(leg.amount for leg in late if leg.account is Account.UNAPPLIED_RECEIPTS) == 0
    assert_balanced(late)


def test_nothing_that_is_zero_leaves_a_leg() -> None:
    assert entries(spend(10, 0)) == [("wallet", 10), ("credits_spent", -10)]


def test_an_unbalanced_transaction_and_one_that_mixes_assets_are_bugs() -> None:
    with pytest.raises(AssertionError, match="unbalanced"):
        legs_of((Account.BANK, 2), (Account.GATEWAY_CLEARING, -1))
    with pytest.raises(AssertionError, match="unbalanced"):
        assert_balanced([Leg(Account.WALLET, 5), Leg(Account.DEFERRED_REVENUE, -5)])


def test_credits_never_become_a_partners_money() -> None:
    for account in (Account.DEFERRED_REVENUE, Account.REVENUE, Account.CREDIT_DEBT_RECEIVABLE):
        with pytest.raises(ValueError, match="closed loop"):
            legs_of((account, 100), (Account.COMMUNITY_PAYABLE, -100))
    with pytest.raises(ValueError, match="closed loop"):
        legs_of(
            (Account.WALLET, 5),
            (Account.CREDITS_SPENT, -5),
            (Account.BANK, 100),
            (Account.COMMUNITY_PAYABLE, -100),
        )


def test_every_account_counts_one_asset() -> None:
    credit = {account.value for account in Account if account.asset is Asset.CREDIT}
    assert credit == {
        "wallet",
        "wallet_held",
        "wallet_debt",
        "credits_issued",
        "credits_spent",
        "credits_expired",
        "credits_reversed",
    }
