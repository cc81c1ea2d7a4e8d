"""Who sells is said once: the State that tax is split for is the one printed on the invoice."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agents.settings import InvoiceSettings
from domain.gstin import check_character
from web.settings import WebSettings

DELHI = "07AAACD0000D1Z" + check_character("07AAACD0000D1Z")


def test_the_state_that_we_sell_from_is_that_of_the_invoices_gstin(monkeypatch: pytest.MonkeyPatch) -> None:
    for gstin in (None, DELHI):
        if gstin is not None:
            monkeypatch.setenv("INVOICE_SELLER_GSTIN", gstin)
        seller = InvoiceSettings().terms()["seller"]
        assert WebSettings().seller_state == seller["state_code"] == seller["gstin"][:2]
    assert WebSettings().seller_state == "07"


@pytest.mark.parametrize(
    ("name", "value"),
    [("SELLER_STATE_CODE", "27"), ("INVOICE_SELLER_GSTIN", "29AAACD0000D1ZZ"), ("INVOICE_SELLER_GSTIN", "")],
)
def test_a_state_that_differs_or_a_gstin_that_is_none_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        WebSettings()
    monkeypatch.setenv("INVOICE_SELLER_GSTIN", DELHI)
    monkeypatch.setenv("SELLER_STATE_CODE", "07")
    assert WebSettings().seller_state == "07"
