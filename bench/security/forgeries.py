"""Forged webhooks by what is wrong with their signature, their time, their headers or their body. Framing is in `smuggling`."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Iterator
from typing import Final

from bench.security.door import Due, Vector, request
from bench.security.forge import DAY_MS, Change, Forge, bare, digest, event, flipped, rewritten

LIMIT: Final = 64 * 1024
BOMB_BYTES: Final = 16 * 1024 * 1024
_B64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def forgeries(forge: Forge, *, retired: bytes, sandbox: bytes, client_id: bytes) -> list[Vector]:
    """All of them; none of these three secrets counts."""
    return [
        *_secrets(
            forge, {"a retired": retired, "the other environment's": sandbox, "the client id as": client_id}
        ),
        *_signatures(forge),
        *_spellings(forge),
        *_times(forge),
        *_headers(forge),
        *_bodies(forge),
        *_charsets(forge),
        *_encodings(forge),
        *_signed_but_odd(forge),
    ]


def _secrets(forge: Forge, named: dict[str, bytes]) -> Iterator[Vector]:
    own = forge.secret
    others = named | {
        "a wrong": b"wrong-secret-of-nobody",
        "an empty": b"",
        "half of the": own[: len(own) // 2],
        "the (in capitals)": own.swapcase(),
        "the (and a line feed)": own + b"\n",
    }
    for name, secret in others.items():
        mark = forge.mark()
        yield forge.signed(f"{name} secret", mark, forge.sign(event(mark), secret=secret))


def _signatures(forge: Forge) -> Iterator[Vector]:
    stamp = forge.stamp.encode()
    makers: dict[str, Change] = {
        "SHA-1 instead": lambda body: digest("sha1", forge.secret, stamp + body),
        "SHA-512 instead": lambda body: digest("sha512", forge.secret, stamp + body),
        "MD5 instead": lambda body: digest("md5", forge.secret, stamp + body),
        "a hash without a key": lambda body: bare("sha256", stamp + body),
        "the secret before the text, hashed": lambda body: bare("sha256", forge.secret + stamp + body),
        "of the body alone": lambda body: digest("sha256", forge.secret, body),
        "of the time alone": lambda body: digest("sha256", forge.secret, stamp),
        "of body, then time": lambda body: digest("sha256", forge.secret, body + stamp),
        "of time, a dot, body": lambda body: digest("sha256", forge.secret, stamp + b"." + body),
        "of nothing": lambda body: digest("sha256", forge.secret, b""),
        "of another's body": lambda body: forge.sign(event(forge.mark())),
        "of another time": lambda body: forge.sign(body, stamp=str(forge.now_ms - 1)),
        "of the JSON written anew": lambda body: forge.sign(rewritten(body)),
        "empty": lambda body: b"",
        "one letter": lambda body: b"A",
        "of zeros": lambda body: b"A" * 43 + b"=",
        "of 6,000 letters": lambda body: b"A" * 6_000,
    }
    for name, make in makers.items():
        mark = forge.mark()
        yield forge.signed(f"signature {name}", mark, make(event(mark)))
    for at in (0, 20, 41):
        mark = forge.mark()
        yield forge.signed(f"signature with bit {8 * at} flipped", mark, flipped(forge.sign(event(mark)), at))
    for at in (0, 40, 200, -2):
        mark = forge.mark()
        body = event(mark)
        changed = flipped(body, at, 2 if at else 32)
        yield forge.signed(f"body with a bit of byte {at} flipped", mark, forge.sign(body), changed)


def _spellings(forge: Forge) -> Iterator[Vector]:
    """The right bytes in another base64."""

    def bits(good: bytes) -> bytes:
        return good[:-2] + bytes([_B64[_B64.index(good[-2]) ^ 1]]) + b"="

    spellings: dict[str, Change] = {
        "without its padding": lambda good: good.rstrip(b"="),
        "with more padding": lambda good: good + b"===",
        "with padding within": lambda good: good[:4] + b"=" + good[4:],
        "with a space within": lambda good: good[:10] + b" " + good[10:],
        "with a tab within": lambda good: good[:10] + b"\t" + good[10:],
        "with other trailing bits": bits,
        "in the other alphabet": lambda good: good.replace(b"+", b"-").replace(b"/", b"_").replace(b"=", b""),
        "in hexadecimal": lambda good: base64.b64decode(good).hex().encode(),
        "encoded twice": lambda good: base64.b64encode(good),
        "in quotes": lambda good: b'"' + good + b'"',
        "after sha256=": lambda good: b"sha256=" + good,
        "per cent": lambda good: good.replace(b"=", b"%3D"),
        "in small letters": lambda good: good.lower(),
        "twice, by a comma": lambda good: good + b", " + good,
        "a bad one before it": lambda good: b"AAAA," + good,
        "a letter beyond ASCII after it": lambda good: good + b"\xe9",
        "in letters of full width": lambda good: "".join(chr(c + 0xFEE0) for c in good).encode(),
    }
    for name, spell in spellings.items():
        mark = forge.mark()
        yield forge.signed(f"signature {name}", mark, spell(forge.sign(event(mark))))


def _times(forge: Forge) -> Iterator[Vector]:
    now = forge.now_ms
    arabic = "".join(chr(0x0660 + int(digit)) for digit in str(now)).encode()
    wide = "".join(chr(0xFF10 + int(digit)) for digit in str(now)).encode()
    refused: dict[str, bytes] = {
        "in seconds": str(now // 1000).encode(),
        "in microseconds": str(now * 1000).encode(),
        "six minutes ahead": str(now + 6 * 60_000).encode(),
        "a day ahead": str(now + DAY_MS).encode(),
        "at the end of time": b"9999999999999",
        "negative": b"-" + str(now).encode()[1:],
        "with a plus": b"+" + str(now).encode()[1:],
        "of twelve digits": str(now).encode()[:12],
        "of fourteen digits": str(now).encode() + b"0",
        "a fraction": str(now // 1000).encode() + b".00",
        "an exponent": b"1.7000000e012",
        "hexadecimal": b"0x18bcfe56800",
        "a word": b"now",
        "a date": b"2026-11-23T11:00:00Z",
        "with underscores": b"1_7000_000_00",
        "in Arabic digits": arabic,
        "in digits of full width": wide,
        "with a space within": str(now).encode()[:6] + b" " + str(now).encode()[6:],
        "empty": b"",
        "twice in one": str(now).encode() + b"," + str(now).encode(),
    }
    for name, stamp in refused.items():
        mark = forge.mark()
        body = event(mark)
        yield forge.vector(f"time {name}, well signed", mark, request(forge.headers(body, stamp=stamp), body))
    stale = {
        "six minutes old": now - 6 * 60_000,
        "a day old": now - DAY_MS,
        "a year old": now - 365 * DAY_MS,
        "of 1970": 1,
    }
    for name, then in stale.items():
        stamp = f"{then:013d}".encode()
        mark = forge.mark()
        body = event(mark)
        yield forge.vector(
            f"time {name}, well signed: stale",
            mark,
            request(forge.headers(body, stamp=stamp), body),
            due=Due.STALE,
        )
        mark = forge.mark()
        body = event(mark)
        wrong = forge.headers(body, stamp=stamp, signature=forge.sign(body))
        yield forge.vector(f"time {name}, signed as of now", mark, request(wrong, body))
    mark = forge.mark()
    body = event(mark)
    yield forge.vector("time missing", mark, request(forge.headers(body, x_webhook_timestamp=None), body))
    for name, (stamp, moved) in {
        "a digit of the time before the body": (forge.stamp[:12].encode(), forge.stamp[12:].encode()),
        "the time's last three before the body": (forge.stamp[:10].encode(), forge.stamp[10:].encode()),
        "the whole time before the body": (b"", forge.stamp.encode()),
    }.items():
        mark = forge.mark()
        body = event(mark)
        headers = forge.headers(moved + body, stamp=stamp, signature=forge.sign(body))
        yield forge.vector(f"boundary: {name}", mark, request(headers, moved + body))
    mark = forge.mark()
    body = event(mark)
    taken = forge.headers(body[1:], stamp=forge.stamp.encode() + b"{", signature=forge.sign(body))
    yield forge.vector("boundary: the brace behind the time", mark, request(taken, body[1:]))


def _headers(forge: Forge) -> Iterator[Vector]:
    good = forge.sign
    doubles: dict[str, tuple[bytes, bytes, bytes]] = {
        "signature, good then bad": (b"x-webhook-signature", b"", b"AAAA"),
        "signature, bad then good": (b"x-webhook-signature", b"AAAA", b""),
        "signature, good twice": (b"x-webhook-signature", b"", b""),
        "signature, in another case": (b"X-WEBHOOK-SIGNATURE", b"", b""),
        "time twice": (b"x-webhook-timestamp", b"", b""),
        "time, then another": (b"x-webhook-timestamp", b"", str(forge.now_ms + 1).encode()),
        "version twice": (b"x-webhook-version", b"", b"2022-09-01"),
        "type twice": (b"content-type", b"", b"text/plain"),
    }
    for name, (header, first, second) in doubles.items():
        mark = forge.mark()
        body = event(mark)
        headers = []
        for key, value in forge.headers(body):
            same = key == header.lower()
            headers.append((key, first if same and first else value))
            if same:
                headers.append((header, second or value))
        yield forge.vector(f"header {name}", mark, request(headers, body))
    odd: dict[str, dict[str, bytes | None]] = {
        "signature missing": {"x_webhook_signature": None},
        "signature elsewhere": {"x_webhook_signature": None, "x_signature": b"@"},
        "time beyond ASCII": {"x_webhook_timestamp": forge.stamp.encode() + b"\xff"},
        "type missing": {"content_type": None},
        "type text": {"content_type": b"text/plain"},
        "type a form": {"content_type": b"application/x-www-form-urlencoded"},
        "type of many parts": {"content_type": b"multipart/form-data; boundary=x"},
        "type beyond ASCII": {"content_type": b"application/json\xc3\xa9"},
    }
    for name, more in odd.items():
        mark = forge.mark()
        body = event(mark)
        sent = {key: good(body) if value == b"@" else value for key, value in more.items()}
        yield forge.vector(f"header {name}", mark, request(forge.headers(body, **sent), body))
    mark = forge.mark()
    body = event(mark)
    names = [(key.replace(b"-", b"_"), value) for key, value in forge.headers(body)]
    yield forge.vector("headers with underscores", mark, request(names, body))
    mark = forge.mark()
    body = event(mark)
    line = (
        b"POST /v1/webhooks/cashfree?x-webhook-signature=" + good(body).replace(b"+", b"%2B") + b" HTTP/1.1"
    )
    yield forge.vector(
        "signature in the query",
        mark,
        request(forge.headers(body, x_webhook_signature=None), body, line=line),
    )


def _bodies(forge: Forge) -> Iterator[Vector]:
    """Other bytes under the genuine signature."""
    changes: dict[str, Change] = {
        "written anew": rewritten,
        "170.00 as 170": lambda body: body.replace(b"170.00", b"170"),
        "a higher amount": lambda body: body.replace(b"170.00", b"970.00"),
        "a space after it": lambda body: body + b" ",
        "a line feed after it": lambda body: body + b"\n",
        "a NUL after it": lambda body: body + b"\0",
        "a space before it": lambda body: b" " + body,
        "a second object after it": lambda body: body + b"{}",
        "letters escaped": lambda body: body.replace(b"SUCCESS", b"\\u0053UCCESS"),
        "a comment in it": lambda body: body.replace(b"{", b"{/**/", 1),
        "cut short": lambda body: body[:-20],
        "nothing": lambda body: b"",
        "braces alone": lambda body: b"{}",
        "a key added": lambda body: body[:-1] + b',"type":"PAYMENT_SUCCESS_WEBHOOK"}',
    }
    for name, change in changes.items():
        mark = forge.mark()
        body = event(mark)
        yield forge.signed(f"body: {name}", mark, forge.sign(body), change(body))


def _charsets(forge: Forge) -> Iterator[Vector]:
    """The text's signature over another encoding of it, said and not said."""
    for charset in ("utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig", "cp037"):
        mark = forge.mark()
        body = event(mark)
        other = body.decode().encode(charset)
        if other == body:
            other = body.replace(b"{", b"+AHs-")
        for said in (b"application/json", b"application/json; charset=" + charset.encode()):
            how = "said" if b";" in said else "not said"
            yield forge.signed(f"body in {charset}, {how}", mark, forge.sign(body), other, content_type=said)


