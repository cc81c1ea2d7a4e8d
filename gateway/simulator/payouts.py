"""Transfers to beneficiaries: received, sent, acknowledged by their bank, or failed, rejected, reversed.

`SUCCESS` with `SENT_TO_BENEFICIARY` is not the end: only the acknowledgement is, and even that can be
reversed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from domain.money import Paise
from gateway.simulator.bodies import Body, iso, rupees
from gateway.simulator.book import Book, Rejected
from gateway.simulator.checks import need_amount, need_object, need_text, optional_text
from gateway.simulator.mandates import AnnounceData
from gateway.simulator.plan import WebhookPlan
from gateway.wire import Json, Object

TRANSFER_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "RECEIVED": frozenset({"PENDING", "SENT_TO_BENEFICIARY", "FAILED", "REJECTED"}),
    "PENDING": frozenset({"SENT_TO_BENEFICIARY", "FAILED", "REJECTED"}),
    "SENT_TO_BENEFICIARY": frozenset({"COMPLETED", "REVERSED"}),
    "COMPLETED": frozenset({"REVERSED"}),
    "FAILED": frozenset(),
    "REJECTED": frozenset(),
    "REVERSED": frozenset(),
}
"""By status code; see `STATUS_OF` for the status that is shown with it."""
STATUS_OF: Final = {"SENT_TO_BENEFICIARY": "SUCCESS", "COMPLETED": "SUCCESS"}
EVENT_OF: Final = {
    "SENT_TO_BENEFICIARY": "TRANSFER_SUCCESS",
    "COMPLETED": "TRANSFER_ACKNOWLEDGED",
    "FAILED": "TRANSFER_FAILED",
    "REJECTED": "TRANSFER_REJECTED",
    "REVERSED": "TRANSFER_REVERSED",
}
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(slots=True)
class Transfer:
    """One payout."""

    transfer_id: str
    cf_transfer_id: int
    amount_paise: Paise
    mode: str
    beneficiary: dict[str, Json]
    created_ms: int
    updated_ms: int
    code: str = "RECEIVED"
    utr: str | None = None

    @property
    def status(self) -> str:
        """The status shown with the code."""
        return STATUS_OF.get(self.code, self.code)


class Payouts:
    """The payout account. `outcome` is the code a transfer reaches by itself; `balance_paise` None is
    unlimited.
    """

    def __init__(self, book: Book, announce: AnnounceData) -> None:
        self.transfers: dict[str, Transfer] = {}
        self.outcome = "COMPLETED"
        self.step_s = 1.0
        self.balance_paise: Paise | None = None
        self._book = book
        self._announce = announce

    def create(self, node: Object) -> Transfer:
        """POST /payout/transfers. Rejected: 409 id taken, 422 not enough balance, 400 malformed."""
        transfer_id = need_text(node, "transfer_id", _ID)
        amount_paise = need_amount(node, "transfer_amount", 100)
        beneficiary = dict(need_object(node.get("beneficiary_details"), "beneficiary_details"))
        mode = optional_text(node, "transfer_mode", 2, 20) or "banktransfer"
        if transfer_id in self.transfers:
            raise Rejected(409, "transfer_id_already_exists", "transfer with same id is already present")
        if self.balance_paise is not None:
            if amount_paise > self.balance_paise:
                raise Rejected(422, "insufficient_balance", "not enough balance in the payout account")
            self.balance_paise -= amount_paise
        now_ms = self._book.clock.now_ms()
        number = self._book.new_id()
        transfer = Transfer(transfer_id, number, amount_paise, mode, beneficiary, now_ms, now_ms)
        self.transfers[transfer_id] = transfer
        if self.outcome != "RECEIVED":
            self._book.clock.call_later(self.step_s, lambda: self._next(transfer))
        return transfer

    def find(self, transfer_id: str | None, cf_transfer_id: str | None) -> Transfer:
        """By either id. Rejected (404) if unknown."""
        for transfer in (
            [self.transfers[transfer_id]] if transfer_id in self.transfers else self.transfers.values()
        ):
            if transfer.transfer_id == transfer_id or str(transfer.cf_transfer_id) == cf_transfer_id:
                return transfer
        raise Rejected(404, "transfer_id_not_found", "transfer does not exist")

    def move(self, transfer: Transfer, code: str, plan: WebhookPlan | None = None) -> None:
        """Change a transfer and say so; money that does not arrive returns to the balance. Rejected (400)."""
        if code not in TRANSFER_MOVES[transfer.code]:
            raise Rejected(
                400, "transition_invalid", f"a transfer does not go from {transfer.code} to {code}"
            )
        transfer.code = code
        transfer.updated_ms = self._book.clock.now_ms()
        if code == "SENT_TO_BENEFICIARY":
            transfer.utr = f"TESTR{transfer.cf_transfer_id}"
        if code in ("FAILED", "REJECTED", "REVERSED") and self.balance_paise is not None:
            self.balance_paise += transfer.amount_paise
        event = EVENT_OF.get(code)
        if event is not None:
            self._announce(event, transfer.transfer_id, transfer_entity(transfer), plan)

    def _next(self, transfer: Transfer) -> None:
        """One step of its own accord, towards `outcome`."""
        towards = self.outcome
        if towards in ("COMPLETED", "REVERSED") and transfer.code == "RECEIVED":
            self.move(transfer, "SENT_TO_BENEFICIARY")
            self._book.clock.call_later(self.step_s, lambda: self._next(transfer))
        elif towards in TRANSFER_MOVES[transfer.code]:
            self.move(transfer, towards)


def transfer_entity(transfer: Transfer) -> Body:
    """POST|GET /payout/transfers and the webhooks about them."""
    return {
        "added_on": iso(transfer.created_ms),
        "beneficiary_details": transfer.beneficiary,
        "cf_transfer_id": str(transfer.cf_transfer_id),
        "status": transfer.status,
        "status_code": transfer.code,
        "status_description": None,
        "transfer_amount": rupees(transfer.amount_paise),
        "transfer_id": transfer.transfer_id,
        "transfer_mode": transfer.mode,
        "transfer_service_charge": rupees(0),
        "transfer_service_tax": rupees(0),
        "transfer_utr": transfer.utr,
        "updated_on": iso(transfer.updated_ms),
    }
