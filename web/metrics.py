"""What the web process counts, on a registry of its own beside the default one that the floors below use."""

from dataclasses import dataclass, field
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Metrics:
    """The collectors; `text` is the scrape."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    seconds: Histogram = field(init=False)
    requests: Counter = field(init=False)
    webhooks: Counter = field(init=False)
    usage: Counter = field(init=False)
    shed: Counter = field(init=False)
    refused_connections: Counter = field(init=False)
    viewers: Gauge = field(init=False)
    database_up: Gauge = field(init=False)

    def __post_init__(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self.seconds = Histogram(
            "web_request_seconds",
            "Time of one request",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.requests = counter("web_requests_total", "Requests answered", "method", "route", "status")
        self.webhooks = counter("web_webhooks_total", "Webhooks by what became of them", "outcome")
        self.usage = counter("web_usage_events_total", "Usage events by what became of them", "status")
        self.shed = counter("web_shed_total", "Requests answered 503 at once because too much waits", "queue")
        self.refused_connections = counter(
            "web_connections_refused_total", "Connections closed by us before a request, by why", "why"
        )
        self.viewers = gauge("web_live_viewers", "Open live streams")
        self.database_up = gauge("web_database_up", "1 if the last scrape could ask the database")

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
