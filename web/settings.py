"""The web process's settings, read from the environment once at start-up."""

from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.gstin import DEMONSTRATION, state_of_gstin


class JwtKey(BaseModel):
    """A public key that tokens may be signed with, until `not_after` if that is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kid: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    alg: Literal["RS256", "EdDSA"]
    pem: str
    not_after: AwareDatetime | None = None


class WebSettings(BaseSettings):
    """Where to listen, who may call, and where the sums go.

    `api_token` is a development token with every right; it counts only where `development` is set, and empty means that
    nobody has one. `jwt_keys` is JSON, a list of `JwtKey`: to rotate, add the new one, let the issuer change over, then
    give the old one a `not_after`. Revocations are seen after `access_cache_s` at the latest. `approval_refund_paise`: a
    refund above it needs a second person's word within `approval_expires_s`. `partitions` and
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
    development: bool = False
    api_token: SecretStr = SecretStr("")
    jwt_keys: tuple[JwtKey, ...] = ()
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway_s: float = Field(default=5.0, ge=0, le=60)
    jwt_longest_s: int = Field(default=86_400, ge=60)
    access_cache_s: float = Field(default=2.0, ge=0, le=60)
    approval_refund_paise: int = Field(default=50_000, ge=0)
    approval_expires_s: float = Field(default=86_400.0, gt=0)
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

    @model_validator(mode="after")
    def _tokens_are_for_us(self) -> Self:
        if self.jwt_keys and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("JWT_KEYS needs JWT_ISSUER and JWT_AUDIENCE")
        if len({key.kid for key in self.jwt_keys}) != len(self.jwt_keys):
            raise ValueError("JWT_KEYS has a kid twice")
        return self

    @property
    def seller_state(self) -> str:
        """The GST State code that we sell from. Errors: BadGstin."""
        return state_of_gstin(self.invoice_seller_gstin)
