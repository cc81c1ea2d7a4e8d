"""The core's client for Python services: API v1 as typed methods, and usage published in batches.

    async with Client("https://core.example.com", api_key="cdk_…") as core:
        wallet = await core.wallets.get(wallet_id)
        async with core.usage.meter() as meter:
            await meter.charge(UsageEvent(id="m-1", wallet_id=str(wallet_id), feature="chat.message", credits=1))

Every call is tried again under the same Idempotency-Key until it is answered; see `client.calls`, and `client.errors` for
what it raises.
"""

from types import TracebackType
from typing import Any, Self

from client.calls import Caller, Patience
from client.publishing import publisher
from client.resources import Endpoints, Holds, Invoices, Payments, Usage, Users, Wallets
from streams.events import UsageEvent
from streams.publish import Publisher

__all__ = ["Client", "Patience", "Publisher", "UsageEvent"]


class Client:
    """One per process is enough; used inside `async with`, by any number of tasks.

    `url`: the core's address without a path. `connections`: at most so many at a time.
    """

    def __init__(
        self, url: str, api_key: str, *, patience: Patience | None = None, connections: int = 50
    ) -> None:
        self._caller = Caller(url, api_key, patience or Patience(), connections=connections)
        self.users = Users(self._caller)
        self.wallets = Wallets(self._caller)
        self.holds = Holds(self._caller)
        self.usage = Usage(self._caller)
        self.payments = Payments(self._caller)
        self.invoices = Invoices(self._caller)
        self.endpoints = Endpoints(self._caller)

    async def __aenter__(self) -> Self:
        await self._caller.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._caller.__aexit__(kind, error, trace)

    def publisher(self, stream_url: str, *, name: str, secret: bytes, **more: Any) -> Publisher:
        """Publishes usage straight onto the broker, for services that use too much for HTTP: `streams.publish`, told by
        this API what has its outcome. `more`: as `Publisher` takes it, e.g. spool=Path(…).
        """
        return publisher(self._caller, stream_url, name=name, secret=secret, **more)
