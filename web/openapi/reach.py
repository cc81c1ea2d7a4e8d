"""Which problems and which successes a route may answer, read from the code itself, so that nobody has to keep a list.

Everything that a handler can call inside `web` is followed by name: functions, methods, and what the modules say at their top.
A text that is a registered code counts as one that the route may answer. So what comes out may be a little more than ever
happens; less it can only be where a code is put together at run time, and those few places are named in `_AT_RUN_TIME`.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.signature import Reason
from web.calls import Route
from web.codes import CODES
from web.ownership import FIELDS
from web.policy import Policy
from web.resources.approvals import approve

_ROOT: Final = Path(__file__).resolve().parents[1]
_AT_RUN_TIME: Final = {
    ("web.resources.webhooks", "_refusal"): frozenset(
        str(reason) for reason in Reason if reason is not Reason.OK
    ),
    ("web.ledger_calls", "decide"): frozenset(
        {"pending_credits", "unverified_payment", "behind_parked", "lot_not_free"}
    ),
}
"""Codes that come from another floor."""
_MIDDLEWARE: Final = frozenset({"internal_error", "database_unavailable", "repeated_header"})
_BEFORE: Final = frozenset({"unauthorised", "forbidden", "too_many_requests", "overloaded"})
_MONEY: Final = frozenset({"throttle_unavailable"})
_QUERY: Final = frozenset({"invalid_parameter", "repeated_parameter"})
_BODY: Final = frozenset(
    {
        "body_too_large",
        "body_too_slow",
        "duplicate_key",
        "encoded_body",
        "invalid_request",
        "invalid_text",
        "malformed_body",
        "malformed_json",
        "not_json",
        "not_utf8",
    }
)
_KEYED: Final = frozenset({"idempotency_key_invalid", "idempotency_key_conflict"})
_WAITS: Final = frozenset({"approval_rejected", "approval_expired", "idempotency_key_conflict"})
_DEAF: Final = frozenset(
    {"web.middleware", "web.guard", "web.calls", "web.access", "web.throttle", "web.policy"}
)
"""What stands around handlers is said above, once for all; `Call` apart."""

Name = tuple[str, str]


@dataclass(slots=True)
class _Function:
    """What one function mentions."""

    names: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a route may answer: statuses of successes, codes of problems."""

    statuses: frozenset[int]
    codes: frozenset[str]


def answers_of(route: Route, policy: Policy) -> Answers:
    """All that the code of a route can come to."""
    codes = set(_MIDDLEWARE)
    statuses: set[int] = set()
    for function in (route.handler or route.handle, route.second_person):
        if function is not None:
            found = _followed((function.__module__, function.__qualname__.split(".")[0]))
            codes |= found.codes
            statuses |= found.statuses
    if policy.is_open(route):
        codes |= {"too_many_requests"} if route.scope == "public" else set()
        return Answers(frozenset(statuses or {200}), frozenset(codes))
    codes |= _BEFORE
    if route.scope in ("refunds:write", "refunds:staff", "approvals:write"):
        codes |= _MONEY
    if route.query is not None:
        codes |= _QUERY
    if route.body is not None:
        codes |= _BODY
    codes |= _of_key(route)
    if (kind := policy.kind(route)) is not None:
        codes.add(f"unknown_{kind}")
    codes |= _owned(route, policy)
    if route.second_person is not None:
        statuses.add(202)
        codes |= _WAITS
    return Answers(frozenset(statuses or {200}), frozenset(codes))


def with_redone(route: Route, routes: Sequence[Route], policy: Policy) -> Answers:
    """The same where an approval does what another route was asked: with the problems that doing it can meet."""
    answers = answers_of(route, policy)
    if route.handler is not approve:
        return answers
    codes = set(answers.codes)
    for other in routes:
        if other.second_person is not None:
            codes |= _followed((other.handler.__module__, other.handler.__name__)).codes
    return Answers(answers.statuses, frozenset(codes))


def _of_key(route: Route) -> set[str]:
    match route.keyed.value if route.keyed is not None else "free":
        case "own":
            return {*_KEYED, "idempotency_key_required"}
        case "kept" | "money":
            more = {"idempotency_key_required"} if route.second_person is not None else set()
            return {*_KEYED, "idempotency_key_in_use", *more}
        case _:
            return set()


