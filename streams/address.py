"""Where the broker is: a STREAM_URL taken apart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

PLAIN, TLS = "rabbitmq-stream", "rabbitmq-streams"
_PORTS = {PLAIN: 5552, TLS: 5551}


@dataclass(frozen=True, slots=True)
class Address:
    """One broker, one virtual host, one user. `ca_file` replaces the system's trust store for TLS."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str = "/"
    tls: bool = False
    ca_file: Path | None = None

    @classmethod
    def parse(cls, url: str, *, ca_file: Path | str | None = None) -> Address:
        """Read `rabbitmq-stream://user:password@host:port/vhost`, or `rabbitmq-streams://` for TLS.

        Parts are percent-encoded; the virtual host `/` is written `%2F` or left out. Errors: ValueError that
        names the part at fault and shows no password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError(
                f"a stream URL starts with {PLAIN}:// or {TLS}://, not {parts.scheme or 'nothing'}://"
            )
        if not parts.hostname:
            raise ValueError("the stream URL names no host")
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"the port of the stream URL is no port: {error}") from None
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            vhost=unquote(parts.path.removeprefix("/")) or "/",
            tls=parts.scheme == TLS,
            ca_file=Path(ca_file) if ca_file else None,
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """A context that verifies the broker's certificate and name; None without TLS."""
        if not self.tls:
            return None
        return ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}{'/' if self.vhost == '/' else '/' + self.vhost}"
