"""What the carrier is told by the environment: STREAM_URL, STREAM_CA_FILE, PARTITIONS, CONSUMER_GROUP."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.address import Address


class StreamSettings(BaseSettings):
    """Read from the environment; field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    stream_url: str = Field(
        repr=False, description="rabbitmq-stream://user:password@host:port/vhost, rabbitmq-streams:// for TLS"
    )
    stream_ca_file: Path | None = Field(
        default=None, description="trust this authority instead of the system's"
    )
    partitions: int = Field(default=16, ge=1, le=1000, description="partitions of each topic")
    stream_linger_s: float = Field(
        default=0.2,
        ge=0.0,
        le=5.0,
        description="longest time between two batches of a busy partition; 0: none",
    )
    consumer_group: str = Field(default="commdesk", min_length=1, max_length=64)

    @property
    def address(self) -> Address:
        """The broker. Errors: ValueError for a URL that is none."""
        return Address.parse(self.stream_url, ca_file=self.stream_ca_file)
