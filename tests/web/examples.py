"""Every operation's example: what is sent, as whom, in an order in which each finds what it needs.

Ids stand in it as `{kind}`. The recorded answers are in web/openapi/examples.json, in which every id, time and secret is the
document's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from bench.security.world import World
from tests.conftest import Database as Prepared
from tests.web.conftest import Api
from tests.web.test_refunds import credited
from web.auth import Role

FILE: Final = Path(__file__).resolve().parents[2] / "web" / "openapi" / "examples.json"
_TIME: Final = re.compile(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX: Final = re.compile(r"\b(cd_|rf_)[0-9a-f]{32}\b")
_SECRET: Final = re.compile(r"\b(cdk_|whsec_|sim_session_|session_)[A-Za-z0-9_+/=-]{16,}")


@dataclass(frozen=True)
class Example:
    """One call: an operation, who makes it, the ids of its path, its query and its body."""

    name: str
    role: Role
    path: str
    body: Any = None
    also: Mapping[str, str] = field(default_factory=dict)


def _get(role: Role, path: str, name: str = "") -> Example:
    return Example(f"GET {name or _template(path)}", role, path)


def _post(role: Role, path: str, body: Any = None) -> Example:
    return Example(f"POST {_template(path)}", role, path, {} if body is None else body)


def _template(path: str) -> str:
    return re.sub(r"\{\w+\}", "{id}", path.partition("?")[0])


_S, _F, _O, _A, _ADMIN, _C = (
    Role.SERVICE,
    Role.FINANCE,
    Role.OPERATOR,
    Role.AUDITOR,
    Role.ADMIN,
    Role.CUSTOMER,
)

CALLS: Final = (
    _post(_S, "/v1/users", {"external_id": "member-8241", "name": "Asha Nair", "email": "asha@example.com",
                            "phone": "+919876543210", "state_code": "29"}),
    _get(_S, "/v1/users/{user}"),
    _get(_S, "/v1/users/{user}/notifications?limit=2"),
    _post(_C, "/v1/users/{user}/notifications/read", {"ids": ["{notification}"]}),
    _post(_C, "/v1/users/{user}/preferences", {"email": {"low_balance": False}}),
    _get(_S, "/v1/users/{user}/preferences"),
    _post(_S, "/v1/wallets", {"owner_id": "{user}"}),
    _get(_S, "/v1/wallets?owner_id={user}&limit=1"),
    _get(_S, "/v1/wallets/{wallet}"),
    _post(_S, "/v1/wallets/{wallet}/grants", {"credits": 250, "reason": "welcome"}),
    _get(_S, "/v1/wallets/{wallet}/transactions?limit=2"),
    _get(_S, "/v1/transactions/{transaction}"),
    _post(_S, "/v1/holds", {"wallet_id": "{wallet}", "credits": 40, "reason": "transcription"}),
    _get(_S, "/v1/holds?wallet_id={wallet}&state=held&limit=2"),
    _get(_S, "/v1/holds/{hold}"),
    _post(_S, "/v1/holds/{hold}/capture", {"credits": 7, "feature": "voice.minute"}),
    _post(_S, "/v1/holds/{held}/release"),
    _post(_S, "/v1/usage", {"events": [{"id": "msg-8241", "wallet_id": "{wallet}", "feature": "chat.message", "credits": 2}]}),
    _get(_S, "/v1/usage/msg-8241", "/v1/usage/{id}"),
    _get(_S, "/v1/usage?wallet_id={wallet}&feature=chat.message&limit=2"),
    _get(_S, "/v1/packs"),
    _post(_S, "/v1/payments/orders", {"user_id": "{user}", "wallet_id": "{wallet}", "pack_paise": 50_000,
                                      "return_url": "https://shop.example.com/thanks"}),
    _get(_S, "/v1/payments?user_id={user}&limit=1"),
    _get(_S, "/v1/payments/{payment}"),
    _post(_S, "/v1/payments/{payment}/session"),
    _post(_S, "/v1/payments/{payment}/retry"),
    _post(_S, "/v1/payments/{payment}/verify"),
    _post(_S, "/v1/payments/{payment}/sync"),
    _post(_S, "/v1/payments/{paid}/invoice"),
    _post(_S, "/v1/payments/{paid}/refunds", {"amount_paise": 20_000, "reason": "not needed"}),
    _get(_S, "/v1/payments/{paid}/refunds"),
    _get(_S, "/v1/refunds?payment_id={paid}"),
    _get(_S, "/v1/refunds/{refund}"),
    _post(_F, "/v1/refunds/{refund}/payout", {"verdict": "approve"}),
    _get(_F, "/v1/receipts?state=open"),
    _post(_F, "/v1/receipts/{receipt}/refund"),
    _get(_F, "/v1/disputes"),
    _get(_F, "/v1/disputes/{dispute}"),
    _get(_S, "/v1/invoices?user_id={user}"),
    _get(_S, "/v1/invoices/{invoice}"),
    _get(_F, "/v1/fraud/reviews?state=pending"),
    _get(_F, "/v1/fraud/reviews/{review}"),
    _post(_F, "/v1/fraud/reviews/{review}/approve", {"why": "the customer called: the card is theirs"}),
    _post(_F, "/v1/fraud/reviews/{bad_review}/reject", {"why": "a stolen card, says the bank"}),
    _get(_F, "/v1/reconciliation/cases?state=open"),
    _post(_F, "/v1/reconciliation/cases/{case}/assign", {"owner": "meera"}),
    _post(_F, "/v1/reconciliation/cases/{case}/resolve", {"note": "the bank booked it a day later"}),
    _post(_F, "/v1/reconciliation/run"),
    _get(_O, "/v1/dead-letters?topic=wallet.credit"),
    _get(_O, "/v1/dead-letters/{letter}"),
    _post(_O, "/v1/dead-letters/{letter}/replay", {"why": "the bug is mended"}),
    _post(_O, "/v1/dead-letters/{bad_letter}/purge", {"why": "sent by a test"}),
    _post(_O, "/v1/dead-letters/replay", {"topic": "wallet.debit", "why": "the bug is mended"}),
    _get(_O, "/v1/publishers/{publisher}/sessions/{user}/watermarks", "/v1/publishers/{name}/sessions/{session}/watermarks"),
    _get(_A, "/v1/aggregates/payments?window=1d", "/v1/aggregates/{metric}"),
    _get(_F, "/v1/approvals?state=pending&limit=1"),
    _get(_F, "/v1/approvals/{approval}"),
    _post(_F, "/v1/approvals/{approval}/approve", {"why": "agreed with support"}),
    _post(_F, "/v1/approvals/{bad_approval}/reject", {"why": "not our mistake"}),
    _get(_A, "/v1/audit?limit=1"),
    _get(_A, "/v1/audit.jsonl?object_kind=api_key"),
    _get(_A, "/v1/audit.csv?object_kind=api_key"),
    _post(_ADMIN, "/v1/api-keys", {"name": "chat", "scopes": ["usage:write", "wallets:read"]}),
    _get(_ADMIN, "/v1/api-keys?limit=1"),
    _post(_ADMIN, "/v1/api-keys/{api_key}/rotate", {"overlap_s": 3600}),
    _post(_ADMIN, "/v1/api-keys/{api_key}/revoke"),
    _post(_ADMIN, "/v1/tokens/revoke", {"subject": "ravi"}),
    _post(_S, "/v1/webhook-endpoints", {"owner_id": "{user}", "url": "https://hooks.example.com/commdesk"}),
    _get(_S, "/v1/users/{user}/webhook-endpoints?limit=1"),
    _get(_S, "/v1/webhook-endpoints/{endpoint}"),
    _post(_S, "/v1/webhook-endpoints/{endpoint}", {"description": "the shop's"}),
    _post(_S, "/v1/webhook-endpoints/{endpoint}/rotate-secret", {"overlap_s": 3600}),
    _post(_S, "/v1/webhook-endpoints/{endpoint}/disable"),
    _post(_S, "/v1/webhook-endpoints/{endpoint}/enable"),
    _get(_S, "/v1/webhook-endpoints/{endpoint}/deliveries?limit=1"),
    _post(_S, "/v1/webhook-endpoints/{endpoint}/replay", {"from_sequence": 1}),
    _get(_S, "/v1/webhook-deliveries/{delivery}"),
    _post(_S, "/v1/webhook-deliveries/{delivery}/replay"),
    _post(_S, "/v1/webhook-endpoints/{endpoint}/delete"),
    _get(_O, "/v1/webhooks/received?limit=1"),
    _get(_O, "/healthz"),
    _get(_O, "/readyz"),
)  # fmt: skip
ELSEWHERE: Final = frozenset(
    {
        "GET /v1/invoices/{id}.pdf",  # tests/invoices renders one
        "GET /v1/live",  # it never ends
        "GET /metrics",  # no JSON
        "GET /v1/openapi.json",  # itself
        "POST /v1/webhooks/cashfree",  # signed by the gateway: tests/web/test_webhooks.py
    }
)


async def ids_of(api: Api, world: World, database: Prepared) -> dict[str, str]:
    """All that the examples name: what the world has, and what only workers or gateways bring about."""
    mine = world.things["own"]
    rows = api.admin
    ids = dict(mine.ids) | {
        "approval": mine.approval[Role.CUSTOMER],
        "bad_approval": mine.approval[Role.SERVICE],
        "receipt": "5114919874563",
        "dispute": "433475257",
    }
    paid, _ = await credited(api, database)
    ids["paid"] = paid
    wallet = UUID(ids["wallet"])
    ids["transaction"] = str(
        await rows.fetchval(
            "SELECT id FROM wallet_transactions WHERE wallet_id = $1 ORDER BY seq LIMIT 1", wallet
        )
    )
    ids["held"] = (await api.post("/v1/holds", {"wallet_id": ids["wallet"], "credits": 5})).body["hold_id"]
    ids["notification"] = str(
        await rows.fetchval("SELECT id FROM billing_events WHERE user_id = $1 LIMIT 1", UUID(ids["user"]))
    )
    # Not the key that the examples are called with: it is rotated and revoked, and no cache hides that for long.
    made = await api.post("/v1/api-keys", {"name": "moderation", "scopes": ["wallets:read"]})
    ids["api_key"] = made.body["key"]["id"]
    for name, state in (("review", "held"), ("bad_review", "held")):
        other, _ = await credited(api, database)
        ids[name] = other
        await rows.execute(
            "UPDATE payments SET status = $2, credit_partition = 0 WHERE id = $1", UUID(other), state
        )
        await rows.execute(
            "INSERT INTO fraud_events (payment_id, user_id, score, reasons, missing, verdict)"
            " SELECT id, user_id, 72, '{card_seen_with_6_users}', '{}', 'hold' FROM payments WHERE id = $1",
            UUID(other),
        )
    await rows.execute(
        "INSERT INTO unapplied_receipts (cashfree_payment_id, payment_id, reason, amount, batch_id) "
        " VALUES ($1, $2, 'paid_twice', 49900, $3)",
        ids["receipt"],
        UUID(paid),
        uuid4(),
    )
    await rows.execute(
        "INSERT INTO disputes (dispute_id, payment_id, cashfree_payment_id, type, status, amount, respond_by)"
        " VALUES ($1, $2, $3, 'CHARGEBACK', 'CHARGEBACK_CREATED', 49900, now() + interval '7 days')",
        ids["dispute"],
        UUID(paid),
        ids["receipt"],
    )
    await rows.execute(
        "SELECT open_cases('{payment_mismatch}', '{cd_0199a3c4}', ARRAY['{\"amount_paise\": 50000}']::jsonb[],"
        " ARRAY['{\"amount_paise\": 49900}']::jsonb[], 'core')"
    )
    ids["case"] = str(await rows.fetchval("SELECT id FROM reconciliation_cases LIMIT 1"))
    for name in ("letter", "bad_letter"):
        ids[name] = str(
            await rows.fetchval(
                "INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, state, attempt, next_at,"
                " reason, error, finished_at) VALUES ('wallet.credit', 0, 1, 7, $1, $2, 'dead', 12, now(), 'failed',"
                " 'ValueError: x', now()) RETURNING id",
                str(uuid4()),
                json.dumps({"event": {"kind": "grant", "id": name}}),
            )
        )
    return ids


def filled(body: Any, ids: Mapping[str, str]) -> Any:
    """A body with the ids of this run."""
    text = json.dumps(body)
    for kind, id in ids.items():
        text = text.replace("{" + kind + "}", id)
    return json.loads(text)


def real(text: str, ids: Mapping[str, str]) -> str:
    """A text of the document with the ids of this run instead of the document's."""
    for number, id in enumerate(ids.values()):
        text = text.replace(_own(number), id)
    return text


