"""``rollout rollback``: asked for, one call, or a signature of the operator's own."""

from __future__ import annotations

import pytest
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster


def test_it_asks_with_what_is_where_and_says_who_asked(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.bundles = [op.BundleView(name="shop", releases=[
        op.ReleaseCount(release=wire.Release(commit="3f2c9d1aaa"), clusters=38)])]  # fmt: skip
    asked: list[str] = []

    def disagree(text: str) -> str:
        asked.append(text)
        return "n"

    monkeypatch.setattr("click.termui.visible_prompt_func", disagree)
    assert muster("rollout", "rollback", "shop").code == 1
    assert asked == ["Take shop back to the release before? Now: 3f2c9d1 ×38 [y/N]: "]
    assert not any(isinstance(request, op.RollBackRequest) for request in hub.requests)
    answer = muster(
        "rollout", "rollback", "shop", "--to", "a81b02e", "--reason", "tills", "--yes", "-o", "name"
    )
    assert (answer.code, answer.out) == (0, "rollout/shop-0009\n")
    request = hub.requests[-1]
    assert (request.bundle, request.commit, request.reason) == ("shop", "a81b02e", "tills")


def test_what_is_signed_says_where_to_and_why(muster: Muster, hub: Hub, tmp_path: object) -> None:
    answer = muster("rollout", "rollback", "shop", "--key", "nowhere", "--yes")
    assert answer.code == 2
    assert "--key needs --to and --reason" in answer.err
    assert hub.requests == []


def test_a_key_in_the_environment_turns_no_quick_return_into_a_signed_start(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SIGNING_KEY", "nowhere")
    assert muster("rollout", "rollback", "shop", "--yes").code == 0
    assert isinstance(hub.requests[-1], op.RollBackRequest)
