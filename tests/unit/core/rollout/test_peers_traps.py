"""Where other rollout engines fail their users: each of their troubles as one story that does not happen here.

The docstrings name where it was reported or read. What is proven of the same matters elsewhere (approvals, windows, what
peers do step by step) is in the tests beside this one.
"""

from __future__ import annotations

import msgspec
import pytest
from muster_core.errors import RolloutError
from muster_core.kinds.plans import RolloutPlan
from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import Member, ResolvedGate, ResolvedPlan, ResolvedWindow, resolve
from unit.core.rollout.scenario import DIGEST, START, Story, wave

HOUR = 3600.0


def plan_of(*waves: dict[str, object], **spec: object) -> RolloutPlan:
    kind = {"apiVersion": "muster.dev/v1alpha1", "kind": "RolloutPlan", "metadata": {"name": "rings"}}
    return msgspec.convert({**kind, "spec": {"waves": list(waves), **spec}}, RolloutPlan)


def fleet(count: int, **labels: str) -> list[Member]:
    return [Member(f"c{number:03}", labels, 60.0) for number in range(count)]


def rolled(plan: ResolvedPlan) -> RolloutMachine:
    started = ev.Started(
        at=START, rollout="r", bundle="b", commit="c", tree_digest=DIGEST, plan=plan, by="ann"
    )
    machine = RolloutMachine(started)
    machine.meet(machine.targets)
    machine.begin(START)
    return machine


# --- clusters that are away -------------------------------------------------------------------------


def test_one_dead_cluster_blocks_nobody() -> None:
    """rancher/fleet#192, #173 (177 clusters, a budget of 17), #206; Azure/AKS#5655: a stopped cluster fails the run."""
    names = [f"n{number:03}" for number in range(177)]
    away = tuple(names[:18])  # one more than are offered at a time
    story = Story(wave("all", *names, flying=17), away=away)
    for _ in range(400):
        for target in story.machine.outstanding():
            if target.cluster not in away:
                story.healthy(target.cluster)
        if story.machine.has_ended:
            break
        story.wait(60)
    assert story.machine.state == "Succeeded"
    assert (story.machine.count("done"), story.machine.count("owed")) == (159, 18)


def test_what_a_silent_cluster_said_before_is_not_taken_for_now() -> None:
    """rancher/fleet#594: an offline cluster leaves a stale and misleading status."""
    story = Story(wave("all", "a", soak=60))
    story.healthy("a")
    story.online("a", False)
    story.wait(HOUR)
    assert story.state("a") == "lost", "it was healthy; that is not what it is known to be"


def test_time_to_answer_runs_from_the_offer_even_if_it_never_arrives() -> None:
    """OCM: an unreachable cluster stays ToApply, which has no time stamp, so its deadline never fires (sdk-go rollout.go)."""
    story = Story(wave("all", "a", "b", flying=1), away=("a",))
    assert story.machine.next_wake() == START + 900
    story.wait(900)
    assert (story.state("a"), story.state("b")) == ("owed", "offered")


def test_a_cluster_that_is_held_does_not_stand_before_others() -> None:
    """projectsveltos/addon-controller PR #657: a paused cluster could block others; PR #1574: dead agents are skipped."""
    story = Story(wave("all", "a", "b", "c", flying=1), held={"a": "frozen"})
    story.healthy("b", "c")
    assert [story.state(name) for name in "abc"] == ["waiting", "done", "done"]


def test_a_hundred_that_come_back_at_once_are_caught_up_a_few_at_a_time() -> None:
    """rancher/fleet#2891: simultaneous pulls are a denial of service against the registry."""
    ledger = cu.CatchUp("shop")
    for number in range(100):
        ledger.owe(f"n{number:03}", cu.Succeeded("r", "c", DIGEST), 0.0)
    offered = 0
    for number in range(100):
        ledger.contact(f"n{number:03}", True, 1.0)
        offered += len(ledger.offers(10, 1.0))
    assert offered == 10


# --- stale status and order ---------------------------------------------------------------------------


