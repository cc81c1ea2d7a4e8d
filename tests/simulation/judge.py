"""What a run must have left: what its customers were told, what the specification says, what every invariant asks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from domain.commands import Command, Kind, Payment, Status
from domain.ledger import Ledger
from domain.refunds import pro_rata_credits
from sql import invariants
from tests.simulation.clock import EPOCH
from tests.simulation.customers import Customers
from tests.simulation.database import Server
from tests.simulation.gateway import SimulatedGateway
from tests.sql.books import booked, differences, specified

_DECIDED: Final = """
SELECT t.id, t.wallet_id, t.transaction_type::text AS kind, t.amount_credits, t.idempotency_key AS key, t.request_hash,
       t.occurred_at, t.feature, t.xmin::text::bigint AS tx, t.ord, t.seq FROM wallet_transactions t
UNION ALL
SELECT NULL, r.wallet_id, NULL, NULL, r.idempotency_key, r.request_hash, NULL, NULL, r.xmin::text::bigint, r.ord, 0
  FROM refusals r
ORDER BY tx, ord, seq
"""
"""Every final decision about a wallet, in the order of the commits: one statement ran at a time."""
_SPACE: Final = UUID(int=0)
_VOLATILE: Final = frozenset(
    {
        "batches",
        "consumer_offsets",
        "outbox",
        "producer_watermarks",
        "publisher_watermarks",
        "quarantine",
        "stream_incidents",
    }
)
"""Tables that say how far somebody has come, or what lay on a stream: a replay adds to them."""


@dataclass
class Judge:
    """Looks at one run at rest."""

    server: Server
    customers: Customers
    gateway: SimulatedGateway
    wrong: list[str] = field(default_factory=list)

    async def judge(self) -> list[str]:
        """Everything but the invariants; empty is good."""
        await self._outcomes()
        await self._payments()
        await self._refunds()
        await self._model()
        return self.wrong

    async def invariants(self) -> list[str]:
        """The invariants that do not hold."""
        await self.server.look("SELECT 1")  # the judge's clock
        return [str(violation) for violation in await invariants.violations(self.server.admin)]

    async def digests(self) -> dict[str, str]:
        """A digest of every table's rows."""
        return {row["name"]: row["digest"] for row in await self.server.look(await self._digesting())}

    async def money(self) -> dict[str, str]:
        """Digests of what a replay must not change."""
        return {name: digest for name, digest in (await self.digests()).items() if name not in _VOLATILE}

    async def _digesting(self) -> str:
        tables = await self.server.look(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations' ORDER BY 1"
        )
        return " UNION ALL ".join(
            f"SELECT '{t}' AS name, md5(string_agg(x::text, chr(10) ORDER BY x::text)) AS digest FROM \"{t}\" x"
            for t in (row["tablename"] for row in tables)
        )

    # -- what was acknowledged

    async def _outcomes(self) -> None:
        """Each thing asked has at most one outcome, each acknowledged one exactly one."""
        rows = await self.server.look(
            "SELECT idempotency_key AS key FROM wallet_transactions UNION ALL SELECT idempotency_key FROM refusals"
        )
        known = Counter(row["key"] for row in rows)
        books = self.customers.books
        for key in (*books.usage, *books.holds, *books.ends):
            if known[key] > 1 or (known[key] == 0 and key in books.acknowledged):
                self.wrong.append(f"{key} has {known[key]} outcomes")

    async def _payments(self) -> None:
        """Each paid order is credited; no other one is."""
        rows = await self.server.look("SELECT id, status FROM payments")
        status = {row["id"]: row["status"] for row in rows}
        books = self.customers.books
        for id in books.purchases:
            paid, found = id in books.paid, status.get(id)
            if paid != (found in ("credited", "refunded")):
                self.wrong.append(f"payment {id}, {'paid' if paid else 'not paid'}, is {found}")
        invoices = await self.server.look("SELECT payment_id FROM invoices WHERE kind = 'tax_invoice'")
        credited = [id for id, found in status.items() if found in ("credited", "refunded")]
        if sorted(row["payment_id"] for row in invoices) != sorted(credited):
            self.wrong.append(f"{len(credited)} payments credited, {len(invoices)} invoiced")

    async def _refunds(self) -> None:
        """What went back at the gateway is what our refunds say, and each refund that was promised has ended."""
        rows = await self.server.look("SELECT id, refund_id, status, amount, payment_id FROM refunds")
        ours = {row["refund_id"]: (row["status"], row["amount"]) for row in rows}
        theirs = {r.refund_id: r for a in self.gateway.accounts.values() for r in a.refunds.values()}
        done = {id: amount for id, (status, amount) in ours.items() if status == "done"}
        given = {id: r.amount_paise for id, r in theirs.items() if r.status == "SUCCESS"}
        if done != given:
            self.wrong.append(f"refunds done {done}, at the gateway {given}")
        for account in self.gateway.accounts.values():
            back = sum(r.amount_paise for r in account.refunds.values() if r.status == "SUCCESS")
            came = sum(p.status == "SUCCESS" for p in account.payments) * account.amount_paise
            if not came - account.amount_paise <= back <= came:
                self.wrong.append(
                    f"{account.order_id}: {back} of {came} paise went back, {account.amount_paise} were due"
                )
        status = {row["id"]: row["status"] for row in rows}
        for id in self.customers.books.refunds:
            if str(id) in self.customers.books.acknowledged and status.get(id) not in (
                "done",
                "failed",
                "cancelled",
            ):
                self.wrong.append(f"refund {id} was promised and is {status.get(id)}")

    # -- the specification

    async def _model(self) -> None:
        """Tell the specification what was decided, in order: it must decide the same, and have the same books."""
        rows = await self.server.look(_DECIDED)
        replay = Retelling(self.customers)
        for row in rows:
            if row["kind"] != "expire":
                self.wrong += replay.tell(row)
        self.wrong += differences(specified(replay.ledger), await booked(self.server.admin))


