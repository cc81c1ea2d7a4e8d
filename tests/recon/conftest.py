"""A till whose settlements are fetched: the shop of the refunds' tests, its poller, and its reconciler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents import poller
from agents.reconciler import Reconciler, Summary
from gateway.entities import Page, ReconLine, Settlement
from gateway.simulator.plan import WebhookPlan
from sql import reconciliation
from sql.payments import Payment
from sql.reconciliation import Case
from tests.refunds.conftest import Till, till

__all__ = ["Desk", "Settled", "desk", "till"]

SILENT = WebhookPlan(drop=True)
EVERYTHING = """
SELECT 'journal_entries' AS name, t::text AS row FROM journal_entries t
UNION ALL SELECT 'ledger_entries', t::text FROM ledger_entries t
UNION ALL SELECT 'settlement_lines', t::text FROM settlement_lines t
UNION ALL SELECT 'gateway_settlements', t::text FROM gateway_settlements t
UNION ALL SELECT 'reconciliation_cases', t::text FROM reconciliation_cases t
UNION ALL SELECT 'verifications', t::text FROM verifications t
UNION ALL SELECT 'batches', t::text FROM batches t
UNION ALL SELECT 'audit_logs', t::text FROM audit_logs t
UNION ALL SELECT 'payments', t::text FROM payments t
"""


@dataclass
class Settled:
    """The gateway's settlements as the simulator gives them, changed on the way as a test says."""

    client: Any
    page_size: int = 1000
    change: Callable[[Sequence[ReconLine]], Sequence[ReconLine]] = tuple
    tell: Callable[[Sequence[ReconLine]], Sequence[ReconLine]] = tuple
    fail_after: int | None = None
    pages: int = 0
    whole: tuple[object, Page] | None = None

    async def get_settlements(self, start: datetime, end: datetime) -> tuple[Settlement, ...]:
        return await self.client.get_settlements(start, end)  # type: ignore[no-any-return]

    async def recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page:
        """What happened, two lines a page; the cursor is how many came before."""
        lines = tuple(self.tell((await self.client.recon(start, end, None)).lines))
        at = int(cursor or 0)
        return Page(lines=lines[at : at + 2], cursor=str(at + 2) if at + 2 < len(lines) else None)

    async def settlement_recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page:
        """The simulator's lines in pages of `page_size`; the cursor is how many came before."""
        if self.fail_after is not None and self.pages >= self.fail_after:
            raise ConnectionError("the worker died")
        self.pages += 1
        if self.whole is None or self.whole[0] != (start, end) or cursor is None:
            self.whole = ((start, end), await self.client.settlement_recon(start, end, None))
        lines = tuple(self.change(self.whole[1].lines))
        at = int(cursor or 0)
        shown = lines[at : at + self.page_size]
        more = at + len(shown) < len(lines)
        return Page(lines=shown, cursor=str(at + len(shown)) if more else None)


@dataclass
class Desk:
    """Whoever settles, polls and reconciles."""

    till: Till
    settled: Settled
    ahead: timedelta = field(default_factory=lambda: timedelta(seconds=2))
    at: datetime | None = None
    """The time that it is for the reconciler; None: now, and a little ahead."""

    async def lose(self, price_paise: int = 50_000) -> Payment:
        """A payment that succeeded at the gateway, and nobody told us."""
        payment = await self.till.place(price_paise)
        self.till.pay(payment, webhook=SILENT)
        return payment

    async def poll(self, age_s: float = 0.0) -> int:
        return await poller.once(self.till.core, self.till.client, shard=0, age_s=age_s)

    async def later(self) -> None:
        """Every waiting verification is due now."""
        await self.till.admin.execute("UPDATE verifications SET next_at = now() WHERE state = 'due'")

    def reconciler(self, holder: str = "test", age_s: float = 0.0) -> Reconciler:
        return Reconciler(
            self.till.core,
            self.settled,
            holder=holder,
            age_s=age_s,
            now=lambda: self.at or datetime.now(UTC) + self.ahead,
        )

    async def reconcile(self) -> Summary:
        """A whole run, now."""
        return await self.reconciler().now()

    async def cases(self, state: str | None = None) -> list[Case]:
        return await reconciliation.get_cases(self.till.db, limit=100, state=state)

    async def kinds(self) -> list[tuple[str, str]]:
        """(kind, state) of every case, sorted."""
        return sorted((case.kind, case.state) for case in await self.cases())

    async def everything(self) -> list[tuple[str, str]]:
        """Every row of each table that reconciliation writes, as text."""
        rows = await self.till.admin.fetch(EVERYTHING)
        return sorted((row["name"], row["row"]) for row in rows)


@pytest.fixture
async def desk(till: Till) -> Desk:
    return Desk(till, Settled(till.client))