def test_the_next_wave_does_not_start_on_the_health_of_the_release_before() -> None:
    """argoproj/argo-cd#29410, #22852, #22558: promoted on stale Synced and Healthy, so production went before development."""
    story = Story(wave("dev", "d"), wave("prod", "p"))
    story.give(ev.Reported("d", 1, "the release before", "healthy"))
    story.give(ev.Reported("p", 1, DIGEST, "healthy"))
    story.give(ev.Reported("d", 0, DIGEST, "healthy"))
    assert [story.state(name) for name in "dp"] == ["offered", "waiting"]


def test_no_order_of_reports_starts_a_wave_before_the_one_before_it_has_passed() -> None:
    """argoproj/argo-cd#22558: out of order."""
    story = Story(wave("one", "a", "b", flying=2, quorum=100), wave("two", "c"))
    for report in (
        ("b", "applying"),
        ("b", "healthy"),
        ("b", "healthy"),
        ("b", "applying"),
        ("a", "applying"),
    ):
        story.give(ev.Reported(report[0], 1, DIGEST, report[1]))  # type: ignore[arg-type]
        assert story.state("c") == "waiting"


def test_the_same_news_twice_or_late_changes_nothing() -> None:
    """projectsveltos/addon-controller#1409: bookkeeping of a rolling update went wrong; argoproj-labs/argocd-agent#715."""
    story = Story(wave("all", "a", "b", "c", flying=1, failed=1))
    story.acknowledge("a", "a")
    story.failed("a")
    before = len(story.log)
    story.acknowledge("a")
    story.failed("a")
    story.healthy("a")
    assert len(story.log) == before
    assert (story.state("b"), story.machine.in_flight) == ("offered", 1)


# --- limits -----------------------------------------------------------------------------------------------


def test_the_very_first_rollout_is_under_the_limits_too() -> None:
    """Rancher Fleet: first-time deployments bypass the budget; only maxNew, 50 per reconcile, slows them."""
    machine = rolled(resolve(plan_of({"name": "all", "rest": True, "maxInFlight": "10%"}), fleet(100)))
    assert machine.in_flight == 10


def test_a_plan_that_says_nothing_is_a_careful_one() -> None:
    """Rancher Fleet: unset means 100 %, so that partitions gate nothing by default; OCM: no deadline by default."""
    plan = resolve(plan_of({"name": "all", "rest": True}), fleet(100))
    only = plan.waves[0]
    assert (only.max_in_flight, only.max_failed, only.quorum_percent) == (25, 0, 50)
    assert (plan.deadline, plan.action, plan.scope) == (900.0, "pause", "target")


def test_a_limit_larger_than_the_wave_is_the_whole_wave() -> None:
    """OCM (sdk-go rollout.go): a value above the group's size silently becomes 0."""
    machine = rolled(resolve(plan_of({"name": "all", "rest": True, "maxInFlight": 50}), fleet(3)))
    assert machine.in_flight == 3


def test_a_share_of_a_small_wave_is_never_nobody_and_never_more_failures_than_asked() -> None:
    """OCM rounds maxFailures up; Argo CD and Fleet floor their in-flight share; 0 means a halt that nothing says."""
    only = resolve(
        plan_of({"name": "all", "rest": True, "maxInFlight": "10%", "maxFailed": "30%"}), fleet(3)
    ).waves[0]
    assert (only.max_in_flight, only.max_failed) == (1, 0)


def test_failures_have_a_budget_of_their_own() -> None:
    """Rancher Fleet: one knob for in flight and unavailable; Azure/AKS#5338: a budget is asked for; OCM: ocm#327."""
    story = Story(wave("all", "a", "b", "c", "d", flying=1, failed=2))
    for name in "ab":
        story.failed(name)
    assert story.state("c") == "offered", "those that failed hold no slot"
    story.failed("c")
    assert (story.machine.state, story.state("d")) == ("Paused", "waiting")


def test_a_soak_is_kept_and_holds_its_slot() -> None:
    """open-cluster-management-io/ocm#327: minSuccessTime was not honoured."""
    story = Story(wave("all", "a", "b", soak=300))
    story.healthy("a")
    story.wait(299)
    assert story.state("b") == "waiting"
    story.wait(1)
    assert story.state("b") == "offered"


