"""Where mail goes out, read from the environment once at start-up."""

from dataclasses import dataclass, field
from email.headerregistry import Address
from email.policy import default
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_COMMANDS = 4
"""Answers that one mail waits for at most: MAIL, RCPT, DATA, and its content."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """An SMTP server. Beyond this machine its connection is always encrypted, at once or by STARTTLS."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    implicit_tls: bool
    start_tls: bool


class MailSettings(BaseSettings):
    """`smtp_url` is smtp://user:password@host:587 (STARTTLS, except on loopback) or smtps://…:465; unset: email is off.

    A mail that fails waits base·2^n ± 25 %, at most the cap, and is dead after `mail_attempts`.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    smtp_url: SecretStr | None = None
    smtp_ca_file: Path | None = None
    smtp_timeout_s: float = Field(default=20.0, gt=0)
    mail_from: str = "CommDesk Billing <billing@localhost>"
    mail_connections: int = Field(default=2, ge=1, le=50)
    mail_attempts: int = Field(default=8, ge=1)
    mail_retry_base_s: float = Field(default=30.0, gt=0)
    mail_retry_cap_s: float = Field(default=3600.0, gt=0)
    mail_lease_s: float = Field(default=300.0, gt=0)

    @field_validator("smtp_url", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return value or None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        server, sender = self.server, self.sender
        if server is not None and server.host not in _LOOPBACK and sender.domain == "localhost":
            raise ValueError("MAIL_FROM must be an address of ours when SMTP_URL is set")
        if self.mail_lease_s <= 2 * self.longest_send_s:
            raise ValueError("MAIL_LEASE_S must outlast two mails at SMTP_TIMEOUT_S")
        return self

    @property
    def server(self) -> MailServer | None:
        """The server that `smtp_url` names. Errors: ValueError without its value, which holds a password."""
        if self.smtp_url is None:
            return None
        url = urlsplit(self.smtp_url.get_secret_value())
        if url.scheme not in ("smtp", "smtps") or not url.hostname:
            raise ValueError("SMTP_URL must be smtp://host or smtps://host")
        implicit_tls = url.scheme == "smtps"
        return MailServer(
            host=url.hostname,
            port=url.port or (465 if implicit_tls else 587),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            implicit_tls=implicit_tls,
            start_tls=not implicit_tls and url.hostname not in _LOOPBACK,
        )

    @property
    def sender(self) -> Address:
        """The one address of `mail_from`. Errors: ValueError."""
        header = default.header_factory("From", self.mail_from)
        if len(header.addresses) != 1 or not header.addresses[0].domain:
            raise ValueError("MAIL_FROM must be one address")
        return Address(header.addresses[0].display_name, addr_spec=header.addresses[0].addr_spec)

    @property
    def longest_send_s(self) -> float:
        """How long one mail may take."""
        return _COMMANDS * self.smtp_timeout_s
