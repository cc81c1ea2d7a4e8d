"""Credentials that must not be accepted: what is known to have worked against somebody's JWTs, and what is merely odd."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from multidict import CIMultiDict

from bench.security.edge import Edge
from bench.security.issuer import AUDIENCE, ISSUER, Issuer, b64, part, public
from bench.security.world import good

PATH: Final = "/v1/packs"
"""What every attack asks for: every role may have it."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Headers to call with, and a query to add to the path."""

    name: str
    headers: CIMultiDict[str]
    query: str = ""


@dataclass(slots=True)
class Figures:
    """What the attacks came to; `misanswered` are refused, but not as a 401 problem."""

    jwt_attacks: int = 0
    jwt_accepted: int = 0
    misanswered: list[str] = field(default_factory=list)
    server_errors: int = 0


async def measure(edge: Edge, issuer: Issuer) -> Figures:
    """Every attack once, between two genuine calls. Errors: NotMade if a genuine one is refused."""
    admin = issuer.token(role="admin", sub="root")
    jti, subject = str(uuid4()), "dismissed"
    for said in ({"jti": jti}, {"subject": subject}):
        good(await edge.post("/v1/tokens/revoke", said, token=admin))
    genuine = issuer.token()
    figures = Figures()
    good(await edge.get(PATH, token=genuine))
    for attack in attacks(issuer, revoked_jti=jti, revoked_subject=subject, genuine=genuine):
        figures.jwt_attacks += 1
        status, kind, code = await _try(edge, attack)
        figures.jwt_accepted += status < 400
        figures.server_errors += status >= 500
        twice = len(attack.headers.getall("Authorization", [])) > 1
        wanted = (400, "repeated_header") if twice else (401, "unauthorised")
        if (status, kind, code) != (wanted[0], "application/problem+json", wanted[1]):
            figures.misanswered.append(f"{attack.name}: {status} {code}")
    good(await edge.get(PATH, token=genuine))
    return figures


async def _try(edge: Edge, attack: Attack) -> tuple[int, str, str]:
    """Status, type and code of the answer; who is told to wait, waits and tries again."""
    for _ in range(5):
        async with edge.http.get(f"{edge.url}{PATH}{attack.query}", headers=attack.headers) as response:
            if response.status != 429:
                body = await response.json() if "json" in response.content_type else {}
                return response.status, response.content_type, str(body.get("code", ""))
        await asyncio.sleep(min(10.0, float(response.headers.get("Retry-After", "1"))))
    return 429, "", "too_many_requests"


def attacks(issuer: Issuer, *, revoked_jti: str, revoked_subject: str, genuine: str) -> list[Attack]:
    """All of them. The revoked ones are revoked already; `genuine` is accepted when it comes properly."""
    before = int(time.time()) - 60
    tokens = [
        *_algorithms(issuer),
        *_headers(issuer),
        *_claims(issuer),
        *_kinds(issuer),
        *_forms(issuer, genuine),
        ("revoked jti", issuer.token(jti=revoked_jti)),
        ("revoked subject", issuer.token(sub=revoked_subject, iat=before)),
        ("revoked subject, another role", issuer.token(sub=revoked_subject, role="finance", iat=before)),
    ]
    sent = [Attack(name, CIMultiDict({"Authorization": f"Bearer {token}"})) for name, token in tokens]
    return [*sent, *_doors(genuine)]


