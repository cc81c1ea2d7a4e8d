"""The gateway's settings, read from the environment once at start-up."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SANDBOX_URL = "https://sandbox.cashfree.com/pg"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class GatewaySettings(BaseSettings):
    """Where Cashfree is, who we are, and how hard we may call it.

    `cashfree_webhook_secrets` is a comma-separated list, newest first; empty means the client secret signs.
    `cashfree_limits_per_minute` (JSON) overrides the published limits once Cashfree has raised them.
    `cashfree_processes` is how many processes share the limits while Redis is away.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    cashfree_base_url: str = SANDBOX_URL
    cashfree_client_id: str = ""
    cashfree_client_secret: SecretStr = SecretStr("")
    cashfree_webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    cashfree_limits_per_minute: dict[str, int] = Field(default_factory=dict)
    cashfree_processes: int = Field(default=8, ge=1)
    cashfree_connect_timeout_s: float = Field(default=3.0, gt=0)
    cashfree_timeout_s: float = Field(default=10.0, gt=0)
    cashfree_patience_s: float = Field(default=5.0, ge=0)
    cashfree_connections: int = Field(default=128, ge=1)
    cashfree_ca_file: Path | None = None
    redis_url: SecretStr | None = None

    @field_validator("cashfree_webhook_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("cashfree_base_url")
    @classmethod
    def _only_tls(cls, value: str) -> str:
        parts = urlsplit(value)
        near = parts.hostname in _LOOPBACK or parts.hostname == "simulator"
        if parts.scheme != "https" and not (parts.scheme == "http" and near):
            raise ValueError(
                "the gateway is called over TLS; plain http is for a simulator on loopback, "
                "or for the service named `simulator` of a private container network"
            )
        return value.rstrip("/")

    @field_validator("cashfree_limits_per_minute")
    @classmethod
    def _positive(cls, value: dict[str, int]) -> dict[str, int]:
        if any(limit < 1 for limit in value.values()):
            raise ValueError("a limit is at least one call a minute")
        return value

    def webhook_secrets(self) -> tuple[bytes, ...]:
        """The keys a webhook may be signed with, newest first; empty only if nothing is configured."""
        secrets = self.cashfree_webhook_secrets or (self.cashfree_client_secret,)
        return tuple(raw for secret in secrets if (raw := secret.get_secret_value().encode()))

    def checkout_url(self, payment_session_id: str) -> str:
        """The hosted page where the customer pays this session."""
        return f"{self.cashfree_base_url}/view/sessions/checkout?payment_session_id={payment_session_id}"

    def ssl_context(self) -> ssl.SSLContext:
        """Verified TLS, against the system's authorities or the given file."""
        return ssl.create_default_context(cafile=self.cashfree_ca_file)
