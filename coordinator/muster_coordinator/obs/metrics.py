"""What Prometheus may ask. Own registry, bounded series, no cluster label (SURFACE)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.strays import IGNORED

# Every code that a cluster's alarm begins with: a bounded number of series.
ALARMS = ("MUSTER-J032", "MUSTER-L046", "MUSTER-T090", "MUSTER-T091")


class Metrics:
    """Counters that the programs raise, and gauges read from the state when asked."""

    def __init__(self, state: FleetState, streams: Callable[[], int], clock: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.reports = Counter("muster_reports_total", "Reports made durable.", registry=self.registry)
        self.report_commit = Histogram(
            "muster_report_commit_seconds", "Making one batch with reports durable.", registry=self.registry
        )
        self.wake = Histogram(
            "muster_wake_seconds",
            "From a new commit that was read to every agent in contact having been told.",
            registry=self.registry,
        )
        self.renewals = Counter(
            "muster_renewals_total", "Certificates asked for anew.", ["result"], registry=self.registry
        )
        self.notifications = Counter(
            "muster_notifications_total",
            "Tries to take a notification to an endpoint, and those given up.",
            ["endpoint", "result"],
            registry=self.registry,
        )
        self.reports_ignored = Counter(
            "muster_reports_ignored_total",
            "Reports and answers that move no rollout, by why.",
            ["why"],
            registry=self.registry,
        )
        for why in IGNORED:
            self.reports_ignored.labels(why)
        for result in ("renewed", "refused"):
            self.renewals.labels(result)
        self.registry.register(_StateGauges(state, streams, clock))


class _StateGauges(Collector):
    def __init__(self, state: FleetState, streams: Callable[[], int], clock: Callable[[], float]) -> None:
        self._state, self._streams, self._clock = state, streams, clock

    def collect(self) -> Iterable[Metric]:
        state = self._state
        yield _gauge(
            "muster_clusters", "Clusters by state.", "state", Tally(c.state for c in state.clusters.values())
        )
        yield _gauge(
            "muster_rollouts", "Rollouts by state.", "state", Tally(m.state for m in state.rollouts.values())
        )
        said = [text for c in state.clusters.values() for text in (c.alarm, c.forgot) if text]
        alarms = Tally(dict.fromkeys(ALARMS, 0))
        alarms.update(code for code in ALARMS for text in said if text.startswith(code))
        yield _gauge("muster_alarms", "Clusters with an alarm that nobody has acknowledged.", "code", alarms)
        targets: Tally[str] = Tally()
        for machine in state.active():
            for wave in machine.waves:
                targets.update(wave.states)
        yield _gauge("muster_rollout_targets", "Targets of active rollouts by state.", "state", targets)
        streams = GaugeMetricFamily("muster_streams", "Open agent streams.")
        streams.add_metric([], self._streams())
        yield streams
        debts = [debt.since for ledger in state.debts.values() for debt in ledger.owed()]
        oldest = GaugeMetricFamily("muster_owed_oldest_seconds", "Age of the oldest debt.")
        oldest.add_metric([], self._clock() - min(debts) if debts else 0)
        yield oldest


def _gauge(name: str, text: str, label: str, counts: Tally[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
