"""The mailer: sends what notifications.billing queued for email, by SMTP.

In     notifications of the channel email that are queued, or failed and due again
Books  record_notifications: sent, failed (with backoff), dead; suppressed where there is no mail server
Out    SMTP

What is promised: a mail is handed over at least once, or its row says why not. The outcomes, and the policy for each:
    sent      the server took it (250 after DATA)
    rejected  it never will: a 5xx to the recipient or the content, an address nobody can mean. Dead at once
    deferred  not now: a 4xx. Again with backoff and jitter, dead after the limit
    unknown   the connection broke, or we died, after DATA began: it may be out. It is sent again, since a notice about
              money is better twice than never, under the same Message-ID and a higher X-Attempt; that counts as an attempt
    returned  the server was lost before it was handed over: the row is as if nobody had taken it
A server that is down, refuses our login or our sender is no mail's fault: no row is touched, the mailer waits longer each time.
No address, name or word of a server goes to the log or the table: servers' words quote addresses.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import structlog
from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from agents import letters
from agents.mail_settings import MailSettings
from sql import errors, notifications
from sql.db import Database
from sql.notifications import Backoff, Delivery, Mail, Outcome

log = structlog.get_logger("agents.mailer")

POLL_S: Final = 1.0
OFF_POLL_S: Final = 5.0
LIMIT: Final = 20
"""Most mails leased at once, for one connection."""
SUPPRESS_LIMIT: Final = 1000
MAX_PAUSE_S: Final = 60.0
SERVICE_UNAVAILABLE: Final = 421
PERMANENT: Final = 500

_LOST: Final = (SMTPException, OSError, TimeoutError)


class Unreachable(Exception):
    """The mail server cannot be used now; the argument is a short code without anybody's data."""


async def run(db: Database, settings: MailSettings | None = None) -> None:
    """Until cancelled. Without SMTP_URL email is off: said once, and what is queued for it is suppressed."""
    settings = settings or MailSettings()
    if settings.server is None:
        log.warning("email is off: SMTP_URL is not set; mails are marked suppressed")
        await _forever(db, lambda: notifications.suppress(db, limit=SUPPRESS_LIMIT), OFF_POLL_S)
    mailer = Mailer(db, settings)
    async with asyncio.TaskGroup() as group:
        for number in range(settings.mail_connections):
            group.create_task(_forever(db, mailer.once, POLL_S), name=f"mailer-{number}")


async def _forever(db: Database, round_: Callable[[], Awaitable[int]], poll_s: float) -> None:
    """Round after round; a mail server or database that is away is waited for, longer each time."""
    faults = 0
    while True:
        try:
            busy = await round_()
            faults = 0
        except (Unreachable, errors.Unavailable) as error:
            busy = 0
            faults += 1
            log.warning("the mailer waits", why=type(error).__name__, error=str(error), faults=faults)
        if not busy:
            await asyncio.sleep(
                min(MAX_PAUSE_S, poll_s * 2.0 ** min(faults, 10)) * random.uniform(0.75, 1.25)
            )


class Mailer:
    """One per worker, shared by its connections; no two send one mail at once."""

    def __init__(self, db: Database, settings: MailSettings) -> None:
        assert settings.server is not None
        self._db = db
        self._settings = settings
        self._server = settings.server
        self._sender = settings.sender
        self._backoff = Backoff(settings.mail_attempts, settings.mail_retry_base_s, settings.mail_retry_cap_s)

    async def once(self) -> int:
        """Send one round over one connection; returns how many were leased. Errors: Unreachable, Unavailable.

        The connection comes first: while the server is down, no mail is taken and none spends an attempt.
        """
        if not await notifications.has_due(self._db):
            return 0
        async with self._connected() as smtp:
            lease_s = self._settings.mail_lease_s
            ends = asyncio.get_running_loop().time() + lease_s
            mails = await notifications.lease(
                self._db, limit=LIMIT, lease_s=lease_s, attempts=self._backoff.attempts
            )
            lost: str | None = None
            for mail in mails:
                late = asyncio.get_running_loop().time() > ends - self._settings.longest_send_s
                if lost or late:
                    delivery = Delivery(mail.id, mail.attempt, "returned")
                else:
                    delivery, lost = await self._send(smtp, mail)
                await self._record(mail, delivery, ends)
        if lost:
            raise Unreachable(lost)
        return len(mails)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[SMTP]:
        """A connection, greeted, encrypted and logged in. Errors: Unreachable."""
        server = self._server
        smtp = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.implicit_tls,
            start_tls=server.start_tls,
            timeout=self._settings.smtp_timeout_s,
            cert_bundle=None if self._settings.smtp_ca_file is None else str(self._settings.smtp_ca_file),
        )
        try:
            await smtp.connect()
        except _LOST as error:
            smtp.close()
            raise Unreachable(f"connect:{_code(error)}") from None
        try:
            yield smtp
        finally:
            smtp.close()

    async def _send(self, smtp: SMTP, mail: Mail) -> tuple[Delivery, str | None]:
        """Hand one mail over. Returns what became of it, and a code if the connection is of no use any more."""
        recipient = letters.address(mail.email) if mail.email else None
        if recipient is None or mail.kind not in letters.KINDS:
            why = "no_template" if recipient else "bad_address" if mail.email else "no_address"
            return Delivery(mail.id, mail.attempt, "rejected", why), None
        message = letters.letter(mail, recipient, sender=self._sender, written_at=datetime.now(UTC))
        try:
            await smtp.mail(self._sender.addr_spec)
        except _LOST as error:
            return Delivery(mail.id, mail.attempt, "returned"), f"mail:{_code(error)}"
        handed_over = False
        try:
            await smtp.rcpt(recipient.addr_spec)
            handed_over = True
            await smtp.data(bytes(message))
        except SMTPResponseException as error:
            # The server has spoken: whatever it says, it did not take the mail.
            outcome, why = _refusal(error.code), f"smtp_{error.code}"
            lost = why if error.code == SERVICE_UNAVAILABLE or not await _reset(smtp) else None
            return Delivery(mail.id, mail.attempt, outcome, why), lost
        except _LOST as error:
            if handed_over:
                return Delivery(mail.id, mail.attempt, "unknown", "unknown_outcome"), f"data:{_code(error)}"
            return Delivery(mail.id, mail.attempt, "returned"), f"rcpt:{_code(error)}"
        return Delivery(mail.id, mail.attempt, "sent"), None

    async def _record(self, mail: Mail, delivery: Delivery, ends: float) -> None:
        """Keep what became of a mail; while the lease lasts, nobody else can have sent it. Errors: Unavailable after that."""
        while True:
            try:
                states = await notifications.record(self._db, [delivery], self._backoff)
                break
            except errors.Unavailable:
                if asyncio.get_running_loop().time() > ends:
                    raise
                await asyncio.sleep(POLL_S)
        state = states.get(mail.id, "somebody else's")
        level = log.warning if state in ("dead", "failed") else log.info
        level(
            "a mail",
            notification=str(mail.id),
            kind=mail.kind,
            outcome=delivery.outcome,
            state=state,
            attempt=mail.attempt,
            error=delivery.error,
        )


def _refusal(code: int) -> Outcome:
    return "rejected" if code >= PERMANENT else "deferred"


async def _reset(smtp: SMTP) -> bool:
    """Forget the transaction that was refused; False if the connection is gone."""
    try:
        await smtp.rset()
    except _LOST:
        return False
    return True


def _code(error: BaseException) -> str:
    """A name or number for the log."""
    return str(error.code) if isinstance(error, SMTPResponseException) else type(error).__name__
