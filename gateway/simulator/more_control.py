"""The rest of the control door: mandates, payouts and disputes. JSON under `/sim`.

POST /sim/subscriptions/{id}/authorise      {"outcome": "SUCCESS"|"FAILED", "webhook"}   the customer
answers POST /sim/subscriptions/{id}                {"status", "webhook"} POST
/sim/subscriptions/{id}/payments/{payment_id}   {"status", "webhook"} POST /sim/charge-policy
{"outcome"}            what becomes of debits on their date POST /sim/transfers/{transfer_id}
{"status", "webhook"}  a payout's next status code POST /sim/payout-policy                     {"outcome",
"step_s", "balance_paise"} POST /sim/orders/{id}/dispute               {"type", "amount_paise", "webhook"}
POST /sim/disputes/{dispute_id}             {"status", "webhook"}  e.g. UNDER_REVIEW, MERCHANT_LOST
"""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gateway.simulator.control import Move, answered, read_body
from gateway.simulator.disputes import dispute_entity
from gateway.simulator.mandates import debit_entity, subscription_entity
from gateway.simulator.payouts import transfer_entity
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.sim import Simulator


class Authorise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The customer's answer to a request for a mandate."""

    outcome: Literal["SUCCESS", "FAILED"] = "SUCCESS"
    webhook: WebhookPlan | None = None


class ChargePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of debits on their date; INITIALIZED leaves them open."""

    outcome: Literal["SUCCESS", "FAILED", "PENDING", "INITIALIZED"] = "SUCCESS"


class PayoutPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where transfers go by themselves, one step each `step_s`; a balance of None is unlimited."""

    outcome: Literal["RECEIVED", "PENDING", "SENT_TO_BENEFICIARY", "COMPLETED", "FAILED", "REJECTED"] = (
        "COMPLETED"
    )
    step_s: float = 1.0
    balance_paise: int | None = None


class OpenDispute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bank's dispute; no amount means the whole payment."""

    type: str = "CHARGEBACK"
    amount_paise: int | None = None
    webhook: WebhookPlan | None = None


def add_routes(app: web.Application, sim: Simulator) -> None:
    """Every control call of this part, under /sim."""
    control = _MoreControl(sim)
    for path, handler in (
        ("/subscriptions/{subscription_id}/authorise", control.authorise),
        ("/subscriptions/{subscription_id}", control.move_subscription),
        ("/subscriptions/{subscription_id}/payments/{payment_id}", control.move_debit),
        ("/charge-policy", control.charge_policy),
        ("/transfers/{transfer_id}", control.move_transfer),
        ("/payout-policy", control.payout_policy),
        ("/orders/{order_id}/dispute", control.open_dispute),
        ("/disputes/{dispute_id}", control.move_dispute),
    ):
        app.router.add_post("/sim" + path, answered(handler))


class _MoreControl:
    def __init__(self, sim: Simulator) -> None:
        self._sim = sim

    async def authorise(self, request: web.Request) -> object:
        wish = await read_body(request, Authorise)
        subscription = self._sim.mandates.get(request.match_info["subscription_id"])
        self._sim.mandates.authorise(subscription, wish.outcome, wish.webhook)
        return subscription_entity(subscription)

    async def move_subscription(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        subscription = self._sim.mandates.get(request.match_info["subscription_id"])
        self._sim.mandates.move(subscription, move.status, move.webhook)
        return subscription_entity(subscription)

    async def move_debit(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        subscription = self._sim.mandates.get(request.match_info["subscription_id"])
        debit = self._sim.mandates.debit(subscription, request.match_info["payment_id"])
        self._sim.mandates.resolve(subscription, debit, move.status, move.webhook)
        return debit_entity(subscription, debit)

    async def charge_policy(self, request: web.Request) -> object:
        policy = await read_body(request, ChargePolicy)
        self._sim.mandates.charge_outcome = policy.outcome
        return policy

    async def move_transfer(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        transfer = self._sim.payouts.find(request.match_info["transfer_id"], None)
        self._sim.payouts.move(transfer, move.status, move.webhook)
        return transfer_entity(transfer)

    async def payout_policy(self, request: web.Request) -> object:
        policy = await read_body(request, PayoutPolicy)
        payouts = self._sim.payouts
        payouts.outcome, payouts.step_s, payouts.balance_paise = (
            policy.outcome,
            policy.step_s,
            policy.balance_paise,
        )
        return policy

    async def open_dispute(self, request: web.Request) -> object:
        wish = await read_body(request, OpenDispute)
        order = self._sim.book.order(request.match_info["order_id"])
        return dispute_entity(self._sim.disputes.open(order, wish.type, wish.amount_paise, wish.webhook))

    async def move_dispute(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        dispute = self._sim.disputes.get(request.match_info["dispute_id"])
        self._sim.disputes.move(dispute, move.status, move.webhook)
        return dispute_entity(dispute)
