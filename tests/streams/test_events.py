"""The contract of events: what is accepted, what is a BadEvent and why, and that versions stay
what they were.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import messages, schema
from streams.events import CreditCommand, UsageEvent
from streams.messages import BadEvent, Decoded, Producer, Slice, UsageBatch

GOLDEN = Path(__file__).parent / "golden"
WALLET = "0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b01"
NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)


def usage(**changes: Any) -> dict[str, Any]:
    return {"id": "m-1", "wallet_id": WALLET, "feature": "chat.message", "credits": 3, **changes}


def batch(*events: Any, **changes: Any) -> bytes:
    return json.dumps(
        {"type": "usage.batch", "v": 1, "session": WALLET, "seq": 1, "events": list(events), **changes}
    ).encode()


def only_bad(value: bytes) -> BadEvent:
    """The one bad event of a batch that has no good one, or the batch as a whole."""
    read = messages.decode("wallet.debit", value)
    if isinstance(read, BadEvent):
        return read
    assert isinstance(read.message, UsageBatch)
    assert read.message.events == []
    assert len(read.bad) == 1
    return read.bad[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"credits": 3.0}, "Expected `int`, got `float`"),
        ({"credits": "3"}, "Expected `int`, got `str`"),
        ({"credits": True}, "Expected `int`, got `bool`"),
        ({"credits": 0}, ">= 1"),
        ({"credits": -5}, ">= 1"),
        ({"credits": 10**9 + 1}, "<= 1000000000"),
        ({"credits": 10**30}, "int"),
        ({"quantity": 0}, ">= 1"),
        ({"id": ""}, "length >= 1"),
        ({"id": "x" * 129}, "length <= 128"),
        ({"id": "a\x00b"}, "NUL"),
        ({"wallet_id": "me"}, "matching regex"),
        ({"wallet_id": WALLET.upper()}, "matching regex"),
        ({"feature": "Chat Message"}, "matching regex"),
        ({"occurred_at": "yesterday"}, "RFC3339"),
        ({"occurred_at": "2026-11-23T05:00:00"}, "timezone"),
        ({"metadata": {"text": "x" * 5000}}, "more than 4096"),
        ({"metadata": {"text": "a\x00b"}}, "NUL"),
        ({"metadata": [1]}, "object"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_bad_usage_event_is_named_and_its_neighbours_are_kept(change: dict[str, Any], reason: str) -> None:
    read = messages.decode("wallet.debit", batch(usage(id="before"), usage(**change), usage(id="after")))
    assert isinstance(read, Decoded)
    assert isinstance(read.message, UsageBatch)
    assert [event.id for event in read.message.events] == ["before", "after"]
    (bad,) = read.bad
    assert bad.index == 1
    assert reason in bad.reason
    assert json.loads(bad.payload) == usage(**change)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (batch(usage(), v=2), "unknown version"),
        (batch(usage(), v="1"), "unknown version"),
        (batch(usage(), type="usage.other"), "unknown type"),
        (batch(usage(), seq=0), ">= 1"),
        (batch(usage(), seq=1.5), "float"),
        (batch(usage(), session="x"), "matching regex"),
        (batch(), "length >= 1"),
        (batch(usage()).replace(b'"v": 1,', b""), "missing required field `v`"),
        (batch(usage()).replace(b'"type": "usage.batch", ', b""), "neither type nor version"),
        (batch(usage()).replace(b'"seq": 1', b'"seq": 1, "seq": 2'), "duplicate key 'seq'"),
        (batch(usage()).replace(b'"credits": 3', b'"credits": NaN'), "malformed"),
        (batch(usage())[:-2], "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"[" * 200_000, "Expected `object`"),
        (b"x" * 900_001, "more than 900000"),
        (batch(usage(metadata={"x": "y" * 1_000_000})), "more than 900000"),
    ],
)
def test_a_bad_message_is_a_bad_event_with_its_reason(value: bytes, reason: str) -> None:
    read = messages.decode("wallet.debit", value)
    assert isinstance(read, BadEvent)
    assert reason in read.reason
    assert read.payload == value


def test_a_duplicate_key_in_an_event_is_found() -> None:
    value = batch(usage()).replace(b'"credits": 3', b'"credits": 3, "credits": 900')
    assert "duplicate key 'credits'" in only_bad(value).reason
    nested = batch(usage(metadata={"a": 1})).replace(b'"a": 1', b'"a": 1, "a": 2')
    assert "duplicate key 'a'" in only_bad(nested).reason


def test_a_tombstone_is_a_bad_event() -> None:
    assert isinstance(messages.decode("wallet.debit", None), BadEvent)


def test_a_message_of_another_topic_is_refused() -> None:
    credit = CreditCommand(payment_id=WALLET, wallet_id=WALLET, credits=5, occurred_at=NOW)
    producer = Producer("payment.processing", 3, "commdesk")
    value = messages.encode(
        Slice(v=1, producer=producer, incarnation=1, batch_no=1, prev_batch_no=0, events=[credit])
    )
    read = messages.decode("wallet.credit", value)
    assert isinstance(read, Decoded)
    assert read.message.events == [credit]
    for topic in ("wallet.debit", "payment.processing", "webhook.processing"):
        assert isinstance(messages.decode(topic, value), BadEvent), topic


def test_a_slice_of_outbox_json_reads_like_one_that_was_encoded_whole() -> None:
    credit = CreditCommand(payment_id=WALLET, wallet_id=WALLET, credits=5, occurred_at=NOW)
    producer = Producer("payment.processing", 3, "commdesk")
    whole = messages.encode(
        Slice(v=1, producer=producer, incarnation=1, batch_no=2, prev_batch_no=1, events=[credit])
    )
    spliced = messages.encode_slice(
        producer, incarnation=1, batch_no=2, prev_batch_no=1, events_json=msgspec.json.encode([credit])
    )
    assert spliced == whole


def test_a_signature_covers_every_byte() -> None:
    value, secret = batch(usage()), b"s" * 32
    mac = messages.sign(value, secret)
    assert messages.verify(value, secret, mac)
    assert not messages.verify(value + b" ", secret, mac)
    assert not messages.verify(value, b"t" * 32, mac)
    assert not messages.verify(value, secret, mac[:-1] + "é")
    assert not messages.verify(value, secret, None)


def test_encoding_a_usage_event_that_breaks_the_contract_says_why() -> None:
    with pytest.raises(ValueError, match=r"usage event 'm-1': .*>= 1"):
        messages.encode_usage(UsageEvent(**usage(credits=0)))
    with pytest.raises(ValueError, match="more than 4096"):
        messages.encode_usage(UsageEvent(**usage(metadata={"a": "x" * 5000})))


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(value: bytes) -> None:
    for topic in ("wallet.debit", "wallet.credit", "webhook.processing"):
        assert isinstance(messages.decode(topic, value), BadEvent)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "wallet_id", "credits", "metadata", "v", "x"]), json_values))
def test_every_event_of_a_batch_is_either_good_or_bad(changes: dict[str, Any]) -> None:
    read = messages.decode("wallet.debit", batch(usage(), {**usage(), **changes}))
    if isinstance(read, Decoded):
        assert len(read.message.events) + len(read.bad) == 2


def test_the_golden_files_of_every_version_still_read_and_write_the_same() -> None:
    names = set()
    for file in sorted(GOLDEN.glob("v*/*.json")):
        topic, value = file.stem, file.read_bytes().rstrip(b"\n")
        read = messages.decode(topic, value)
        assert isinstance(read, Decoded), (file.name, read)
        assert not read.bad
        assert messages.encode(read.message) == value, file.name
        names.add(topic)
    assert names == set(schema.TOPIC_MESSAGES)


def test_the_examples_of_this_version_are_the_golden_files() -> None:
    for topic, message in schema.examples().items():
        file = GOLDEN / "v1" / f"{topic}.json"
        assert file.read_bytes().rstrip(b"\n") == messages.encode(message), topic


def test_the_schemas_in_the_documentation_are_generated_from_the_types() -> None:
    assert schema.stale() == []
