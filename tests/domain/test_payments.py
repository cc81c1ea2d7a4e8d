"""The payment's state machine is total, and late, repeated or reordered news does no harm (W11, W12, W13)."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.payments import (
    Action,
    AttemptState,
    Event,
    Mismatch,
    State,
    Step,
    mismatch_of,
    newer_attempt,
    step,
)


def walk(*events: Event, state: State = State.CREATED) -> tuple[State, list[Action]]:
    actions = []
    for event in events:
        after = step(state, event)
        state = after.state
        actions.append(after.action)
    return state, [action for action in actions if action is not Action.NOTHING]


def test_the_normal_life_of_a_payment() -> None:
    state, actions = walk(Event.OPENED, Event.SUCCESS_CLAIMED, Event.VERIFIED, Event.CLEARED, Event.CREDITED)
    assert state is State.CREDITED
    assert actions == [Action.VERIFY, Action.SCORE, Action.CREDIT]


def test_w11_success_after_failure_is_normal_and_a_replayed_failure_changes_nothing() -> None:
    state, _ = walk(Event.OPENED, Event.ATTEMPT_FAILED, Event.SUCCESS_CLAIMED, Event.VERIFIED)
    assert state is State.PAID
    for later in (Event.ATTEMPT_FAILED, Event.ATTEMPT_PENDING, Event.ORDER_EXPIRED, Event.SUCCESS_CLAIMED):
        for paid in (State.PAID, State.HELD, State.CREDITED):
            assert step(paid, later) == Step(paid)


def test_w12_an_order_paid_twice_is_credited_once_and_the_second_is_set_aside() -> None:
    state, actions = walk(Event.PAID_AGAIN, state=State.CREDITED)
    assert (state, actions) == (State.CREDITED, [Action.SET_ASIDE])


def test_w13_a_success_after_expiry_is_verified_and_accepted() -> None:
    state, actions = walk(Event.OPENED, Event.ORDER_EXPIRED, Event.SUCCESS_CLAIMED, Event.VERIFIED)
    assert state is State.PAID
    assert actions == [Action.VERIFY, Action.SCORE]


def test_a_success_before_our_own_answer_from_the_gateway_is_not_lost() -> None:
    state, actions = walk(Event.SUCCESS_CLAIMED, Event.VERIFIED, Event.OPENED)
    assert (state, actions) == (State.PAID, [Action.VERIFY, Action.SCORE])


def test_a_held_payment_is_credited_only_after_it_was_cleared() -> None:
    state, actions = walk(Event.SUSPECTED, Event.CREDITED, state=State.PAID)
    assert (state, actions) == (State.HELD, [Action.ALERT])
    assert walk(Event.CLEARED, Event.CREDITED, state=State.HELD) == (State.CREDITED, [Action.CREDIT])


def test_a_mismatch_is_quarantined_for_good() -> None:
    state, actions = walk(Event.MISMATCHED, Event.SUCCESS_CLAIMED, Event.VERIFIED, Event.CLEARED)
    assert (state, actions) == (State.MISMATCH, [Action.QUARANTINE, Action.ALERT, Action.ALERT])


def test_every_state_answers_every_event_and_only_verification_leads_to_credits() -> None:
    for state, event in product(State, Event):
        after = step(state, event)
        if after.action is Action.CREDIT:
            assert state in (State.PAID, State.HELD)
            assert event is Event.CLEARED
        if after.action is Action.ALERT:
            assert after.state is state
        if after.state is State.PAID and state is not State.PAID:
            assert event is Event.VERIFIED or state is State.HELD


news = st.sampled_from(
    [Event.OPENED, Event.ATTEMPT_PENDING, Event.ATTEMPT_FAILED, Event.SUCCESS_CLAIMED, Event.ORDER_EXPIRED]
)


@given(st.lists(news, max_size=12), st.lists(news, max_size=12))
def test_a_verified_payment_is_paid_whatever_came_before_and_comes_after(
    before: list[Event], after: list[Event]
) -> None:
    state, actions = walk(*before, Event.VERIFIED, *after)
    assert state is State.PAID
    assert actions.count(Action.SCORE) == 1
    assert Action.VERIFY not in actions[actions.index(Action.SCORE) :]


def test_the_success_of_an_attempt_is_final_and_unknown_words_change_nothing() -> None:
    for news_of_it in AttemptState:
        assert newer_attempt(AttemptState.SUCCEEDED, news_of_it) is AttemptState.SUCCEEDED
    assert newer_attempt(AttemptState.FAILED, AttemptState.SUCCEEDED) is AttemptState.SUCCEEDED
    assert newer_attempt(AttemptState.FAILED, AttemptState.UNKNOWN) is AttemptState.FAILED
    assert newer_attempt(AttemptState.PENDING, AttemptState.DROPPED) is AttemptState.DROPPED


@pytest.mark.parametrize(
    ("order", "currency", "paid", "offer", "expected"),
    [
        (50_000, "INR", 50_000, 0, None),
        (50_000, "INR", 47_500, 2_500, None),
        (50_000, "USD", 50_000, 0, Mismatch.CURRENCY),
        (49_999, "INR", 49_999, 0, Mismatch.ORDER_AMOUNT),
        (50_000, "INR", 47_500, 0, Mismatch.PAID_AMOUNT),
        (50_000, "INR", 50_001, 0, Mismatch.PAID_AMOUNT),
        (50_000, "INR", 52_500, -2_500, Mismatch.PAID_AMOUNT),
        (50_000, "INR", 0, 50_000, Mismatch.PAID_AMOUNT),
    ],
)
def test_a_paid_order_matches_only_with_our_amount_and_currency(
    order: int, currency: str, paid: int, offer: int, expected: Mismatch | None
) -> None:
    found = mismatch_of(
        expected_paise=50_000,
        expected_currency="INR",
        order_paise=order,
        currency=currency,
        paid_paise=paid,
        offer_paise=offer,
    )
    assert found is expected
