"""The reconciler: what the gateway settled against the ledger, and the books against each other. Nightly, and on demand.

In     settled lines (POST /settlement/recon) and totals (POST /settlements) since the stored cursor; what happened, settled
       or not (POST /recon); payments, refunds, invoices, credit notes, wallets
Books  settlements and their lines, one posting per settlement and page on the chain recon/0; money without a sale;
       a case per difference; what was never heard of is due to be verified or looked at. Nothing is corrected by overwriting
Out    nothing: people read the cases
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from agents.core import Core
from gateway.entities import Page, ReconLine, Settlement
from gateway.errors import GatewayError
from sql import errors, reconciliation
from sql.reconciliation import Difference, GatewayEvent, SettledLine, Told

log = structlog.get_logger("agents.reconciler")

POLL_S: Final = 2.0
LEASE_S: Final = 300.0
RETRY_S: Final = 300.0
OVERLAP_S: Final = 3 * 86_400.0
"""How far back each run asks again: lines may be added to a settlement late, and a line known changes nothing."""
LOOK_BACK: Final = timedelta(days=45)
AGE_S: Final = 900.0
"""Younger differences may still be on their way."""
WALLETS: Final = 2000
CURRENCY: Final = "INR"
TRANSFER: Final = "SETTLEMENT"
"""The event type of the transfer itself, where it is listed among its own lines."""


class Gateway(Protocol):
    """What the reconciler needs of the gateway."""

    async def get_settlements(self, start: datetime, end: datetime) -> tuple[Settlement, ...]: ...
    async def settlement_recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page: ...
    async def recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page: ...


class NotOurs(Exception):
    """Somebody else does the job, or has done it meanwhile."""


@dataclass(slots=True)
class Summary:
    """What a run did: settled lines that were new and known, events that we had not heard of, postings of money
    without a sale, and what became of the differences found, by kind and outcome.
    """

    lines_new: int = 0
    lines_known: int = 0
    unheard: int = 0
    unapplied: int = 0
    cases: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return {
            "lines_new": self.lines_new,
            "lines_known": self.lines_known,
            "unheard": self.unheard,
            "unapplied": self.unapplied,
            "cases": dict(self.cases),
        }


class Reconciler:
    """One per worker; one at a time works. `now` is the clock that settlements are asked by."""

    def __init__(
        self,
        core: Core,
        gateway: Gateway,
        *,
        holder: str,
        age_s: float = AGE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = core.db
        self._gateway = gateway
        self._holder = holder
        self._age_s = age_s
        self._now = now

    async def run(self) -> None:
        """Until cancelled. What the gateway or the database interrupts goes on at the stored cursor."""
        while True:
            try:
                if await reconciliation.take_job(self._db, "reconcile", self._holder, lease_s=LEASE_S):
                    await self._guarded()
            except errors.Unavailable as error:
                log.warning("reconciliation waits for the database", error=str(error))
            await asyncio.sleep(POLL_S)

    async def _guarded(self) -> None:
        try:
            summary = await self.once()
        except NotOurs:
            return
        except GatewayError as error:
            log.warning("reconciliation waits for the gateway", error=str(error))
            await reconciliation.finish_job(self._db, "reconcile", self._holder, after_s=RETRY_S)
            return
        log.info("reconciled", **summary.as_dict())

    async def now(self) -> Summary:
        """Take the job, due or not, and do it. Errors: NotOurs if somebody is at it, GatewayError, Unavailable."""
        if not await reconciliation.take_job(
            self._db, "reconcile", self._holder, lease_s=LEASE_S, force=True
        ):
            raise NotOurs("a reconciliation is under way")
        return await self.once()

    async def once(self) -> Summary:
        """Do the job we hold, to its end. Errors: NotOurs, GatewayError, Unavailable."""
        summary = Summary()
        await self.fetch(summary)
        since = self._now() - LOOK_BACK
        summary.unapplied = await reconciliation.book_unapplied(self._db, since)
        await self.compare(since, summary)
        await reconciliation.finish_job(
            self._db, "reconcile", self._holder, after_s=None, result=summary.as_dict()
        )
        return summary

    async def fetch(self, summary: Summary) -> None:
        """Record and post what was settled until now, page after page, from where an earlier run stopped."""
        until = self._now().replace(microsecond=0)
        while True:
            window = await reconciliation.begin_window(self._db, self._holder, until, overlap_s=OVERLAP_S)
            if window is None:
                raise NotOurs("the lease is over")
            await reconciliation.tell_settlements(
                self._db,
                [
                    told
                    for s in await self._gateway.get_settlements(window.start, window.end)
                    for told in _told(s)
                ],
            )
            cursor = window.cursor
            while True:
                page = await self._gateway.settlement_recon(window.start, window.end, cursor)
                following = page.cursor if page.lines and page.cursor != cursor else None
                lines, odd = read_lines(page.lines)
                await self._cases(odd, summary)
                done = await reconciliation.commit_settled_lines(
                    self._db, self._holder, lines, cursor=cursor, next_cursor=following, lease_s=LEASE_S
                )
                if done.outcome == "moved":
                    raise NotOurs("the cursor has moved")
                summary.lines_new += done.new
                summary.lines_known += done.known
                if following is None:
                    break
                cursor = following
            await self.hear(window.start, window.end, summary)
            if window.end >= until:
                return

    async def hear(self, start: datetime, end: datetime, summary: Summary) -> None:
        """Read all that happened at the gateway in a time, settled or not; what is news to us is asked about."""
        cursor: str | None = None
        while True:
            await self._renew()
            page = await self._gateway.recon(start, end, cursor)
            events = read_events(page.lines)
            summary.unheard += await reconciliation.hear_events(self._db, events)
            await self._cases(await reconciliation.compare_events(self._db, events), summary)
            if page.cursor is None or page.cursor == cursor or not page.lines:
                return
            cursor = page.cursor

    async def compare(self, since: datetime, summary: Summary) -> None:
        """Look for every kind of difference and make cases of what is found."""
        for kind in reconciliation.KINDS:
            await self._renew()
            found = await reconciliation.find(self._db, kind, since, age_s=self._age_s)
            await self._cases(found, summary)
        after: UUID | None = UUID(int=0)
        while after is not None:
            await self._renew()
            wrong, after = await reconciliation.compare_wallets(self._db, after, limit=WALLETS)
            await self._cases(wrong, summary)

    async def _renew(self) -> None:
        if not await reconciliation.take_job(self._db, "reconcile", self._holder, lease_s=LEASE_S):
            raise NotOurs("the lease is over")

    async def _cases(self, found: Sequence[Difference], summary: Summary) -> None:
        for difference, outcome in zip(found, await reconciliation.open_cases(self._db, found), strict=True):
            summary.cases[f"{difference.kind}:{outcome}"] += 1
            if outcome != "known":
                log.error(
                    "a difference needs a person",
                    kind=difference.kind,
                    subject=difference.subject,
                    expected=difference.expected,
                    actual=difference.actual,
                )


def read_lines(lines: Sequence[ReconLine]) -> tuple[list[SettledLine], list[Difference]]:
    """Lines that can be posted, and those that cannot, as differences of kind `settlement_line`."""
    read: list[SettledLine] = []
    odd: list[Difference] = []
    for line in lines:
        if line.event_type == TRANSFER:
            continue
        found = _line(line)
        if isinstance(found, SettledLine):
            read.append(found)
        else:
            subject = f"{line.cf_settlement_id}/{line.event_type}/{line.event_id or line.refund_id or line.cf_payment_id}"
            odd.append(Difference("settlement_line", subject, {"reason": found}, _said(line)))
    return read, odd


def read_events(lines: Sequence[ReconLine]) -> list[GatewayEvent]:
    """What succeeded at the gateway and names an order. Amounts are those of the event, without sign."""
    return [
        GatewayEvent(
            type=line.event_type,
            order_id=line.order_id,
            payment_id=line.cf_payment_id or line.event_id or "",
            refund_id=line.refund_id or "",
            amount=line.amount_paise,
        )
        for line in lines
        if line.event_type != TRANSFER
        and line.event_status in (None, "SUCCESS")
        and line.order_id is not None
        and line.amount_paise is not None
    ]


def _line(line: ReconLine) -> SettledLine | str:
    """A line with its signs, or why it cannot be posted.

    What the gateway pays us is positive, what it takes back negative; its charge is what lies between the
    amount and what reaches the bank, so that amount = bank + fee + GST on the fee. On what it takes back the
    charge may be added or returned: the line's own settlement amount tells.
    """
    if line.currency not in (None, CURRENCY):
        return "other_currency"
    event_id = line.event_id or line.refund_id or line.cf_payment_id
    if not line.cf_settlement_id or not event_id:
        return "no_id"
    if line.amount_paise is None or line.sale_type not in ("CREDIT", "DEBIT"):
        return "no_amount"
    fee, gst = line.service_charge_paise or 0, line.service_tax_paise or 0
    amount = line.amount_paise if line.sale_type == "CREDIT" else -line.amount_paise
    if line.settlement_amount_paise is None:
        bank = amount - fee - gst
    else:
        bank = line.settlement_amount_paise if line.sale_type == "CREDIT" else -line.settlement_amount_paise
        if line.sale_type == "DEBIT" and bank == amount + fee + gst:
            fee, gst = -fee, -gst
    if amount != bank + fee + gst:
        return "does_not_add_up"
    return SettledLine(
        settlement=line.cf_settlement_id,
        utr=line.utr,
        type=line.event_type,
        id=event_id,
        order_id=line.order_id or "",
        payment_id=line.cf_payment_id or "",
        refund_id=line.refund_id or "",
        amount=amount,
        bank=bank,
        fee=fee,
        fee_gst=gst,
        at=line.happened_at,
    )


def _said(line: ReconLine) -> dict[str, Any]:
    return {
        "order_id": line.order_id,
        "sale_type": line.sale_type,
        "amount_paise": line.amount_paise,
        "settlement_amount_paise": line.settlement_amount_paise,
        "service_charge_paise": line.service_charge_paise,
        "service_tax_paise": line.service_tax_paise,
        "currency": line.currency,
    }


def _told(settlement: Settlement) -> list[Told]:
    """A whole settlement's totals; nothing if it has no id."""
    if settlement.cf_settlement_id is None:
        return []
    return [
        Told(
            id=settlement.cf_settlement_id,
            utr=settlement.utr,
            settled_at=settlement.settled_at,
            gross=settlement.order_amount_paise,
            fee=settlement.service_charge_paise,
            fee_gst=settlement.service_tax_paise,
            net=settlement.settlement_amount_paise,
        )
    ]
