"""The web process's settings, read from the environment once at start-up."""

from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.gstin import DEMONSTRATION, state_of_gstin


class WebSettings(BaseSettings):
    """Where to listen, who may call, and where the sums go.

    `api_token` is a development token with every right; empty means that nobody has one. `partitions` and
    `consumer_group` are the workers'. `web_refunds_per_minute` is how many refunds and payouts a caller may ask for.
    `invoice_seller_gstin` is the invoices' setting: its first two digits are the GST State that we sell from.
    Whoever sets `seller_state_code` as well must mean the same, or nothing starts.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    web_host: str = "127.0.0.1"
    web_port: int = Field(default=8080, ge=0, le=65535)
    web_shutdown_s: float = Field(default=5.0, ge=0)
    web_max_wait_ms: int = Field(default=10_000, ge=0)
    web_log_level: str = "info"
    web_refunds_per_minute: int = Field(default=6000, ge=1)
    api_token: SecretStr = SecretStr("")
    partitions: int = Field(default=16, ge=1)
    consumer_group: str = "commdesk"
    invoice_seller_gstin: str = DEMONSTRATION
    seller_state_code: str | None = Field(default=None, pattern="^[0-9]{2}$")

    @model_validator(mode="after")
    def _one_state(self) -> Self:
        if self.seller_state_code not in (None, self.seller_state):
            raise ValueError(
                f"SELLER_STATE_CODE is {self.seller_state_code}, but INVOICE_SELLER_GSTIN is of State {self.seller_state}"
            )
        return self

    @property
    def seller_state(self) -> str:
        """The GST State code that we sell from. Errors: BadGstin."""
        return state_of_gstin(self.invoice_seller_gstin)