def _algorithms(issuer: Issuer) -> Iterator[tuple[str, str]]:
    body = part(issuer.claims())
    genuine = issuer.token(
        key=issuer.rsa, alg="RS256", header={"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}
    )
    for name in ("none", "None", "NONE", "nOnE", ""):
        head = part({"alg": name, "typ": "at+jwt", "kid": "rsa"})
        yield f"alg {name!r}, no signature", f"{head}.{body}."
        yield f"alg {name!r}, a signature", f"{head}.{body}.{genuine.rpartition('.')[2]}"
    yield "alg missing", issuer.token({"typ": "at+jwt", "kid": "ed"})
    pem = public(issuer.rsa).encode()
    der = issuer.rsa.as_der(private=False)
    secrets = {"PEM": pem, "PEM, stripped": pem.strip(), "DER": der, "nothing": b"", "kid": b"rsa"}
    for alg, digest in (("HS256", hashlib.sha256), ("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
        for what, secret in secrets.items():
            head = part({"alg": alg, "typ": "at+jwt", "kid": "rsa"})
            mac = hmac.new(secret, f"{head}.{body}".encode(), digest).digest()
            yield f"{alg} keyed with {what}", f"{head}.{body}.{b64(mac)}"
    for alg in ("RS384", "RS512", "PS256"):
        yield (
            f"{alg} by the genuine key",
            issuer.token({"alg": alg, "typ": "at+jwt", "kid": "rsa"}, key=issuer.rsa, alg=alg),
        )
    crossed = {"alg": "RS256", "typ": "at+jwt", "kid": "ed"}
    yield "RS256 under the kid of another algorithm", issuer.token(crossed, key=issuer.rsa, alg="RS256")
    yield "EdDSA under the kid of another algorithm", issuer.token(crossed | {"alg": "EdDSA", "kid": "rsa"})
    yield (
        "a stranger's key",
        issuer.token(crossed | {"kid": "rsa"}, key=issuer.stranger, alg="RS256"),
    )


def _headers(issuer: Issuer) -> Iterator[tuple[str, str]]:
    good = {"alg": "EdDSA", "typ": "at+jwt", "kid": "ed"}
    for kid in (
        "unknown",
        "../../../dev/null",
        "' OR 1=1 --",
        "",
        0,
        None,
        ["ed"],
        {"kid": "ed"},
        "ed\x00",
        "ED",
    ):
        yield f"kid {kid!r}", issuer.token(good | {"kid": kid})
    yield "kid missing", issuer.token({"alg": "EdDSA", "typ": "at+jwt"})
    yield "kid of a key that is over", issuer.token(good | {"kid": "over"}, key=issuer.over)
    strange = issuer.stranger.as_dict(private=False)
    injected: dict[str, Any] = {
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/cert.pem",
        "jwk": strange,
        "x5c": ["MIIB"],
        "x5t": "AAAA",
        "crit": ["exp"],
        "b64": False,
        "zip": "DEF",
        "cty": "JWT",
        "enc": "A256GCM",
    }
    for name, value in injected.items():
        yield f"{name}, signed by the genuine key", issuer.token(good | {name: value})
        theirs = {"alg": "RS256", "typ": "at+jwt", "kid": "rsa", name: value}
        yield f"{name}, signed by a stranger", issuer.token(theirs, key=issuer.stranger, alg="RS256")
    yield "crit and b64", issuer.token(good | {"crit": ["b64"], "b64": False})
    yield "crit of something unknown", issuer.token(good | {"crit": ["x"], "x": 1})


def _claims(issuer: Issuer) -> Iterator[tuple[str, str]]:
    now = int(time.time())
    for name in ("iss", "aud", "sub", "exp", "iat", "jti", "role"):
        yield f"{name} missing", issuer.token(payload=issuer.claims(**{name: ...}))
        yield f"{name} null", issuer.token(payload=issuer.claims(**{name: None}))
    changed: dict[str, list[Any]] = {
        "exp": [now - 3600, now - 6, 0, -1, str(now + 600), now + 600.5, 10**30, [now + 600], True],
        "iat": [now + 3600, str(now), now - 10**6, now + 700],
        "nbf": [now + 3600, str(now), "soon"],
        "aud": [
            "another",
            "",
            [],
            ["another"],
            AUDIENCE[:-1],
            AUDIENCE.upper(),
            {"aud": AUDIENCE},
            f"{AUDIENCE} x",
        ],
        "iss": ["https://evil.example", "", ISSUER + "/", ISSUER.upper(), [ISSUER], ISSUER + ".evil.example"],
        "sub": ["", "a:b", "core:x", "*", "x" * 200, 17, "a b", "a\u0000b", "a\n"],
        "jti": ["", 5, "x" * 200],
        "role": ["developer", "nobody", "service", "root", "", ["admin"], "Admin", "admin "],
    }
    for name, values in changed.items():
        for value in values:
            yield f"{name} {value!r:.40}", issuer.token(**{name: value})
    yield "a customer who is no user id", issuer.token(role="customer", sub="asha")


def _kinds(issuer: Issuer) -> Iterator[tuple[str, str]]:
    good = {"alg": "EdDSA", "typ": "at+jwt", "kid": "ed"}
    for typ in ("rt+jwt", "refresh", "id+jwt", "logout+jwt", "JOSE", "dpop+jwt"):
        yield f"typ {typ}", issuer.token(good | {"typ": typ})
        yield f"typ {typ}, says access", issuer.token(good | {"typ": typ}, token_use="access")  # nosec B106
    for use in ("refresh", "id", "", "Access"):
        yield f"token_use {use!r} under at+jwt", issuer.token(good, token_use=use)
        yield f"token_use {use!r}", issuer.token(good | {"typ": "JWT"}, token_use=use)
    yield "typ JWT and no token_use", issuer.token(good | {"typ": "JWT"})
    yield "no typ and no token_use", issuer.token({"alg": "EdDSA", "kid": "ed"})


def _forms(issuer: Issuer, genuine: str) -> Iterator[tuple[str, str]]:
    head, body, signature = genuine.split(".")
    claims, good = issuer.claims(), {"alg": "EdDSA", "typ": "at+jwt", "kid": "ed"}
    flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
    yield "a flipped bit of the signature", f"{head}.{body}.{flipped}"
    yield "half a signature", f"{head}.{body}.{signature[: len(signature) // 2]}"
    yield "no signature", f"{head}.{body}."
    yield "two parts", f"{head}.{body}"
    yield "four parts", f"{genuine}.{signature}"
    yield "five parts, as a JWE has", f"{head}.{body}.{body}.{body}.{signature}"
    yield "another payload under the signature", f"{head}.{part(claims | {'role': 'admin'})}.{signature}"
    yield (
        "another header over the signature",
        f"{part(good | {'typ': 'application/at+jwt'})}.{body}.{signature}",
    )
    yield "padded base64", f"{head}.{body}.{signature}=="
    yield "base64 of the other alphabet", f"{head}.{body}.{signature[:-2]}+/"
    yield "spaces within", f"{head}.{body[:10]} {body[10:]}.{signature}"
    yield "a character beyond ASCII", f"{head}.{body}é.{signature}"
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(signature[-1])
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]
    yield "the same signature spelt otherwise", f"{head}.{body}.{signature[:-1]}{other}"
    yield "5,000 bytes too many", issuer.token(note="x" * 5_000)
    for name, raw in {
        "header no JSON": b"{",
        "header a list": b"[]",
        "header not UTF-8": b'{"alg":"EdDSA\xff","kid":"ed"}',
        "header a key twice": b'{"alg":"none","alg":"EdDSA","kid":"ed","typ":"at+jwt"}',
        "header nested deeply": b'{"alg":' + b"[" * 900 + b"]" * 900 + b"}",
    }.items():
        yield name, issuer.token(raw)
    encoded = json.dumps(claims)
    for name, raw in {
        "claims no JSON": b"{",
        "claims a list": b"[]",
        "claims a text": b'"x"',
        "claims empty": b"{}",
        "claims not UTF-8": encoded.encode().replace(b"asha", b"ash\xff"),
        "claims a key twice": (encoded[:-1] + ', "role": "admin"}').encode(),
        "claims with NaN": encoded.replace(str(claims["exp"]), "NaN").encode(),
        "claims with Infinity": encoded.replace(str(claims["exp"]), "Infinity").encode(),
        "claims nested deeply": (encoded[:-1] + ', "x": ' + "[" * 1200 + "]" * 1200 + "}").encode(),
    }.items():
        yield name, issuer.token(payload=raw)
    yield "JSON serialisation", json.dumps({"protected": head, "payload": body, "signature": signature})
    prefix = "0123456789abcdef"
    for name, key in {
        "of nobody": f"cdk_{prefix}_{'x' * 43}",
        "cut": f"cdk_{prefix}_",
        "with a quote": f"cdk_{prefix[:-1]}'_{'x' * 43}",
        "bare": "cdk_",
    }.items():
        yield f"an API key {name}", key


def _doors(genuine: str) -> Iterator[Attack]:
    def sent(*values: str) -> CIMultiDict[str]:
        return CIMultiDict([("Authorization", value) for value in values])

    yield Attack("two Authorization headers, the same", sent(f"Bearer {genuine}", f"Bearer {genuine}"))
    yield Attack("two Authorization headers, the second bad", sent(f"Bearer {genuine}", "Bearer x"))
    yield Attack("two Authorization headers, the first bad", sent("Bearer x", f"Bearer {genuine}"))
    yield Attack("two in one header", sent(f"Bearer {genuine}, Bearer {genuine}"))
    yield Attack("another scheme", sent(f"JWT {genuine}"))
    yield Attack("Basic", sent(f"Basic {genuine}"))
    yield Attack("no scheme", sent(genuine))
    yield Attack("nothing", sent())
    yield Attack("an empty one", sent("Bearer "))
    yield Attack("in the query", sent(), f"?access_token={genuine}")
    yield Attack("in a cookie", CIMultiDict({"Cookie": f"core_token={genuine}; access_token={genuine}"}))
    yield Attack("in another header", CIMultiDict({"X-Forwarded-Authorization": f"Bearer {genuine}"}))