# --- stuck --------------------------------------------------------------------------------------------------


def test_a_cluster_that_never_gets_healthy_ends_by_itself() -> None:
    """argoproj/argo-cd#19771, #12459, #12202: stuck; KubeFleet only flags a cluster slower than five minutes as stuck."""
    story = Story(wave("all", "a", "b", flying=1, failed=1))
    story.acknowledge("a")
    story.give(ev.Reported("a", 1, DIGEST, "applying"))
    story.wait(600)
    assert (story.state("a"), story.machine.targets["a"].code, story.state("b")) == (
        "failed",
        "R020",
        "offered",
    )


def test_a_status_that_flaps_is_not_healthy() -> None:
    """rancher/fleet#267: status flapping."""
    story = Story(wave("canary", "a", soak=300), wave("rest", "b"))
    for _ in range(5):
        story.healthy("a")
        story.wait(200)
        story.give(ev.Reported("a", 1, DIGEST, "applying", "", "crash loop"))
    assert (story.state("a"), story.state("b")) == ("failed", "waiting")


def test_a_failure_after_it_was_healthy_blocks_the_next_wave() -> None:
    """akuity/kargo#5144: a verification that failed the second time did not block; #3207: all upstream, not one."""
    story = Story(wave("one", "a", "b", flying=2, soak=300, quorum=100), wave("two", "c"))
    story.healthy("a", "b")
    story.wait(299)
    story.failed("b")
    story.wait(HOUR)
    assert (story.machine.state, story.state("c")) == ("Paused", "waiting")


# --- retry, membership, order of clusters -------------------------------------------------------------------


def test_only_what_failed_is_tried_again_with_the_same_release() -> None:
    """Azure/AKS#5733: retry failed and skipped ones with the identical configuration, and wait for what still runs."""
    story = Story(wave("all", "a", "b", "c", flying=3, failed=2))
    story.healthy("a")
    story.failed("b")
    story.acknowledge("c")
    story.give(ev.Retry("ann", "", ("b",)))
    assert [story.state(name) for name in "abc"] == ["done", "offered", "acknowledged"]
    assert [story.machine.targets[name].attempt for name in "abc"] == [1, 2, 1]


def test_a_rollout_survives_members_that_leave() -> None:
    """kubefleet-dev/kubefleet#733: a run aborts when its membership changes."""
    story = Story(wave("all", "a", "b", "c", flying=1, quorum=100))
    story.give(ev.MemberRemoved("a", "removed from the registry"))
    story.give(ev.MemberRemoved("c", "removed from the registry"))
    story.healthy("b")
    assert story.machine.state == "Succeeded"


def test_clusters_of_no_wave_are_named_before_anything_starts_unless_the_plan_says_where_they_go() -> None:
    """kubefleet-dev/kubefleet#638, #512; Argo CD and Fleet leave them out silently."""
    canary = {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}}
    members = [*fleet(2, ring="canary"), Member("stray", {}, 60.0)]
    with pytest.raises(RolloutError, match=r"R002.*stray"):
        resolve(plan_of(canary), members)
    assert resolve(plan_of(canary, unmatched="exclude"), members).excluded == ("stray",)


def test_clusters_of_no_wave_are_in_nobodys_share() -> None:
    """Argo CD: applications matching no step count as step 0, so they inflate the first step's total and its maxUpdate."""
    canary = {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "maxInFlight": "50%"}
    members = [*fleet(4, ring="canary"), *(Member(f"s{number}", {}, 60.0) for number in range(20))]
    assert resolve(plan_of(canary, unmatched="exclude"), members).waves[0].max_in_flight == 2


def test_a_cluster_that_two_waves_select_is_in_the_first_only() -> None:
    """Rancher Fleet: a cluster in two partitions is placed in both."""
    first, second = (
        {
            "name": name,
            "selector": {"matchExpressions": [{"key": "ring", "operator": "In", "values": values}]},
        }
        for name, values in (("one", ["a"]), ("two", ["a", "b"]))
    )
    members = [Member("x", {"ring": "a"}, 60.0), Member("y", {"ring": "b"}, 60.0)]
    assert [wave.members for wave in resolve(plan_of(first, second), members).waves] == [("x",), ("y",)]


