"""Metrics for Prometheus: the heartbeat's counters, and the age of captions when they are
published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ureca.extras import require
from ureca.node.monitoring.health import NodeStatus, health_of
from ureca.protocol.events import AnyEvent, CaptionFinal

_LABELS = {
    "drop_": ("ureca_frames_dropped", "reason", "Frames that were not processed."),
    "caption_": ("ureca_requests_ended", "end", "Caption requests by how they ended."),
    "gate_": ("ureca_gate_refused", "fault", "Captions that the output filter rejected."),
    "record_lost_": ("ureca_record_lost", "kind", "What a recording had to leave out."),
}
_AGE_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_HELP = "See docs/protocol.md, Conservation."
_STREAM_GAUGES = ("regions", "seq")


class PrometheusMetrics:
    """A sink for published events, and the text of `/metrics`. Raises `MissingExtraError` without
    prometheus-client.
    """

    def __init__(self) -> None:
        self._lib = require("prometheus_client", extra="node")
        self._core = require("prometheus_client.core", extra="node")
        self._ages = self._lib.CollectorRegistry()
        self._age_s = self._lib.Histogram(
            "ureca_caption_age_seconds",
            "Age of a caption's newest picture when it was published.",
            ["trigger"],
            buckets=_AGE_BUCKETS_S,
            registry=self._ages,
        )

    def __call__(self, event: AnyEvent) -> None:
        """Take note of one event."""
        if isinstance(event, CaptionFinal):
            self._age_s.labels(event.trigger).observe(max(0.0, event.age_at_pub_ms / 1e3))

    def text(self, facts: NodeStatus) -> bytes:
        """All metrics in Prometheus's text format."""
        registry = self._lib.CollectorRegistry()
        registry.register(_Collector(lambda: self._families(facts)))
        body: bytes = self._lib.generate_latest(registry) + self._lib.generate_latest(self._ages)
        return body

    def _families(self, facts: NodeStatus) -> Iterable[Any]:
        health, info = health_of(facts), facts.info
        about = {"model": info.model, "bundle_sha": info.bundle_sha, "precision": info.precision}
        yield self._core.InfoMetricFamily("ureca_model", "What writes the captions.", about)
        yield self._gauge(
            "ureca_healthy", "1 while `/healthz` answers 200.", int(health.is_healthy)
        )
        yield self._gauge("ureca_uptime_seconds", "Since the start.", health.uptime_ms / 1e3)
        yield from self._counters(health.counters)
        for key in _STREAM_GAUGES:
            family = self._core.GaugeMetricFamily(f"ureca_stream_{key}", _HELP, labels=["stream"])
            for stream, found in health.streams.items():
                family.add_metric([stream], found[key])
            yield family

    def _counters(self, counters: dict[str, int]) -> Iterable[Any]:
        labelled = {
            prefix: self._core.CounterMetricFamily(name, text, labels=[label])
            for prefix, (name, label, text) in _LABELS.items()
        }
        for key, count in counters.items():
            prefix = next((prefix for prefix in _LABELS if key.startswith(prefix)), None)
            if prefix is not None:
                labelled[prefix].add_metric([key.removeprefix(prefix)], count)
            elif key.endswith("_in_flight"):
                yield self._gauge(f"ureca_{key}", _HELP, count)
            else:
                yield self._core.CounterMetricFamily(f"ureca_{key}", _HELP, value=count)
        yield from labelled.values()

    def _gauge(self, name: str, text: str, value: float) -> Any:  # the library's own class
        return self._core.GaugeMetricFamily(name, text, value=value)


class _Collector:
    """What the library asks for metrics."""

    def __init__(self, families: Callable[[], Iterable[Any]]) -> None:
        self.collect = families