def _owned(route: Route, policy: Policy) -> set[str]:
    """Whose a body or a query names is looked at where somebody may reach only their own."""
    if not policy.has_own(route):
        return set()
    in_query = FIELDS.keys() & set(getattr(route.query, "__struct_fields__", ()))
    named = in_query | FIELDS.keys() & set(getattr(route.body, "__struct_fields__", ()))
    return {f"unknown_{FIELDS[name]}" for name in named} | ({"filter_required"} if in_query else set())


@cache
def _followed(start: Name) -> _Function:
    """What can be reached from a function."""
    functions, methods = _code()
    found, seen, waiting = _Function(), set[Name](), [start]
    while waiting:
        name = waiting.pop()
        if name in seen or (name[0] in _DEAF and name[1] != "made"):
            continue
        seen.add(name)
        found.codes |= _AT_RUN_TIME.get(name, frozenset())
        one = functions.get(name)
        if one is None:
            continue
        found.codes |= one.codes
        found.statuses |= one.statuses
        waiting += [_resolved(name[0], said) for said in one.names]
        waiting += [method for said in one.methods for method in methods.get(said, ())]
    return found


def _resolved(module: str, said: str) -> Name:
    """A name of a module as (module, name): its own, or what it was imported as."""
    imported = _imports(module)
    first, _, rest = said.partition(".")
    if first in imported:
        origin, name = imported[first]
        return (origin, name) if not rest else (f"{origin}.{name}" if name else origin, rest)
    return module, said


@cache
def _trees() -> dict[str, ast.Module]:
    return {
        ".".join(("web", *path.relative_to(_ROOT).with_suffix("").parts)): ast.parse(path.read_text())
        for path in sorted(_ROOT.rglob("*.py"))
        if "openapi" not in path.parts and path.name not in ("codes.py", "router.py")
    }


@cache
def _imports(module: str) -> dict[str, Name]:
    """Local names of what a module imports from `web`."""
    found: dict[str, Name] = {}
    for node in ast.walk(_trees().get(module, ast.Module([], []))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "web":
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
    return found


@cache
def _code() -> tuple[dict[Name, _Function], dict[str, list[Name]]]:
    """Functions and top-level values by name, and where methods of a name are."""
    functions: dict[Name, _Function] = {}
    methods: dict[str, list[Name]] = {}
    for module, tree in _trees().items():
        for node in tree.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    functions[module, node.name] = _mentions(node)
                case ast.ClassDef():
                    for part in node.body:
                        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                            functions[module, f"{node.name}.{part.name}"] = _mentions(part)
                            methods.setdefault(part.name, []).append((module, f"{node.name}.{part.name}"))
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    functions[module, name] = _mentions(node)
    return functions, methods


def _mentions(node: ast.AST) -> _Function:
    found = _Function()
    for part in ast.walk(node):
        match part:
            case ast.Call(func=ast.Name(id="not_found"), args=[ast.Constant(value=str(what))]):
                found.codes.add(f"unknown_{what}")
            case ast.Call(func=ast.Attribute(attr="uuid"), args=[_, ast.Constant(value=str(what))]):
                found.codes.add(f"unknown_{what}")
            case ast.Call(func=ast.Name(id="Reply" | "made")):
                found.statuses |= set(_statuses(part))
        match part:
            case ast.Name(id=name):
                found.names.add(name)
            case ast.Attribute(value=ast.Name(id=first), attr=attribute):
                found.names.add(f"{first}.{attribute}")
                found.methods.add(attribute)
            case ast.Attribute(attr=attribute):
                found.methods.add(attribute)
            case ast.Constant(value=str(text)) if text in CODES:
                found.codes.add(text)
    return found


def _statuses(call: Any) -> Iterator[int]:
    """Of `made(…)`, `Reply(body)`, `Reply(body, 201)`, `Reply(body, 200 if … else 202)`."""
    if call.func.id == "made":
        yield from (200, 201)
    elif len(call.args) == 1 and not call.keywords:
        yield 200
    for part in ast.walk(ast.Tuple(call.args[1:], ast.Load())):
        match part:
            case ast.Constant(value=int(status)) if 200 <= status < 300:
                yield status
