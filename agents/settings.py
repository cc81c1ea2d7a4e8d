"""What the workers are told by the environment: when to ask about silent payments, and whose invoices these are."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.gst import GST_RATE_BP
from domain.gstin import DEMONSTRATION, state_of_gstin


class PollerSettings(BaseSettings):
    """How long a payment may be silent before the gateway is asked about it, and how often we look for such."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    poller_age_s: float = Field(default=300.0, ge=0)
    poller_every_s: float = Field(default=5.0, gt=0)


class MonitorSettings(BaseSettings):
    """How often the worker that has the duty measures the whole system."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    monitor_every_s: float = Field(default=5.0, gt=0)


class InvoiceSettings(BaseSettings):
    """The seller as registered for GST, and what it sells; a demonstration's by default, and it says so.

    Lines of the address are separated by semicolons.
    `invoice_seller_gstin` decides the seller's State: the web process splits the orders' tax by the same setting.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    invoice_seller_name: str = Field(default="CommDesk Demo Private Limited", min_length=1, max_length=100)
    invoice_seller_address: str = Field(
        default="4th Floor, Example House;100 Feet Road, Indiranagar;Bengaluru 560038, Karnataka, India"
    )
    invoice_seller_gstin: str = DEMONSTRATION
    invoice_seller_email: str | None = "billing@commdesk.example"
    invoice_seller_website: str | None = "commdesk.example"
    invoice_seller_upi: str | None = Field(
        default=None, description="UPI address that amounts due are paid to, by QR code"
    )
    invoice_sac: str = Field(default="998439", pattern=r"^[0-9]{4,8}$", description="SAC of the service sold")
    invoice_item: str = Field(default="CommDesk service credits", min_length=1, max_length=120)
    invoice_render: bool = Field(default=True, description="whether this worker also makes invoices' PDFs")
    invoice_rate_bp: int = Field(default=GST_RATE_BP, ge=0, le=10_000, multiple_of=2)

    @model_validator(mode="after")
    def _registered(self) -> Self:
        state_of_gstin(self.invoice_seller_gstin)
        return self

    def terms(self) -> dict[str, Any]:
        """What each document takes over when it is issued, frozen there."""
        address = [line.strip() for line in self.invoice_seller_address.split(";") if line.strip()]
        return {
            "seller": {
                "name": self.invoice_seller_name,
                "address": address,
                "gstin": self.invoice_seller_gstin,
                "state_code": state_of_gstin(self.invoice_seller_gstin),
                "email": self.invoice_seller_email,
                "website": self.invoice_seller_website,
                "upi": self.invoice_seller_upi,
            },
            "sac": self.invoice_sac,
            "item": self.invoice_item,
            "rate_bp": self.invoice_rate_bp,
        }
