"""Metrics of the server, in the format of Prometheus."""

from functools import partial

from skqprobe._utils.optional import import_optional


class Metrics:
    """Counters and histograms, in a registry of their own."""

    def __init__(self):
        prometheus = import_optional(
            "prometheus_client", needed_by="create_app", extra="serve"
        )
        registry = prometheus.CollectorRegistry()
        self._generate = partial(prometheus.generate_latest, registry)
        self._content_type = prometheus.CONTENT_TYPE_LATEST

        def make(kind, name, text, labels=(), **options):
            return getattr(prometheus, kind)(
                f"skqprobe_{name}", text, labels, registry=registry, **options
            )

        self.requests = make("Counter", "requests", "Requests.", ["endpoint", "status"])
        self.seconds = make(
            "Histogram", "request_seconds", "Time to the end of answers.", ["endpoint"]
        )
        self.under_way = make(
            "Gauge", "requests_under_way", "Requests without a complete answer."
        )
        self.candidates = make(
            "Counter", "candidates", "Candidates: drawn or failed.", ["result"]
        )
        self.choices = make(
            "Counter", "choices", "Choices by rule: pipeline or first.", ["rule"]
        )
        self.batches = make(
            "Histogram",
            "batch_requests",
            "Requests per batch of the pipeline.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.logged = make(
            "Counter", "logged", "Entries of the log: answer, reward, lost.", ["kind"]
        )

    def text(self):
        """Return all metrics as text, and its content type."""
        return self._generate(), self._content_type
