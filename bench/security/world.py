"""Two owners with one of everything, and nobody: what a matrix of own, foreign and missing is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from bench.security.edge import Answer, Edge, Rows
from bench.security.issuer import Issuer
from web.auth import STAFF, Role
from web.router import POLICY


@dataclass(frozen=True, slots=True)
class Things:
    """What one owner has, by kind; `approval` by who asked for it."""

    ids: Mapping[str, str]
    approval: Mapping[Role, str] = field(default_factory=dict)

    def of(self, kind: str | None, role: Role) -> str:
        """The object of a kind that a role calls its own."""
        if kind == "approval":
            return self.approval.get(role, self.approval[Role.CUSTOMER])
        return self.ids.get(kind or "", str(uuid4()))


@dataclass(frozen=True, slots=True)
class World:
    """A token of each role, and what the caller (`own`), another (`foreign`) and nobody (`missing`) has."""

    tokens: Mapping[Role, str]
    things: Mapping[str, Things]


class NotMade(RuntimeError):
    """The API refused what the matrix needs to begin with."""


async def make_world(edge: Edge, issuer: Issuer, rows: Rows) -> World:
    """Two owners and nobody, made over the API where that can make them. Errors: NotMade."""
    mine, key = await _owner(edge, issuer, rows, f"mine-{uuid4().hex[:8]}")
    theirs, _ = await _owner(edge, issuer, rows, f"theirs-{uuid4().hex[:8]}")
    nobody = {kind: str(uuid4()) for kind in mine.ids} | {"publisher": "nobody-here"}
    tokens = {role: issuer.token(role=role, sub=f"{role}-1") for role in STAFF}
    tokens[Role.CUSTOMER] = issuer.token(role="customer", sub=mine.ids["user"])
    tokens[Role.SERVICE] = key
    missing = Things(nobody, {Role.CUSTOMER: str(uuid4())})
    return World(tokens, {"own": mine, "foreign": theirs, "missing": missing})


async def make_service(edge: Edge, issuer: Issuer, name: str) -> str:
    """An API key with every scope that a service may have. Errors: NotMade."""
    scopes = sorted(POLICY.scopes_of[Role.SERVICE])
    admin = issuer.token(role="admin", sub="root")
    made = good(await edge.post("/v1/api-keys", {"name": name, "scopes": scopes}, token=admin))
    return str(made.body["api_key"])


async def make_customer(edge: Edge, key: str, *, credits: int = 1000, **more: str) -> tuple[str, str]:
    """A user who can buy and a wallet with credits: their ids. Errors: NotMade."""
    said = {
        "external_id": f"x-{uuid4()}",
        "email": "asha@example.com",
        "phone": "9999999999",
        "state_code": "29",
    }
    user = good(await edge.post("/v1/users", said | more, token=key)).body["id"]
    wallet = good(await edge.post("/v1/wallets", {"owner_id": user}, token=key)).body["id"]
    if credits:
        given = {"credits": credits, "reason": "security"}
        good(await edge.post(f"/v1/wallets/{wallet}/grants", given, token=key))
    return user, wallet


async def _owner(edge: Edge, issuer: Issuer, rows: Rows, name: str) -> tuple[Things, str]:
    """A user with one of everything, and a service with a key and a usage event."""
    key = await make_service(edge, issuer, name)
    user, wallet = await make_customer(edge, key)
    hold = good(await edge.post("/v1/holds", {"wallet_id": wallet, "credits": 10}, token=key)).body["hold_id"]
    order = {"user_id": user, "wallet_id": wallet, "pack_paise": 50_000}
    payment = good(await edge.post("/v1/payments/orders", order, token=key)).body["payment_id"]
    event = {"id": f"e-{uuid4()}", "wallet_id": wallet, "feature": "chat.message", "credits": 1}
    good(await edge.post("/v1/usage", {"events": [event]}, token=key))
    refund, invoice = uuid4(), uuid4()
    await rows(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, requested_by, idempotency_key)"
        " VALUES ($1, $2, $3, $4, 100, 'PRO_RATA', 'payout_requested', 'x', $2)",
        refund,
        f"r-{name}",
        UUID(payment),
        UUID(wallet),
    )
    serial = 900_000_000 + uuid4().int % 90_000_000
    await rows(
        "INSERT INTO invoices (id, kind, number, series, financial_year, serial, payment_id, user_id, place_of_supply,"
        " gross_amount, taxable_amount, cgst_amount, sgst_amount, igst_amount, document, issued_at)"
        " VALUES ($1, 'tax_invoice', $2, 'CAA', 26, $3, $4, $5, '29', 118, 100, 9, 9, 0, '{}', now())",
        invoice,
        f"CAA/26/{serial:09d}",
        serial,
        UUID(payment),
        UUID(user),
    )
    hook = {"owner_id": user, "url": "https://example.com/hook"}
    endpoint = good(await edge.post("/v1/webhook-endpoints", hook, token=key)).body["endpoint"]["id"]
    fact, delivery = uuid4(), uuid4()
    await rows(
        "INSERT INTO billing_events (id, kind, user_id, source, source_id, occurred_at)"
        " VALUES ($1, 'low_balance', $2, 'matrix', $3, now())",
        fact,
        UUID(user),
        str(fact),
    )
    await rows(
        "INSERT INTO outgoing_deliveries (id, endpoint_id, event_id, sequence, previous_sequence) VALUES ($1, $2, $3, 1, 0)",
        delivery,
        UUID(endpoint),
        fact,
    )
    asked = {
        role: await _approval(rows, principal, role, wallet)
        for role, principal in ((Role.CUSTOMER, f"user/{user}"), (Role.SERVICE, f"service/{name}"))
    }
    posted = await rows(
        "SELECT id FROM wallet_transactions WHERE wallet_id = $1 ORDER BY seq LIMIT 1", UUID(wallet)
    )
    ids = {
        "user": user,
        "wallet": wallet,
        "hold": str(hold),
        "transaction": str(posted[0]["id"]),
        "payment": str(payment),
        "refund": str(refund),
        "invoice": str(invoice),
        "endpoint": str(endpoint),
        "delivery": str(delivery),
        "publisher": name,
        "usage": str(event["id"]),
    }
    return Things(ids, asked), key


async def _approval(rows: Rows, principal: str, role: Role, wallet: str) -> str:
    id = uuid4()
    await rows(
        "INSERT INTO approvals (id, idempotency_key, request_hash, action, path, body, summary, requested_by, requested_role,"
        " expires_at) VALUES ($1, $2, '', 'POST /v1/wallets/{id}/grants', jsonb_build_object('id', $3::text),"
        """ '{"credits": 1, "reason": "x"}', 'x', $4, $5, now() + interval '1 hour')""",
        id,
        f"{principal}:{id}",
        wallet,
        principal,
        role,
    )
    return str(id)


def good(answer: Answer) -> Answer:
    """An answer that is a success. Errors: NotMade."""
    if answer.status not in (200, 201):
        raise NotMade(f"{answer.status} {answer.body}")
    return answer
