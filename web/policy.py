"""Who may do what, as one table: every route, every role, and how far it reaches.

`own`: only what belongs to the caller; `any`: whatever there is; `-`: not at all. A route that is missing here, a line
without a route, or an `own` that nothing could check, and the process does not start. What belongs to whom is in `web.ownership`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, get_args
from uuid import UUID

from web.auth import OPEN, Caller, Reach, Role, Scope
from web.ownership import FIELDS, KINDS
from web.problems import Problem

COLUMNS: Final = (
    Role.CUSTOMER,
    Role.SERVICE,
    Role.SUPPORT,
    Role.FINANCE,
    Role.OPERATOR,
    Role.AUDITOR,
    Role.ADMIN,
)

# The last word names what the path stands for, where somebody may reach only their own.
TABLE: Final = """
POST /v1/users                                                 -    any  any  -    -    -    -    -
GET  /v1/users/{id}                                            own  any  any  any  any  any  -    user
GET  /v1/users/{id}/notifications                              own  any  any  -    -    any  -    user
POST /v1/users/{id}/notifications/read                         own  any  -    -    -    -    -    user
GET  /v1/users/{id}/preferences                                own  any  any  -    -    any  -    user
POST /v1/users/{id}/preferences                                own  any  any  -    -    -    -    user
POST /v1/wallets                                               own  any  any  -    -    -    -    -
GET  /v1/wallets                                               own  any  any  any  any  any  -    -
GET  /v1/wallets/{id}                                          own  any  any  any  any  any  -    wallet
GET  /v1/wallets/{id}/transactions                             own  any  any  any  any  any  -    wallet
GET  /v1/transactions/{id}                                     own  any  any  any  any  any  -    transaction
POST /v1/wallets/{id}/grants                                   -    any  any  any  -    -    -    wallet
POST /v1/holds                                                 -    any  -    -    -    -    -    -
GET  /v1/holds                                                 own  any  any  any  any  any  -    -
GET  /v1/holds/{id}                                            own  any  any  any  any  any  -    hold
POST /v1/holds/{id}/capture                                    -    any  -    -    -    -    -    hold
POST /v1/holds/{id}/release                                    -    any  -    -    any  -    -    hold
POST /v1/usage                                                 -    any  -    -    -    -    -    -
GET  /v1/usage                                                 own  any  any  any  any  any  -    -
GET  /v1/usage/{id}                                            -    own  -    -    -    -    -    usage
GET  /v1/packs                                                 any  any  any  any  any  any  -    -
POST /v1/payments/orders                                       own  any  -    -    -    -    -    -
GET  /v1/payments                                              own  any  any  any  any  any  -    -
GET  /v1/payments/{id}                                         own  any  any  any  any  any  -    payment
POST /v1/payments/{id}/session                                 own  any  -    -    -    -    -    payment
POST /v1/payments/{id}/retry                                   own  any  -    -    -    -    -    payment
POST /v1/payments/{id}/verify                                  own  any  any  any  any  -    -    payment
POST /v1/payments/{id}/sync                                    -    any  any  any  any  -    -    payment
POST /v1/payments/{id}/invoice                                 own  any  any  any  -    -    -    payment
POST /v1/payments/{id}/refunds                                 own  any  any  any  -    -    -    payment
GET  /v1/payments/{id}/refunds                                 own  any  any  any  any  any  -    payment
GET  /v1/refunds                                               own  any  any  any  any  any  -    -
GET  /v1/refunds/{id}                                          own  any  any  any  any  any  -    refund
POST /v1/refunds/{id}/payout                                   -    -    -    any  -    -    -    refund
GET  /v1/receipts                                              -    -    any  any  -    any  -    -
POST /v1/receipts/{id}/refund                                  -    -    -    any  -    -    -    -
GET  /v1/disputes                                              -    -    any  any  -    any  -    -
GET  /v1/disputes/{id}                                         -    -    any  any  -    any  -    -
GET  /v1/invoices                                              own  any  any  any  -    any  -    -
GET  /v1/invoices/{id}.pdf                                     own  any  any  any  -    any  -    invoice
GET  /v1/invoices/{id}                                         own  any  any  any  -    any  -    invoice
GET  /v1/fraud/reviews                                         -    -    any  any  any  any  -    -
GET  /v1/fraud/reviews/{id}                                    -    -    any  any  any  any  -    -
POST /v1/fraud/reviews/{id}/approve                            -    -    -    any  -    -    -    -
POST /v1/fraud/reviews/{id}/reject                             -    -    -    any  -    -    -    -
GET  /v1/reconciliation/cases                                  -    -    -    any  any  any  -    -
POST /v1/reconciliation/cases/{id}/assign                      -    -    -    any  any  -    -    -
POST /v1/reconciliation/cases/{id}/resolve                     -    -    -    any  any  -    -    -
POST /v1/reconciliation/run                                    -    -    -    any  any  -    -    -
GET  /v1/dead-letters                                          -    -    -    -    any  any  -    -
POST /v1/dead-letters/replay                                   -    -    -    -    any  -    -    -
GET  /v1/dead-letters/{id}                                     -    -    -    -    any  any  -    -
POST /v1/dead-letters/{id}/replay                              -    -    -    -    any  -    -    -
POST /v1/dead-letters/{id}/purge                               -    -    -    -    any  -    -    -
GET  /v1/publishers/{name}/sessions/{session}/watermarks       -    own  -    -    any  any  -    publisher
GET  /v1/aggregates/{metric}                                   -    -    any  any  any  any  -    -
GET  /v1/approvals                                             -    -    any  any  any  any  -    -
GET  /v1/approvals/{id}                                        own  own  any  any  any  any  -    approval
POST /v1/approvals/{id}/approve                                -    -    -    any  -    -    -    -
POST /v1/approvals/{id}/reject                                 -    -    -    any  -    -    -    -
GET  /v1/audit                                                 -    -    -    -    -    any  -    -
GET  /v1/audit.jsonl                                           -    -    -    -    -    any  -    -
GET  /v1/audit.csv                                             -    -    -    -    -    any  -    -
GET  /v1/api-keys                                              -    -    -    -    -    any  any  -
POST /v1/api-keys                                              -    -    -    -    -    -    any  -
POST /v1/api-keys/{id}/rotate                                  -    -    -    -    -    -    any  -
POST /v1/api-keys/{id}/revoke                                  -    -    -    -    -    -    any  -
POST /v1/tokens/revoke                                         -    -    -    -    -    -    any  -
GET  /v1/users/{id}/webhook-endpoints                          own  any  any  -    any  any  -    user
POST /v1/webhook-endpoints                                     own  any  -    -    -    -    -    -
GET  /v1/webhook-endpoints/{id}                                own  any  any  -    any  any  -    endpoint
POST /v1/webhook-endpoints/{id}                                own  any  -    -    -    -    -    endpoint
POST /v1/webhook-endpoints/{id}/rotate-secret                  own  any  -    -    -    -    -    endpoint
POST /v1/webhook-endpoints/{id}/enable                         own  any  any  -    any  -    -    endpoint
POST /v1/webhook-endpoints/{id}/disable                        own  any  any  -    any  -    -    endpoint
POST /v1/webhook-endpoints/{id}/delete                         own  any  -    -    -    -    -    endpoint
GET  /v1/webhook-endpoints/{id}/deliveries                     own  any  any  -    any  any  -    endpoint
POST /v1/webhook-endpoints/{id}/replay                         own  any  any  -    any  -    -    endpoint
GET  /v1/webhook-deliveries/{id}                               own  any  any  -    any  any  -    delivery
POST /v1/webhook-deliveries/{id}/replay                        own  any  any  -    any  -    -    delivery
GET  /v1/live                                                  -    -    any  any  any  any  -    -
GET  /                                                         -    -    any  any  any  any  -    -
GET  /v1/webhooks/received                                     -    -    any  any  any  any  -    -
POST /v1/webhooks/cashfree                                     open
GET  /v1/openapi.json                                          open
GET  /v1/docs                                                  open
GET  /healthz                                                  open
GET  /readyz                                                   open
GET  /metrics                                                  open
GET  /static/{path:.+}                                         open
"""


class PolicyError(Exception):
    """The table and the routes disagree; nothing may start."""


class Ruled(Protocol):
    """What the policy must know of a route."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def body(self) -> Any: ...
    @property
    def query(self) -> Any: ...


