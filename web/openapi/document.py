"""OpenAPI 3.1, made from the table of routes, the policy, the types and the code. Nothing in it is written twice."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from web.auth import OPEN, Reach, Role
from web.calls import Key, Route
from web.codes import CODES
from web.openapi.reach import Answers, with_redone
from web.openapi.texts import GUIDE, TAGS, description_of, tag_of, title_of
from web.policy import COLUMNS, Policy
from web.resources.aggregates import METRICS
from web.resources.usage import UsageBody, UsageItem
from web.shapes import Nothing
from web.waiting import WaitingAnswer

VERSION: Final = "1.0.0"
_EXAMPLES: Final = Path(__file__).parent / "examples.json"
_REF: Final = "#/components/schemas/{name}"
_HIDDEN: Final = ("/", "/static/", "/v1/docs")
_MEDIA: Final = {
    "/v1/invoices/{id}.pdf": "application/pdf",
    "/v1/audit.jsonl": "application/jsonl",
    "/v1/audit.csv": "text/csv",
    "/v1/live": "text/event-stream",
    "/metrics": "text/plain",
}
"""What an operation answers with where that is no JSON."""
_IDS: Final[dict[str, dict[str, Any]]] = {
    "dead-letters": {"type": "integer", "minimum": 1},
    "disputes": {"type": "string", "maxLength": 128},
    "receipts": {"type": "string", "maxLength": 128},
    "usage": {"type": "string", "maxLength": 128, "description": "the caller's own id of the event"},
}
"""What `{id}` is where it is no UUID, by the first part of the path."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457). `code` is stable, `detail` is for people; some codes add members of their own."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


class ReportedUsage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/usage: items are judged one by one, so that a bad one does not undo its neighbours."""

    events: "list[UsageItem]"


def document(routes: Sequence[Route], policy: Policy) -> dict[str, Any]:
    """The whole document, as it is served."""
    shown = [route for route in routes if not _is_hidden(route)]
    types = list(_types(shown))
    schemas = msgspec.json.schema_components(types, ref_template=_REF)[1]
    named = {name: _plain(schema) for name, schema in sorted(schemas.items())}
    examples = json.loads(_EXAMPLES.read_text()) if _EXAMPLES.exists() else {}
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        answers = with_redone(route, routes, policy)
        operation = _operation(route, answers, policy, named, examples.get(route.name, {}))
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    shared = _shared(paths)
    tags = [(name, text) for name, text in TAGS.values() if text]
    return {
        "openapi": "3.1.0",
        "info": {"title": "CommDesk financial core", "version": VERSION, "description": GUIDE},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in tags],
        "paths": paths,
        "components": {
            "schemas": named,
            "responses": shared,
            "headers": _HEADERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A person's or an application's token: RS256 or EdDSA, with iss, aud, sub, exp and a role.",
                },
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A service's API key (`cdk_…`).",
                },
            },
        },
        "x-problem-codes": {
            code: {"status": CODES[code].status, "meaning": CODES[code].meaning} for code in sorted(CODES)
        },
    }


def encoded(routes: Sequence[Route], policy: Policy) -> bytes:
    """The document as bytes, the same for the same code."""
    return json.dumps(document(routes, policy), indent=1, ensure_ascii=False).encode() + b"\n"


def _shared(paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Problems that several operations answer alike, named `Problem409`, `Problem409_2`, …, each referred to."""
    operations = [operation for path in paths.values() for operation in path.values()]
    counted = Counter(
        json.dumps(said) for one in operations for said in one["responses"].values() if _is_problem(said)
    )
    names: dict[str, str] = {}
    shared: dict[str, Any] = {}
    for operation in operations:
        for status, said in operation["responses"].items():
            key = json.dumps(said)
            if counted[key] < 2 or not _is_problem(said):
                continue
            if key not in names:
                n = sum(name.startswith(f"Problem{status}") for name in shared)
                names[key] = f"Problem{status}{f'_{n + 1}' if n else ''}"
                shared[names[key]] = said
            operation["responses"][status] = {"$ref": f"#/components/responses/{names[key]}"}
    return shared


