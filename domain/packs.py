"""The packs on sale. This table is the only source of a bonus: a caller names a price, never credits."""

from dataclasses import dataclass
from typing import Final

from domain.money import LIST_PAISE_PER_CREDIT, Credits, Paise


@dataclass(frozen=True, slots=True)
class Pack:
    """One price and what it buys. `price_paise` includes GST."""

    price_paise: Paise
    base: Credits
    bonus: Credits

    @property
    def credits(self) -> Credits:
        return self.base + self.bonus


class UnknownPack(LookupError):
    """No pack is on sale at this price."""

    def __init__(self, price_paise: Paise) -> None:
        super().__init__(f"no pack is sold for {price_paise} paise")
        self.price_paise = price_paise


PACKS: Final = (
    Pack(15_000, 1_500, 0),
    Pack(30_000, 3_000, 200),
    Pack(50_000, 5_000, 500),
    Pack(100_000, 10_000, 2_000),
)


def pack_for(price_paise: Paise, packs: tuple[Pack, ...] = PACKS) -> Pack:
    """The pack sold at exactly this price. Errors: UnknownPack."""
    for pack in packs:
        if pack.price_paise == price_paise:
            return pack
    raise UnknownPack(price_paise)


def credits_bought_by(amount_paise: Paise, packs: tuple[Pack, ...] = PACKS) -> Credits:
    """What an amount would have bought (RETIER): the largest packs that fit, the rest at list price."""
    bought = 0
    for pack in sorted(packs, key=lambda p: p.price_paise, reverse=True):
        count, amount_paise = divmod(amount_paise, pack.price_paise)
        bought += count * pack.credits
    return bought + amount_paise // LIST_PAISE_PER_CREDIT
