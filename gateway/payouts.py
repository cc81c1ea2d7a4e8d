"""Payouts: money to a beneficiary, exactly once per `transfer_id`, and not done before it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec

from domain.money import Paise, paise_to_rupees
from gateway.entities import amount, as_object, needed
from gateway.ids import id_in_path, same_id
from gateway.once import create_once, read_answer
from gateway.transport import Transport
from gateway.wire import Object, prose, text

PAYOUT_API_VERSION: Final = "2024-01-01"


class NewTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """A payout to send. Store `transfer_id` before the call; after a 5xx it is asked for, never sent
    under a new id.
    """

    transfer_id: str
    amount_paise: Paise
    beneficiary_id: str
    mode: str = "banktransfer"
    remarks: str | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A payout as Cashfree has it."""

    transfer_id: str
    cf_transfer_id: str | None
    status: str
    code: str | None
    amount_paise: Paise
    utr: str | None = None
    description: str | None = None

    @property
    def acknowledged(self) -> bool:
        """The beneficiary's bank has it. `SUCCESS` alone only means that it was sent."""
        return self.status == "SUCCESS" and self.code == "COMPLETED"


@dataclass(frozen=True, slots=True)
class PayoutClient:
    """Cashfree Payouts for one account. `over` makes one from a payment client's transport."""

    transport: Transport

    @classmethod
    def over(cls, transport: Transport) -> PayoutClient:
        """The same connections and credentials, at the product's own address and version."""
        base = transport.base_url.removesuffix("/pg") + "/payout"
        return cls(replace(transport, base_url=base, api_version=PAYOUT_API_VERSION))

    async def create(self, new: NewTransfer, *, again: bool = False) -> Transfer:
        """Send a payout, or find the one this id already made. Errors: see `once.create_once`."""
        body: dict[str, object] = {
            "transfer_id": new.transfer_id,
            "transfer_amount": paise_to_rupees(new.amount_paise),
            "transfer_mode": new.mode,
            "beneficiary_details": {"beneficiary_id": new.beneficiary_id},
        }
        if new.remarks is not None:
            body["transfer_remarks"] = new.remarks

        async def send() -> Transfer:
            answer = await self.transport.call("create_transfer", "POST", "/transfers", body)
            return read_answer("create_transfer", lambda: _transfer(as_object(answer)))

        return await create_once(
            "create_transfer",
            new.transfer_id,
            send,
            lambda: self.get(new.transfer_id),
            lambda found: found.amount_paise == new.amount_paise,
            again=again,
        )

    async def get(self, transfer_id: str) -> Transfer:
        """The payout as Cashfree has it. Errors: NotFound."""
        path = f"/transfers?transfer_id={id_in_path('get_transfer', transfer_id)}"
        answer = await self.transport.call("get_transfer", "GET", path)
        found = read_answer("get_transfer", lambda: _transfer(as_object(answer)))
        same_id("get_transfer", found.transfer_id, transfer_id)
        return found


def _transfer(node: Object) -> Transfer:
    return Transfer(
        transfer_id=needed(node, "transfer_id"),
        cf_transfer_id=text(node, "cf_transfer_id"),
        status=needed(node, "status"),
        code=text(node, "status_code"),
        amount_paise=amount(node, "transfer_amount"),
        utr=text(node, "transfer_utr"),
        description=prose(node, "status_description"),
    )
