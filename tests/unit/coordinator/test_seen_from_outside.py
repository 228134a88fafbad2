"""What can be seen of a coordinator's process from outside: probes, metrics, logs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from unit.coordinator.commits import git
from unit.probing import ask, raw, series

METRICS = {
    "muster_clusters", "muster_streams", "muster_reports_total", "muster_report_commit_seconds_count", "muster_rollouts",
    "muster_rollout_targets", "muster_owed_oldest_seconds", "muster_wake_seconds_count", "muster_renewals_total",
    "muster_reports_ignored_total",
}  # fmt: skip
GAUGES_OF_NOTHING = {"muster_clusters", "muster_rollouts", "muster_rollout_targets"}


@dataclass
class Coordinator:
    """A running process; ``metrics`` is where its probes are."""

    process: subprocess.Popen[str]
    metrics: str
    log: Path


@contextmanager
def running(folder: Path, repository: Path) -> Iterator[Coordinator]:
    argv = [sys.executable, "-c", "from muster_coordinator.command import serve; serve()"]
    argv += [f"--data-dir={folder / 'data'}", f"--repository=file://{repository}", "--poll=0.2"]
    argv += [f"--{name}=127.0.0.1:0" for name in ("link", "edge", "metrics")]
    log = folder / "log"
    with log.open("w") as err:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=err, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Coordinator(process, json.loads(line)["metrics"], log)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def until_status(address: str, path: str, wanted: int) -> str:
    """The body of the first answer with this status, of at most many."""
    for _ in range(400):
        status, body = ask(address, path)
        if status == wanted:
            return body
    pytest.fail(f"{path} stays {status}: {body}")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    git(tmp_path, "init", "-q", "-b", "main", str(folder))
    (folder / "fleet.yaml").write_text(
        "apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: acme}\nspec: {id: 0123456789abcdef, mode: open}\n"
    )
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "fleet")
    return folder


def test_it_is_ready_while_the_catalog_can_be_read_and_says_why_when_not(
    tmp_path: Path, repository: Path
) -> None:
    away = tmp_path / "away"
    with running(tmp_path, repository) as hub:
        until_status(hub.metrics, "/readyz", 200)
        _, told = ask(hub.metrics, "/metrics")
        assert "muster_wake_seconds_count 1.0" in told, "a reading was told to everybody in contact"
        repository.rename(away)
        why = until_status(hub.metrics, "/readyz", 503)
        assert why.startswith("MUSTER-G002"), why
        assert ask(hub.metrics, "/healthz") == (200, "ok\n")
        away.rename(repository)
        until_status(hub.metrics, "/readyz", 200)


def test_probes_answer_gets_of_three_paths_and_nothing_else(tmp_path: Path, repository: Path) -> None:
    with running(tmp_path, repository) as hub:
        assert ask(hub.metrics, "/healthz?verbose")[0] == 200
        assert ask(hub.metrics, "/")[0] == ask(hub.metrics, "/metrics/../etc")[0] == 404
        assert {ask(hub.metrics, "/metrics", method)[0] for method in ("POST", "PUT", "DELETE", "HEAD")} == {
            405
        }
        assert raw(hub.metrics, b"\x00\xff\r\n\r\n")[0].startswith(b"HTTP/1.1 405")
        huge, seconds = raw(hub.metrics, b"GET /" + b"a" * 100_000)
        assert huge[:12] in (b"HTTP/1.1 431", b"")
        assert seconds < 5
        silent, seconds = raw(hub.metrics, b"GET /healthz HTTP/1.1\r\n")
        assert silent == b"", "a request that does not end is cut without an answer"
        assert seconds < 8
        assert ask(hub.metrics, "/healthz") == (200, "ok\n")


def test_metrics_are_those_of_the_surface_without_a_label_for_clusters(
    tmp_path: Path, repository: Path
) -> None:
    with running(tmp_path, repository) as hub:
        until_status(hub.metrics, "/readyz", 200)
        found = series(ask(hub.metrics, "/metrics")[1])
        assert found.keys() >= METRICS - GAUGES_OF_NOTHING
        assert {name for name in found if name.startswith("muster_")} == set(found), "only our own names"
        assert not [name for name, labels in found.items() if any("cluster" in label for label in labels)]
        assert sorted(label["result"] for label in found["muster_renewals_total"]) == ["refused", "renewed"]


def test_logs_are_lines_of_json(tmp_path: Path, repository: Path) -> None:
    def events() -> list[str]:
        return [json.loads(line)["event"] for line in hub.log.read_text().splitlines()]

    with running(tmp_path, repository) as hub:
        for _ in range(400):
            if "catalog read" in events():
                break
            ask(hub.metrics, "/healthz")
        repository.rename(tmp_path / "away")
        until_status(hub.metrics, "/readyz", 503)
        lines = [json.loads(line) for line in hub.log.read_text().splitlines()]
    assert {line["event"] for line in lines} >= {"catalog read", "catalog not read, the last reading stays"}
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