class Policy:
    """The table, held against the routes. Errors: PolicyError."""

    def __init__(self, routes: Sequence[Ruled], table: str = TABLE) -> None:
        self._lines = _lines(table)
        by_name = {f"{route.method} {route.path}": route for route in routes}
        if len(by_name) != len(routes):
            raise PolicyError("a route is there twice")
        if missing := by_name.keys() - self._lines.keys():
            raise PolicyError(f"not in the policy: {', '.join(sorted(missing))}")
        if stale := self._lines.keys() - by_name.keys():
            raise PolicyError(f"no such route: {', '.join(sorted(stale))}")
        for name, route in by_name.items():
            self._check(name, route)
        self.scopes_of: Mapping[Role, frozenset[Scope]] = {
            role: frozenset(r.scope for n, r in by_name.items() if self._reach(n, role) is not Reach.NONE)
            for role in COLUMNS
        }

    def kind(self, route: Ruled) -> str | None:
        """What the path of a route stands for, where that is somebody's."""
        return self._lines[f"{route.method} {route.path}"][1]

    def is_open(self, route: Ruled) -> bool:
        """Whether a route asks nothing of anybody."""
        return self._lines[f"{route.method} {route.path}"][0] is None

    def has_own(self, route: Ruled) -> bool:
        """Whether some role reaches only its own."""
        return Reach.OWN in (self._lines[f"{route.method} {route.path}"][0] or {}).values()

    def reach(self, route: Ruled, role: Role) -> Reach:
        """How far a role reaches with a route."""
        return self._reach(f"{route.method} {route.path}", role)

    def allow(self, route: Ruled, caller: Caller) -> Reach:
        """The caller's reach. Errors: Problem 403."""
        reach = self.reach(route, caller.role)
        if reach is Reach.NONE or (route.scope not in OPEN and route.scope not in caller.scopes):
            raise Problem(403, "forbidden", f"the scope {route.scope} is needed")
        return reach

    def _reach(self, name: str, role: Role) -> Reach:
        reaches = self._lines[name][0]
        if reaches is None or role is Role.DEVELOPER:
            return Reach.ANY
        return reaches.get(role, Reach.NONE)

    def _check(self, name: str, route: Ruled) -> None:
        """An open route asks nothing of anybody, and no other does; every `own` can be told."""
        reaches, kind = self._lines[name]
        if (reaches is None) != (route.scope in OPEN):
            raise PolicyError(f"{name}: open here or in the routes, and not in the other")
        if reaches is None or Reach.OWN not in reaches.values():
            return
        said = set(getattr(route.body, "__struct_fields__", ())) | set(
            getattr(route.query, "__struct_fields__", ())
        )
        if route.method != "GET" and set(getattr(route.query, "__struct_fields__", ())) & FIELDS.keys():
            raise PolicyError(f"{name}: own, and nobody looks whose its query names")
        if kind is None and not said & FIELDS.keys():
            raise PolicyError(f"{name}: own, and nothing tells whose it is")
        unknown = [
            field
            for said_by in (route.body, route.query)
            for field, type_ in getattr(said_by, "__annotations__", {}).items()
            if field not in FIELDS and field not in _NOBODYS and UUID in (type_, *get_args(type_))
        ]
        if unknown:
            raise PolicyError(f"{name}: nobody knows whose {', '.join(unknown)} is")


_NOBODYS: Final = frozenset({"community_id"})


def _lines(table: str) -> dict[str, tuple[dict[Role, Reach] | None, str | None]]:
    """Reaches by route; None for one that is open to everybody."""
    found: dict[str, tuple[dict[Role, Reach] | None, str | None]] = {}
    for line in table.strip().splitlines():
        method, path, *words = line.split()
        name = f"{method} {path}"
        if name in found:
            raise PolicyError(f"{name} is there twice")
        if words == ["open"]:
            found[name] = (None, None)
            continue
        *reaches, kind = words
        if len(reaches) != len(COLUMNS) or (kind != "-" and kind not in KINDS):
            raise PolicyError(f"{name}: {len(COLUMNS)} roles and a kind of object")
        found[name] = (dict(zip(COLUMNS, map(Reach, reaches), strict=True)), None if kind == "-" else kind)
    return found
