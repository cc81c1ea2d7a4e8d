"""Reading webhooks: every public example, the same fact in two versions, and what is refused and why."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.webhooks import Refused, WebhookEvent, parse

EXPECTED = {
    "wh_2022-09-01_auto_refund_status": ("auto_refund", "1243460973", "SUCCESS", 3900),
    "wh_2022-09-01_dispute_closed": ("dispute", "433475257", "CHARGEBACK_MERCHANT_WON", 450000),
    "wh_2022-09-01_dispute_created": ("dispute", "433475258", "DISPUTE_CREATED", 300),
    "wh_2022-09-01_dispute_updated": ("dispute", "433475257", "PRE_ARBITRATION_CREATED", 4000000),
    "wh_2022-09-01_payment_failed": ("payment", "1504280029", "FAILED", 180),
    "wh_2022-09-01_payment_success": ("payment", "1453002795", "SUCCESS", 100),
    "wh_2022-09-01_payment_user_dropped": ("payment", "2150264295", "USER_DROPPED", 100),
    "wh_2022-09-01_refund_status": ("refund", "refund_sampleorder0413", "SUCCESS", 200),
    "wh_2025-01-01_dispute_created": ("dispute", "1234567", "CHARGEBACK_CREATED", 50000),
    "wh_2025-01-01_payment_success": ("payment", "1453002795", "SUCCESS", 100),
    "wh_2025-01-01_refund_status": ("refund", "refund_sampleorder0413", "SUCCESS", 200),
    "wh_2025-01-01_settlement_success": ("settlement", "738", "SUCCESS", 9794),
    "wh_2025-01-01_subscription_controlled_execution_status": (
        "subscription_payment",
        "execution-001",
        "SUCCESS",
        100,
    ),
    "wh_2025-01-01_subscription_controlled_notification_status": (
        "subscription_payment",
        "notification-001",
        "SUCCESS",
        100,
    ),
    "wh_2025-01-01_subscription_payment_cancelled": ("subscription_payment", "2011332", "CANCELLED", 100),
    "wh_2025-01-01_subscription_payment_failed": ("subscription_payment", "49585655", "FAILED", 39900),
    "wh_2025-01-01_subscription_payment_notification_initiated": (
        "subscription_payment",
        "49970855",
        "INITIALIZED",
        39900,
    ),
    "wh_2025-01-01_subscription_payment_success": ("subscription_payment", "49914526", "SUCCESS", 200),
    "wh_2025-01-01_subscription_refund_status": ("subscription_refund", "WHOqiwy05P1l0", "SUCCESS", 100000),
    "wh_2025-01-01_subscription_status_changed": ("subscription", "sub_unique_id", "ACTIVE", 39900),
    "wh_2026-01-01_subscription_payment_failed": ("subscription_payment", "49585655", "FAILED", 39900),
    "wh_payouts_v2_transfer_acknowledged": ("payout", "JUNOB2018", "SUCCESS", 100),
    "wh_payouts_v2_transfer_failed": ("payout", "JUNOB2018", "FAILED", 100),
    "wh_vendor_settlement_initiated": ("vendor_settlement", "49703", "CREATED", 60000),
    "wh_vendor_settlement_initiated_legacy_nested": ("vendor_settlement", "6151", "CREATED", 1000),
}

PAYMENT = {
    "data": {
        "order": {"order_id": "order_1", "order_amount": 500.00, "order_currency": "INR"},
        "payment": {
            "cf_payment_id": 5114918071000123,
            "payment_status": "SUCCESS",
            "payment_amount": 500.00,
            "payment_currency": "INR",
            "payment_group": "upi",
            "payment_method": {"upi": {"channel": "qrcode", "upi_id": "A@UPI"}},
        },
        "customer_details": {"customer_id": "c1", "customer_email": None, "customer_phone": "9999999999"},
    },
    "event_time": "2026-05-15T16:32:52+05:30",
    "type": "PAYMENT_SUCCESS_WEBHOOK",
}


def body(**changes: object) -> bytes:
    """The payment above with some of `data.payment` changed."""
    message = json.loads(json.dumps(PAYMENT))
    message["data"]["payment"].update(changes)
    return json.dumps(message).encode()


def read(raw: bytes) -> WebhookEvent:
    event = parse(raw)
    assert isinstance(event, WebhookEvent), event
    return event


def test_every_public_example_of_a_webhook_is_read(reference: Path) -> None:
    found = {path.stem: path for path in sorted((reference / "vectors").glob("wh_*.json"))}
    assert found.keys() == EXPECTED.keys()
    for name, path in found.items():
        event = read(path.read_bytes())
        assert (event.kind, event.entity_id, event.status, event.amount_paise) == EXPECTED[name], name
        assert event.business_key.startswith(f"{event.event_type}|{event.entity_id}|{event.status}")


def test_one_fact_has_one_business_key_in_every_version(reference: Path) -> None:
    for event in ("payment_success", "refund_status"):
        older, newer = (
            read((reference / "vectors" / f"wh_{version}_{event}.json").read_bytes())
            for version in ("2022-09-01", "2025-01-01")
        )
        assert older.business_key == newer.business_key
        assert older.cf_payment_id == newer.cf_payment_id


def test_an_offer_keeps_both_amounts_and_the_discount(reference: Path) -> None:
    event = read((reference / "vectors" / "wh_2025-01-01_payment_success.json").read_bytes())
    assert (event.amount_paise, event.order_amount_paise, event.discount_paise) == (100, 200, 100)
    assert event.instrument == "upi:user@ybl"


def test_a_malformed_time_does_not_lose_the_event(reference: Path) -> None:
    event = read((reference / "vectors" / "wh_2022-09-01_dispute_created.json").read_bytes())
    assert event.event_time == datetime(2023, 6, 15, 16, 20, 4, tzinfo=UTC)
    changed = read((reference / "vectors" / "wh_2025-01-01_subscription_status_changed.json").read_bytes())
    assert changed.event_time is None


def test_ids_are_the_same_text_whether_they_came_as_number_or_text() -> None:
    number, words = read(body()), read(body(cf_payment_id="5114918071000123"))
    assert number.cf_payment_id == words.cf_payment_id == "5114918071000123"
    assert number.business_key == words.business_key


def test_unknown_fields_statuses_and_types_are_kept() -> None:
    assert read(body(payment_status="SOMETHING_NEW", brand_new={"a": [1]})).status == "SOMETHING_NEW"
    other = read(b'{"type":"QUITE_NEW","data":{"order":{"order_id":"o_1"}},"event_time":"x"}')
    assert (other.kind, other.order_id, other.status) == ("unknown", "o_1", "UNKNOWN")
    assert read(b'{"type":"WEBHOOK","data":{"test_object":{}}}').kind == "test"


def test_the_words_for_nothing_are_nothing() -> None:
    event = read(body(bank_reference="NA", payment_group="null", payment_message=""))
    assert (event.bank_reference, event.payment_group, event.message) == (None, None, None)


def refused(raw: bytes) -> str:
    outcome = parse(raw)
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[]", "not_an_object"),
        (b'"x"', "not_an_object"),
        (b'{"type":"T"}', "no_data"),
        (b'{"type":"T","data":[]}', "no_data"),
        (b'{"data":{}}', "no_type"),
        (b'{"type":7.5,"data":{}}', "bad_text"),
        (b'{"type":"T","type":"T","data":{}}', "duplicate_key"),
        (b'{"type":"T","data":{"a":{"b":1,"b":1}}}', "duplicate_key"),
        (b'{"type":"T","data":{"a":NaN}}', "not_finite"),
        (b'{"type":"T","data":{"a":-Infinity}}', "not_finite"),
        (b'{"type":"T","data":{"a":1e99999999999999999999}}', "not_finite"),
        (b'{"type":"T","data":{"a":"\xff"}}', "not_utf8"),
        (b'{"type":"A","event_time":"x","data":{"type":"B","event_time":"y"}}', "two_types"),
        (b'{"type":"T","data":' + b"[" * 60_000 + b"]" * 60_000 + b"}", "too_deep"),
        (b'{"type":"PAYMENT_SUCCESS_WEBHOOK","data":{"payment":{}}}', "no_id"),
        (body(cf_payment_id=None), "no_id"),
        (body(cf_payment_id=[1]), "bad_text"),
        (body(cf_payment_id="1\x00"), "bad_text"),
        (body(cf_payment_id="\ud800"), "bad_text"),
        (body(cf_payment_id="9" * 257), "bad_text"),
        (body(payment_status=None), "no_status"),
        (body(payment_amount=1.005), "bad_amount"),
        (body(payment_amount="1,000.00"), "bad_amount"),
        (body(payment_amount=True), "bad_amount"),
        (body(payment_amount={"x": 1}), "bad_amount"),
        (body(payment_amount=10**30), "bad_amount"),
        (body(payment_amount=-1), "negative_amount"),
    ],
)
def test_a_body_that_cannot_be_trusted_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    assert refused(raw) == reason


def test_a_huge_exponent_costs_nothing() -> None:
    assert refused(body().replace(b'"payment_amount": 500.0', b'"payment_amount": 1e900000')) == "bad_amount"


@pytest.mark.parametrize(("written", "paise"), [("170.00", 17000), ("170", 17000), ("1.8", 180), ("0.01", 1)])
def test_amounts_are_exact_however_they_are_written(written: str, paise: int) -> None:
    raw = body().replace(b'"payment_amount": 500.0', f'"payment_amount": {written}'.encode())
    assert read(raw).amount_paise == paise


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_raise(raw: bytes) -> None:
    assert isinstance(parse(raw), WebhookEvent | Refused)


_WORD = st.text(alphabet="a1-\x00é", max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORD, inner, max_size=3),
    max_leaves=6,
)


@given(
    event=st.sampled_from(
        ["PAYMENT_SUCCESS_WEBHOOK", "REFUND_STATUS_WEBHOOK", "DISPUTE_UPDATED", "SETTLEMENT_X"]
    ),
    name=st.sampled_from(["payment", "refund", "dispute", "settlement"]),
    key=st.sampled_from(["cf_payment_id", "payment_amount", "refund_id", "dispute_status", "payment_method"]),
    value=_JSON,
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_shape_makes_the_parser_raise(event: str, name: str, key: str, value: object) -> None:
    raw = json.dumps({"type": event, "data": {name: {key: value}, "order": value}, "event_time": value})
    assert isinstance(parse(raw.encode()), WebhookEvent | Refused)
