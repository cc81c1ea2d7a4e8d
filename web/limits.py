"""Which limit a request counts against, and how high it is: by kind of request, for a caller and for an address."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from web.auth import Caller, Role, Scope
from web.settings import WebSettings


class Kind(StrEnum):
    """What is counted apart."""

    READS = "reads"
    WRITES = "writes"
    USAGE = "usage"
    MONEY = "money"
    """Refunds, payouts, and the word that lets them go."""
    PROBES = "probes"
    """Health, metrics, files of the page: nobody's name, and never a question to Redis."""
    CREDENTIALS = "credentials"
    """Refused ones."""
    FORGERIES = "forgeries"
    """Webhooks whose signature is wrong."""


MONEY_LEAVES: Final = frozenset({Scope.REFUNDS_WRITE, Scope.REFUNDS_STAFF, Scope.APPROVALS_WRITE})
"""What is refused while callers cannot be counted."""


def kind_of(method: str, scope: Scope) -> Kind | None:
    """What a route counts as; None: nothing (a webhook's signature is its ticket)."""
    if scope is Scope.SIGNED:
        return None
    if scope is Scope.PUBLIC:
        return Kind.PROBES
    if scope in MONEY_LEAVES:
        return Kind.MONEY
    if scope is Scope.USAGE_WRITE:
        return Kind.USAGE
    return Kind.READS if method == "GET" else Kind.WRITES


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests a minute."""

    callers: dict[Kind, int]
    customers: dict[Kind, int]
    addresses: dict[Kind, int]

    @classmethod
    def of(cls, settings: WebSettings) -> "Limits":
        """As the settings say."""
        callers = {
            Kind.READS: settings.web_reads_per_minute,
            Kind.WRITES: settings.web_writes_per_minute,
            Kind.USAGE: settings.web_usage_per_minute,
            Kind.MONEY: settings.web_refunds_per_minute,
        }
        alone = {
            Kind.READS: settings.web_customer_reads_per_minute,
            Kind.WRITES: settings.web_customer_writes_per_minute,
        }
        customers = {kind: min(n, alone.get(kind, n)) for kind, n in callers.items()}
        addresses = {kind: n * settings.web_address_times for kind, n in callers.items()} | {
            Kind.PROBES: settings.web_probes_per_minute,
            Kind.CREDENTIALS: settings.web_refused_credentials_per_minute,
            Kind.FORGERIES: settings.web_forged_webhooks_per_minute,
        }
        return cls(callers, customers, addresses)

    def of_caller(self, kind: Kind, caller: Caller) -> int:
        """How often this caller may."""
        return (self.customers if caller.role is Role.CUSTOMER else self.callers)[kind]
