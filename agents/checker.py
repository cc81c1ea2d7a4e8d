"""The checker: the invariants of MONEY, asked of the ledger while it grows.

In     batches committed since the last run, by chain and number; once a day, everything
Books  invariant_runs, the watermarks checked_heads, a case (kind `invariant`) per invariant that does not hold
Out    nothing: the alert is raised from the newest run, until a person has resolved the case
"""

import asyncio
from typing import Final

import structlog
from prometheus_client import Counter, Gauge
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sql import checks, errors, queues
from sql.checks import Checked
from sql.db import Database

log = structlog.get_logger("agents.checker")

VIOLATIONS = Counter(
    "core_invariant_violations_total", "Times an invariant was found not to hold", ["invariant"]
)
BEHIND = Gauge("core_checker_behind_batches", "Batches that this worker's last run found unchecked")
_LEAST: Final = 20
_REST: Final = 19.0
"""How many times as long as it took a run is rested from while more is to check; a second at least."""


class CheckerSettings(BaseSettings):
    """How often and how much. A run that takes longer than its budget makes the next one smaller; while it is behind, it runs
    in a twentieth of the time, so that those who wait for a credit do not notice it.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    check_every_s: float = Field(default=15.0, gt=0, description="pause where nothing more is to check")
    check_batches: int = Field(default=500, ge=1, description="most batches of one run")
    check_budget_s: float = Field(
        default=0.4, gt=0, description="what a run may take; it is cut off at 25 times that"
    )
    check_all_every_s: float = Field(default=86_400.0, gt=0, description="pause between checks of everything")
    check_all_timeout_s: float = Field(default=900.0, gt=0)


class Checker:
    """One worker at a time does it."""

    def __init__(self, db: Database, url: str, settings: CheckerSettings, *, holder: str) -> None:
        """`url`: where a snapshot of its own is read."""
        self._db = db
        self._url = url
        self._settings = settings
        self._holder = holder
        self._batches = settings.check_batches

    async def run(self) -> None:
        """Until cancelled. Everything is first checked a whole pause after the first start."""
        said, started = self._settings, asyncio.get_running_loop().time()
        pause_s = said.check_every_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = said.check_every_s
            try:
                if not await queues.take_duty(
                    self._db, "check", self._holder, lease_s=3 * said.check_every_s + 60
                ):
                    continue
                checked = await self.once()
                if checked.behind > checked.batches:
                    pause_s = min(pause_s, max(1.0, _REST * checked.took_s))
                age_s = await checks.full_check_age_s(self._db)
                up_s = asyncio.get_running_loop().time() - started
                if (up_s if age_s is None else age_s) > said.check_all_every_s:
                    await self.everything()
            except errors.DatabaseError as error:
                log.warning("checking waits", error=str(error))
                self._batches = max(_LEAST, self._batches // 2)

    async def once(self) -> Checked:
        """Check what is new, within the budget. Errors: Unavailable, also for a run that was cut off."""
        budget_s = self._settings.check_budget_s
        checked = await checks.check_new(self._url, limit=self._batches, timeout_s=25 * budget_s)
        if checked.took_s > budget_s:
            self._batches = max(_LEAST, self._batches // 2)
        elif checked.batches:
            self._batches = min(self._settings.check_batches, 2 * self._batches)
        BEHIND.set(checked.behind)
        await self._record(checked)
        return checked

    async def everything(self) -> Checked:
        """Check everything. Errors: Unavailable."""
        checked = await checks.check_all(self._url, timeout_s=self._settings.check_all_timeout_s)
        await self._record(checked)
        return checked

    async def _record(self, checked: Checked) -> None:
        for violation in checked.violations:
            VIOLATIONS.labels(violation.name).inc()
            log.error("an invariant does not hold", invariant=violation.name, detail=str(violation))
        await checks.record(self._db, self._holder, checked)
