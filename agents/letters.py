"""What a mail says: one text per kind in templates/mail, in plain and in HTML, and the letter around it.

A text begins with its subject. A line that names something the fact does not have is left out. The HTML is the
same text, every character of it escaped, in a layout: no template can forget to.
"""

import html
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Final

from domain.money import format_rupees, group_digits
from sql.notifications import Mail

_TEXTS: Final = Path(__file__).parent / "templates" / "mail"
_IST: Final = timezone(timedelta(hours=5, minutes=30), "IST")
_SEVEN_BIT: Final = SMTP.clone(cte_type="7bit")
_ADDRESS: Final = re.compile(r"[!-;=?A-~]+@[!-;=?A-~]+", re.ASCII)
MAX_NAME: Final = 80
_NO_SUBJECT: Final = "About your wallet"

KINDS: Final = frozenset(path.stem for path in _TEXTS.glob("*.txt"))
"""The kinds of facts that we have words for."""


def address(email: str) -> Address | None:
    """An address to send to; None for what no mail server can mean. Source: RFC 5321 §4.1.2, ASCII only."""
    if not _ADDRESS.fullmatch(email) or len(email) > 254:
        return None
    local, _, domain = email.rpartition("@")
    return None if "@" in local else Address(username=local, domain=domain)


def letter(mail: Mail, recipient: Address, *, sender: Address, written_at: datetime) -> EmailMessage:
    """The whole letter. Its Message-ID is the notification's, the same in every attempt, so that a receiver can tell
    a resend from a second letter; `X-Attempt` says which attempt it is. Errors: KeyError for a kind not in `KINDS`.
    """
    subject, text = render(mail)
    message = EmailMessage(policy=_SEVEN_BIT)
    message["Subject"] = subject
    message["From"] = sender
    message["To"] = recipient
    message["Date"] = format_datetime(written_at)
    message["Message-ID"] = f"<{mail.id}@{sender.domain}>"
    message["X-Attempt"] = str(mail.attempt)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    message.add_alternative(to_html(subject, text), subtype="html")
    return message


def render(mail: Mail) -> tuple[str, str]:
    """Subject and plain text. Errors: KeyError for a kind not in `KINDS`."""
    if mail.kind not in KINDS:
        raise KeyError(mail.kind)
    values = {name: value for name, value in _values(mail).items() if value is not None}
    lines = _text(mail.kind).splitlines()
    head, *body = [Template(line) for line in lines]
    whole = values.keys() >= set(head.get_identifiers())
    subject = head.substitute(values).removeprefix("Subject: ") if whole else _NO_SUBJECT
    kept = [line.substitute(values) for line in body if values.keys() >= set(line.get_identifiers())]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return subject, text + "\n"


def to_html(title: str, text: str) -> str:
    """The same words in HTML: blank lines end paragraphs, nothing else is markup."""
    paragraphs = (html.escape(part).replace("\n", "<br>\n") for part in text.strip().split("\n\n"))
    body = "\n".join(f"<p>{part}</p>" for part in paragraphs)
    return Template(_text("layout.html")).substitute(title=html.escape(title), body=body)


def _values(mail: Mail) -> Mapping[str, str | None]:
    name = "".join(c if c.isprintable() else " " for c in mail.name or "")[:MAX_NAME].strip()
    return {
        "greeting": f"Hello {name}," if name else "Hello,",
        "credits": None if mail.credits is None else group_digits(mail.credits),
        "amount": None if mail.amount_paise is None else format_rupees(mail.amount_paise),
        "order_id": mail.order_id,
        "date": mail.occurred_at.astimezone(_IST).strftime("%-d %B %Y, %H:%M IST"),
        "expires_on": _expires_on(mail),
    }


def _expires_on(mail: Mail) -> str | None:
    """The day that a reminder is about, which is part of its identity: `<wallet>@<day>`."""
    if mail.kind != "credits_expiring":
        return None
    try:
        return date.fromisoformat(mail.source_id.rpartition("@")[2]).strftime("%-d %B %Y")
    except ValueError:
        return mail.occurred_at.astimezone(UTC).strftime("%-d %B %Y")


@cache
def _text(name: str) -> str:
    return (_TEXTS / (name if "." in name else f"{name}.txt")).read_text(encoding="utf-8")