def _encodings(forge: Forge) -> Iterator[Vector]:
    """Compressed bodies, signed before and after; and bombs."""
    deflated: Change = zlib.compress
    zipped: Change = gzip.compress
    # `br` and `zstd` need not be real: nobody may look.
    makers = {
        "gzip": zipped,
        "x-gzip": zipped,
        "deflate": deflated,
        "br": deflated,
        "zstd": deflated,
    }
    for coding, make in makers.items():
        for which in ("before", "after"):
            mark = forge.mark()
            body = event(mark)
            packed = make(body)
            signature = forge.sign(body if which == "before" else packed)
            yield forge.signed(
                f"{coding}, signed {which}", mark, signature, packed, content_encoding=coding.encode()
            )
    for said in (b"gzip, identity", b"identity, gzip", b"GZIP", b"identity;q=0, gzip", b"unknown", b""):
        mark = forge.mark()
        body = event(mark)
        packed = gzip.compress(body)
        name = f"Content-Encoding {said.decode()!r}"
        yield forge.signed(name, mark, forge.sign(packed), packed, content_encoding=said)
    mark = forge.mark()
    body = event(mark)
    twice = [*forge.headers(body), (b"content-encoding", b"identity"), (b"content-encoding", b"gzip")]
    yield forge.vector("Content-Encoding twice", mark, request(twice, body))
    for coding, make in (("gzip", zipped), ("deflate", deflated)):
        mark = forge.mark()
        bomb = make(event(mark)[:-1] + b',"x":"' + bytes(BOMB_BYTES) + b'"}')
        yield forge.signed(
            f"a bomb of {coding}", mark, forge.sign(bomb), bomb, content_encoding=coding.encode()
        )
        yield forge.signed(f"a bomb of {coding}, not said", mark, forge.sign(bomb), bomb)
    mark = forge.mark()
    body = event(mark)
    large = body[:-1] + b',"x":"' + b"x" * (LIMIT + 1 - len(body) - 7) + b'"}'
    yield forge.signed(f"a body of {len(large)} bytes, well signed", mark, forge.sign(large), large)