class Retelling:
    """The specification's ledger, told of each decision with what its customer asked, not with what was booked."""

    def __init__(self, customers: Customers) -> None:
        self.ledger = Ledger()
        self._books = customers.books
        self._posted: dict[str, UUID] = {}
        self._refunds: dict[UUID, list[tuple[str, int, int]]] = {}
        """Open refunds of a lot: the refund, its paise, its credits."""
        for _, wallet in customers.wallets:
            self.ledger.open_wallet(wallet)

    def tell(self, row: Any) -> list[str]:
        """One decision of the database; what is wrong with it."""
        command = self._command(row)
        if command is None:
            return [f"nobody asked for {row['key']}"]
        if command.kind == Kind.PURCHASE:
            self.ledger.expect_credits(command.wallet_id, command.credits)
        outcome = self.ledger.apply("judge", command)
        decided = Status.REFUSED if row["kind"] is None else Status.POSTED
        if row["kind"] is not None:
            self._posted[command.key] = command.id
        if outcome.status is not decided:
            return [
                f"{row['key']}: decided {decided.value}, specified {outcome.status.value} {outcome.reason}"
            ]
        return []

    def _command(self, row: Any) -> Command | None:
        key = row["key"]
        fields = self._asked(key)
        if fields is None:
            return None
        return Command(
            id=row["id"] or uuid5(_SPACE, key),
            key=key,
            request_hash=row["request_hash"],
            occurred_at=row["occurred_at"] or EPOCH,
            feature=row["feature"],
            **fields,
        )

    def _asked(self, key: str) -> dict[str, Any] | None:
        books = self._books
        if key in books.usage:
            use = books.usage[key]
            return {"kind": "spend", "wallet_id": use.wallet, "credits": use.credits}
        if key in books.grants:
            grant = books.grants[key]
            return {"kind": "grant", "wallet_id": grant.wallet, "credits": grant.credits, "promotional": True}
        if key in books.holds:
            return {"kind": "hold", "wallet_id": books.holds[key].wallet, "credits": books.holds[key].credits}
        if key in books.ends:
            of, credits = books.ends[key]
            kind = "capture" if key.startswith("api:capture") else "release"
            return {
                "kind": kind,
                "wallet_id": books.holds[of].wallet,
                "credits": credits,
                "hold_id": self._posted[of],
            }
        if key.startswith("core:purchase/"):
            return self._purchase(UUID(key.removeprefix("core:purchase/")))
        if key.startswith("core:refund/"):
            return self._refund(*key.removeprefix("core:refund/").partition("/")[::2])
        return None

    def _purchase(self, id: UUID) -> dict[str, Any] | None:
        if id not in self._books.paid:
            return None
        bought = self._books.purchases[id]
        payment = Payment(bought.wallet, bought.split, bought.pack.base, bought.pack.bonus)
        return {
            "kind": "purchase",
            "wallet_id": bought.wallet,
            "credits": bought.pack.credits,
            "payment": payment,
            "source": "payment",
            "source_id": str(id),
        }

    def _refund(self, id: str, step: str) -> dict[str, Any] | None:
        if UUID(id) not in self._books.refunds:
            return None
        payment, amount = self._books.refunds[UUID(id)]
        lot = self.ledger.lots[self._posted[f"core:purchase/{payment}"]]
        open_ = self._refunds.setdefault(lot.id, [])
        common = {"wallet_id": lot.wallet_id, "source": "refund", "source_id": id}
        if step == "hold":
            credits = pro_rata_credits(
                paid_paise=lot.invoice.total_paise,
                granted=lot.granted,
                refunded_total_paise=lot.refunded_paise + sum(paise for _, paise, _ in open_) + amount,
                reversed_before=lot.reversed + lot.owed + sum(held for _, _, held in open_),
            )
            open_.append((id, amount, credits))
            return common | {"kind": "hold", "lot_id": lot.id, "credits": credits}
        credits = next(held for other, _, held in open_ if other == id)
        self._refunds[lot.id] = [refund for refund in open_ if refund[0] != id]
        common |= {"credits": credits, "hold_id": self._posted[f"core:refund/{id}/hold"]}
        if step == "release":
            return common | {"kind": "release"}
        return common | {"kind": "refund", "lot_id": lot.id, "refund_paise": amount}
