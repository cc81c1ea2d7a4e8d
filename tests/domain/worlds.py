"""Small worlds for the domain's tests: fixed instants, made-up ids, payments of a pack, one wallet's desk."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from domain.commands import Command, Outcome, Payment, Transaction
from domain.gst import split_inclusive
from domain.ledger import Ledger
from domain.lots import Lot
from domain.packs import pack_for

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
WALLET = UUID(int=1)
CREDIT, DEBIT = "wallet.credit", "wallet.debit"


def uid(number: int) -> UUID:
    return UUID(int=number)


def days(count: int) -> datetime:
    return NOW + timedelta(days=count)


def pack_lot(price_paise: int, *, number: int = 100, inter_state: bool = False, **fields: Any) -> Lot:
    """A fresh lot of one pack, bought within the State."""
    pack = pack_for(price_paise)
    fields = {"free": pack.credits, "effective_at": NOW, **fields}
    invoice = split_inclusive(price_paise, inter_state=inter_state)
    return Lot(uid(number), WALLET, pack.credits, bonus=pack.bonus, invoice=invoice, **fields)


def payment_of(price_paise: int, wallet_id: UUID = WALLET, **flags: bool) -> Payment:
    pack = pack_for(price_paise)
    invoice = split_inclusive(price_paise, inter_state=False)
    return Payment(wallet_id, invoice, pack.base, pack.bonus, **flags)


class Desk:
    """One wallet's view of a ledger: issues commands with fresh ids and keys."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.wallet = self.ledger.open_wallet(WALLET)
        self.count = 1000

    def command(self, kind: str, credits: int, **fields: Any) -> Command:
        self.count += 1
        fields = {"key": f"test:{self.count}", "request_hash": b"h", "occurred_at": NOW, **fields}
        fields = {"source": "test", "source_id": str(self.count), "wallet_id": WALLET, **fields}
        return Command(id=uid(self.count), kind=kind, credits=credits, **fields)

    def do(self, kind: str, credits: int, **fields: Any) -> Outcome:
        topic = CREDIT if kind in ("purchase", "grant") else DEBIT
        return self.ledger.apply(topic, self.command(kind, credits, **fields))

    def posted(self, kind: str, credits: int, **fields: Any) -> Transaction:
        outcome = self.do(kind, credits, **fields)
        assert outcome.transaction is not None, outcome
        return outcome.transaction

    def buy(self, price_paise: int, **fields: Any) -> Transaction:
        payment = payment_of(price_paise)
        return self.posted("purchase", payment.credits_granted, payment=payment, **fields)
