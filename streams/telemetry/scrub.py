"""The one scrubber of logs, traces and Sentry: personal data and secrets are replaced before anything leaves.

By name: a field called password, token, e-mail, phone, ... loses its value. By form: e-mail and UPI addresses,
Indian and international phone numbers, card numbers (Luhn), bearer tokens, JSON web tokens and credentials in
URLs, wherever they stand in a text. By value: the secrets of our own environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "[hidden]"
MOST: Final = 4096
"""Longest text kept; a line of log is no archive."""
_DEEPEST: Final = 12

_WORDS: Final = frozenset(
    """password passwd secret token authorization cookie credentials signature mac dsn apikey
    email mail phone mobile vpa upi card pan cvv instrument gstin address""".split()  # noqa: SIM905 - a list to read
)
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SUSPECT: Final = re.compile(r"[@+]|\d{4}|[Bb][Ee][Aa][Rr][Ee][Rr]|eyJ")
_FORMS: Final = (
    (re.compile(r"//[^/\s:@]*:[^/\s@]+@"), "//[hidden]@"),
    (re.compile(r"(?i)\bbearer\s+[^\s\"',;]+"), "Bearer [hidden]"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), "[token]"),
    (re.compile(r"[\w.+-]{1,64}@[A-Za-z][\w.-]*"), "[address]"),
    (re.compile(r"(?<![\w.])(?:\+?91[ -]?)?[6-9]\d{4}[ -]?\d{5}(?!\w)"), "[phone]"),
    (re.compile(r"(?<!\w)\+\d{1,3}[ -]?\d[\d -]{6,13}\d(?!\w)"), "[phone]"),
)
_CARD: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Whether a field's name says that its value is nobody's business."""
    words = _WORD.findall(name)
    return not _WORDS.isdisjoint(word.lower() for word in words) or words[-2:] == ["api", "key"]


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values in an environment that are secrets by their variable's name, longest first."""
    values: set[str] = set()
    for name, value in environment.items():
        if is_secret(name.lower()) or name.endswith("_SECRETS"):
            values.update(part for part in (value, *value.split(",")) if len(part) >= 8)
    return tuple(sorted(values, key=len, reverse=True))


_secrets: tuple[str, ...] = secrets_of(os.environ)


def hide(values: Iterable[str]) -> None:
    """Hide these values too, wherever they appear."""
    global _secrets
    _secrets = tuple(sorted({*_secrets, *(v for v in values if len(v) >= 8)}, key=len, reverse=True))


def text(said: str) -> str:
    """A text with nothing in it that must not leave."""
    if len(said) > MOST:
        said = f"{said[:MOST]}… ({len(said)} characters)"
    for secret in _secrets:
        if secret in said:
            said = said.replace(secret, HIDDEN)
    if _SUSPECT.search(said) is None:
        return said
    for form, instead in _FORMS:
        said = form.sub(instead, said)
    return _CARD.sub(_card, said)


def value(said: Any, depth: int = 0) -> Any:
    """The same of any value that JSON can hold; anything else becomes its scrubbed representation."""
    if isinstance(said, str):
        return text(said)
    if said is None or isinstance(said, bool | int | float):
        return said if not isinstance(said, int) or abs(said) < 10**9 else _number(said)
    if depth >= _DEEPEST:
        return HIDDEN
    if isinstance(said, Mapping):
        return {str(name): field(str(name), inner, depth + 1) for name, inner in said.items()}
    if isinstance(said, list | tuple | set | frozenset):
        return [value(inner, depth + 1) for inner in said]
    return text(repr(said) if isinstance(said, bytes | bytearray) else str(said))


def field(name: str, said: Any, depth: int = 0) -> Any:
    """The value of a field of this name."""
    return HIDDEN if said is not None and is_secret(name) else value(said, depth)


def _number(said: int) -> int | str:
    """A number that reads like a phone's or a card's is one."""
    shown = text(str(said))
    return said if shown == str(said) else shown


def _card(found: re.Match[str]) -> str:
    digits = [int(c) for c in found[0] if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return "[card]" if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else found[0]
