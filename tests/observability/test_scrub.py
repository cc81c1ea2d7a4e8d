"""What the scrubber hides, and what it must leave alone."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.telemetry import scrub


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("mail asha.rao+test@example.co.in now", "asha.rao"),
        ("paid by asha@okhdfcbank", "asha@okhdfcbank"),
        ("call 9876543210", "9876543210"),
        ("call +91 98765 43210, please", "98765"),
        ("call +919876543210", "9876543210"),
        ("abroad: +44 20 7946 0958", "7946"),
        ("card 4111 1111 1111 1111 exp", "1111"),
        ("card=4111111111111111", "4111111111111111"),
        ("Authorization: Bearer abc.DEF-123", "abc.DEF-123"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "eyJzdWIiOiIxIn0"),
        ("postgresql://core_app:hunter2secret@127.0.0.1:5432/x", "hunter2secret"),
        ("Key (email)=(asha@example.com) already exists", "asha"),
    ],
)
def test_personal_data_and_secrets_do_not_survive_in_a_text(said: str, secret: str) -> None:
    assert secret not in scrub.text(said)


@pytest.mark.parametrize(
    "said",
    [
        "order_id 01a20773-bae3-709a-b8fa-57f33905baf3",
        "wallet.credit/3@1234567890",
        "2026-11-23T08:09:14.792551Z",
        "from_offset 123456789012",
        "trace 4bf92f3577b34da6a3ce929d0e0e4736",
        "50000 paise, 5500 credits",
        "http://127.0.0.1:8080/v1/payments",
        "cf_payment_id 5114910129291",
    ],
)
def test_ids_amounts_and_times_stay_as_they_are(said: str) -> None:
    assert scrub.text(said) == said


@pytest.mark.parametrize(
    "name",
    ["email", "customer_email", "phone", "Authorization", "api_token", "x-client-secret", "mac", "password"],
)
def test_a_field_with_a_telling_name_loses_its_value_wherever_it_is(name: str) -> None:
    nested = {"a": [{name: "whatever"}]}
    assert "whatever" not in json.dumps(scrub.value(nested))


@pytest.mark.parametrize("name", ["topic", "partition", "machine", "order_id", "amount_paise", "wallet_id"])
def test_other_fields_keep_theirs(name: str) -> None:
    assert scrub.field(name, "whatever") == "whatever"


def test_the_environments_own_secrets_are_hidden_by_value() -> None:
    known = scrub.secrets_of(
        {"API_TOKEN": "abcdefgh1", "WEBHOOK_SECRETS": "12345678,87654321", "HOME": "/homeless"}
    )
    assert set(known) >= {"abcdefgh1", "12345678", "87654321"}
    assert "/homeless" not in known
    scrub.hide(["a-very-own-secret"])
    assert "very-own" not in scrub.text("leaked a-very-own-secret here")


def test_a_number_that_is_a_phone_number_is_hidden_and_an_amount_is_not() -> None:
    assert scrub.value(9876543210) == "[phone]"
    assert scrub.value(50000) == 50000
    assert scrub.value({"n": [True, None, 1.5]}) == {"n": [True, None, 1.5]}


@given(st.uuids(version=4))
def test_no_uuid_is_taken_for_anything_else(some: UUID) -> None:
    assert scrub.text(f"id {some}") == f"id {some}"


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.binary(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_is_said_comes_out_as_json(said: object) -> None:
    json.dumps(scrub.value(said))
