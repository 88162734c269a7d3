"""The metrics for Prometheus. Each app has a registry of its own."""

from collections import Counter as Counted
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cloudmanager.core.manager import Manager

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds: a local image takes tens of milliseconds, a cloud's attach tens of seconds."""


class Metrics:
    """Counters of this app, and gauges that are read from the façade when they are asked for."""

    def __init__(self, manager: Manager) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(manager))
        self.requests = Counter(
            "cloudmanager_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self.ready_seconds = Histogram(
            "cloudmanager_export_ready_seconds",
            "From the claim to ready, for exports whose client waited for it.",
            buckets=READY_BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """In Prometheus' text format. Reads the store."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Without it, registering would read the store."""
        return [_exports(), _attachments(), _paused(), _draining()]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        exports = _exports()
        for (state, access), count in self._manager.export_counts().items():
            exports.add_metric([state, access], count)
        attachments = _attachments()
        for attachment_state, count in Counted(each.state for each in self._manager.attachments()).items():
            attachments.add_metric([attachment_state], count)
        paused = _paused()
        for provider, pause in self._manager.pauses().items():
            paused.add_metric([provider], pause is not None)
        draining = _draining()
        for node in self._manager.nodes():
            draining.add_metric([node.name], node.drain is not None)
        return [exports, attachments, paused, draining]


def _paused() -> GaugeMetricFamily:
    return GaugeMetricFamily("cloudmanager_provider_paused", "1 while it makes no new exports.", labels=["provider"])


def _draining() -> GaugeMetricFamily:
    return GaugeMetricFamily("cloudmanager_node_draining", "1 while it takes no new exports.", labels=["node"])


def _exports() -> GaugeMetricFamily:
    return GaugeMetricFamily("cloudmanager_exports", "Exports that the store knows.", labels=["state", "access"])


def _attachments() -> GaugeMetricFamily:
    return GaugeMetricFamily("cloudmanager_attachments", "Attachments that the store knows.", labels=["state"])
