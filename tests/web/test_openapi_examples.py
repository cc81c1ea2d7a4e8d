"""The examples of the document are what the API really answers; RECORD_EXAMPLES=1 writes them anew."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from bench.security.edge import Edge
from bench.security.issuer import Issuer
from bench.security.world import World, make_world
from gateway.simulator.sim import Simulator
from tests.conftest import Database as Prepared
from tests.web.conftest import Api, opened_api
from tests.web.examples import CALLS, ELSEWHERE, FILE, Example, filled, ids_of, plain
from web.openapi.document import document
from web.router import POLICY, ROUTES

ISSUER = Issuer()
RECORD = os.environ.get("RECORD_EXAMPLES") == "1"


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:
    """The API, which trusts an issuer; set up with the development token."""
    async with opened_api(database, gateway, **ISSUER.settings()) as api:
        yield api


@pytest.fixture
async def world(api: Api) -> World:
    return await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)


def test_every_operation_has_an_example() -> None:
    shown = {
        f"{method.upper()} {path}"
        for path, methods in document(ROUTES, POLICY)["paths"].items()
        for method in methods
    }
    assert shown - {call.name for call in CALLS} - ELSEWHERE == set()
    assert {call.name for call in CALLS} <= shown


async def test_every_example_is_what_the_api_answers(api: Api, world: World, database: Prepared) -> None:
    said = document(ROUTES, POLICY)
    ids = await ids_of(api, world, database)
    recorded: dict[str, Any] = {}
    wrong = []
    for call in CALLS:
        answer, body = await _ask(api, world, call, ids)
        path = call.path.partition("?")[0]
        operation = said["paths"][call.name.split(" ")[1]][call.name.split(" ")[0].lower()]
        wrong += [f"{call.name}: {why}" for why in _against(said, operation, answer, body)]
        documented = [
            (int(status), media["example"])
            for status, response in operation["responses"].items()
            for media in response.get("content", {}).values()
            if "example" in media
        ]
        if not RECORD and [status for status, _ in documented] != [answer]:
            wrong.append(f"{call.name}: {answer} instead of {documented}: {body}")
        recorded[call.name] = _recorded(call, ids, answer, body, path)
    assert wrong == []
    if RECORD:
        FILE.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


def test_every_recorded_example_is_of_its_schema() -> None:
    said = document(ROUTES, POLICY)
    wrong = [
        f"{method} {path} {status}: {error.message}"
        for path, methods in said["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        for media in response.get("content", {}).values()
        if "example" in media
        for error in _validator(said, media["schema"]).iter_errors(media["example"])
    ]
    bodies = [
        f"{method} {path}: {error.message}"
        for path, methods in said["paths"].items()
        for method, operation in methods.items()
        for media in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in media
        for error in _validator(said, media["schema"]).iter_errors(media["example"])
    ]
    assert wrong + bodies == []


async def _ask(api: Api, world: World, call: Example, ids: dict[str, str]) -> tuple[int, Any]:
    token = world.tokens[call.role]
    method = call.name.split(" ")[0]
    headers = {"Authorization": f"Bearer {token}"}
    body = call.body
    if body is not None:
        body = filled(body, ids)
    answer = await api.call(method, call.path.format(**ids), body, raw=None, **headers)
    return answer.status, answer.body


def _recorded(call: Example, ids: dict[str, str], status: int, body: Any, path: str) -> dict[str, Any]:
    answer = "".join(body.splitlines(keepends=True)[:2]) if isinstance(body, str) else body
    found = {"role": str(call.role), "path": call.path.format(**ids), "status": status, "answer": answer}
    if call.body:
        found["body"] = filled(call.body, ids)
    shown: dict[str, Any] = plain(found, ids)
    return shown


def _against(said: dict[str, Any], operation: dict[str, Any], status: int, body: Any) -> list[str]:
    response = operation["responses"].get(str(status))
    if response is None:
        return [f"{status} is not documented: {body}"]
    if status >= 400:
        return [f"an example that fails: {body}"]
    [(kind, media)] = response["content"].items()
    if kind != "application/json":
        return []
    return [error.message for error in _validator(said, media["schema"]).iter_errors(body)]


def _validator(said: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema | {"components": said["components"]}, validate_formats=True
    )
