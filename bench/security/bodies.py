"""Bodies and paths for any route, made from the router's types: so a route that comes tomorrow is attacked tomorrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import inspect

from web.calls import Route
from web.ownership import FIELDS
from web.resources.usage import UsageBody, UsageItem

Place = tuple[str | int, ...]
"""Where a field stands in a body: names, and numbers of lists."""

_GIVEN: Final[dict[str, dict[str, Any]]] = {
    "/v1/wallets/{id}/grants": {"credits": 1, "reason": "matrix"},
    "/v1/payments/orders": {"pack_paise": 15_000},
    "/v1/payments/{id}/refunds": {"amount_paise": 100},
    "/v1/dead-letters/replay": {"topic": "wallet.debit"},
    "/v1/tokens/revoke": {"jti": "matrix"},
    "/v1/api-keys": {"scopes": ["usage:write"]},
}
"""What the types alone do not say."""


class _Usage(msgspec.Struct):
    """The body of POST /v1/usage, whose items the API reads one by one."""

    events: list[UsageItem]


_SAMPLES: Final = {
    r"^\+?[0-9]{8,15}$": "9999999999",
    r"^[^@\s]{1,64}@[^@\s]{1,255}$": "asha@example.com",
    r"^[0-9]{2}$": "29",
    r"^[0-9]{2}[A-Z0-9]{13}$": "29ABCDE1234F1Z5",
    r"^https?://[^\s]+$": "https://example.com/x",
}


def sample(route: Route, names: Mapping[str, str]) -> dict[str, Any]:
    """The least body that a route takes; `names` has the owner's objects by kind, as `web.ownership` names kinds."""
    if route.body is None:
        return {}
    return _struct(inspect.type_info(read_as(route.body)), names) | _GIVEN.get(route.path, {})


def read_as(type_: Any) -> Any:
    """The type that says all of a body."""
    return _Usage if type_ is UsageBody else type_


def path_of(route: Route, id: str) -> str:
    """The path of a route that stands for the object `id`."""
    named = {"{path:.+}": "live.js", "{metric}": "payments", "{session}": str(uuid4())}
    path = route.path
    for part, value in named.items():
        path = path.replace(part, value)
    return path.replace("{id}", id).replace("{name}", id)


def texts(type_: Any) -> Iterator[Place]:
    """Every field of a body or query that holds text, whatever form it asks for."""
    yield from _texts(inspect.type_info(read_as(type_)), ())


def put(body: dict[str, Any], place: Place, value: object, names: Mapping[str, str], type_: Any) -> None:
    """Set a field, with all that must be around it."""
    at: Any = body
    kind: Any = inspect.type_info(read_as(type_))
    for step, following in zip(place, (*place[1:], None), strict=True):
        kind = _inside(kind)
        if isinstance(step, int):
            kind = kind.item_type
            while len(at) <= step:
                at.append(_value(_inside(kind), names, ""))
        else:
            kind = next((f.type for f in getattr(kind, "fields", ()) if f.encode_name == step), kind)
            if following is not None and not at.get(step):
                at[step] = _value(_inside(kind), names, step)
        if following is None:
            at[step] = value
        else:
            at = at[step]


def _texts(kind: inspect.Type, place: Place) -> Iterator[Place]:
    kind = _inside(kind)
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from _texts(field.type, (*place, field.encode_name))
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.SetType):
        yield from _texts(kind.item_type, (*place, 0))
    elif isinstance(
        kind,
        inspect.StrType | inspect.UUIDType | inspect.DateTimeType | inspect.LiteralType | inspect.EnumType,
    ):
        yield place
    elif isinstance(kind, inspect.DictType | inspect.AnyType):
        yield (*place, "note")


def _inside(kind: inspect.Type) -> Any:
    """What a type is beside None, and below what is said about it."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return _inside(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
    return kind


def _struct(kind: Any, names: Mapping[str, str]) -> dict[str, Any]:
    kind = _inside(kind)
    return {f.encode_name: _value(_inside(f.type), names, f.encode_name) for f in kind.fields if f.required}


def _value(kind: Any, names: Mapping[str, str], name: str) -> Any:
    match kind:
        case inspect.StructType():
            return _struct(kind, names)
        case inspect.StrType(pattern=pattern, max_length=longest):
            return _SAMPLES.get(pattern or "", f"m-{uuid4().hex}"[: longest or 34])
        case inspect.UUIDType():
            return names.get(FIELDS.get(name, ""), str(uuid4()))
        case inspect.IntType(ge=least, gt=over):
            return max(1, least or 0, (over or 0) + 1)
        case inspect.BoolType():
            return True
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.DateTimeType():
            return "2026-01-01T00:00:00Z"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [_value(_inside(item), names, name)]
        case inspect.FloatType():
            return 1.5
        case _:
            return {}
