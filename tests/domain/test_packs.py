"""The pack table is the server's, and it is the only one."""

import pytest

from domain.packs import PACKS, UnknownPack, credits_bought_by, pack_for


@pytest.mark.parametrize(
    ("price", "base", "bonus"),
    [(15_000, 1_500, 0), (30_000, 3_000, 200), (50_000, 5_000, 500), (100_000, 10_000, 2_000)],
)
def test_a_pack_buys_its_base_at_list_price_and_its_bonus(price: int, base: int, bonus: int) -> None:
    pack = pack_for(price)
    assert (pack.base, pack.bonus, pack.credits) == (base, bonus, base + bonus)
    assert pack.base * 10 == pack.price_paise


@pytest.mark.parametrize("price", [0, -15_000, 14_999, 15_001, 500])
def test_a_price_that_no_pack_has_is_refused(price: int) -> None:
    with pytest.raises(UnknownPack):
        pack_for(price)


@pytest.mark.parametrize(
    ("amount", "credits"),
    [(0, 0), (9, 0), (10_000, 1_000), (15_000, 1_500), (60_000, 6_500), (80_000, 8_700)],
)
def test_an_amount_would_have_bought_packs_and_the_rest_at_list_price(amount: int, credits: int) -> None:
    assert credits_bought_by(amount) == credits


def test_every_pack_buys_itself() -> None:
    assert [credits_bought_by(pack.price_paise) for pack in PACKS] == [pack.credits for pack in PACKS]
