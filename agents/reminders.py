"""Reminders of credits that lapse soon: a week ahead, once per wallet and day of expiry.

In     open lots whose expiry is near; no stream
Books  remind_expiring: the fact and its notifications, by their identity once
Out    nothing; `mailer` sends what is queued for email
"""

import asyncio
import random
from typing import Final

import structlog

from sql import errors, notifications
from sql.db import Database

log = structlog.get_logger("agents.reminders")

DAYS: Final = 7
EVERY_S: Final = 600.0
LIMIT: Final = 500


async def run(db: Database) -> None:
    """Until cancelled. Two workers remind nobody twice."""
    while True:
        try:
            while told := await notifications.remind_expiring(db, days=DAYS, limit=LIMIT):
                log.info("reminded of expiry", wallets=told)
        except errors.Unavailable as error:
            log.warning("reminders wait for the database", error=str(error))
        await asyncio.sleep(EVERY_S * random.uniform(0.75, 1.25))
