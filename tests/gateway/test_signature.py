"""The webhook signature: known answers, and every trap the form of the check is there for."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.signature import MAX_BODY_BYTES, Reason, matching_secret, refused_unread, sign, verify

SECRET = b"a-secret"
NOW_MS = 1_746_427_759_733
BODY = b'{"type":"T"}'


def headers_for(body: bytes = BODY, timestamp: str = str(NOW_MS), secret: bytes = SECRET) -> CIMultiDict[str]:
    return CIMultiDict(
        {"x-webhook-signature": sign(secret, timestamp, body).decode(), "x-webhook-timestamp": timestamp}
    )


def test_every_known_answer_is_judged_right(reference: Path) -> None:
    cases = json.loads((reference / "vectors" / "signature_kat.json").read_text())
    assert len(cases) >= 17
    for case in cases:
        body = base64.b64decode(case["body_b64"])
        found = matching_secret(
            case["signature"].encode(), case["timestamp"], body, [case["secret"].encode()]
        )
        assert (found == 0) == case["valid"], case["name"]
        verdict = verify(
            body,
            {"X-Webhook-Signature": case["signature"], "X-Webhook-Timestamp": case["timestamp"]},
            [case["secret"].encode()],
            int(case["timestamp"]),
        )
        expected = Reason.OK if case["valid"] else Reason.SIGNATURE
        if not body.startswith(b"{"):
            expected = Reason.BODY
        assert verdict.reason is expected, case["name"]


def test_the_body_is_verified_as_bytes_and_not_as_json_written_anew() -> None:
    body = b'{"data":{"payment":{"payment_amount":170.00}},"type":"T"}'
    headers = headers_for(body)
    assert verify(body, headers, [SECRET], NOW_MS).ok
    again = json.dumps(json.loads(body), separators=(",", ":")).encode()
    assert verify(again, headers, [SECRET], NOW_MS).reason is Reason.SIGNATURE


def test_a_body_that_is_not_utf8_is_verified_like_any_other() -> None:
    body = b'{"a":"\xff\xfe"}'
    assert verify(body, headers_for(body), [SECRET], NOW_MS).ok


def test_digits_cannot_move_between_timestamp_and_body() -> None:
    shifted = b"3" + BODY
    headers = headers_for()
    headers["x-webhook-timestamp"] = str(NOW_MS)[:-1]
    assert verify(shifted, headers, [SECRET], NOW_MS).reason is Reason.TIMESTAMP
    other = headers_for(b"7" + BODY)
    assert verify(b"7" + BODY, other, [SECRET], NOW_MS).reason is Reason.BODY


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "174642775973",
        "17464277597333",
        "1746427759733\n",
        " 1746427759733",
        "174642775973x",
        "-746427759733",
    ],
)
def test_a_timestamp_is_exactly_thirteen_ascii_digits(timestamp: str) -> None:
    headers = headers_for()
    headers["x-webhook-timestamp"] = timestamp
    assert verify(BODY, headers, [SECRET], NOW_MS).reason in (Reason.TIMESTAMP, Reason.MISSING_HEADER)
    headers["x-webhook-timestamp"] = "١٧٤٦٤٢٧٧٥٩٧٣٣"
    assert verify(BODY, headers, [SECRET], NOW_MS).reason is Reason.TIMESTAMP


def test_another_base64_text_for_the_same_bytes_is_refused() -> None:
    headers = headers_for()
    good = headers["x-webhook-signature"]
    raw = base64.b64decode(good)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = good[:42] + alphabet[alphabet.index(good[42]) ^ 1] + good[43:]
    assert base64.b64decode(twin) == raw
    assert twin != good
    for form in (twin, good + "=", raw.hex(), good.lower(), good + "\udcff"):
        headers["x-webhook-signature"] = form
        assert verify(BODY, headers, [SECRET], NOW_MS).reason is Reason.SIGNATURE


def test_every_secret_of_a_rotation_is_accepted_and_named() -> None:
    secrets = [b"new", b"old", b"oldest"]
    for index, secret in enumerate(secrets):
        verdict = verify(BODY, headers_for(secret=secret), secrets, NOW_MS)
        assert verdict.ok
        assert verdict.secret_index == index
    assert verify(BODY, headers_for(secret=b"gone"), secrets, NOW_MS).reason is Reason.SIGNATURE


def test_checking_without_a_secret_is_a_mistake_of_ours() -> None:
    for secrets in ([], [b""], [b"good", b""]):
        with pytest.raises(ValueError, match="without a secret"):
            verify(BODY, headers_for(), secrets, NOW_MS)


def test_a_stale_webhook_is_accepted_and_marked() -> None:
    verdict = verify(BODY, headers_for(), [SECRET], NOW_MS + 3_600_000)
    assert verdict.ok
    assert verdict.stale
    assert not verify(BODY, headers_for(), [SECRET], NOW_MS + 300_000).stale


def test_a_webhook_from_the_future_is_refused() -> None:
    assert verify(BODY, headers_for(), [SECRET], NOW_MS - 300_001).reason is Reason.FUTURE
    assert verify(BODY, headers_for(), [SECRET], NOW_MS - 300_000).ok


def test_a_header_sent_twice_is_refused_even_if_the_first_is_right() -> None:
    headers = headers_for()
    headers.add("X-Webhook-Signature", "second")
    verdict = verify(BODY, headers, [SECRET], NOW_MS)
    assert verdict.reason is Reason.REPEATED_HEADER
    assert verdict.reason.status == 400


def test_what_identifies_a_delivery_is_passed_on() -> None:
    headers = headers_for()
    headers.update({"x-webhook-version": "2025-01-01", "x-webhook-attempt": "2", "x-idempotency-key": "k"})
    verdict = verify(BODY, headers, [SECRET], NOW_MS)
    assert (verdict.version, verdict.attempt, verdict.delivery_key) == ("2025-01-01", "2", "k")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, None),
        ({"content-type": "application/json; charset=utf-8"}, None),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "content-length": str(MAX_BODY_BYTES + 1)}, 413),
    ],
)
def test_some_requests_are_refused_before_their_body_is_read(
    headers: dict[str, str], status: int | None
) -> None:
    reason = refused_unread(headers)
    assert (reason.status if reason else None) == status


def test_a_body_over_the_limit_is_refused_unverified() -> None:
    body = b"{" + b" " * MAX_BODY_BYTES
    assert verify(body, headers_for(body), [SECRET], NOW_MS).reason.status == 413


@given(body=st.binary(max_size=200), other=st.binary(max_size=200), secret=st.binary(min_size=1, max_size=64))
def test_only_the_signed_bytes_verify(body: bytes, other: bytes, secret: bytes) -> None:
    body, other = b"{" + body, b"{" + other
    verdict = verify(other, headers_for(body, secret=secret), [secret], NOW_MS)
    assert verdict.ok == (body == other)
