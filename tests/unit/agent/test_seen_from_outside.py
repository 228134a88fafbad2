"""What can be seen of an agent's process from outside: probes, metrics, logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from e2e.programs import Kube, Program, Stage, free_port, shop, stage, until
from muster_agent.obs.metrics import Metrics
from muster_core.policy import Verdict
from unit.probing import ask, raw, series

METRICS = {
    "muster_reconcile_seconds_count", "muster_drift_total", "muster_git_fetch_seconds_count", "muster_spool_bytes",
    "muster_policy_results_total", "muster_link_bytes_total",
}  # fmt: skip


@dataclass
class Seen:
    """A fleet of one agent that asks to join."""

    fleet: Stage
    kube: Kube
    agent: Program
    metrics: str
    approved: bool = False

    def joins(self) -> None:
        """Whichever test comes first."""
        if not self.approved:
            assert "not joined" in self.answers("/readyz", 503)
            self.fleet.approve("berlin-04")
            self.approved = True
        assert self.answers("/readyz", 200) == "ok\n"

    def takes(self, version: str) -> None:
        self.fleet.commit(shop(version))
        until(lambda: self.kube.version() == version, why=self.fleet.logs)

    def logged(self) -> list[dict[str, str]]:
        """Every whole line so far."""
        whole, _, _ = self.agent.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def answers(self, path: str, wanted: int) -> str:
        """The body of the first answer with this status."""

        def once() -> str:
            try:
                status, body = ask(self.metrics, path)
            except ConnectionRefusedError:
                return ""  # it has only just been started
            return body if status == wanted else ""

        return until(once, why=self.fleet.logs)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with stage(tmp_path_factory.mktemp("seen")) as fleet:
        kube = fleet.kube("berlin-04")
        metrics = f"127.0.0.1:{free_port()}"
        agent = fleet.agent("berlin-04", kube, fleet.token("berlin-04"), "--metrics", metrics)
        agent.start()
        yield Seen(fleet, kube, agent, metrics)


def test_it_is_ready_once_it_has_joined_and_says_why_before(seen: Seen) -> None:
    assert seen.answers("/healthz", 200) == "ok\n"
    seen.joins()


def test_probes_answer_gets_of_three_paths_and_nothing_else(seen: Seen) -> None:
    seen.answers("/healthz", 200)
    assert ask(seen.metrics, "/")[0] == ask(seen.metrics, "/readyz/")[0] == 404
    assert {ask(seen.metrics, "/metrics", method)[0] for method in ("POST", "PUT", "DELETE", "HEAD")} == {405}
    huge, seconds = raw(seen.metrics, b"GET /" + b"a" * 100_000)
    assert huge[:12] in (b"HTTP/1.1 431", b"")
    assert seconds < 5
    silent, seconds = raw(seen.metrics, b"GET /healthz HTTP/1.1\r\n")
    assert silent == b"", "a request that does not end is cut without an answer"
    assert seconds < 8
    assert ask(seen.metrics, "/healthz") == (200, "ok\n")


def test_metrics_are_those_of_the_surface_bounded_and_without_a_label_for_clusters(seen: Seen) -> None:
    seen.joins()
    seen.takes("1")
    wanted = METRICS | {"muster_reconcile_total", "muster_objects"}
    # The last of them come with the end of the reconcile, after the objects are there.
    until(lambda: series(seen.answers("/metrics", 200)).keys() >= wanted, why=seen.fleet.logs)
    found = series(seen.answers("/metrics", 200))
    assert all(name.startswith("muster_") for name in found), "only our own names"
    assert not [name for name, labels in found.items() if any("cluster" in label for label in labels)]
    assert len(found["muster_policy_results_total"]) == 3 * 5
    assert {label["direction"] for label in found["muster_link_bytes_total"]} == {"sent", "received"}
    assert {label["bundle"] for label in found["muster_objects"]} == {"shop"}
    ended = lambda: (run := seen.fleet.rollout("shop-0001")) and run.state == "Succeeded"  # noqa: E731
    until(ended, why=seen.fleet.logs)
    first = sum(len(labels) for labels in found.values())
    seen.takes("2")
    again = series(seen.answers("/metrics", 200))
    assert sum(len(labels) for labels in again.values()) <= first + 3, "a release more is no series more"


def test_logs_are_lines_of_json(seen: Seen) -> None:
    seen.joins()
    seen.takes("3")
    wanted = {"joining", "joined", "applied"}
    until(lambda: wanted <= {line["event"] for line in seen.logged()}, why=seen.fleet.logs)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in seen.logged())


def test_health_is_told_in_kstatus_words_and_old_words_go_to_zero() -> None:
    metrics = Metrics()
    metrics.healths("shop", ["Current", "Current", "InProgress"])
    metrics.healths("shop", ["Current", "Failed"])
    told = {
        sample.labels["health"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "muster_objects"
    }
    assert told == {"Current": 1, "InProgress": 0, "Failed": 1, "Terminating": 0, "NotFound": 0}


def test_verdicts_are_counted_by_action_and_result() -> None:
    metrics = Metrics()
    metrics.judged(
        [Verdict("fail", "p", "r", "o", "", "", "deny"), Verdict("pass", "p", "r", "o", "", "", "warn")]
    )
    told = {
        (sample.labels["action"], sample.labels["result"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "muster_policy_results_total" and sample.value
    }
    assert told == {("deny", "fail"), ("warn", "pass")}
