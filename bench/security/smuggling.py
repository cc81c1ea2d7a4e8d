"""Forged webhooks by their framing: where one request ends and the next begins, and bodies that never end.

Each carries a second request that a careless server, or the proxy before it, would take for one of its own; the outer
one is well signed where that makes it more tempting. Source: RFC 9112, sections 2.2, 5 and 6.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

from bench.security.door import PATH, Due, Piece, Vector, chunked, request
from bench.security.forge import Change, Forge, event

LINE = b"POST " + PATH.encode() + b" HTTP/1.1"


def smuggled(forge: Forge) -> list[Vector]:
    """All of them but the slow ones."""
    return [*_lengths(forge), *_codings(forge), *_chunks(forge), *_lines(forge), *_requests(forge)]


def slow(forge: Forge) -> list[Vector]:
    """Bodies and headers that take their time; each keeps a connection for as long as the server lets it."""
    return list(_slow(forge))


def _inner(forge: Forge, mark: str) -> bytes:
    """A request within a request, signed by nobody."""
    body = event(mark)
    return request(forge.headers(body, signature=b"A" * 43 + b"="), body)


def _framed(
    forge: Forge, name: str, more: list[tuple[bytes, bytes]], sent: bytes, body: bytes, mark: str
) -> Vector:
    """A well signed request for `body`, with these headers, whose bytes are `sent`; a smuggled one follows."""
    inside = forge.mark()
    head = request([*forge.headers(body), *more], b"", length=False)
    return Vector(f"framing: {name}", (head + sent + _inner(forge, inside),), (mark, inside))


def _lengths(forge: Forge) -> Iterator[Vector]:
    for name, values in {
        "two lengths": ["{n}", "0"],
        "the same length twice": ["{n}", "{n}"],
        "a list of lengths": ["{n}, {n}"],
        "a signed length": ["+{n}"],
        "a negative length": ["-1"],
        "a hexadecimal length": ["0x10"],
        "a length with a space": ["1 0"],
        "a length with an underscore": ["1_0"],
        "a length in another script": ["\u0661\u0660"],
        "a length of 300 digits": ["9" * 300],
        "an empty length": [""],
        "a length with a fraction": ["{n}.0"],
    }.items():
        mark = forge.mark()
        body = event(mark)
        headers = [(b"content-length", value.replace("{n}", str(len(body))).encode()) for value in values]
        yield _framed(forge, name, headers, body, body, mark)


def _codings(forge: Forge) -> Iterator[Vector]:
    for name, values in {
        "length and chunks": [b"chunked"],
        "xchunked": [b"xchunked"],
        "chunked, identity": [b"chunked, identity"],
        "identity": [b"identity"],
        "two codings, the second odd": [b"chunked", b"identity"],
        "chunked twice": [b"chunked, chunked"],
        "chunked with a vertical tab": [b"\x0bchunked"],
        "chunked with quotes": [b'"chunked"'],
        "chunked after a comma": [b",chunked"],
        "chunked on a folded line": [b"\r\n chunked"],
        "chunked, then a semicolon": [b"chunked;q=1"],
        "gzip, chunked": [b"gzip, chunked"],
    }.items():
        mark = forge.mark()
        body = event(mark)
        packed = gzip.compress(body) if name.startswith("gzip") else body
        sent = chunked(packed)
        headers = [(b"content-length", str(len(sent)).encode())]
        headers += [(b"transfer-encoding", value) for value in values]
        yield _framed(forge, name, headers, sent, packed, mark)
    for name, header in {
        "a space before the colon": b"transfer-encoding : chunked",
        "an underscore in the coding's name": b"transfer_encoding: chunked",
        "a NUL in the coding's name": b"transfer\0-encoding: chunked",
    }.items():
        mark = forge.mark()
        body = event(mark)
        head = request([*forge.headers(body), (b"content-length", b"4")], b"", length=False)
        head = head.replace(b"content-length", header + b"\r\ncontent-length", 1)
        inside = forge.mark()
        yield Vector(f"framing: {name}", (head + chunked(body) + _inner(forge, inside),), (mark, inside))


def _chunks(forge: Forge) -> Iterator[Vector]:
    makers: dict[str, Change] = {
        "a chunk's size after 0x": lambda body: b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        "a negative chunk": lambda body: b"-1\r\n%s\r\n0\r\n\r\n" % body,
        "a signed chunk": lambda body: b"+%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        "a chunk's size with a space": lambda body: b"%x \r\n%s\r\n0\r\n\r\n" % (len(body), body),
        "a chunk of 2^64 bytes": lambda body: b"10000000000000000\r\n%s\r\n0\r\n\r\n" % body,
        "a chunk's size of 5,000 digits": lambda body: b"0" * 5_000 + b"1\r\nx\r\n0\r\n\r\n",
        "chunks by bare line feeds": lambda body: b"%x\n%s\n0\n\n" % (len(body), body),
        "a chunk without its end": lambda body: b"%x\r\n%sXX0\r\n\r\n" % (len(body), body),
        "a chunk's extension with a line feed": lambda body: (
            b"%x;a\nb\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        ),
        "100 KiB in chunks": lambda body: chunked(*[b" " * 1024] * 100),
    }
    for name, make in makers.items():
        mark = forge.mark()
        body = event(mark)
        # Taken apart as it should be it is well signed, so it is harmless if it is taken, once and alone.
        lenient = name in ("a chunk's size with a space", "a chunk's extension with a line feed")
        signature = b"AAAA" if lenient else None
        head = request(
            [*forge.headers(body, signature=signature), (b"transfer-encoding", b"chunked")], b"", length=False
        )
        inside = forge.mark()
        yield Vector(f"framing: {name}", (head + make(body) + _inner(forge, inside),), (mark, inside))
    mark = forge.mark()
    body = event(mark)
    head = request(
        [
            *forge.headers(body, x_webhook_signature=None),
            (b"transfer-encoding", b"chunked"),
            (b"trailer", b"x-webhook-signature"),
        ],
        b"",
        length=False,
    )
    sent = b"%x\r\n%s\r\n0\r\nx-webhook-signature: %s\r\n\r\n" % (len(body), body, forge.sign(body))
    yield Vector("framing: the signature in a trailer", (head + sent,), (mark,))


def _lines(forge: Forge) -> Iterator[Vector]:
    changes: dict[str, Change] = {
        "a header with a bare carriage return": lambda raw: raw.replace(
            b"x-webhook-attempt: 1", b"x-a: 1\rx-b: 2"
        ),
        "a header with a NUL": lambda raw: raw.replace(b"x-webhook-attempt: 1", b"x-a: a\0b"),
        "a folded header": lambda raw: raw.replace(b"x-webhook-attempt: 1", b"x-a: a\r\n b"),
        "a folded signature": lambda raw: raw.replace(b"x-webhook-signature: ", b"x-webhook-signature:\r\n "),
        "a header without a colon": lambda raw: raw.replace(b"x-webhook-attempt: 1", b"x-webhook-attempt"),
        "a header without a name": lambda raw: raw.replace(b"x-webhook-attempt: 1", b": 1"),
        "a space before a colon": lambda raw: raw.replace(b"x-webhook-signature:", b"x-webhook-signature :"),
        "a space before the first header": lambda raw: raw.replace(b"Host:", b" Host:"),
        "two hosts": lambda raw: raw.replace(b"Host:", b"Host: a\r\nHost:"),
        "a header of 100 KiB": lambda raw: raw.replace(b"attempt: 1", b"attempt: " + b"1" * 100_000),
        "2,000 headers": lambda raw: raw.replace(
            b"Host:", b"".join(b"x-%d: 1\r\n" % n for n in range(2000)) + b"Host:"
        ),
        "HTTP/2's preface": lambda raw: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw,
        "HTTP/1.9": lambda raw: raw.replace(b"HTTP/1.1", b"HTTP/1.9", 1),
        "HTTP/9": lambda raw: raw.replace(b"HTTP/1.1", b"HTTP/9", 1),
        "no version": lambda raw: raw.replace(b" HTTP/1.1", b"", 1),
        "bytes before it": lambda raw: b"\0\xff\x16\x03\x01" + raw,
    }
    for name, change in changes.items():
        mark = forge.mark()
        body = event(mark)
        raw = change(request(forge.headers(body), body))
        # Some of these a server may read as they are meant; what is well signed then is no forgery. So sign only what must fail.
        if name in ("two hosts", "HTTP/1.9"):
            raw = raw.replace(forge.sign(body), b"AAAA")
        yield Vector(f"lines: {name}", (raw,), (mark,))
    bare: dict[str, Change] = {
        "line feeds alone": lambda raw: raw.replace(b"\r\n", b"\n"),
        "a line feed alone in a header": lambda raw: raw.replace(b"x-webhook-attempt: 1", b"x-a: 1\nx-b: 2"),
    }
    for name, change in bare.items():
        mark, inside = forge.mark(), forge.mark()
        body = event(mark)
        raw = request(forge.headers(body, signature=b"AAAA"), body)
        yield Vector(f"lines: {name}", (change(raw) + _inner(forge, inside),), (mark, inside))


def _requests(forge: Forge) -> Iterator[Vector]:
    """Other ways to name the same door, unsigned; and the door behind another's back."""
    for name, line in {
        "a slash after it": LINE.replace(b"cashfree", b"cashfree/"),
        "two slashes before it": LINE.replace(b"/v1", b"//v1"),
        "a letter per cent": LINE.replace(b"cashfree", b"%63ashfree"),
        "dots on the way": LINE.replace(b"/v1/", b"/v1/x/../"),
        "in capitals": LINE.replace(b"cashfree", b"CASHFREE"),
        "an absolute address": LINE.replace(b"/v1", b"http://evil.example/v1"),
        "a fragment": LINE.replace(b"cashfree", b"cashfree#x"),
        "by GET": LINE.replace(b"POST", b"GET"),
        "by PUT": LINE.replace(b"POST", b"PUT"),
        "by a method in small letters": LINE.replace(b"POST", b"post"),
        "by a method of its own": LINE.replace(b"POST", b"FORGE"),
    }.items():
        mark = forge.mark()
        body = event(mark)
        yield Vector(
            f"request: {name}", (request(forge.headers(body, signature=b"AAAA"), body, line=line),), (mark,)
        )
    mark, inside = forge.mark(), forge.mark()
    body = event(mark)
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    yield Vector("request: behind another on one connection", (first + _inner(forge, inside),), (inside,))
    through = request([(b"x-http-method-override", b"POST"), *forge.headers(body, signature=b"AAAA")], body)
    yield Vector("request: a method overridden", (through.replace(b"POST", b"GET", 1),), (mark,))
    mark = forge.mark()
    body = event(mark)
    near = [
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"forwarded", b"for=52.66.101.190"),
        (b"x-real-ip", b"52.66.101.190"),
    ]
    yield Vector(
        "request: says that the gateway sent it",
        (request([*forge.headers(body, signature=b"AAAA"), *near], body),),
        (mark,),
    )


