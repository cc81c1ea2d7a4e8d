"""Asking the gateway how a payment stands. Workers ask, within its rate limits; a caller may wait for the answer."""

import asyncio
import time
from typing import Final
from uuid import UUID

from sql import payments, reversals
from sql.payments import Payment
from web.calls import Call, read_query
from web.problems import not_found
from web.replies import Reply
from web.resources.payments import as_answer
from web.shapes import Nothing, Query, WaitMs

_LOOK_S: Final = 0.1
_ON_ITS_WAY: Final = "verified"
"""Verified and not decided or credited yet: that takes moments."""


class AskQuery(Query, frozen=True):
    """`wait` is how many milliseconds to wait for the gateway's answer."""

    wait: WaitMs = 0


async def verify(call: Call, _: Nothing) -> Reply:
    """POST /v1/payments/{id}/verify: is it paid? 200 with the payment once it is known, 202 while it is asked."""
    return await _asked(call, whole=False)


async def sync(call: Call, _: Nothing) -> Reply:
    """POST /v1/payments/{id}/sync: all that the gateway has of its order: payment, refunds, disputes. As verify."""
    return await _asked(call, whole=True)


async def _asked(call: Call, *, whole: bool) -> Reply:
    db, id = call.services.db, call.uuid("id", "payment")
    wait_ms = min(read_query(call.request, AskQuery).wait, call.services.settings.web_max_wait_ms)
    until = time.monotonic() + wait_ms / 1000
    if not await reversals.ask_gateway(db, id, whole=whole):
        raise not_found("payment")
    payment, answered = await _state(call, id)
    while not answered and time.monotonic() < until:
        await asyncio.sleep(_LOOK_S)
        payment, answered = await _state(call, id)
    return Reply(await as_answer(call, payment), 200 if answered else 202)


async def _state(call: Call, id: UUID) -> tuple[Payment, bool]:
    """The payment, and whether the gateway's answer has done all that it does to it."""
    answered = await reversals.is_answered(call.services.db, id)
    payment = await payments.get_payment(call.services.db, id)
    if payment is None:
        raise not_found("payment")
    return payment, answered and payment.status != _ON_ITS_WAY
