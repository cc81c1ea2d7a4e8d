"""Strict JSON at the door: what a lenient reader would let pass is refused, with its reason.

A float where an integer belongs, an unknown field, NaN and bad UTF-8 are refused by the typed decoder. A
duplicate key is not: so what was decoded is encoded again, and only if that differs from the bytes (other
order, spaces) a slower scan looks for duplicates. NUL characters and numbers that PostgreSQL would change or
refuse are found in the values.
"""

import json
from typing import Any, Final, Generic, TypeVar

import msgspec

MAX_METADATA_BYTES: Final = 4096
MAX_DEPTH: Final = 8
MAX_NUMBER: Final = 2**53 - 1

T = TypeVar("T")
_encode: Final = msgspec.json.Encoder().encode


class Malformed(ValueError):
    """Bytes that are not what they should be; `code` is stable.

    Codes: malformed_json, duplicate_key, invalid_request, invalid_text, metadata_too_large.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Decoder(Generic[T]):
    """Reads one type."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, raw: bytes) -> T:
        """The value. Errors: Malformed."""
        try:
            value = self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise Malformed("invalid_request", str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed("malformed_json", str(error) or "nested too deeply") from error
        if _encode(value) != raw:
            refuse_duplicates(raw)
        if b"\\u0000" in raw:
            refuse_nul(value)
        return value


def refuse_duplicates(raw: bytes) -> None:
    """Find a key that an object has twice. Errors: Malformed."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) != len(items):
            names = [name for name, _ in items]
            name = next(n for n in names if names.count(n) > 1)
            raise Malformed("duplicate_key", f"the key {name!r:.80} comes twice in one object")
        return seen

    scan(raw, pairs)


def scan(raw: bytes, pairs: Any) -> Any:
    """Parse with a hook for every object. Errors: Malformed, and what the hook raises."""
    try:
        return json.loads(raw, object_pairs_hook=pairs)
    except Malformed:
        raise
    except RecursionError as error:
        raise Malformed("malformed_json", "nested too deeply") from error
    except ValueError as error:
        raise Malformed("malformed_json", str(error)) from error


def refuse_nul(value: object) -> None:
    """Find a NUL character, which PostgreSQL cannot store; raw parts are read later. Errors: Malformed."""
    if _has_nul(msgspec.to_builtins(value, builtin_types=(msgspec.Raw,))):
        raise Malformed("invalid_text", "a text has a NUL character")


def _has_nul(item: object) -> bool:
    if isinstance(item, str):
        return "\x00" in item
    if isinstance(item, dict):
        return any(_has_nul(key) or _has_nul(value) for key, value in item.items())
    return isinstance(item, list) and any(_has_nul(value) for value in item)


def check_metadata(metadata: dict[str, Any] | None) -> str | None:
    """The metadata as compact JSON that stays the same through `jsonb`. Errors: Malformed."""
    if metadata is None:
        return None
    _check_value(metadata, 1)
    encoded = _encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        raise Malformed(
            "metadata_too_large", f"metadata has {len(encoded)} bytes, more than {MAX_METADATA_BYTES}"
        )
    return encoded.decode()


def _check_value(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Malformed("invalid_request", f"metadata is nested more than {MAX_DEPTH} deep")
    if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise Malformed("invalid_request", f"a number in metadata is beyond {MAX_NUMBER}")
    if isinstance(value, str) and "\x00" in value:
        raise Malformed("invalid_text", "metadata has a NUL character")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_value(key, depth)
            _check_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)
