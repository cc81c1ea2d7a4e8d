"""The web process's settings, read from the environment once at start-up."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class WebSettings(BaseSettings):
    """Where to listen, who may call, and where the sums go.

    `api_token` is a development token with every right; empty means that nobody has one. `partitions` and
    `consumer_group` are the workers'. `seller_state_code` is the GST State that we sell from.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    web_host: str = "127.0.0.1"
    web_port: int = Field(default=8080, ge=0, le=65535)
    web_shutdown_s: float = Field(default=5.0, ge=0)
    web_max_wait_ms: int = Field(default=10_000, ge=0)
    web_log_level: str = "info"
    api_token: SecretStr = SecretStr("")
    partitions: int = Field(default=16, ge=1)
    consumer_group: str = "commdesk"
    seller_state_code: str = Field(default="29", pattern="^[0-9]{2}$")
