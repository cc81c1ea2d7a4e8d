"""How outgoing webhooks are sent, read from the environment once at start-up."""

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.outgoing import RETRY_S
from sql.outgoing import Patience


class OutgoingSettings(BaseSettings):
    """`outgoing_local` allows http, any port and this machine's own addresses: for development and tests, never in
    production. `outgoing_endpoints` turns go on at a time, and as many again of endpoints that fail or are slow.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    outgoing_local: bool = False
    outgoing_ca_file: Path | None = None
    outgoing_endpoints: int = Field(default=50, ge=1, le=1000)
    outgoing_batch: int = Field(default=20, ge=1, le=200, description="most deliveries of one turn")
    outgoing_at_once: int = Field(default=4, ge=1, le=50, description="requests to one endpoint at a time")
    outgoing_timeout_s: float = Field(
        default=10.0, gt=0, description="one attempt, from its name's look-up on"
    )
    outgoing_lease_s: float = Field(default=75.0, gt=0)
    outgoing_trip: int = Field(default=5, ge=1, description="failures in a row that open the breaker")
    outgoing_pause_s: float = Field(default=30.0, gt=0)
    outgoing_pause_cap_s: float = Field(default=900.0, gt=0)
    outgoing_slow_ms: int = Field(default=2000, ge=1)
    outgoing_disable_s: float = Field(default=302_400.0, gt=0, description="failing for so long disables it")
    outgoing_keep_s: float = Field(default=30 * 86_400.0, gt=0)

    @model_validator(mode="after")
    def _turns_end_in_time(self) -> "OutgoingSettings":
        if self.longest_turn_s + self.outgoing_timeout_s > self.outgoing_lease_s:
            raise ValueError("OUTGOING_LEASE_S must outlast a turn whose every request times out")
        return self

    @property
    def longest_turn_s(self) -> float:
        """A turn in which every request takes as long as it may."""
        return -(-self.outgoing_batch // self.outgoing_at_once) * self.outgoing_timeout_s

    @property
    def patience(self) -> Patience:
        """As the database wants it."""
        return Patience(
            schedule_s=RETRY_S,
            trip=self.outgoing_trip,
            pause_s=self.outgoing_pause_s,
            cap_s=self.outgoing_pause_cap_s,
            slow_ms=self.outgoing_slow_ms,
            disable_s=self.outgoing_disable_s,
        )
