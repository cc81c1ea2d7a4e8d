"""What is measured for Prometheus, by one worker at a time: `sql/monitor.sql` says what each number is."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("monitor")
OUTCOMES: Final = ("posted", "refused", "existing", "conflict", "parked", "quarantined")


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. Ages in seconds, amounts in paise; `outcomes` are those since the round before."""

    waits: dict[str, tuple[int, float]]
    retries: dict[tuple[str, str], tuple[int, float]]
    quarantined: dict[str, int]
    last_quarantined: int
    batches: dict[str, int]
    outcomes: dict[tuple[str, str], int]
    totals: dict[tuple[str, str], tuple[int, int]]
    cases: dict[str, tuple[int, float]]
    reconciliation_age_s: float | None
    incidents: dict[str, int]
    violated: list[str]
    unchecked_batches: int
    check_age_s: float | None
    connections: int
    connections_allowed: int
    transaction_s: float
    database_bytes: int


async def take_duty(db: Database, holder: str, *, lease_s: float) -> bool:
    """Whether `holder` is the one who measures, for the next `lease_s`. Errors: Unavailable."""
    return bool(await db.value(_Q["take_duty"], holder, lease_s))


SETTLE_S: Final = 2.0
"""A row is counted when it is this old: ids are given before they are committed."""


async def measure(
    db: Database, *, since: UUID, until: UUID, after_quarantined: int, older_s: float = 0.0
) -> Measured:
    """Everything. `since` and `until` bound the ids of the batches to count, `after_quarantined` the records.

    `older_s`: incidents, records and payments of the last so many seconds are left to the next look.

    Errors: Unavailable.
    """
    quarantined = await db.rows(_Q["count_quarantined"], after_quarantined, max(older_s, SETTLE_S))
    outcomes = await db.rows(_Q["count_outcomes"], since, until)
    check = await db.row(_Q["get_last_check"])
    server = await db.row(_Q["get_server"])
    assert check is not None
    assert server is not None
    return Measured(
        waits={r["kind"]: (r["waiting"], r["oldest_s"]) for r in await db.rows(_Q["get_waits"])},
        retries={
            (r["topic"], r["state"]): (r["items"], r["oldest_s"]) for r in await db.rows(_Q["get_retries"])
        },
        quarantined={r["topic"]: r["records"] for r in quarantined},
        last_quarantined=max((r["last_id"] for r in quarantined), default=after_quarantined),
        batches={r["topic"]: r["batches"] for r in outcomes},
        outcomes={(r["topic"], outcome): r[outcome] for r in outcomes for outcome in OUTCOMES},
        totals={
            (r["metric"], r["dimension"]): (r["count"], r["amount_paise"])
            for r in await db.rows(_Q["get_totals"], older_s)
        },
        cases={r["kind"]: (r["cases"], r["oldest_s"]) for r in await db.rows(_Q["get_cases"])},
        reconciliation_age_s=await db.value(_Q["get_reconciliation_age"]),
        incidents={r["kind"]: r["incidents"] for r in await db.rows(_Q["count_incidents"], older_s)},
        violated=list(check["violated"]),
        unchecked_batches=check["behind"],
        check_age_s=check["age_s"],
        connections=server["connections"],
        connections_allowed=server["allowed"],
        transaction_s=server["transaction_s"],
        database_bytes=server["bytes"],
    )
