"""The gateway's webhooks: raw bytes verified, stored, then 200. Nothing here grants credits."""

import hashlib
import time
from ipaddress import ip_address
from typing import Final, Literal

import structlog
from aiohttp import web

from gateway import signature
from gateway.signature import Reason, Verdict
from gateway.webhooks import Refused, parse
from sql.ids import uuid7
from sql.webhooks import NewWebhook
from streams.telemetry import tracing
from web.auth import Caller
from web.calls import Reply, read_body, respond
from web.inbox import INBOX
from web.problems import Problem
from web.services import EVENT_ID, SERVICES
from web.shapes import Answer

log = structlog.get_logger("web.webhooks")
_NO_VERSION: Final = "-"


class WebhookAnswer(Answer, frozen=True):
    """What became of a webhook: new, replay, or parked (signed, but not readable)."""

    status: Literal["new", "replay", "parked"]


async def receive_cashfree(request: web.Request, _: Caller) -> web.StreamResponse:
    """POST /v1/webhooks/cashfree: 200 only after the inbox row is committed; a replay makes none.

    Errors: Problem 400, 401, 413, 415 as `gateway.signature.Reason` says; 503 when the database is away.
    """
    services = request.app[SERVICES]
    secrets = services.gateway_settings.webhook_secrets()
    if not secrets:
        raise Problem(503, "webhooks_not_configured", "no secret is known to verify a webhook with")
    try:
        refused = signature.refused_unread(request.headers)
        if refused is not None:
            raise _refusal(refused)
        raw = await read_body(request, signature.MAX_BODY_BYTES)
        verdict = signature.verify(raw, request.headers, secrets, time.time_ns() // 1_000_000)
        if not verdict.ok:
            raise _refusal(verdict.reason)
    except Problem as problem:
        services.metrics.webhooks.labels(problem.code).inc()
        log.warning("webhook refused", reason=problem.code)
        raise
    webhook, parked = stored_form(raw, verdict, request.remote)
    request[EVENT_ID] = str(webhook.id)
    receipt = await request.app[INBOX].put(webhook)
    outcome = "parked" if parked and receipt == "new" else receipt
    services.metrics.webhooks.labels(outcome).inc()
    return respond(Reply(WebhookAnswer(status=outcome)))


def _refusal(reason: Reason) -> Problem:
    return Problem(
        reason.status, reason.value, headers={"Connection": "close"} if reason.status == 413 else None
    )


def stored_form(raw: bytes, verdict: Verdict, remote: str | None) -> tuple[NewWebhook, bool]:
    """The inbox row of a verified webhook, and whether it could not be read: then its bytes are kept whole."""
    event = parse(raw, verdict.version)
    source_ip = ip_address(remote) if remote else None
    version = (verdict.version or _NO_VERSION).replace("\x00", "")
    if isinstance(event, Refused):
        log.warning("webhook parked", reason=event.reason)
        digest = hashlib.sha256(raw).hexdigest()
        unread = NewWebhook(
            id=uuid7(),
            business_key=f"unreadable|{event.reason}|{digest}",
            kind="unknown",
            event_type=f"unreadable:{event.reason}",
            version=version,
            stale=verdict.stale,
            body=raw,
            source_ip=source_ip,
            traceparent=tracing.current(),
        )
        return unread, True
    return NewWebhook(
        id=uuid7(),
        business_key=event.business_key,
        kind=event.kind,
        event_type=event.event_type,
        version=version,
        stale=verdict.stale,
        body=raw,
        status=event.status,
        order_id=event.order_id,
        cf_payment_id=event.cf_payment_id,
        refund_id=event.refund_id,
        payment_group=event.payment_group,
        payment_method=event.payment_method,
        instrument=event.instrument,
        amount_paise=_storable(event.amount_paise),
        offer_id=event.offer_id,
        discount_paise=_storable(event.discount_paise),
        currency=event.currency,
        occurred_at=event.happened_at or event.event_time,
        source_ip=source_ip,
        traceparent=tracing.current(),
    ), False


def _storable(amount_paise: int | None) -> int | None:
    """A claimed amount that fits its column; whatever it was, the signed bytes are kept."""
    return amount_paise if amount_paise is not None and amount_paise < 2**62 else None
