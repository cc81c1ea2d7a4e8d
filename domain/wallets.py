"""A wallet's balances and its holds, as the ledger's specification keeps them."""

from dataclasses import dataclass, field
from uuid import UUID

from domain.money import Credits, Paise


@dataclass(slots=True)
class Wallet:
    """Balances of one wallet. Debt is apart from them: what the wallet owes in credits, and their money."""

    id: UUID
    available: Credits = 0
    locked: Credits = 0
    pending: Credits = 0
    lifetime_purchased: Credits = 0
    debt: Credits = 0
    receivable_paise: Paise = 0
    last_seq: int = 0
    lot_ids: list[UUID] = field(default_factory=list)


@dataclass(slots=True)
class Hold:
    """Credits set aside, by lot, in the order in which they were taken."""

    id: UUID
    wallet_id: UUID
    parts: tuple[tuple[UUID, Credits], ...]
    open: bool = True

    @property
    def credits(self) -> Credits:
        return sum(credits for _, credits in self.parts)
