"""A registration number is believed only with its check character; a sale needs a place of supply."""

import pytest

from domain.gstin import BadGstin, NoPlaceOfSupply, is_inter_state, place_of_supply, state_of_gstin

VALID = "27AAPFU0939F1ZV"


def test_a_valid_number_names_its_state() -> None:
    assert state_of_gstin(VALID) == "27"
    assert state_of_gstin("29AAGCB7383J1Z4") == "29"


@pytest.mark.parametrize("position", [p for p in range(14) if p != 13])
def test_one_changed_character_is_found(position: int) -> None:
    changed = {"0": "1", "9": "8", "Z": "Y", "A": "B"}
    character = VALID[position]
    other = changed.get(character, "9" if character.isdigit() else "Q")
    with pytest.raises(BadGstin):
        state_of_gstin(VALID[:position] + other + VALID[position + 1 :])


@pytest.mark.parametrize("gstin", ["", "27AAPFU0939F1Z", VALID.lower(), VALID + "\n", "27AAPFU0939F1ZW"])
def test_a_number_of_another_shape_is_refused(gstin: str) -> None:
    with pytest.raises(BadGstin):
        state_of_gstin(gstin)


def test_a_business_is_taxed_where_it_is_registered_and_a_person_where_they_live() -> None:
    assert place_of_supply(gstin=VALID, customer_state="29") == "27"
    assert place_of_supply(gstin=None, customer_state="29") == "29"
    assert is_inter_state(supplier_state="27", supply_state="29")
    assert not is_inter_state(supplier_state="27", supply_state="27")


@pytest.mark.parametrize("state", [None, "", "00", "KA"])
def test_a_purchase_without_a_state_is_refused(state: str | None) -> None:
    with pytest.raises(NoPlaceOfSupply):
        place_of_supply(gstin=None, customer_state=state)