def _signed_but_odd(forge: Forge) -> Iterator[Vector]:
    """The gateway's own signature over what it would never send: kept for a person, acted on by nobody."""
    changes: dict[str, Change] = {
        "a key twice": lambda body: body[:-1] + b',"type":"PAYMENT_SUCCESS_WEBHOOK"}',
        "a payment twice": lambda body: body.replace(b'"payment":', b'"payment":{},"payment":', 1),
        "an amount NaN": lambda body: body.replace(b"170.00", b"NaN"),
        "an amount Infinity": lambda body: body.replace(b"170.00", b"Infinity"),
        "an amount of 400 digits": lambda body: body.replace(b"170.00", b"9" * 400),
        "a negative amount": lambda body: body.replace(b"170.00", b"-170.00"),
        "nested 20,000 deep": lambda body: body[:-1] + b',"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        "a lone surrogate": lambda body: body.replace(b"SUCCESS", b"\\ud800"),
        "a NUL escaped": lambda body: body.replace(b'"upi_id":"asha', b'"upi_id":"\\u0000'),
        "not UTF-8": lambda body: body.replace(b"asha", b"\xff\xfe"),
        "a second object after it": lambda body: body + b"{}",
        "cut short": lambda body: body[:-20],
        "braces alone": lambda body: b"{}",
        "a list": lambda body: b"[" + body + b"]",
        "utf-16": lambda body: body.decode().encode("utf-16-le"),
    }
    for name, change in changes.items():
        mark = forge.mark()
        body = change(event(mark))
        due = Due.REFUSED if name == "a list" else Due.PARKED
        yield forge.vector(f"well signed, {name}", mark, request(forge.headers(body), body), due=due)