def _slow(forge: Forge) -> Iterator[Vector]:
    def drip(head: bytes, body: bytes) -> tuple[Piece, ...]:
        parts: list[Piece] = [head]
        for at in range(len(body)):
            parts += [body[at : at + 1], 0.5]
        return tuple(parts)

    patience_s = 30.0
    mark = forge.mark()
    body = event(mark)
    whole = request(forge.headers(body), body)
    head = whole[: -len(body)]
    yield Vector(
        "slow: a byte of the body each half second", drip(head, body), (mark,), Due.REFUSED, patience_s
    )
    mark = forge.mark()
    body = event(mark)
    whole = request(forge.headers(body), body)
    yield Vector("slow: a body that stops", (whole[:-10],), (mark,), Due.REFUSED, patience_s)
    mark = forge.mark()
    body = event(mark)
    head = request([*forge.headers(body), (b"transfer-encoding", b"chunked")], b"", length=False)
    yield Vector(
        "slow: chunks that never end",
        (head + b"%x\r\n%s\r\n" % (len(body), body),),
        (mark,),
        Due.REFUSED,
        patience_s,
    )
    mark = forge.mark()
    body = event(mark)
    whole = request(forge.headers(body), body)
    yield Vector("slow: headers that never end", drip(b"", whole[:60]), (mark,), Due.REFUSED, patience_s)
    mark = forge.mark()
    body = event(mark)
    whole = request(forge.headers(body), body)
    yield Vector("slow: left in the middle", (whole[:-10], 0.2), (mark,), Due.REFUSED, 0.1)
