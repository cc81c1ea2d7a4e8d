"""Who sells is said once: the State that tax is split for is the one printed on the invoice."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from agents.mail_settings import MailSettings
from agents.settings import InvoiceSettings
from domain.gstin import check_character
from gateway.settings import GatewaySettings
from gateway.storage import StorageSettings
from sql.db import DatabaseSettings
from streams.settings import StreamSettings
from streams.telemetry.settings import TelemetrySettings
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


CANARY = "canary-9f3a71c2"
SECRETS = {
    "DATABASE_URL": f"postgresql://core:{CANARY}@localhost/db",
    "STREAM_URL": f"rabbitmq-stream://core:{CANARY}@localhost:5552/%2f",
    "REDIS_URL": f"redis://:{CANARY}@localhost/0",
    "SMTP_URL": f"smtp://mail:{CANARY}@localhost:587",
    "SENTRY_DSN": f"https://{CANARY}@localhost/1",
    "API_TOKEN": CANARY,
    "CASHFREE_CLIENT_SECRET": CANARY,
    "CASHFREE_WEBHOOK_SECRETS": CANARY,
    "INVOICE_STORAGE_KEY": CANARY,
}


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (WebSettings, ("SELLER_STATE_CODE", "27")),
        (DatabaseSettings, ("DATABASE_POOL_SIZE", "0")),
        (StreamSettings, ("PARTITIONS", "0")),
        (GatewaySettings, ("CASHFREE_PROCESSES", "0")),
        (MailSettings, ("MAIL_ATTEMPTS", "0")),
        (StorageSettings, ("INVOICE_STORAGE_URL", "gopher://x")),
        (TelemetrySettings, None),
    ],
)
def test_no_setting_shows_its_secret_nor_does_the_error_of_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings], bad: tuple[str, str] | None
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = kind()
    assert CANARY not in repr(settings) + str(settings)
    if bad is not None:
        monkeypatch.setenv(*bad)
        with pytest.raises(ValidationError) as error:
            kind()
        assert CANARY not in str(error.value)


def test_networks_are_read_from_a_list_and_a_wrong_one_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEB_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,")
    assert [str(n) for n in WebSettings().web_trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    monkeypatch.setenv("WEB_TRUSTED_PROXIES", "10.0.0.1/8")
    with pytest.raises(ValidationError):
        WebSettings()
