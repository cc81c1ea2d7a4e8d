"""Reading Cashfree's JSON strictly where money is at stake and leniently where Cashfree is uneven.

Strict: a duplicate key, NaN or Infinity, an amount that is not a whole number of paise. Lenient: ids that are
numbers in one version and text in the next; `"null"`, `"NA"` and `""` for null; times without a zone, with a
space, or malformed. Numbers with a fraction are `Decimal` from the first byte on, never a float.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from domain.money import BadAmount, Paise, rupees_to_paise

Json = None | bool | int | Decimal | str | list["Json"] | dict[str, "Json"]
Object = Mapping[str, Json]

IST: Final = timezone(timedelta(hours=5, minutes=30))
_NULLS: Final = frozenset({"", "null", "null,", "NA", "N/A"})
_MAX_ID_LENGTH: Final = 256
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class Malformed(ValueError):
    """Bytes from outside that are not what they claim to be; `reason` is a short stable word for it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(raw: bytes) -> Json:
    """JSON with exact decimals and no duplicate keys.

    Compact JSON that equals what we would write of it has no key twice and nothing else to look at; the rest is read key by key.

    Errors: Malformed with reason `not_utf8`, `not_json`, `duplicate_key`, `not_finite` or `too_deep`.
    """
    try:
        read: Json = _READER.decode(raw)
        if _WRITER.encode(read) == raw:
            return read
    except (ValueError, ArithmeticError, RecursionError):
        pass
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("not_utf8", str(error)) from error
    try:
        value: Json = _DECODER.decode(text)
    except Malformed:
        raise
    except RecursionError as error:
        raise Malformed("too_deep", "the nesting is deeper than any real message") from error
    except ValueError as error:
        raise Malformed("not_json", str(error)) from error
    return value


def text(node: Object, key: str) -> str | None:
    """An id or word as text; whole numbers become their digits, the various nulls become None.

    Errors: Malformed (`bad_text`) for a fraction, a boolean, a list, an object, more than 256 characters, or
    characters that no database stores (NUL, half a surrogate pair).
    """
    value = node.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or len(value) > _MAX_ID_LENGTH or _UNSTORABLE.search(value):
        raise Malformed("bad_text", f"{key} is not a short text")
    stripped = value.strip()
    return None if stripped in _NULLS else stripped


def prose(node: Object, key: str) -> str | None:
    """A message for people: storable text cut to 256 characters, None for anything that is not text."""
    value = node.get(key)
    if not isinstance(value, str) or value.strip() in _NULLS:
        return None
    return _UNSTORABLE.sub("", value)[:_MAX_ID_LENGTH]


def paise(node: Object, key: str) -> Paise | None:
    """An amount in rupees as exact paise; None if absent.

    Errors: Malformed (`bad_amount`) for anything that is not a plain decimal with at most two digits
    after the point.
    """
    value = node.get(key)
    if value is None or (isinstance(value, str) and value.strip() in _NULLS):
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise Malformed("bad_amount", f"{key} is not a number")
    try:
        return rupees_to_paise(value)
    except BadAmount as error:
        raise Malformed("bad_amount", f"{key}: {error}") from error


def flag(node: Object, key: str) -> bool | None:
    """A boolean, or None if it is anything else."""
    value = node.get(key)
    return value if isinstance(value, bool) else None


def child(node: Object, *path: str) -> Object:
    """The object at a path; an empty one where any step is missing or is not an object."""
    for key in path:
        value = node.get(key)
        if not isinstance(value, dict):
            return {}
        node = value
    return node


def children(node: Object, key: str) -> list[Object]:
    """The objects of a list; anything else in it, or no list, is left out."""
    value = node.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def instant(node: Object, key: str) -> datetime | None:
    """A time in UTC, or None where it cannot be read.

    A time without a zone is Indian Standard Time. Stray spaces around colons are dropped. Nothing is
    decided by these times, so an unreadable one is no reason to refuse a message.
    """
    value = node.get(key)
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value.strip().replace(": ", ":").replace(" :", ":"))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=IST)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _decimal(literal: str) -> Decimal:
    try:
        return Decimal(literal)
    except InvalidOperation as error:
        raise Malformed("not_finite", "a number is too large for any meaning") from error


def _not_finite(name: str) -> Json:
    raise Malformed("not_finite", f"{name} is not a number of JSON")


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    node = dict(pairs)
    if len(node) != len(pairs):
        raise Malformed("duplicate_key", "an object has the same key twice")
    return node


_READER: Final = msgspec.json.Decoder(float_hook=Decimal)
_WRITER: Final = msgspec.json.Encoder(decimal_format="number")
_DECODER: Final = json.JSONDecoder(
    parse_float=_decimal, parse_constant=_not_finite, object_pairs_hook=_unique_keys
)
