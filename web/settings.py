"""The web process's settings, read from the environment once at start-up."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.gstin import DEMONSTRATION, state_of_gstin


class JwtKey(BaseModel):
    """A public key that tokens may be signed with, until `not_after` if that is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kid: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    alg: Literal["RS256", "EdDSA"]
    pem: str
    not_after: AwareDatetime | None = None


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode]


class WebSettings(BaseSettings):
    """Where to listen, who may call, and where the sums go.

    `api_token` is a development token with every right; it counts only where `development` is set, and empty means that
    nobody has one. `jwt_keys` is JSON, a list of `JwtKey`: to rotate, add the new one, let the issuer change over, then
    give the old one a `not_after`. Revocations are seen after `access_cache_s` at the latest. `approval_refund_paise`: a
    refund above it needs a second person's word within `approval_expires_s`. `partitions` and
    `consumer_group` are the workers'.

    Limits count in any sixty seconds: `web_{reads,writes,usage,refunds}_per_minute` a caller's (`refunds`: all by which money
    leaves), `web_customer_*` where the caller is a customer, an address has `web_address_times` as much; refused credentials,
    forged webhooks and probes count by address alone. `web_processes` share a limit while Redis is away.
    `web_trusted_proxies` and `web_webhook_sources` are networks, separated by commas: whose `web_forwarded_header` is believed,
    and where webhooks may come from (empty: anywhere). Nobody joins a queue that has stood for `web_shed_after_s`. A request's
    head comes within `web_head_s`, its body within `web_body_s` and without a pause of `web_stall_s`;
    bodies that still come in have `web_bodies_bytes` together.

    `invoice_seller_gstin` is the invoices' setting: its first two digits are the GST State that we sell from.
    Whoever sets `seller_state_code` as well must mean the same, or nothing starts.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    web_host: str = "127.0.0.1"
    web_port: int = Field(default=8080, ge=0, le=65535)
    web_shutdown_s: float = Field(default=5.0, ge=0)
    web_max_wait_ms: int = Field(default=10_000, ge=0)
    web_log_level: str = "info"
    web_reads_per_minute: int = Field(default=60_000, ge=1)
    web_writes_per_minute: int = Field(default=60_000, ge=1)
    web_usage_per_minute: int = Field(default=120_000, ge=1)
    web_refunds_per_minute: int = Field(default=6000, ge=1)
    web_customer_reads_per_minute: int = Field(default=1200, ge=1)
    web_customer_writes_per_minute: int = Field(default=600, ge=1)
    web_address_times: int = Field(default=4, ge=1)
    web_probes_per_minute: int = Field(default=6000, ge=1)
    web_refused_credentials_per_minute: int = Field(default=3000, ge=1)
    web_forged_webhooks_per_minute: int = Field(default=3000, ge=1)
    web_processes: int = Field(default=1, ge=1)
    web_trusted_proxies: Networks = ()
    web_forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    web_webhook_sources: Networks = ()
    web_shed_after_s: float = Field(default=3.0, gt=0)
    web_connections: int = Field(default=4096, ge=1)
    web_connections_per_address: int = Field(default=2048, ge=1)
    web_head_s: float = Field(default=10.0, gt=0)
    web_body_s: float = Field(default=15.0, gt=0)
    web_stall_s: float = Field(default=5.0, gt=0)
    web_bodies_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024)
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

    @field_validator("web_trusted_proxies", "web_webhook_sources", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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