def _own(number: int) -> str:
    return f"0199a3c4-{number:04x}-7d2e-9f41-6b8a0c3d5e7f"


def plain(value: Any, ids: Mapping[str, str]) -> Any:
    """A value with the document's own ids, times and secrets instead of a run's."""
    text = json.dumps(value, ensure_ascii=False)
    for number, (kind, id) in enumerate(ids.items()):
        if _UUID.fullmatch(id):
            text = text.replace(id, _own(number))
        elif kind == "publisher":
            text = text.replace(id, "chat")
        elif kind in ("letter", "bad_letter"):
            text = re.sub(rf'("id": |dead-letters/){id}\b', rf"\g<1>{4711 + number}", text)
    others: dict[str, str] = {}

    def other(found: re.Match[str]) -> str:
        if found[0].startswith("0199a3c4-"):
            return found[0]
        return others.setdefault(found[0], f"0199a3c5-{len(others):04x}-7b6a-8c19-2d4e6f80a1b3")

    text = _UUID.sub(other, text)
    text = _HEX.sub(r"\g<1>0199a3c47d2e9f416b8a0c3d5e7f1234", text)
    text = _SECRET.sub(r"\g<1>example", text)
    text = re.sub(r'("prefix": ")[0-9a-f]{16}', r"\g<1>4f9a1c07b3d2e865", text)
    text = re.sub(r'("link": ")[0-9a-f]{64}', lambda found: found[1] + "9f" * 32, text)
    text = text.replace("127.0.0.1,", "203.0.113.7,").replace('"127.0.0.1"', '"203.0.113.7"')
    text = re.sub(r"http://127\.0\.0\.1:\d+", "https://checkout.example.com", text)
    text = re.sub(r'("request_id": ")[^"]+', r"\g<1>0199a3c4-5d6e-7f80-9a1b-2c3d4e5f6071", text)
    return json.loads(_TIME.sub("2026-04-01T09:30:00Z", text))
