"""Auto-recharge: the notice, UPI's hours and a balance that lasts until the money is there (W32)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gst import IST
from domain.recharge import (
    Recharge,
    RechargeState,
    debit_time,
    decide,
    needs_authentication,
    threshold_credits,
    upi_slot,
)

MONDAY = datetime(2026, 11, 23, 10, 15, tzinfo=IST)
LOW = RechargeState(available=100, pending=False, last_started_at=None, today=0, has_mandate=True)


def test_w32_a_notice_on_monday_morning_is_debited_on_tuesday_at_one() -> None:
    assert debit_time(MONDAY, upi=False) == MONDAY + timedelta(days=1)
    assert debit_time(MONDAY, upi=True) == datetime(2026, 11, 24, 13, 0, tzinfo=IST)


def test_w32_the_threshold_lasts_until_the_money_is_there() -> None:
    needed = threshold_credits(burn_per_hour=100, notice_at=MONDAY, upi=True, floor=0)
    assert needed == 2_675
    assert threshold_credits(burn_per_hour=100, notice_at=MONDAY, upi=True) == needed + 200


def test_w32_a_second_crossing_while_one_is_pending_starts_nothing() -> None:
    def ask(state: RechargeState) -> Recharge:
        return decide(state, threshold=2_675, amount_paise=50_000, at=MONDAY)

    assert ask(LOW) is Recharge.SEND_NOTICE
    assert ask(replace(LOW, pending=True)) is Recharge.ALREADY_PENDING
    assert ask(replace(LOW, available=2_676)) is Recharge.NOT_NEEDED
    assert ask(replace(LOW, last_started_at=MONDAY - timedelta(minutes=59))) is Recharge.COOLING_DOWN
    assert ask(replace(LOW, last_started_at=MONDAY - timedelta(hours=1))) is Recharge.SEND_NOTICE
    assert ask(replace(LOW, today=3)) is Recharge.DAILY_CAP
    assert ask(replace(LOW, has_mandate=False)) is Recharge.SEND_LINK


def test_above_the_limit_the_customer_must_be_there() -> None:
    assert not needs_authentication(1_500_000)
    assert needs_authentication(1_500_001)
    assert decide(LOW, threshold=200, amount_paise=1_500_001, at=MONDAY) is Recharge.SEND_LINK


@pytest.mark.parametrize(
    ("at", "slot"),
    [
        ((0, 0), (0, 0)),
        ((9, 59), (9, 59)),
        ((10, 0), (13, 0)),
        ((12, 59), (13, 0)),
        ((13, 0), (13, 0)),
        ((16, 59), (16, 59)),
        ((17, 0), (21, 30)),
        ((21, 29), (21, 30)),
        ((21, 30), (21, 30)),
        ((23, 59), (23, 59)),
    ],
)
def test_upi_executes_outside_its_peaks(at: tuple[int, int], slot: tuple[int, int]) -> None:
    day = datetime(2026, 11, 24, tzinfo=IST)
    wanted = day.replace(hour=slot[0], minute=slot[1])
    assert upi_slot(day.replace(hour=at[0], minute=at[1])) == wanted


@given(st.timedeltas(timedelta(0), timedelta(days=1000)))
def test_a_debit_waits_at_least_a_day_and_at_most_a_peak_longer(later: timedelta) -> None:
    at = MONDAY + later
    wait = debit_time(at, upi=True) - at
    assert timedelta(hours=24) <= wait <= timedelta(hours=28, minutes=30)
