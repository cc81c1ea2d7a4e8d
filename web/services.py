"""What every handler works with: the database, the gateway, the settings."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from gateway.client import CashfreeClient
from gateway.settings import GatewaySettings
from gateway.storage import Storage
from sql.batches import CHAINS
from sql.db import Database
from streams.topics import partition_of
from web.access import Access
from web.addresses import Proxies
from web.limits import Limits
from web.metrics import Metrics
from web.problems import overloaded
from web.room import Room
from web.settings import WebSettings
from web.throttle import Throttle

_sorted: Final = msgspec.json.Encoder(order="sorted")


@dataclass(slots=True)
class Services:
    """Made once per process."""

    settings: WebSettings
    gateway_settings: GatewaySettings
    db: Database
    gateway: CashfreeClient
    storage: Storage
    throttle: Throttle
    access: Access
    proxies: Proxies
    limits: Limits
    room: Room
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def partition(self, key: str) -> int:
        """The partition of a key, of any topic."""
        return partition_of(key, self.settings.partitions)

    def chain(self, key: str) -> int:
        """The shard of the named chain that a synchronous call for this key goes to."""
        return partition_of(key, CHAINS)

    def refuse_if_crowded(self) -> None:
        """Nobody joins a queue for the database that has stood for long. Errors: Problem 503."""
        if self.db.waited_s() > self.settings.web_shed_after_s:
            self.metrics.shed.labels("database").inc()
            raise overloaded()


SERVICES: Final = web.AppKey("services", Services)
EVENT_ID: Final = web.RequestKey("event_id", str)
"""Where a handler leaves the id of what it stored, for the log and the trace."""
STANDING: Final = web.RequestKey("standing", dict)
"""Where the guard leaves the RateLimit fields of the answer."""


def request_hash(kind: str, *said: object) -> bytes:
    """16 bytes over what the same Idempotency-Key must repeat."""
    return hashlib.blake2b(_sorted.encode((kind, said)), digest_size=16).digest()