def _is_problem(said: dict[str, Any]) -> bool:
    return "application/problem+json" in said.get("content", {})


def _is_hidden(route: Route) -> bool:
    return route.path == _HIDDEN[0] or route.path.startswith(_HIDDEN[1:])


def _types(routes: Iterable[Route]) -> Iterable[Any]:
    yield from (Problem, WaitingAnswer, ReportedUsage)
    for route in routes:
        yield from (kind for kind in (route.body, route.query, route.answer) if kind not in (None, UsageBody))


def _operation(
    route: Route, answers: Answers, policy: Policy, schemas: dict[str, Any], example: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _id(route),
        "tags": [tag_of(route)[0]],
        "summary": title_of(route),
        "description": description_of(route),
    }
    if route.scope not in OPEN:
        reaches = {str(role): str(policy.reach(route, role)) for role in COLUMNS}
        operation["security"] = [{"token": [str(route.scope)]}]
        if policy.reach(route, Role.SERVICE) is not Reach.NONE:
            operation["security"].append({"apiKey": [str(route.scope)]})
        operation["x-scope"] = str(route.scope)
        operation["x-roles"] = {role: reach for role, reach in reaches.items() if reach != "-"}
    else:
        operation["security"] = []
    if route.keyed is not None:
        operation["x-idempotency"] = route.keyed.value
    if parameters := [*_in_path(route), *_in_query(route, schemas), *_in_head(route)]:
        operation["parameters"] = [_shown(parameter, route, example) for parameter in parameters]
    if route.body is not None:
        operation["requestBody"] = _body(route, schemas, example)
    elif route.method == "POST":
        media = {"schema": {"type": "object"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": media}}
    operation["responses"] = _responses(route, answers, example)
    if example.get("path"):
        operation["x-example"] = {key: example[key] for key in ("path", "role") if key in example}
    return operation


def _shown(parameter: dict[str, Any], route: Route, example: dict[str, Any]) -> dict[str, Any]:
    """A parameter with its value in the example."""
    asked = urlsplit(example.get("path", ""))
    form = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route.path))
    found = re.fullmatch(form, asked.path)
    values = parse_qs(asked.query) if parameter["in"] == "query" else {}
    if parameter["in"] == "path" and found is not None:
        values = {name: [value] for name, value in found.groupdict().items()}
    if not (value := values.get(parameter["name"], [""])[0]):
        return parameter
    whole = parameter["schema"].get("type") == "integer"
    return parameter | {"example": int(value) if whole else value}


def _id(route: Route) -> str:
    words = re.findall(r"[a-z]+", route.path.removeprefix("/v1").replace("{id}", "one").lower())
    return "_".join((route.method.lower(), *words))


def _in_path(route: Route) -> list[dict[str, Any]]:
    part = route.path.removeprefix("/v1/").split("/")[0]
    found = []
    for name in re.findall(r"\{(\w+)", route.path):
        schema: dict[str, Any] = {"type": "string", "format": "uuid"}
        if name == "id":
            schema = _IDS.get(part, schema)
        elif name == "metric":
            schema = {"enum": sorted(METRICS)}
        elif name == "name":
            schema = {"type": "string", "maxLength": 64}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _in_query(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = schemas[route.query.__name__]
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": _said(kind)}
        for name, kind in schema["properties"].items()
    ]


def _said(kind: dict[str, Any]) -> dict[str, Any]:
    """A parameter is given or left out: it is never null."""
    options = [option for option in kind.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return {name: value for name, value in kind.items() if value is not None or name != "default"}
    rest = {name: value for name, value in kind.items() if name not in ("anyOf", "default")}
    one = dict(options[0]) if len(options) == 1 else {"anyOf": options}
    if None in one.get("enum", ()):
        one["enum"] = [value for value in one["enum"] if value is not None]
    return rest | one


def _in_head(route: Route) -> list[dict[str, Any]]:
    if route.keyed in (None, Key.FREE):
        return []
    required = route.keyed is Key.OWN
    text = "Repeat it when you retry. Kept " + (
        "for thirty days." if route.keyed is Key.KEPT else "for ever."
    )
    return [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": required,
            "description": text,
            "schema": {"type": "string", "pattern": "^[!-9;-~]{1,128}$"},
            "example": "9c4f2e1a-order-1",
        }
    ]


