"""The gateway's webhooks: raw bytes verified, stored, then 200. Nothing here grants credits."""

import hashlib
import time
from typing import Final, Literal

import structlog
from aiohttp import web

from gateway import signature
from gateway.signature import Reason, Verdict
from gateway.webhooks import Refused, parse
from sql.ids import uuid7
from sql.webhooks import NewWebhook
from streams.telemetry import tracing
from web.addresses import Address, neighbourhood, within
from web.auth import Caller
from web.bodies import read_body
from web.calls import respond
from web.inbox import INBOX
from web.limits import Kind
from web.problems import Problem
from web.replies import Reply
from web.services import EVENT_ID, SERVICES, Services
from web.shapes import Answer
from web.throttle import Name

log = structlog.get_logger("web.webhooks")
_NO_VERSION: Final = "-"
_FORGED: Final = frozenset({401, 403})


class WebhookAnswer(Answer, frozen=True):
    """What became of a webhook: new, replay, or parked (signed, but not readable)."""

    status: Literal["new", "replay", "parked"]


async def receive_cashfree(request: web.Request, _: Caller) -> web.StreamResponse:
    """POST /v1/webhooks/cashfree: 200 only after the inbox row is committed; a replay makes none.

    Errors: Problem 400, 401, 413, 415 as `gateway.signature.Reason` says; 403 from where none may come; 429 instead of
    401 where too many were forged, though a genuine one is taken from anywhere; 503 when the database is away or crowded.
    """
    services = request.app[SERVICES]
    secrets = services.gateway_settings.webhook_secrets()
    if not secrets:
        raise Problem(503, "webhooks_not_configured", "no secret is known to verify a webhook with")
    client = services.proxies.client(request)
    try:
        if services.settings.web_webhook_sources and not within(
            client, services.settings.web_webhook_sources
        ):
            raise Problem(403, "source_not_allowed", "no webhook comes from there")
        refused = signature.refused_unread(request.headers)
        if refused is not None:
            raise _refusal(refused)
        raw = await read_body(request, signature.MAX_BODY_BYTES)
        verdict = signature.verify(raw, request.headers, secrets, time.time_ns() // 1_000_000)
        if not verdict.ok:
            raise _refusal(verdict.reason)
    except Problem as problem:
        services.metrics.webhooks.labels(problem.code).inc()
        if problem.status in _FORGED:
            raise await _counted(services, client, problem) from problem
        log.warning("webhook refused", reason=problem.code)
        raise
    webhook, parked = stored_form(raw, verdict, client)
    request[EVENT_ID] = str(webhook.id)
    try:
        receipt = await request.app[INBOX].put(webhook)
    except Problem:
        services.metrics.shed.labels("inbox").inc()
        raise
    outcome = "parked" if parked and receipt == "new" else receipt
    services.metrics.webhooks.labels(outcome).inc()
    return respond(Reply(WebhookAnswer(status=outcome)))


async def _counted(services: Services, client: Address | None, problem: Problem) -> Problem:
    """The answer to a forgery; whoever sends many is told to wait, and no longer logged one by one."""
    name = Name(f"{Kind.FORGERIES}:a:{neighbourhood(client)}", services.limits.addresses[Kind.FORGERIES])
    over = await services.throttle.fail(name)
    if over is None:
        log.warning("webhook refused", reason=problem.code)
    return over or problem


def _refusal(reason: Reason) -> Problem:
    return Problem(
        reason.status, reason.value, headers={"Connection": "close"} if reason.status == 413 else None
    )


def stored_form(raw: bytes, verdict: Verdict, source_ip: Address | None) -> tuple[NewWebhook, bool]:
    """The inbox row of a verified webhook, and whether it could not be read: then its bytes are kept whole."""
    event = parse(raw, verdict.version)
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
