"""Decisions about a rollout, ``approve`` to ``skip``: one call each, asked for where it cannot be taken back."""

from __future__ import annotations

import json

import grpc
import pytest
from muster_cli.standing import next_step
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster

NAME = "shop-0007"
Action = op.ActOnRolloutRequest


def last(hub: Hub) -> op.ActOnRolloutRequest:
    request = hub.requests[-1]
    assert isinstance(request, op.ActOnRolloutRequest)
    return request


@pytest.mark.parametrize(
    ("verb", "action"), [("approve", Action.APPROVE), ("pause", Action.PAUSE), ("resume", Action.RESUME)]
)
def test_what_can_be_taken_back_is_done_at_once(muster: Muster, hub: Hub, verb: str, action: int) -> None:
    answer = muster("rollout", verb, NAME, "--reason", "why not", "-o", "name")
    assert (answer.code, answer.out) == (0, f"rollout/{NAME}\n")
    assert (last(hub).action, last(hub).reason, last(hub).rollout) == (action, "why not", NAME)


@pytest.mark.parametrize(
    ("verb", "action", "question"),
    [
        ("reject", Action.REJECT, f"Reject {NAME}, with what its plan says follows? [y/N]: "),
        ("promote", Action.PROMOTE, f"Promote the open wave of {NAME} over its soak and quorum? [y/N]: "),
        ("abort", Action.ABORT, f"End {NAME} for good? [y/N]: "),
    ],
)
def test_what_cannot_be_taken_back_is_asked_for(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch, verb: str, action: int, question: str
) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: "n")
    refused = muster("rollout", verb, NAME)
    assert refused.code == 1
    assert hub.requests == []
    asked: list[str] = []

    def agree(text: str) -> str:
        asked.append(text)
        return "y"

    monkeypatch.setattr("click.termui.visible_prompt_func", agree)
    assert muster("rollout", verb, NAME).code == 0
    assert last(hub).action == action
    hub.requests.clear()
    assert muster("rollout", verb, NAME, "--yes", "-o", "json").code == 0
    assert last(hub).action == action
    assert len(asked) == 1


def test_retry_takes_names_or_all_that_failed_and_never_guesses(muster: Muster, hub: Hub) -> None:
    for wrong in ((), ("berlin-04", "--failed")):
        answer = muster("rollout", "retry", NAME, *wrong)
        assert answer.code == 2
        assert "--failed for all that failed or are lost" in answer.err
    assert hub.requests == []
    assert muster("rollout", "retry", NAME, "berlin-04", "paris").code == 0
    assert list(last(hub).clusters) == ["berlin-04", "paris"]
    assert muster("rollout", "retry", NAME, "--failed").code == 0
    assert (last(hub).action, list(last(hub).clusters)) == (Action.RETRY, [])


def test_skip_names_one_cluster(muster: Muster, hub: Hub) -> None:
    answer = muster("rollout", "skip", NAME, "berlin-04", "--reason", "moves house", "--yes", "-o", "json")
    assert answer.code == 0
    assert json.loads(answer.out)["name"] == NAME
    assert (last(hub).action, list(last(hub).clusters)) == (Action.SKIP, ["berlin-04"])
    assert muster("rollout", "skip", NAME).code == 2


def test_a_refusal_keeps_the_code_and_who_may(muster: Muster, hub: Hub) -> None:
    said = (
        "MUSTER-L062 this needs the role approver, and bob has operator: approve. Who may: approver or admin."
    )
    hub.refuse = (grpc.StatusCode.PERMISSION_DENIED, said)
    answer = muster("rollout", "approve", NAME)
    assert answer.code == 4
    assert "Who may: approver or admin" in answer.err


def gate(**more: object) -> op.WaveView:
    return op.WaveView(name="canary", gates=[op.GateView(phase="after", text="approval by 1 of the approvers",
        state="Asked", wanted=1, **more)])  # type: ignore[arg-type]  # fmt: skip


def view(state: str, **more: object) -> op.RolloutView:
    return op.RolloutView(name=NAME, bundle="shop", state=state, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (view("Running"), ""),
        (view("Succeeded"), ""),
        (view("Succeeded", owed=2), "muster rollout owed shop"),
        (view("Paused"), f"muster rollout resume {NAME}, or: muster rollout abort {NAME}"),
        (view("Paused", failed=1), f"muster rollout retry {NAME} --failed, or: muster rollout resume {NAME}"),
        (view("Held", waves=[gate(not_author=True)], authors=["anna"]),
         "(who may: any approver, but not anna, whose change it is)"),
        (view("Held", waves=[gate()], authors=["anna"]), "(who may: any approver), or"),
        (view("Held", waves=[gate(by=["ben", "eva"])], authors=["eva"]), "(who may: ben or eva), or"),
        (view("Held", waves=[gate(by=["ben", "eva"], not_author=True)], authors=["eva"]), "(who may: ben), or"),
        (view("Held", why="quorum: wave stores has 3 of 8 done"), f"muster rollout promote {NAME} --reason WHY"),
        (view("Held", why="limit: wave stores waits for the fleet's maxDisrupted"), ""),
        (view("Aborted", waves=[gate()]), ""),
    ],
)  # fmt: skip
def test_what_waits_for_a_person_says_who_may_do_what(standing: op.RolloutView, said: str) -> None:
    step = next_step(standing)
    assert said in step
    assert bool(said) == bool(step)


def test_the_description_has_gates_with_who_approved_and_what_is_held(muster: Muster, hub: Hub) -> None:
    held = gate(approvals=[op.GateApproval(by="ben", reason="looks good")])
    held.gates[0].wanted = 2
    held.gates.append(op.GateView(phase="before", text="http https://ok", state="Passed"))
    held.gates.append(
        op.GateView(phase="after", text="prometheus m: up", state="Asked", detail="0.2, below 0.1 is wanted")
    )
    hub.rollouts = [view("Held", waves=[held], why="gate: after wave canary: …", targets=[
        op.TargetView(cluster="a", wave="canary", state="done"),
        op.TargetView(cluster="b", wave="canary", state="waiting", message="held: frozen until Monday"),
        op.TargetView(cluster="c", wave="canary", state="lost"),
        op.TargetView(cluster="d", wave="canary", state="failed", code="K001", message="image not found"),
    ])]  # fmt: skip
    lines = muster("describe", "rollout", NAME).out.splitlines()
    assert lines[0] == "d: failed MUSTER-K001 image not found (wave canary)"
    assert "  gate after: approval by 1 of the approvers: 1 of 2, by ben (looks good)" in lines
    assert "  gate before: http https://ok: passed" in lines
    assert "  gate after: prometheus m: up: 0.2, below 0.1 is wanted" in lines
    assert "  b: waiting held: frozen until Monday" in lines
    assert any(line.startswith("Next:") and f"muster rollout approve {NAME}" in line for line in lines)
