"""What Prometheus may ask of an agent. Own registry; series are bounded by the number of bundles and codes (SURFACE)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from muster_core.health.kstatus import Status
from muster_core.policy.verdict import Action, Verdict
from muster_core.policy.verdict import Status as Result
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

HEALTH: tuple[str, ...] = get_args(Status)


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
            "muster_objects",
            "Objects by health, in kstatus words.",
            ["bundle", "health"],
            registry=self.registry,
        )
        self.drift = Counter("muster_drift_total", "Objects healed.", registry=self.registry)
        self.git_fetch = Histogram(
            "muster_git_fetch_seconds", "One look at the repository.", registry=self.registry
        )
        self.spool = Gauge("muster_spool_bytes", "What waits to be acknowledged.", registry=self.registry)
        self.refusals = Counter(
            "muster_refusals_total", "Releases that were not admitted.", ["code"], registry=self.registry
        )
        self.policy_results = Counter(
            "muster_policy_results_total",
            "What rules said of objects.",
            ["action", "result"],
            registry=self.registry,
        )
        self.link_bytes = Counter(
            "muster_link_bytes_total",
            "Frames on the line, before TLS.",
            ["direction"],
            registry=self.registry,
        )
        for action in get_args(Action):
            for result in get_args(Result):
                self.policy_results.labels(action, result)
        for direction in ("sent", "received"):
            self.link_bytes.labels(direction)

    def judged(self, verdicts: Iterable[Verdict]) -> None:
        """Every verdict over a bundle's objects, passes too."""
        for verdict in verdicts:
            self.policy_results.labels(verdict.action, verdict.status).inc()

    def healths(self, bundle: str, words: Iterable[str]) -> None:
        """The health of each object of a bundle, now; words that none has are shown as 0."""
        found = list(words)
        for word in HEALTH:
            self.objects.labels(bundle, word).set(found.count(word))

    def sent(self, size: int) -> None:
        """A frame that went to the coordinator, in bytes."""
        self.link_bytes.labels("sent").inc(size)

    def received(self, size: int) -> None:
        """A frame that came from the coordinator, in bytes."""
        self.link_bytes.labels("received").inc(size)
