"""Tokens: genuine ones open, and nothing else does."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from joserfc.jwk import OKPKey, RSAKey
from pydantic import ValidationError

from bench.security.edge import Edge
from bench.security.issuer import AUDIENCE, Issuer, public
from bench.security.tokens import PATH, measure
from gateway.simulator.sim import Simulator
from tests.conftest import Database as Prepared
from tests.web.conftest import TOKEN, Api, opened_api
from web.settings import JwtKey, WebSettings
from web.tokens import BadKey, Tokens


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator], issuer: Issuer) -> AsyncIterator[Api]:
    """The API, which trusts the issuer; its development token is not in use."""
    async with opened_api(database, gateway, development=False, access_cache_s=0, **issuer.settings()) as api:
        api.token = issuer.token()
        yield api


async def test_no_attack_on_tokens_is_accepted_and_each_is_a_401(api: Api, issuer: Issuer) -> None:
    figures = await measure(Edge(api.url, api.http), issuer)
    print(f"jwt_attacks={figures.jwt_attacks} jwt_accepted={figures.jwt_accepted}")
    assert figures.jwt_accepted == 0
    assert figures.misanswered == []
    assert figures.jwt_attacks >= 150


async def test_genuine_tokens_of_both_algorithms_and_both_ways_to_say_access_are_accepted(
    api: Api, issuer: Issuer
) -> None:
    rsa = {"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}
    untyped = {"alg": "EdDSA", "typ": "JWT", "kid": "ed"}
    now = int(time.time())
    for token in (
        issuer.token(rsa, key=issuer.rsa, alg="RS256"),
        issuer.token(),
        issuer.token(untyped, token_use="access"),
        issuer.token({"alg": "EdDSA", "kid": "ed"}, token_use="access"),
        issuer.token({"alg": "EdDSA", "typ": "AT+JWT", "kid": "ed"}),
        issuer.token(aud=["another", AUDIENCE]),
        issuer.token(iat=now - 60, exp=now - 1),  # within the leeway
        issuer.token(iat=now + 2, nbf=now + 2),
        issuer.token(roles=["x"], azp="app", note=1.5),
    ):
        assert (await api.get(PATH, Authorization=f"Bearer {token}")).status == 200, token


async def test_a_scope_narrows_a_token_and_never_widens_it(api: Api, issuer: Issuer) -> None:
    for scope, status in [("payments:read", 200), ("users:read", 403), ("", 403), ("payments:read x", 200)]:
        token = issuer.token(scope=scope)
        assert (await api.get(PATH, Authorization=f"Bearer {token}")).status == status, scope
    wide = issuer.token(role="auditor", scope="credits:grant wallets:write users:write")
    answer = await api.post("/v1/users", {"external_id": "u"}, Authorization=f"Bearer {wide}")
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_what_a_subject_was_given_is_called_back_and_what_comes_later_is_good(
    api: Api, issuer: Issuer
) -> None:
    admin = f"Bearer {issuer.token(role='admin', sub='root')}"
    now = int(time.time())
    old, new = issuer.token(iat=now - 60), issuer.token(iat=now)
    before = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    said = {"subject": "asha", "issued_before": before}
    assert (await api.post("/v1/tokens/revoke", said, Authorization=admin)).status == 200
    assert (await api.get(PATH, Authorization=f"Bearer {old}")).status == 401
    assert (await api.get(PATH, Authorization=f"Bearer {new}")).status == 200
    told = await api.row("SELECT actor, action, object_id FROM audit_logs WHERE action = 'subject.revoke'")
    assert tuple(told.values()) == ("staff/root", "subject.revoke", "asha")


async def test_without_development_the_development_token_opens_nothing(api: Api) -> None:
    for headers in (
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": "", "Cookie": f"core_token={TOKEN}"},
    ):
        for path in ("/v1/packs", "/", "/v1/live"):
            assert (await api.get(path, **headers)).status == 401, path


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_keys_that_cannot_be_trusted_start_nothing() -> None:
    small, private = RSAKey.generate_key(1024, auto_kid=False), OKPKey.generate_key("Ed25519")
    curve = OKPKey.generate_key("Ed448")
    for alg, pem in [
        ("RS256", public(small)),
        ("EdDSA", private.as_pem(private=True).decode()),
        ("EdDSA", public(curve)),
        ("RS256", public(private)),
        ("RS256", "no key at all"),
    ]:
        key = JwtKey.model_validate({"kid": "k", "alg": alg, "pem": pem})
        with pytest.raises(BadKey):
            Tokens(WebSettings(jwt_keys=(key,), jwt_issuer="i", jwt_audience="a"))
    key = JwtKey(kid="k", alg="EdDSA", pem=public(private))
    with pytest.raises(ValidationError):
        WebSettings(jwt_keys=(key,), jwt_issuer="i")
    with pytest.raises(ValidationError):
        WebSettings(jwt_keys=(key,), jwt_audience="a")
    with pytest.raises(ValidationError):
        WebSettings(jwt_keys=(key, key), jwt_issuer="i", jwt_audience="a")
