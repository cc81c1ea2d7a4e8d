"""GST registration numbers (GSTIN), States, and the place of supply that decides which tax applies."""

import re
from typing import Final

STATES: Final[dict[str, str]] = {
    "01": "Jammu and Kashmir",
    "02": "Himachal Pradesh",
    "03": "Punjab",
    "04": "Chandigarh",
    "05": "Uttarakhand",
    "06": "Haryana",
    "07": "Delhi",
    "08": "Rajasthan",
    "09": "Uttar Pradesh",
    "10": "Bihar",
    "11": "Sikkim",
    "12": "Arunachal Pradesh",
    "13": "Nagaland",
    "14": "Manipur",
    "15": "Mizoram",
    "16": "Tripura",
    "17": "Meghalaya",
    "18": "Assam",
    "19": "West Bengal",
    "20": "Jharkhand",
    "21": "Odisha",
    "22": "Chhattisgarh",
    "23": "Madhya Pradesh",
    "24": "Gujarat",
    "25": "Daman and Diu",
    "26": "Dadra and Nagar Haveli and Daman and Diu",
    "27": "Maharashtra",
    "28": "Andhra Pradesh (before division)",
    "29": "Karnataka",
    "30": "Goa",
    "31": "Lakshadweep",
    "32": "Kerala",
    "33": "Tamil Nadu",
    "34": "Puducherry",
    "35": "Andaman and Nicobar Islands",
    "36": "Telangana",
    "37": "Andhra Pradesh",
    "38": "Ladakh",
    "97": "Other Territory",
}
"""GST State codes, two digits, to names (GSTN's code list)."""

_SHAPE: Final = re.compile(r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]", re.ASCII)
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class BadGstin(ValueError):
    """A text that is not a GSTIN: its shape, State or check character is wrong."""


class NoPlaceOfSupply(ValueError):
    """Neither a GSTIN nor a State is on record, so no tax can be chosen and nothing may be sold."""


def check_character(first_fourteen: str) -> str:
    """The fifteenth character of a GSTIN: weights 1, 2, 1, 2 … in base 36, each product's digits summed."""
    total = 0
    for position, character in enumerate(first_fourteen):
        product = _ALPHABET.index(character) * (1 + position % 2)
        total += product // 36 + product % 36
    return _ALPHABET[-total % 36]


def state_of_gstin(gstin: str) -> str:
    """The two-digit State code of a valid GSTIN. Errors: BadGstin, with the reason."""
    if not _SHAPE.fullmatch(gstin):
        raise BadGstin("a GSTIN is 15 characters: State, PAN, entity, Z, check character")
    if gstin[:2] not in STATES:
        raise BadGstin(f"no State has the code {gstin[:2]}")
    if check_character(gstin[:14]) != gstin[14]:
        raise BadGstin("the check character does not match")
    return gstin[:2]


DEMONSTRATION: Final = "29AAACD0000D1Z" + check_character("29AAACD0000D1Z")
"""A well-formed GSTIN of Karnataka that nobody has: the seller's until a real one is set."""


def place_of_supply(*, gstin: str | None, customer_state: str | None) -> str:
    """The State code a sale is taxed in: a business's GSTIN decides, else the customer's State on record.

    Errors: BadGstin; NoPlaceOfSupply when neither is known (a purchase without a State is refused).
    Source: IGST Act 2017, s. 12(2).
    """
    if gstin is not None:
        return state_of_gstin(gstin)
    if customer_state is None or customer_state not in STATES:
        raise NoPlaceOfSupply("a purchase needs the customer's State or GSTIN")
    return customer_state


def is_inter_state(*, supplier_state: str, supply_state: str) -> bool:
    """Whether IGST applies (another State) rather than CGST and SGST."""
    return supplier_state != supply_state