def _body(route: Route, schemas: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    name = ReportedUsage.__name__ if route.body is UsageBody else route.body.__name__
    media: dict[str, Any] = {"schema": {"$ref": _REF.format(name=name)}}
    if "body" in example:
        media["example"] = example["body"]
    needed = route.body is not Nothing and bool(schemas[name].get("required"))
    return {"required": needed, "content": {"application/json": media}}


def _responses(route: Route, answers: Answers, example: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in sorted(answers.statuses):
        media: dict[str, Any] = {"schema": _success(route, status)}
        if example.get("status") == status and "answer" in example:
            media["example"] = example["answer"]
        kind = _MEDIA.get(route.path, "application/json")
        found[str(status)] = {
            "description": _meaning(route, status),
            "headers": _heads(route, replayed=status == 200 and route.keyed not in (None, Key.FREE)),
            "content": {kind: media},
        }
    by_status: dict[int, list[str]] = {}
    for code in sorted(answers.codes):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        found[str(status)] = {
            "description": "\n".join(f"`{code}`: {CODES[code].meaning}" for code in codes),
            "headers": _heads(route, refused=status),
            "content": {
                "application/problem+json": {
                    "schema": {
                        "allOf": [
                            {"$ref": _REF.format(name="Problem")},
                            {"properties": {"code": {"enum": codes}, "status": {"const": status}}},
                        ]
                    }
                }
            },
        }
    return found


def _success(route: Route, status: int) -> dict[str, Any]:
    if route.path in _MEDIA:
        return {"type": "string"}
    if route.answer is None:
        return {"type": "object"}
    answer = {"$ref": _REF.format(name=route.answer.__name__)}
    if status == 202 and route.second_person is not None:
        return {"$ref": _REF.format(name=WaitingAnswer.__name__)}
    return answer


def _meaning(route: Route, status: int) -> str:
    if status == 201:
        return "Made."
    if status == 202:
        return "A second person must approve it." if route.second_person is not None else "Under way."
    return (
        "Made before, with the same key." if route.keyed is Key.OWN else "Done." if route.body else "Found."
    )


def _heads(route: Route, *, replayed: bool = False, refused: int = 0) -> dict[str, Any]:
    names = ["X-Request-Id"]
    if route.scope not in OPEN and refused not in (401, 403, 503):
        names += ["RateLimit", "RateLimit-Policy"]
    if replayed:
        names.append("Idempotent-Replayed")
    if refused in (429, 503):
        names.append("Retry-After")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_HEADERS: Final = {
    "X-Request-Id": {"description": "The request's id, yours if you sent one.", "schema": {"type": "string"}},
    "RateLimit": {
        "description": "What is left (`r`), and the seconds until there is more (`t`).",
        "schema": {"type": "string"},
        "example": '"writes";r=599;t=1',
    },
    "RateLimit-Policy": {
        "description": "The limit (`q`) and its window in seconds (`w`).",
        "schema": {"type": "string"},
        "example": '"writes";q=600;w=60',
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}, "example": "1"},
    "Idempotent-Replayed": {
        "description": "`true`: the same Idempotency-Key did this before.",
        "schema": {"const": "true"},
    },
}


def _plain(schema: Any) -> Any:
    """A schema without what only our own reader understands."""
    if isinstance(schema, dict):
        return {name: _clean(name, value) for name, value in schema.items()}
    return [_plain(item) for item in schema] if isinstance(schema, list) else schema


def _clean(name: str, value: Any) -> Any:
    if name == "pattern" and isinstance(value, str):
        return value.removesuffix(r"(?!\n)")
    if name == "description" and isinstance(value, str):
        text = _OWN_PATH.sub("", " ".join(value.split())).strip()
        return text[:1].upper() + text[1:]
    return _plain(value)


_OWN_PATH: Final = re.compile(
    r"^(GET|POST) /v1/[^ ]*?(, …/\w+)?[.:;]( |$)|^(GET|POST) /v1/[^ ]*, …/\w+[.;]? ?"
)
