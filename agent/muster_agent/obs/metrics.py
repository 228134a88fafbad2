"""What Prometheus may ask of an agent. Own registry; series are bounded by the number of bundles and codes (SURFACE)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "muster_reconcile_total", "Passes of apply.", ["bundle", "result"], registry=self.registry
        )
        self.reconcile_seconds = Histogram(
            "muster_reconcile_seconds", "One pass of apply.", registry=self.registry
        )
        self.objects = Gauge(
            "muster_objects", "Objects by health.", ["bundle", "health"], registry=self.registry
        )
        self.drift = Counter("muster_drift_total", "Objects healed.", registry=self.registry)
        self.git_fetch = Histogram(
            "muster_git_fetch_seconds", "One look at the repository.", registry=self.registry
        )
        self.spool = Gauge("muster_spool_bytes", "What waits to be acknowledged.", registry=self.registry)
        self.refusals = Counter(
            "muster_refusals_total", "Releases that were not admitted.", ["code"], registry=self.registry
        )
