"""The description and the page agree with the code: every code is registered, every route described, nothing foreign loaded."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.web.conftest import Api
from web.codes import CODES
from web.openapi.__main__ import FILE
from web.openapi.document import document, encoded
from web.router import POLICY, ROUTES

WEB = Path(__file__).resolve().parents[2] / "web"
SAID = document(ROUTES, POLICY)
AT_RUN_TIME = {
    "web/calls.py",  # Malformed's: registered, see below
    "web/resources/orders.py",
    "web/ledger_calls.py",  # the ledger's refusals
    "web/resources/refunds.py",
    "web/resources/webhooks.py",  # gateway.signature.Reason
    "web/resources/dead_letters.py",
    "web/middleware.py",
    "web/connections.py",  # before there is a request: test below
    "web/problems.py",
    "web/codes.py",
}


def test_every_problem_that_is_raised_has_a_registered_code_and_its_status() -> None:
    wrong, dynamic = [], set()
    for path in sorted(WEB.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            place = f"{path.relative_to(WEB.parent)}:{node.lineno}"
            if node.func.id == "Problem":
                match node.args:
                    case [ast.Constant(value=int(status)), ast.Constant(value=str(code)), *_]:
                        if code not in CODES or CODES[code].status != status:
                            wrong.append(f"{place}: {status} {code}")
                    case [*_] if node.args:
                        dynamic.add(place.partition(":")[0])
            if node.func.id == "not_found":
                match node.args:
                    case [ast.Constant(value=str(what))] if f"unknown_{what}" not in CODES:
                        wrong.append(f"{place}: unknown_{what}")
    assert wrong == []
    assert dynamic <= AT_RUN_TIME, dynamic


def test_refusals_that_come_from_below_are_registered() -> None:
    from web.ledger_calls import _REFUSALS
    from web.resources.refunds import _REFUSED

    assert {code: CODES[code].status for code in _REFUSALS} == {
        code: status for code, (status, _) in _REFUSALS.items()
    }
    assert all(CODES[code].status == 422 for code in _REFUSED)


def test_what_a_connection_is_refused_with_is_registered() -> None:
    said = re.findall(r'\.refuse\((\d+), "(\w+)"', (WEB / "connections.py").read_text())
    assert said
    assert {(code, int(status)) for status, code in said} <= {(c, CODES[c].status) for c in CODES}


def test_the_file_in_docs_is_the_document_of_this_code() -> None:
    assert FILE.read_bytes() == encoded(ROUTES, POLICY), "run: python -m web.openapi"


def test_every_route_of_the_api_is_described_once_with_who_may_call_it() -> None:
    described = {f"{method.upper()} {path}" for path, methods in SAID["paths"].items() for method in methods}
    assert described == {
        route.name for route in ROUTES if route.path not in ("/", "/v1/docs", "/static/{path:.+}")
    }
    operations = [operation for methods in SAID["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["responses"]
        assert not operation["security"] or operation["x-roles"]


def test_every_amount_says_its_unit() -> None:
    """An integer that counts money or credits says so in its name; what is left is no amount."""
    no_amounts = re.compile(
        r"(^|_)(id|seq|sequence|offset|partition|incarnation|count|limit|status|score|fraud_score|priority|quantity|attempt|"
        r"attempts|failures|deliveries|unread|marked|accepted|replayed|conflict|invalid|index|wait|overlap_s|took_ms|covered_seq|migrations|next)$"
    )
    unnamed = [
        f"{name}.{field}"
        for name, schema in SAID["components"]["schemas"].items()
        for field, kind in schema.get("properties", {}).items()
        if "integer" in (kind.get("type"), *(option.get("type") for option in kind.get("anyOf", ())))
        and not field.endswith(("_paise", "_credits"))
        and field != "credits"
        and not no_amounts.search(field)
    ]
    assert unnamed == []
    floats = [name for name, schema in SAID["components"]["schemas"].items() if '"number"' in str(schema)]
    assert floats == []


async def test_the_page_loads_nothing_foreign_and_runs_nothing_inline(api: Api) -> None:
    async with api.http.get(f"{api.url}/v1/docs") as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]+)\"", page)
    assert loaded
    for address in loaded:
        assert address.startswith("/static/"), address
        async with api.http.get(api.url + address) as file:
            assert file.status == 200, address
    assert "<style" not in page
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", page)
    for operation in (one for methods in SAID["paths"].values() for one in methods.values()):
        assert f'id="{operation["operationId"]}"' in page


async def test_the_description_is_served_to_everybody(api: Api) -> None:
    answer = await api.get("/v1/openapi.json", Authorization="")
    assert answer.status == 200
    assert answer.body == SAID


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("DELETE", "/v1/packs", 405, "method_not_allowed"),
        ("PUT", "/v1/payments/1", 405, "method_not_allowed"),
        ("TRACE", "/v1/packs", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_of_the_same_shape(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    answer = await api.call(method, path)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert set(answer.body) == {"type", "title", "status", "code", "detail", "request_id"}
    assert answer.body["request_id"] == answer.headers["X-Request-Id"]
    if status == 405:
        assert "GET" in answer.headers["Allow"]


async def test_head_and_options_are_answered(api: Api) -> None:
    async with api.http.head(f"{api.url}/v1/packs", headers={"Authorization": f"Bearer {api.token}"}) as head:
        assert (head.status, await head.read()) == (200, b"")
    async with api.http.head(f"{api.url}/v1/packs") as stranger:
        assert stranger.status == 401
    async with api.http.options(f"{api.url}/v1/wallets") as options:
        assert options.status == 204
        assert set(options.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}
        assert "Access-Control-Allow-Origin" not in options.headers
