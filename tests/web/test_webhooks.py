"""POST /v1/webhooks/cashfree: verified bytes reach the inbox before 200; a replay makes no row; nothing is credited."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from gateway import signature
from tests.web.conftest import SECRET, Api


def payment_webhook(order_id: str = "order_1", **payment: Any) -> bytes:
    """A success webhook as Cashfree writes it."""
    data = {
        "order": {"order_id": order_id, "order_amount": 500.00, "order_currency": "INR", "order_tags": None},
        "payment": {
            "cf_payment_id": 5114911,
            "payment_status": "SUCCESS",
            "payment_amount": 500.00,
            "payment_currency": "INR",
            "payment_message": "ok",
            "payment_time": "2026-01-01T10:00:00+05:30",
            "payment_group": "upi",
            "payment_method": {"upi": {"channel": None, "upi_id": "asha@upi"}},
        }
        | payment,
        "customer_details": {"customer_id": "c", "customer_phone": "9999999999"},
    }
    return json.dumps(
        {"data": data, "event_time": "2026-01-01T10:00:01+05:30", "type": "PAYMENT_SUCCESS_WEBHOOK"}
    ).encode()


async def test_a_genuine_webhook_is_stored_before_200_and_credits_nothing(api: Api) -> None:
    wallet = await api.wallet()
    raw = payment_webhook()
    answer = await api.webhook(raw)
    assert (answer.status, answer.body) == (200, {"status": "new"})
    row = await api.row("SELECT * FROM payment_webhooks JOIN webhook_bodies ON webhook_id = id")
    assert (row["body"], row["order_id"], row["cashfree_payment_id"], row["status"]) == (
        raw,
        "order_1",
        "5114911",
        "SUCCESS",
    )
    assert (row["amount"], row["closed_at"], row["stale"]) == (50_000, None, False)
    assert await api.count("wallet_transactions") == 0
    assert (await api.get(f"/v1/wallets/{wallet}")).body["available_credits"] == 0


async def test_fifty_replays_at_once_are_200_and_one_row(api: Api) -> None:
    answers = await asyncio.gather(*(api.webhook(payment_webhook()) for _ in range(50)))
    assert {a.status for a in answers} == {200}
    assert sorted(a.body["status"] for a in answers) == ["new"] + ["replay"] * 49
    assert await api.count("payment_webhooks") == await api.count("webhook_bodies") == 1
    assert await api.admin.fetchval("SELECT deliveries FROM payment_webhooks") == 50


async def test_a_stale_but_genuine_webhook_is_taken_and_marked(api: Api) -> None:
    raw, stamp = payment_webhook(), str(time.time_ns() // 1_000_000 - 3_600_000)
    signed = signature.sign(SECRET.encode(), stamp, raw).decode()
    answer = await api.webhook(raw, x_webhook_timestamp=stamp, x_webhook_signature=signed)
    assert answer.status == 200
    assert await api.admin.fetchval("SELECT stale FROM payment_webhooks") is True


async def test_what_is_not_genuine_is_refused_and_leaves_no_row(api: Api) -> None:
    cases: list[tuple[dict[str, str], int, str]] = [
        ({"x_webhook_signature": base64.b64encode(b"x" * 32).decode()}, 401, "signature_mismatch"),
        ({"x_webhook_signature": ""}, 400, "missing_header"),
        ({"x_webhook_timestamp": ""}, 400, "missing_header"),
        ({"x_webhook_timestamp": "1700000000"}, 400, "bad_timestamp"),
        ({"x_webhook_timestamp": "1700000000000"}, 401, "signature_mismatch"),
        ({"Content_Type": "text/plain"}, 415, "not_json_type"),
        ({"Content_Encoding": "br"}, 415, "encoded_body"),
    ]
    for headers, status, code in cases:
        answer = await api.webhook(payment_webhook(), **headers)
        assert (answer.status, answer.code) == (status, code), headers
    assert await api.count("payment_webhooks") == 0


async def test_a_wrong_secret_a_flipped_bit_and_a_future_stamp_are_refused(api: Api) -> None:
    raw = payment_webhook()
    assert (await api.webhook(raw, secret="another")).code == "signature_mismatch"
    stamp = str(time.time_ns() // 1_000_000)
    signed = signature.sign(SECRET.encode(), stamp, raw).decode()
    flipped = raw.replace(b"500.0", b"900.0")
    answer = await api.webhook(flipped, x_webhook_timestamp=stamp, x_webhook_signature=signed)
    assert answer.code == "signature_mismatch"
    future = str(int(stamp) + 3_600_000)
    signed = signature.sign(SECRET.encode(), future, raw).decode()
    answer = await api.webhook(raw, x_webhook_timestamp=future, x_webhook_signature=signed)
    assert (answer.status, answer.code) == (401, "timestamp_in_the_future")
    assert await api.count("payment_webhooks") == 0


async def test_a_header_sent_twice_is_refused(api: Api) -> None:
    raw = payment_webhook()
    stamp = str(time.time_ns() // 1_000_000)
    signed = signature.sign(SECRET.encode(), stamp, raw).decode()
    headers = [
        ("Content-Type", "application/json"),
        ("x-webhook-timestamp", stamp),
        ("x-webhook-signature", signed),
        ("x-webhook-signature", signed),
    ]
    async with api.http.post(f"{api.url}/v1/webhooks/cashfree", data=raw, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["code"] == "repeated_header"
    assert await api.count("payment_webhooks") == 0


async def test_more_than_64_kib_is_413_declared_or_not(api: Api) -> None:
    raw = payment_webhook(payment_message="x" * 70_000)
    assert (await api.webhook(raw)).status == 413

    async def slowly() -> AsyncIterator[bytes]:
        yield raw[:1000]
        yield raw[1000:]

    headers = {"Content-Type": "application/json", "x-webhook-timestamp": "1", "x-webhook-signature": "x"}
    async with api.http.post(f"{api.url}/v1/webhooks/cashfree", data=slowly(), headers=headers) as response:
        assert response.status == 413
    assert await api.count("payment_webhooks") == 0


async def test_signed_but_unreadable_is_kept_whole_once_for_a_person(api: Api) -> None:
    bodies = [
        b'{"type": "PAYMENT_SUCCESS_WEBHOOK"',
        b'{"type": "PAYMENT_SUCCESS_WEBHOOK", "data": 5}',
        b'{"type": "A", "type": "B", "data": {}}',
        payment_webhook(payment_amount=500.001),
        payment_webhook(payment_amount=-5),
    ]
    for raw in bodies:
        assert (await api.webhook(raw)).body == {"status": "parked"}
        assert (await api.webhook(raw)).body == {"status": "replay"}
    rows = await api.admin.fetch(
        "SELECT kind, event_type, body FROM payment_webhooks JOIN webhook_bodies ON webhook_id = id"
    )
    assert {row["body"] for row in rows} == set(bodies)
    assert {row["kind"] for row in rows} == {"unknown"}
    assert all(row["event_type"].startswith("unreadable:") for row in rows)


async def test_an_unknown_type_status_and_version_are_stored(api: Api) -> None:
    raw = payment_webhook(payment_status="TELEPORTED")
    assert (await api.webhook(raw, x_webhook_version="2031-01-01")).body == {"status": "new"}
    odd = raw.replace(b"PAYMENT_SUCCESS_WEBHOOK", b"MOON_LANDING_WEBHOOK")
    assert (await api.webhook(odd)).body == {"status": "new"}
    rows = await api.admin.fetch("SELECT kind, status, version FROM payment_webhooks ORDER BY id")
    assert [(r["kind"], r["status"], r["version"]) for r in rows] == [
        ("payment", "TELEPORTED", "2031-01-01"),
        ("unknown", "UNKNOWN", "2025-01-01"),
    ]


async def test_an_amount_beyond_any_column_is_stored_without_it(api: Api) -> None:
    raw = payment_webhook(payment_amount=10**25)
    assert (await api.webhook(raw)).status == 200
    assert await api.admin.fetchval("SELECT body FROM webhook_bodies") == raw
