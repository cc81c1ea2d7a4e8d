"""Where a process tells how it is doing, read from the environment once at start-up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class TelemetrySettings(BaseSettings):
    """Everything is off or local by default; an empty value counts as none.

    `trace_sample_ratio` is the part of requests that is traced, where `otel_exporter_otlp_endpoint` (the base
    URL of a collector that takes OTLP over HTTP) is given at all. `trace_accept_parent` follows a caller's
    sampled `traceparent`: only behind a proxy that removes strangers'. `metrics_port` is a worker's, 0 for
    none; web serves /metrics beside everything else.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    deployment_environment: str = "development"
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    otel_exporter_otlp_endpoint: str | None = Field(default=None, pattern="^https?://")
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    trace_accept_parent: bool = False
    sentry_dsn: SecretStr | None = None
