"""The resources of API v1 that services use, as methods. Every method that changes something takes `key`, the
Idempotency-Key; without one it gets a fresh one, which is kept through all its attempts.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from client import answers
from client.answers import (
    Delivery,
    Endpoint,
    EndpointSecret,
    Hold,
    Invoice,
    Order,
    Pack,
    Page,
    Payment,
    Posted,
    Refund,
    Transaction,
    UsageRecord,
    UsageResults,
    User,
    Wallet,
)
from client.calls import Caller
from client.usage import Meter
from streams.events import UsageEvent

T = TypeVar("T")


class Resource:
    """Methods over one part of the API."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def _each(self, path: str, kind: type[Page[T]], **query: object) -> AsyncIterator[T]:
        """Every item of a list, page by page, asked for as they are needed. Errors: CoreError."""
        cursor: str | int | None = None
        while True:
            page = await self._caller.get(path, kind, cursor=cursor, **query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            cursor = page.next


class Users(Resource):
    """Who owns wallets."""

    async def create(
        self,
        external_id: str,
        *,
        name: str | None = None,
        email: str | None = None,
        phone: str | None = None,
        state_code: str | None = None,
        gstin: str | None = None,
        key: str | None = None,
    ) -> User:
        """The user with your own id; once more gives the same. Errors: CoreError."""
        body = {
            "external_id": external_id, "name": name, "email": email, "phone": phone, "state_code": state_code,
            "gstin": gstin,
        }  # fmt: skip
        return await self._caller.post("/v1/users", User, body, key=key)

    async def get(self, id: UUID) -> User:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/users/{id}", User)


class Wallets(Resource):
    """Balances and their history."""

    async def create(
        self, owner_id: UUID, *, community_id: UUID | None = None, key: str | None = None
    ) -> Wallet:
        """Errors: CoreError."""
        body = {"owner_id": owner_id, "community_id": community_id}
        return await self._caller.post("/v1/wallets", Wallet, body, key=key)

    async def get(self, id: UUID) -> Wallet:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/wallets/{id}", Wallet)

    def each(self, owner_id: UUID, *, limit: int = 200) -> AsyncIterator[Wallet]:
        """Of a user, the newest first. Errors: CoreError."""
        return self._each("/v1/wallets", Page[Wallet], owner_id=owner_id, limit=limit)

    def transactions(self, id: UUID, *, limit: int = 200) -> AsyncIterator[Transaction]:
        """All of a wallet's history, the newest first; `limit` is how many are asked for at a time. Errors: CoreError."""
        return self._each(f"/v1/wallets/{id}/transactions", Page[Transaction], limit=limit)

    async def grant(
        self,
        id: UUID,
        credits: int,
        reason: str,
        *,
        priority: int | None = None,
        expires_at: datetime | None = None,
        key: str | None = None,
    ) -> Posted:
        """Free credits; lower `priority` burns first. Errors: CoreError."""
        body = {"credits": credits, "reason": reason, "priority": priority, "expires_at": expires_at}
        return await self._caller.post(f"/v1/wallets/{id}/grants", Posted, body, key=key)


class Holds(Resource):
    """Credits set aside for work whose price is not known yet."""

    async def create(
        self,
        wallet_id: UUID,
        credits: int,
        *,
        reason: str | None = None,
        expires_at: datetime | None = None,
        key: str | None = None,
    ) -> Posted:
        """Errors: InsufficientCredits; CoreError."""
        body = {"wallet_id": wallet_id, "credits": credits, "reason": reason, "expires_at": expires_at}
        return await self._caller.post("/v1/holds", Posted, body, key=key)

    async def get(self, id: UUID) -> Hold:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/holds/{id}", Hold)

    async def capture(
        self,
        id: UUID,
        credits: int,
        *,
        feature: str | None = None,
        community_id: UUID | None = None,
        key: str | None = None,
    ) -> Posted:
        """Spend of it what was used; the rest goes back. Errors: Conflict hold_not_open; CoreError."""
        body = {"credits": credits, "feature": feature, "community_id": community_id}
        return await self._caller.post(f"/v1/holds/{id}/capture", Posted, body, key=key)

    async def release(self, id: UUID, *, key: str | None = None) -> Posted:
        """All of it goes back. Errors: Conflict hold_not_open; CoreError."""
        return await self._caller.post(f"/v1/holds/{id}/release", Posted, {}, key=key)


class Usage(Resource):
    """What was used."""

    async def post(self, events: Sequence[UsageEvent], *, wait_ms: int | None = None) -> UsageResults:
        """Up to 1,000 events, stored before this returns; with `wait_ms` their outcomes too, if they come in time.

        An event's id is its idempotency key. Errors: CoreError.
        """
        return await self._caller.post(
            "/v1/usage", UsageResults, {"events": [_said(event) for event in events]}, key=None, wait=wait_ms
        )

    async def get(self, id: str, *, wait_ms: int | None = None) -> UsageRecord:
        """What became of an event of ours. Errors: CoreError."""
        return await self._caller.get(f"/v1/usage/{id}", UsageRecord, wait=wait_ms)

    def meter(self, *, linger_s: float = 0.02, max_batch: int = 500, max_pending: int = 10_000) -> Meter:
        """Charge from many tasks, sent in batches."""
        return Meter(self.post, linger_s=linger_s, max_batch=max_batch, max_pending=max_pending)


class Payments(Resource):
    """Credits bought."""

    async def packs(self) -> list[Pack]:
        """What is on sale. Errors: CoreError."""
        return (await self._caller.get("/v1/packs", Page[Pack])).items

    async def create_order(
        self,
        user_id: UUID,
        wallet_id: UUID,
        pack_paise: int,
        *,
        return_url: str | None = None,
        customer_phone: str | None = None,
        device_id: str | None = None,
        client_ip: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Order:
        """Where the customer pays. Errors: CoreError."""
        body = {
            "user_id": user_id, "wallet_id": wallet_id, "pack_paise": pack_paise, "return_url": return_url,
            "customer_phone": customer_phone, "device_id": device_id, "client_ip": client_ip, "metadata": metadata,
        }  # fmt: skip
        return await self._caller.post("/v1/payments/orders", Order, body, key=key)

    async def get(self, id: UUID) -> Payment:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/payments/{id}", Payment)

    def each(
        self,
        *,
        user_id: UUID | None = None,
        wallet_id: UUID | None = None,
        status: str | None = None,
        limit: int = 200,
    ) -> AsyncIterator[Payment]:
        """Of a user, a wallet, or all, the newest first. Errors: CoreError."""
        return self._each(
            "/v1/payments", Page[Payment], user_id=user_id, wallet_id=wallet_id, status=status, limit=limit
        )

    async def verify(self, id: UUID, *, key: str | None = None) -> Payment:
        """Have the gateway asked now. Errors: CoreError."""
        return await self._caller.post(f"/v1/payments/{id}/verify", Payment, {}, key=key)

    async def refund(
        self,
        id: UUID,
        amount_paise: int,
        *,
        policy: str | None = None,
        reason: str | None = None,
        key: str | None = None,
    ) -> Refund:
        """Money back against credits. Errors: WaitsForApproval above a limit; CoreError."""
        body = {"amount_paise": amount_paise, "policy": policy, "reason": reason}
        return await self._caller.post(f"/v1/payments/{id}/refunds", Refund, body, key=key)

    async def refunds(self, id: UUID) -> list[Refund]:
        """Of a payment. Errors: CoreError."""
        return (await self._caller.get(f"/v1/payments/{id}/refunds", Page[Refund])).items

    async def get_refund(self, id: UUID) -> Refund:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/refunds/{id}", Refund)


class Invoices(Resource):
    """Tax invoices and credit notes."""

    async def get(self, id: UUID) -> Invoice:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/invoices/{id}", Invoice)

    async def get_pdf(self, id: UUID) -> bytes:
        """Errors: CoreError."""
        return await self._caller.get_bytes(f"/v1/invoices/{id}.pdf")


class Endpoints(Resource):
    """Where an account's events are sent (docs/webhooks.md)."""

    async def create(
        self,
        owner_id: UUID,
        url: str,
        *,
        description: str | None = None,
        kinds: Sequence[str] | None = None,
        key: str | None = None,
    ) -> EndpointSecret:
        """`secret` is given this once; None where the answer that had it was lost on the way: rotate it. Errors: CoreError."""
        body = {"owner_id": owner_id, "url": url, "description": description, "kinds": kinds}
        return await self._caller.post("/v1/webhook-endpoints", EndpointSecret, body, key=key)

    async def get(self, id: UUID) -> Endpoint:
        """Errors: CoreError."""
        return await self._caller.get(f"/v1/webhook-endpoints/{id}", Endpoint)

    def each(self, owner_id: UUID) -> AsyncIterator[Endpoint]:
        """Of an account. Errors: CoreError."""
        return self._each(f"/v1/users/{owner_id}/webhook-endpoints", Page[Endpoint], limit=200)

    async def update(
        self,
        id: UUID,
        *,
        url: str | None = None,
        description: str | None = None,
        kinds: Sequence[str] | None = None,
        every_kind: bool | None = None,
    ) -> Endpoint:
        """What is None stays. Errors: CoreError."""
        body = {"url": url, "description": description, "kinds": kinds, "every_kind": every_kind}
        return await self._caller.post(f"/v1/webhook-endpoints/{id}", Endpoint, body, key=None)

    async def rotate_secret(
        self, id: UUID, *, overlap_s: int = 86_400, key: str | None = None
    ) -> EndpointSecret:
        """The old secret signs along for `overlap_s`. `secret` is None where the answer that had it was lost on the way:
        rotate again. Errors: CoreError.
        """
        path = f"/v1/webhook-endpoints/{id}/rotate-secret"
        return await self._caller.post(path, EndpointSecret, {"overlap_s": overlap_s}, key=key)

    async def enable(self, id: UUID) -> Endpoint:
        """Errors: CoreError."""
        return await self._caller.post(f"/v1/webhook-endpoints/{id}/enable", Endpoint, {}, key=None)

    async def disable(self, id: UUID) -> Endpoint:
        """Errors: CoreError."""
        return await self._caller.post(f"/v1/webhook-endpoints/{id}/disable", Endpoint, {}, key=None)

    async def delete(self, id: UUID) -> None:
        """Errors: CoreError."""
        await self._caller.post(f"/v1/webhook-endpoints/{id}/delete", dict[str, object], {}, key=None)

    def deliveries(self, id: UUID, *, state: str | None = None) -> AsyncIterator[Delivery]:
        """Of an endpoint, the highest number first. Errors: CoreError."""
        return self._each(f"/v1/webhook-endpoints/{id}/deliveries", Page[Delivery], state=state, limit=200)

    async def replay(
        self, id: UUID, from_sequence: int, to_sequence: int | None = None, *, only_failed: bool = False
    ) -> answers.Replayed:
        """Send again what has these numbers. Errors: CoreError."""
        body = {"from_sequence": from_sequence, "to_sequence": to_sequence, "only_failed": only_failed}
        path = f"/v1/webhook-endpoints/{id}/replay"
        return await self._caller.post(path, answers.Replayed, body, key=None)


def _said(event: UsageEvent) -> dict[str, object]:
    """As POST /v1/usage wants it."""
    said = {
        "id": event.id, "wallet_id": event.wallet_id, "feature": event.feature, "quantity": event.quantity,
        "credits": event.credits, "community_id": event.community_id, "occurred_at": event.occurred_at,
        "metadata": event.metadata,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not None}
