"""/metrics of a process that serves nothing else: Prometheus' default registry, from a thread of its own.

A thread, so that a worker whose event loop hangs still answers, and shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from prometheus_client import Gauge

from streams.telemetry.settings import TelemetrySettings

INFO = Gauge("core_process_info", "1; which process this is", ["service"])


def serve(service: str, settings: TelemetrySettings) -> None:
    """Serve on `metrics_host`:`metrics_port` until the process ends; nothing if the port is 0.

    Errors: OSError if the port is taken.
    """
    disable: Callable[[], None] = prometheus_client.disable_created_metrics
    disable()  # when a series began is no news worth doubling them
    INFO.labels(service).set(1)
    if settings.metrics_port:
        prometheus_client.start_http_server(settings.metrics_port, addr=settings.metrics_host)