def test_rings_of_two_hundred_clusters_go_in_a_given_order() -> None:
    """akuity/kargo#907: rings over 200 clusters with a delay; rancher/fleet#2891: how do partitions work?"""
    members = [Member(f"c{n:03}", {"muster.dev/order": str(200 - n)}, 60.0) for n in range(200)]
    plan = resolve(
        plan_of({"name": "tenth", "percent": "10%", "soak": "10m"}, {"name": "rest", "rest": True}), members
    )
    assert plan.waves[0].members == tuple(f"c{n:03}" for n in range(199, 179, -1))


def test_there_may_be_more_waves_than_anybody_needs() -> None:
    """KubeFleet: at most 31 stages."""
    story = Story(*(wave(f"w{number:02}", f"c{number:02}") for number in range(100)))
    for number in range(100):
        story.healthy(f"c{number:02}")
    assert story.machine.state == "Succeeded"


# --- when ---------------------------------------------------------------------------------------------------


def test_a_window_that_was_missed_is_caught_up_at_the_next() -> None:
    """Azure/AKS#5741: missed windows are never caught up."""
    story = Story(wave("all", "a", window=ResolvedWindow("0 15 * * *", HOUR, "UTC")))
    machine = RolloutMachine.replay(story.log)  # the coordinator was away for two days
    back = START + 48 * HOUR
    machine.reconnecting(back, back + 60)
    machine.meet("a")
    machine.handle(ev.Tick(), back + HOUR)
    assert machine.targets["a"].state == "offered"


def test_a_start_can_be_scheduled() -> None:
    """Azure/AKS#5536: scheduled start."""
    story = Story(wave("all", "a", gates_before=(ResolvedGate(kind="time", after=START + 9 * HOUR),)))
    story.wait(9 * HOUR - 1)
    assert story.state("a") == "waiting"
    story.wait(1)
    assert story.state("a") == "offered"


def test_a_measurement_that_could_not_be_made_neither_passes_nor_fails() -> None:
    """Argo Rollouts: an inconclusive analysis pauses; here it counts as not passed, and its time runs on."""
    gate = ResolvedGate(kind="prometheus", server="m", query="q", below=1.0, consecutive=2, fail_after=600.0)
    story = Story(wave("all", "a", gates_before=(gate,)))
    story.give(ev.GateMeasured(0, "before", 0, True, "0.5"))
    story.give(ev.GateMeasured(0, "before", 0, False, "the server cannot be reached"))
    story.give(ev.GateMeasured(0, "before", 0, True, "0.5"))
    assert (story.machine.state, story.state("a")) == ("Held", "waiting")
    story.wait(600)
    assert story.machine.state == "Paused"


# --- taking back --------------------------------------------------------------------------------------------


def test_the_whole_fleet_goes_back_to_the_last_good_release() -> None:
    """akuity/kargo#1396, #2972: only in the paid edition; KubeFleet: a new run by hand, naming an older snapshot."""
    story = Story(
        wave("one", "a", "b", flying=2), wave("two", "c"), action="rollback", scope="rollout", may_return=True
    )
    story.healthy("a", "b")
    story.failed("c")
    assert (story.machine.state, story.machine.to_return()) == ("RolledBack", ["a", "b"])


def test_a_release_that_cuts_its_clusters_off_stops_at_the_first_wave() -> None:
    """Nobody's plan has a word for it: who took a release and fell silent is harm, not merely away."""
    story = Story(wave("canary", "a", "b", flying=2), wave("rest", *"cdefgh", flying=6))
    story.acknowledge("a", "b")
    for name in "ab":
        story.online(name, False)
    story.wait(24 * HOUR)
    assert (story.machine.state, story.machine.count("lost")) == ("Paused", 2)
    assert {story.state(name) for name in "cdefgh"} == {"waiting"}
