"""Stream messages as AMQP 1.0, so that RabbitMQ's other clients read what we write, and we what they write.

What we write has one fixed layout, read back on a fast path: an application-properties section with `key`
and the headers (text to text), then one data section with the value. A tombstone has an amqp-value section
holding null instead, so it differs from an empty value. Any other AMQP 1.0 message goes through rstream's
decoder, and what is no AMQP message at all is returned as its bytes, marked malformed.

Source: OASIS AMQP 1.0, part 1 (types) and part 3.2 (message format).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from rstream import amqp_decoder

KEY = "key"
_PROPERTIES = b"\x00\x53\x74"
_DATA = b"\x00\x53\x75"
_TOMBSTONE = b"\x00\x53\x77\x40"
_MAP8, _MAP32, _STR8, _STR32, _BIN8, _BIN32 = 0xC1, 0xD1, 0xA1, 0xB1, 0xA0, 0xB0
_U32 = struct.Struct(">I")
_MAP32_HEAD = struct.Struct(">BII")
_SHORT_HEAD = struct.Struct(">BB")
_LONG_HEAD = struct.Struct(">BI")
_KEY_NAME = b"\xa1\x03key"
_KEY_ONLY = b"\x02" + _KEY_NAME + b"\xa1"
_MAP8_START = _PROPERTIES + b"\xc1"
_DATA8, _DATA32 = _DATA + b"\xa0", _DATA + b"\xb0"
_SECTION = b"\x00\x53"
_DESCRIBED = 0x00
_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
"""Bytes of an item by the first half of its constructor, where it is fixed."""
_DEEPEST = 32
_new = tuple.__new__


class Fields(NamedTuple):
    """What a message says: see `Record`."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    malformed: bool = False


def _text(raw: bytes) -> bytes:
    return (_SHORT_HEAD.pack(_STR8, len(raw)) if len(raw) < 256 else _LONG_HEAD.pack(_STR32, len(raw))) + raw


def _binary(raw: bytes) -> bytes:
    return (_SHORT_HEAD.pack(_BIN8, len(raw)) if len(raw) < 256 else _LONG_HEAD.pack(_BIN32, len(raw))) + raw


def encode(key: bytes | None, value: bytes | None, headers: Mapping[str, str] | None = None) -> bytes:
    """One message. A key that is no UTF-8 is written as binary; `value` None is a tombstone.

    Errors: ValueError for a header named `key`, which is where the key itself lies.
    """
    count, packed = 0, b""
    if key is not None:
        packed, count = _KEY_NAME + (_text(key) if _is_utf8(key) else _binary(key)), 2
    if headers:
        if KEY in headers:
            raise ValueError("a header cannot be named 'key'")
        packed += b"".join(_text(name.encode()) + _text(text.encode()) for name, text in headers.items())
        count += 2 * len(headers)
    if value is None:
        body = _TOMBSTONE
    elif len(value) < 256:
        body = _DATA + _SHORT_HEAD.pack(_BIN8, len(value)) + value
    else:
        body = _DATA + _LONG_HEAD.pack(_BIN32, len(value)) + value
    if not count:
        return body
    if len(packed) < 255 and count < 256:
        return b"%b\xc1%c%c%b%b" % (_PROPERTIES, len(packed) + 1, count, packed, body)
    return _PROPERTIES + _MAP32_HEAD.pack(_MAP32, len(packed) + 4, count) + packed + body


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def decode(raw: bytes) -> Fields:
    """Key, value and headers of one message. Never raises: what makes no sense is returned as malformed."""
    try:
        if raw.startswith(_MAP8_START) and raw[5:12] == _KEY_ONLY:
            # by far the most: a short text key and no header
            end = 13 + raw[12]
            kind = raw[end : end + 4]
            if raw[4] == end - 5:
                if kind == _DATA32 and len(raw) == end + 8 + _U32.unpack_from(raw, end + 4)[0]:
                    return _new(Fields, (raw[13:end], raw[end + 8 :], {}, False))
                if kind == _DATA8 and len(raw) == end + 5 + raw[end + 4]:
                    return _new(Fields, (raw[13:end], raw[end + 5 :], {}, False))
        fields = _decode_fixed(raw)
        if fields is not None:
            return fields
    except (IndexError, struct.error, UnicodeDecodeError):
        return _decode_any(raw)
    return _decode_any(raw)


