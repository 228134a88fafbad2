"""What five peers do, worked by hand, and where Muster deliberately does otherwise.

A trace is a file of ``tests/rollout_traces``: the same plan, the same things happening, and after each who is in flight there
and here. Where the two differ the trace has to say why, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from muster_core.durations import parse_duration
from muster_core.errors import RolloutError
from muster_core.kinds.base import API_VERSION
from muster_core.kinds.parse import parse
from muster_core.kinds.plans import RolloutPlan
from muster_core.manifest.load import load_documents
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import Member, resolve
from unit.core.rollout.scenario import DIGEST

TRACES = sorted((Path(__file__).parents[3] / "rollout_traces").glob("*.yaml"))


class Step(msgspec.Struct, forbid_unknown_fields=True):
    at: str
    muster: list[str]
    peer: list[str]
    do: dict[str, Any] = {}
    rollout: str = ""
    states: dict[str, str] = {}
    differs: str = ""


class Trace(msgspec.Struct, forbid_unknown_fields=True):
    peer: str
    members: dict[str, dict[str, str]]
    plan: dict[str, Any]
    steps: list[Step]
    away: list[str] = []


class Played:
    """A trace's rollout on virtual time; agents that are in contact acknowledge at once."""

    def __init__(self, trace: Trace) -> None:
        kind = {
            "apiVersion": API_VERSION,
            "kind": "RolloutPlan",
            "metadata": {"name": "p"},
            "spec": trace.plan,
        }
        plan = parse(load_documents(yaml.safe_dump(kind).encode(), "trace")[0], RolloutPlan)
        members = [Member(name, labels, 60.0) for name, labels in trace.members.items()]
        self.machine = RolloutMachine(
            ev.Started(
                at=0.0,
                rollout="r",
                bundle="b",
                commit="c",
                tree_digest=DIGEST,
                plan=resolve(plan, members),
                by="t",
            )
        )
        self.away = set(trace.away)
        self.machine.meet(set(trace.members) - self.away)
        self.take(self.machine.begin(0.0), 0.0)

    def give(self, given: ev.Input, now: float) -> None:
        self.take(self.machine.handle(given, now), now)

    def take(self, events: list[ev.AnyEvent], now: float) -> None:
        for event in events:
            if isinstance(event, ev.OfferMade) and event.cluster not in self.away:
                self.give(ev.Acknowledged(event.cluster, event.attempt), now)

    def wait(self, until: float) -> None:
        while (wake := self.machine.next_wake()) is not None and wake <= until:
            self.give(ev.Tick(), wake)

    def do(self, what: dict[str, Any], now: float) -> None:
        what = dict(what)
        refused = what.pop("refused", "")
        for verb, of in what.items():
            if refused:
                with pytest.raises(RolloutError, match=refused):
                    self.order(verb, of, now)
            else:
                self.order(verb, of, now)

    def order(self, verb: str, of: Any, now: float) -> None:
        if verb == "approve":
            self.give(ev.Approve(of, "looks well"), now)
        elif verb == "retry":
            self.give(ev.Retry("ann", "mended", tuple(of)), now)
        else:
            for name in of:
                self.happens(verb, name, now)

    def happens(self, verb: str, name: str, now: float) -> None:
        attempt = self.machine.targets[name].attempt
        match verb:
            case "healthy" | "failed" | "applying":
                self.give(ev.Reported(name, attempt, DIGEST, verb, "K010", "not ready"), now)
            case "stale":
                self.give(ev.Reported(name, attempt, "the release before", "healthy"), now)
            case "back":
                self.away.discard(name)
                self.give(ev.Contact(name, True), now)
            case "leave":
                self.give(ev.MemberRemoved(name, "removed from the registry"), now)
            case _:
                raise AssertionError(f"a trace says {verb}")


def test_there_is_a_trace_of_each_peer() -> None:
    assert [path.stem for path in TRACES] == [
        "argo-rollingsync", "fleet-partitions", "kubefleet-stages", "ocm-progressive-per-group", "talm-batches",
    ]  # fmt: skip


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_muster_does_as_its_peer_but_where_the_trace_says_why_not(path: Path) -> None:
    trace = msgspec.convert(yaml.safe_load(path.read_text()), Trace)
    played = Played(trace)
    for step in trace.steps:
        now = parse_duration(step.at)
        played.wait(now)
        played.do(step.do, now)
        played.give(ev.Tick(), now)
        where = f"{path.name} at {step.at}"
        flying = sorted(target.cluster for target in played.machine.outstanding())
        assert flying == sorted(step.muster), where
        assert bool(step.differs) == (sorted(step.muster) != sorted(step.peer)), (
            f"{where}: differs, or says so"
        )
        assert step.rollout in ("", played.machine.state), f"{where}: {played.machine.why}"
        for name, state in step.states.items():
            assert played.machine.targets[name].state == state, f"{where}: {name}"
    assert any(step.differs for step in trace.steps)
