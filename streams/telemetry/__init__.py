"""What every process tells about itself: logs, traces, metrics, errors; and what none of them may tell.

settings  the environment's words for all of it        scrub    no personal data, no secret leaves by any of them
logs      one JSON object per line, with ids bound      faults   errors to Sentry
tracing   spans, and the contexts that messages carry   scrape   /metrics of a process that serves nothing else
"""

import atexit

from streams.telemetry import faults, logs, scrape, tracing
from streams.telemetry.settings import TelemetrySettings


def start(service: str, *, level: str | None = None) -> TelemetrySettings:
    """All of it, once per process, from the environment. Errors: OSError if the port for /metrics is taken."""
    settings = TelemetrySettings()
    logs.configure(service, settings, level=level)
    faults.configure(service, settings)
    tracing.configure(service, settings)
    scrape.serve(service, settings)
    atexit.register(stop)
    return settings


def stop() -> None:
    """Send what is still to be sent, within seconds."""
    tracing.stop()
    faults.flush()