def _decode_fixed(raw: bytes) -> Fields | None:
    """The layout `encode` writes; None if the message has any other."""
    key: bytes | None = None
    headers: dict[str, str] = {}
    at = 0
    if raw.startswith(_PROPERTIES):
        kind = raw[3]
        if kind == _MAP8:
            end, count, at = 5 + raw[4], raw[5], 6
        elif kind == _MAP32:
            _, size, count = _MAP32_HEAD.unpack_from(raw, 3)
            end, at = 8 + size, 12
        else:
            return None
        for _ in range(count // 2):
            if raw[at] != _STR8:
                return None
            split = at + 2 + raw[at + 1]
            name = raw[at + 2 : split]
            kind = raw[split]
            if kind == _STR8 or (kind == _BIN8 and name == b"key"):
                at = split + 2 + raw[split + 1]
                item = raw[split + 2 : at]
            elif kind == _STR32 or (kind == _BIN32 and name == b"key"):
                at = split + 5 + _U32.unpack_from(raw, split + 1)[0]
                item = raw[split + 5 : at]
            else:
                return None
            if name == b"key":
                key = item
            else:
                headers[name.decode()] = item.decode()
        if at != end:
            return None
    if raw[at : at + 3] == _DATA:
        if raw[at + 3] == _BIN32:
            start = at + 8
            size = _U32.unpack_from(raw, at + 4)[0]
        elif raw[at + 3] == _BIN8:
            start = at + 5
            size = raw[at + 4]
        else:
            return None
        return Fields(key, raw[start:], headers) if start + size == len(raw) else None
    return Fields(key, None, headers) if raw[at:] == _TOMBSTONE else None


def _decode_any(raw: bytes) -> Fields:
    """Any AMQP 1.0 message, through rstream's decoder, which raises anything at all on what is none."""
    try:
        _walk(raw)
        message = amqp_decoder(raw)
        properties = message.application_properties or {}
        key = properties.pop(KEY.encode(), None)
        headers = {_plain(name): _plain(item) for name, item in properties.items()}
        value = _body(message)
    except Exception:  # whatever it raised, the answer is the same
        return Fields(None, raw, {}, malformed=True)
    return Fields(
        None if key is None else key if isinstance(key, bytes) else str(key).encode(), value, headers
    )


def _walk(raw: bytes) -> None:
    """Go through the sections, and find each whole. rstream's decoder makes room for as many items as a list or an array
    says it has, before it looks for them, and believes no size: twelve bytes of a stranger's would take all memory.

    Errors: ValueError, IndexError, struct.error for what is no message.
    """
    if not raw:
        raise ValueError("no section at all")
    at = 0
    while at < len(raw):
        if raw[at : at + 2] != _SECTION:
            raise ValueError("a section begins with a small descriptor")
        at = _value_end(raw, at + 3, 0)
    if at != len(raw):
        raise ValueError("a value ends beyond the message")


def _value_end(raw: bytes, at: int, depth: int) -> int:
    """The offset after the value whose constructor is at `at`. Errors: as `_walk`."""
    if depth > _DEEPEST:
        raise ValueError("the nesting is deeper than any real message")
    if raw[at] != _DESCRIBED:
        return _item_end(raw, raw[at], at + 1, depth)
    return _value_end(raw, _value_end(raw, at + 1, depth + 1), depth + 1)


def _item_end(raw: bytes, constructor: int, at: int, depth: int) -> int:
    """The offset after the item at `at`, made by this constructor. Errors: as `_walk`."""
    shape = constructor >> 4
    if shape in _WIDTHS:
        return at + _WIDTHS[shape]
    if shape == 0xA:
        return at + 1 + raw[at]
    if shape == 0xB:
        return int(at + 4 + _U32.unpack_from(raw, at)[0])
    if shape in (0xC, 0xE):
        end, count, at = at + 1 + raw[at], raw[at + 1], at + 2
    elif shape in (0xD, 0xF):
        end, count, at = at + 4 + _U32.unpack_from(raw, at)[0], _U32.unpack_from(raw, at + 4)[0], at + 8
    else:
        raise ValueError("no such constructor")
    if end > len(raw) or count > end - at:
        raise ValueError("more items than bytes")
    if constructor in (_MAP8, _MAP32) and count % 2:
        raise ValueError("a name without a value")
    if shape >= 0xE and count:
        constructor, at = raw[at], at + 1
        for _ in range(count):
            at = _item_end(raw, constructor, at, depth + 1)
    elif shape < 0xE:
        for _ in range(count):
            at = _value_end(raw, at, depth + 1)
    if at != end:
        raise ValueError("a size that is not its items'")
    return int(end)


def _body(message: Any) -> bytes | None:
    if message.body is not None:
        return (
            b"".join(bytes(part) for part in message.body)
            if isinstance(message.body, list)
            else bytes(message.body)
        )
    value = message.value
    if value is None and message.sequence is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ValueError("the body is neither data nor text")


def _plain(item: object) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)
