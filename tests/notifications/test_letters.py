"""What a mail says, and that nobody's name is markup."""

from datetime import UTC, datetime
from email.headerregistry import Address
from uuid import uuid4

import pytest

from agents.letters import KINDS, address, letter, render, to_html
from sql.notifications import Mail

AT = datetime(2026, 11, 23, 20, 15, tzinfo=UTC)
SENDER = Address("CommDesk", "billing", "commdesk.example")


def mail(kind: str = "credits_added", **more: object) -> Mail:
    fields: dict[str, object] = {
        "name": "Asha",
        "credits": 123_456,
        "amount_paise": 12_345_678,
        "order_id": "cd_1",
        "source_id": "w@2026-11-30",
    }
    return Mail(id=uuid4(), attempt=1, kind=kind, email="a@example.com", occurred_at=AT, **(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_letter_is_whole_with_everything_and_with_nothing_known(kind: str) -> None:
    nothing = mail(kind, name=None, credits=None, amount_paise=None, order_id=None, source_id="")
    for one in (mail(kind), nothing):
        subject, text = render(one)
        assert "\n" not in subject
        assert "$" not in subject + text
        assert len(text) > 40


def test_amounts_are_written_as_in_india_and_times_in_its_time() -> None:
    subject, text = render(mail())
    assert subject == "1,23,456 credits added to your wallet"
    assert "₹1,23,456.78" in text
    assert "24 November 2026, 01:45 IST" in text
    assert "30 November 2026" in render(mail("credits_expiring"))[1]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "A & B", "$order_id ${amount}"]
)
def test_a_name_is_never_markup_and_never_a_template(name: str) -> None:
    message = letter(mail(name=name), Address("", "a", "example.com"), sender=SENDER, written_at=AT)
    plain, rich = (part.get_content() for part in message.iter_parts())
    assert name in plain
    assert name in rich if not set(name) & set('<>&"') else name not in rich
    assert rich.count("<") == to_html(*render(mail(name="Asha"))).count("<")


def test_a_name_breaks_no_line_and_no_header() -> None:
    _, text = render(mail(name="Asha\r\nBcc: all@example.com\x00\x1b[2J" + "x" * 500))
    assert text.splitlines()[0].startswith("Hello Asha  Bcc: all@example.com")
    assert len(text.splitlines()[0]) < 100
    message = letter(
        mail(order_id="x\r\nBcc: all@example.com"),
        Address("", "a", "b.example"),
        sender=SENDER,
        written_at=AT,
    )
    assert message["Bcc"] is None


def test_the_message_id_is_the_notifications_in_every_attempt() -> None:
    first = mail()
    second = Mail(**{name: getattr(first, name) for name in Mail.__slots__} | {"attempt": 2})
    letters = [
        letter(m, Address("", "a", "example.com"), sender=SENDER, written_at=AT) for m in (first, second)
    ]
    assert [m["Message-ID"] for m in letters] == [f"<{first.id}@commdesk.example>"] * 2
    assert [m["X-Attempt"] for m in letters] == ["1", "2"]
    assert bytes(letters[0]).isascii()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "a",
        "a@",
        "@b",
        "a b@c",
        "a@b\r\nRCPT TO:<c@d>",
        "a@b>",
        "a@b@c",
        "é@b",
        "a@" + "b" * 254,
        "a,b@c",
        "a:b@c",
    ],
)
def test_what_is_no_address_is_not_sent_to(wrong: str) -> None:
    if wrong in ("a,b@c", "a:b@c"):
        assert address(wrong) is None or "@" in address(wrong).addr_spec  # type: ignore[union-attr]
    else:
        assert address(wrong) is None
    assert address("asha+1@example.com") == Address("", "asha+1", "example.com")
