"""The words of who may do what: scopes, roles, how far a role reaches, and a caller. Who calls is found in `web.access`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """What a route asks of its caller."""

    PUBLIC = "public"
    SIGNED = "signed"  # the body's signature is the credential
    LIVE = "live"
    USERS_WRITE = "users:write"
    USERS_READ = "users:read"
    WALLETS_WRITE = "wallets:write"
    WALLETS_READ = "wallets:read"
    CREDITS_GRANT = "credits:grant"
    CREDITS_HOLD = "credits:hold"
    USAGE_WRITE = "usage:write"
    USAGE_READ = "usage:read"
    PAYMENTS_WRITE = "payments:write"
    PAYMENTS_READ = "payments:read"
    REFUNDS_WRITE = "refunds:write"
    REFUNDS_READ = "refunds:read"
    REFUNDS_STAFF = "refunds:staff"  # RETIER, and payouts of old payments
    FRAUD_READ = "fraud:read"
    FRAUD_WRITE = "fraud:write"
    PUBLISHERS_READ = "publishers:read"
    AGGREGATES_READ = "aggregates:read"
    RECON_READ = "reconciliation:read"
    RECON_WRITE = "reconciliation:write"
    WEBHOOKS_READ = "webhooks:read"
    QUEUES_READ = "queues:read"
    QUEUES_WRITE = "queues:write"
    APPROVALS_READ = "approvals:read"
    APPROVALS_WRITE = "approvals:write"
    ENDPOINTS_READ = "endpoints:read"
    ENDPOINTS_WRITE = "endpoints:write"
    AUDIT_READ = "audit:read"
    ACCESS_READ = "access:read"
    ACCESS_WRITE = "access:write"


OPEN: Final = frozenset({Scope.PUBLIC, Scope.SIGNED})
"""Asked of nobody."""


class Role(StrEnum):
    """Who somebody is to us. `web.policy` says what each may do."""

    CUSTOMER = "customer"  # a user of ours; the token's subject is the user's id
    SERVICE = "service"  # an API key
    SUPPORT = "support"
    FINANCE = "finance"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"  # keys and tokens; no money
    DEVELOPER = "developer"  # the development token: everything, where DEVELOPMENT is set
    NOBODY = "nobody"


STAFF: Final = frozenset({Role.SUPPORT, Role.FINANCE, Role.OPERATOR, Role.AUDITOR, Role.ADMIN})


class Reach(StrEnum):
    """Which objects a role may use a route on."""

    NONE = "-"
    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller. `principal` scopes its idempotency keys and usage ids, and has no ':'."""

    principal: str
    role: Role
    scopes: frozenset[Scope]
    reach: Reach = Reach.ANY
    """Of the route that is called."""


NOBODY: Final = Caller("-", Role.NOBODY, frozenset())
LOCAL: Final = Caller("local", Role.DEVELOPER, frozenset(Scope))
