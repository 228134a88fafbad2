"""Whom the coordinator tells what, over real HTTP: once, in time, also after a crash, and without telling secrets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import yaml
from aiohttp import web
from muster_coordinator.notify import courier as couriers
from muster_coordinator.notify import notices
from muster_coordinator.notify.bodies import body_of
from muster_coordinator.notify.courier import Courier
from muster_coordinator.notify.desk import Desk
from muster_coordinator.notify.notices import Notice, Outbox
from muster_coordinator.notify.settings import Endpoint, read_endpoints
from muster_coordinator.outgoing import Outgoing
from muster_coordinator.rollout.effects import Effects
from muster_core.errors import ValidationError
from muster_core.rollout import events as ev
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.listener import Asked, listening
from unit.coordinator.test_engine import Brain, brain, cluster, owing, reply
from unit.coordinator.test_holds import Repo, freeze, says
from unit.coordinator.test_superseding import failing

HOUR = 3600.0
ALL = ["paused", "failed", "approval", "owed", "frozen"]


def settings(folder: Path, *endpoints: dict[str, object]) -> tuple[Endpoint, ...]:
    path = folder / "notify.yaml"
    path.write_text(yaml.safe_dump(list(endpoints)))
    return read_endpoints(path)


def hook(url: str, name: str = "ops", **more: object) -> dict[str, object]:
    return {"name": name, "url": url, "on": ALL, **more}


@dataclass
class Life:
    """One life of a coordinator that tells people."""

    brain: Brain
    results: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def has(self, result: str, times: int = 1, endpoint: str = "ops") -> None:
        with anyio.fail_after(15):
            while self.results[endpoint, result] < times:
                await anyio.sleep(0.005)

    async def is_written(self) -> None:
        """Nothing waits any more."""
        outbox = self.brain.engine.desk.outbox
        with anyio.fail_after(15):
            while any(outbox.waiting_for(e.name) for e in self.brain.engine.desk.endpoints):
                await anyio.sleep(0.005)


@asynccontextmanager
async def life(
    folder: Path, endpoints: tuple[Endpoint, ...], pace: tuple[float, float] = (0.01, 0.05)
) -> AsyncIterator[Life]:
    made: list[Courier] = []

    def publish(effects: Effects) -> None:
        if effects.notices and made:
            made[0].stir()

    async with brain(folder, publish, Desk(endpoints)) as at, Outgoing() as outgoing:
        here = Life(at)
        courier = Courier(
            at.engine,
            outgoing,
            lambda: at.now[0],
            lambda low, high: high,
            lambda name, result: here.results.update([(name, result)]),
            pace,
        )
        made.append(courier)
        async with anyio.create_task_group() as group:
            group.start_soon(courier.run)
            yield here
            group.cancel_scope.cancel()


async def pauses(at: Brain, why: str = "lunch") -> None:
    await at.engine.ask(at.engine.act("shop-0001", ev.Pause("alice", why)))


async def fails(at: Brain, name: str, message: str = "no") -> None:
    offer = at.offers(name)[-1]
    await at.says(name, wire.AgentFrame(offer_reply=reply(offer)))
    report = wire.Report(
        bundle="shop",
        release=offer.release,
        rollout=offer.rollout,
        attempt=offer.attempt,
        outcome=wire.OUTCOME_FAILED,
        message=message,
    )
    await at.says(name, wire.AgentFrame(report=report))


async def running(at: Brain) -> None:
    await at.reads(1, cluster("a"))
    await at.connect("a")


async def test_a_pause_by_a_person_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with listening() as there, life(tmp_path, settings(tmp_path, hook(there.url))) as here:
        await running(here.brain)
        await pauses(here.brain)
        await here.is_written()
    told = json.loads(there.asked[0].body)
    assert told["on"] == "paused"
    assert (told["rollout"], told["bundle"]) == ("shop-0001", "shop")
    assert "is paused by alice: lunch" in told["text"]
    assert "muster rollout resume" in told["hint"]
    assert there.asked[0].headers["Muster-Notification"] == told["id"]
    assert there.asked[0].headers["Content-Type"] == "application/json"


async def test_a_budget_that_is_spent_is_told_as_the_pause_that_it_is(tmp_path: Path) -> None:
    async with listening() as there, life(tmp_path, settings(tmp_path, hook(there.url))) as here:
        await running(here.brain)
        await fails(here.brain, "a", "image not found")
        await here.is_written()
    (asked,) = there.asked
    assert "image not found" in json.loads(asked.body)["text"]


async def test_only_the_occasions_that_were_asked_for_are_told(tmp_path: Path) -> None:
    async with listening() as there:
        one = hook(there.url + "/owed", "one", on=["owed", "failed", "approval"])
        two = hook(there.url + "/paused", "two", on=["paused"])
        async with life(tmp_path, settings(tmp_path, one, two)) as here:
            await running(here.brain)
            await pauses(here.brain)
            await here.is_written()
    assert [asked.path for asked in there.asked] == ["/paused"]


async def test_a_rollout_that_fails_is_told_once_with_why(tmp_path: Path) -> None:
    """Once when it goes back, and once when it ends without its quorum."""
    async with (
        listening() as there,
        life(tmp_path, settings(tmp_path, hook(there.url, on=["failed"]))) as here,
    ):
        back = ", onFailure: {action: rollback, scope: rollout}"
        await failing(
            here.brain, Repo({"cart": ("", "1")}, plan="maxInFlight: 2, offline: {after: 7m}", more=back)
        )
        await here.is_written()
        (asked,) = there.asked
        told = json.loads(asked.body)
        assert (told["on"], told["rollout"]) == ("failed", "cart-0002")
        assert told["text"].startswith("cart-0002 (cart@0000000) failed and goes back: ")
        assert "broken" in told["text"]

        late = Repo({"shop": ("", "1")}, plan="offline: {after: 7m}", more=", expire: 10m", commits=7)
        await late.read(here.brain, cluster("x"), cluster("y"))
        await here.brain.passes(11 * 60)
        assert here.brain.states()["shop-0001"] == "Failed"
        await here.is_written()
    assert json.loads(there.asked[-1].body)["text"].startswith("shop-0001 (shop@0000000) failed: ")
    assert len(there.asked) == 2


async def test_a_wanted_approval_is_told_with_who_may_and_how(tmp_path: Path) -> None:
    gated = "soak: 0s, gates: {before: [{approval: {count: 2, by: [ada, bob]}}], after: [{approval: {}}]}"
    async with listening() as there:
        told = settings(tmp_path, hook(there.url, on=["approval"]))
        async with life(tmp_path, told) as here:
            repo, at = Repo({"shop": ("", "1")}, plan=gated), here.brain
            await repo.read(at)
            await at.connect("a")
            await repo.read(at, cluster("a"))
            await here.is_written()
            (first,) = [json.loads(asked.body) for asked in there.asked]
            assert "waits for an approval before wave all: 2 of ada, bob" in first["text"]
            assert first["hint"].endswith("muster rollout approve or reject shop-0001")
            await at.engine.ask(at.engine.act("shop-0001", ev.Approve("ada", "")))
            await at.settled()
            assert len(there.asked) == 1, "one of two is no news"
        async with life(tmp_path, told) as here:
            at = here.brain
            await repo.read(at, cluster("a"))
            await at.connect("a")
            await at.engine.ask(at.engine.act("shop-0001", ev.Approve("bob", "")))
            await says(at, "a", at.offers("a")[-1], wire.OUTCOME_HEALTHY)
            await here.is_written()
        assert "after wave all: 1 of the approvers" in json.loads(there.asked[-1].body)["text"]
    assert len(there.asked) == 2, "a restart tells nothing again"


async def test_a_freeze_is_told_when_it_begins_and_when_somebody_ends_it(tmp_path: Path) -> None:
    async with (
        listening() as there,
        life(tmp_path, settings(tmp_path, hook(there.url, on=["frozen"]))) as here,
    ):
        at = here.brain
        wanted = freeze("sale", "tier=store", at.now[0] + HOUR)
        await at.engine.ask(at.engine.freeze(wanted))
        await at.engine.ask(at.engine.unfreeze("sale", "bob"))
        await at.engine.ask(at.engine.freeze(wanted))
        await at.passes(2 * HOUR)
        await here.is_written()
    told = [json.loads(asked.body) for asked in there.asked]
    assert [(one["on"], one["rollout"]) for one in told] == [("frozen", "")] * 3
    begun = f"{wanted.by} froze tier=store until 1970-01-12T14:46:40Z (sale)"
    assert [one["text"].removesuffix(f": {wanted.reason}") for one in told] == [
        begun,
        "bob ended the freeze sale",
        begun,
    ]
    assert "muster freeze delete sale" in told[0]["hint"]


async def test_a_server_that_is_down_and_comes_back_is_told_all_of_it_in_order_and_once(
    tmp_path: Path,
) -> None:
    async with listening() as there:
        port = int(there.url.rpartition(":")[2])
    async with life(tmp_path, settings(tmp_path, hook(there.url))) as here:
        await running(here.brain)
        await pauses(here.brain)
        await here.brain.engine.ask(here.brain.engine.act("shop-0001", ev.Resume("alice", "")))
        await pauses(here.brain, "dinner")
        await here.has("failed", 2)  # nobody listens
        async with listening(port) as back:
            await here.is_written()
            await here.brain.settled()
    assert ["lunch" in str(asked.body) for asked in back.asked] == [True, False]
    assert here.results["ops", "sent"] == 2


async def test_the_second_pause_of_a_rollout_is_news_again(tmp_path: Path) -> None:
    async with listening() as there, life(tmp_path, settings(tmp_path, hook(there.url))) as here:
        await running(here.brain)
        await pauses(here.brain)
        await here.brain.engine.ask(here.brain.engine.act("shop-0001", ev.Resume("alice", "")))
        await pauses(here.brain, "dinner")
        await here.is_written()
    assert len({json.loads(asked.body)["id"] for asked in there.asked}) == 2


async def test_what_nobody_took_before_a_crash_is_told_after_it_once(tmp_path: Path) -> None:
    async with listening() as there:
        there.status = 503
        told = settings(tmp_path, hook(there.url))
        async with life(tmp_path, told) as here:
            await running(here.brain)
            await pauses(here.brain)
            await here.has("failed", 2)
        there.status, before = 200, len(there.asked)
        async with life(tmp_path, told) as here:
            await here.is_written()
        assert len(there.asked) == before + 1
        async with life(tmp_path, told) as here:
            await here.brain.settled()
            assert here.brain.engine.desk.outbox.wanted(json.loads(there.asked[0].body)["id"])
        assert len(there.asked) == before + 1
        assert len({asked.body for asked in there.asked}) == 1


async def test_a_dead_endpoint_delays_neither_the_engine_nor_another(tmp_path: Path) -> None:
    async with listening() as there:

        async def silent(asked: Asked) -> web.StreamResponse:
            if asked.path == "/dead":
                await anyio.sleep(60)
            return web.Response()

        there.answer = silent
        dead, alive = hook(there.url + "/dead", "dead"), hook(there.url + "/alive", "alive")
        async with life(tmp_path, settings(tmp_path, dead, alive)) as here:
            await running(here.brain)
            await pauses(here.brain)
            await there.has_been_asked(2)
            await here.has("sent", endpoint="alive")
            with anyio.fail_after(5):
                await here.brain.healthy("a")
                await here.brain.settled()
            assert here.results["dead", "sent"] == 0
            assert here.brain.engine.desk.outbox.waiting_for("dead") == 1


async def test_failures_are_tried_again_with_pauses_that_grow(tmp_path: Path) -> None:
    pauses_taken: list[float] = []

    async with listening() as there:
        there.status = 500
        async with life(tmp_path, settings(tmp_path, hook(there.url)), pace=(0.01, 0.08)) as here:
            await running(here.brain)
            began = anyio.current_time()
            await pauses(here.brain)
            for tries in range(1, 6):
                await there.has_been_asked(tries)
                pauses_taken.append(anyio.current_time() - began)
            there.status = 200
            await here.is_written()
    assert here.results["ops", "sent"] == 1
    assert pauses_taken[4] >= 0.01 + 0.02 + 0.04 + 0.08


async def test_a_request_that_is_refused_again_and_again_gives_way_to_the_next(tmp_path: Path) -> None:
    async with listening() as there:

        async def picky(asked: Asked) -> web.StreamResponse:
            return web.Response(status=400 if b"lunch" in asked.body else 200)

        there.answer = picky
        async with life(tmp_path, settings(tmp_path, hook(there.url))) as here:
            await running(here.brain)
            await pauses(here.brain)
            await here.brain.engine.ask(here.brain.engine.act("shop-0001", ev.Resume("alice", "")))
            await pauses(here.brain, "dinner")
            await here.is_written()
            assert here.results == {
                ("ops", "failed"): couriers.TRIES,
                ("ops", "dropped"): 1,
                ("ops", "sent"): 1,
            }
        assert len(there.asked) == couriers.TRIES + 1


async def test_what_nobody_took_for_a_day_is_given_up(tmp_path: Path) -> None:
    async with listening() as there:
        there.status = 503
        async with life(tmp_path, settings(tmp_path, hook(there.url))) as here:
            await running(here.brain)
            await pauses(here.brain)
            await here.has("failed", couriers.TRIES + 1)
            assert here.results["ops", "dropped"] == 0, "an outage is no fault of the notification"
            here.brain.now[0] += 25 * HOUR
            await here.is_written()
            assert here.results["ops", "dropped"] == 1


async def test_a_debt_that_is_older_than_the_threshold_is_told_once(tmp_path: Path) -> None:
    async with listening() as there:
        told = settings(tmp_path, hook(there.url, owedLonger="2h"))
        async with life(tmp_path, told) as here:
            await owing(here.brain)
            began = here.brain.now[0]
            await here.brain.passes(2 * HOUR - 8 * 60)
            assert there.asked == []
        # Who has waited since when is in the log: a restart begins no new count.
        async with life(tmp_path, told) as here:
            here.brain.now[0] = began + 2 * HOUR + 60
            await here.brain.settled()
            await here.is_written()
            await here.brain.passes(5 * HOUR)
    (asked,) = there.asked
    assert "1 cluster is owed shop@" in (text := json.loads(asked.body)["text"])
    assert text.endswith("for longer than 2h: b")


async def test_a_debt_that_was_settled_in_time_is_not_told(tmp_path: Path) -> None:
    async with (
        listening() as there,
        life(tmp_path, settings(tmp_path, hook(there.url, owedLonger="2h"))) as here,
    ):
        await owing(here.brain)
        await here.brain.connect("b")
        await here.brain.healthy("b")
        await here.brain.passes(9 * HOUR)
    assert there.asked == []


async def test_catching_up_that_stops_is_told(tmp_path: Path) -> None:
    async with listening() as there, life(tmp_path, settings(tmp_path, hook(there.url))) as here:
        at = here.brain
        await at.reads(1, *(cluster(name) for name in "abcd"))
        for name in ("a", "d"):
            await at.connect(name)
            await at.healthy(name)
        await at.passes(7 * 60)
        for name in ("b", "c"):
            await at.connect(name)
            await fails(at, name, "disk is full")
        await here.is_written()
    (asked,) = there.asked
    told = json.loads(asked.body)
    assert told["on"] == "paused"
    assert "catching up with shop@" in told["text"]
    assert "disk is full" in told["text"]


async def test_a_token_comes_from_its_file_and_shows_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("Bearer s3cret\n")
    (tmp_path / "url").write_text("http://127.0.0.1:9/services/p4th\n")
    async with listening() as there:
        good = hook(there.url, "good", headersFrom={"Authorization": "token"})
        bad = {"name": "bad", "urlFile": "url", "on": ALL, "headersFrom": {"Authorization": "token"}}
        told = settings(tmp_path, good, bad)
        async with life(tmp_path, told) as here:
            await running(here.brain)
            await pauses(here.brain)
            await here.has("failed", 2, "bad")
            await here.has("sent", 1, "good")
        assert there.asked[0].headers["Authorization"] == "Bearer s3cret"
    shown = "".join(capsys.readouterr()) + repr(told)
    assert "a notification was not taken" in shown
    assert "http://127.0.0.1:9" in shown
    assert "p4th" not in shown
    assert "s3cret" not in shown
    stored = (tmp_path / "muster.db").read_bytes()
    assert b"p4th" not in stored
    assert b"s3cret" not in stored


# --- forms ---------------------------------------------------------------------------------------------------------

NOTICE = Notice(
    id="shop-0001/7",
    on="failed",
    at=1_000_000.0,
    rollout="shop-0001",
    bundle="shop",
    commit="c" * 40,
    text='a said "<!channel> [x](http://evil)" & more\nand \\',
    hint="muster describe rollout shop-0001",
)


def test_a_chat_message_is_text_whatever_a_cluster_wrote() -> None:
    slack = json.loads(body_of("slack", "", NOTICE))["text"]
    assert "&lt;!channel&gt;" in slack
    assert "<" not in slack
    card = json.loads(body_of("teams", "", NOTICE))["attachments"][0]["content"]
    runs = [run["inlines"][0] for run in card["body"]]
    assert [run["type"] for run in runs] == ["TextRun", "TextRun"]
    assert runs[0]["text"] == NOTICE.text


def test_a_template_stays_json_whatever_a_cluster_wrote() -> None:
    body = json.loads(body_of("template", '{"m": "${on}: $text", "s": {"n": "$$1", "at": "$at"}}', NOTICE))
    assert body == {"m": f"failed: {NOTICE.text}", "s": {"n": "$1", "at": "1970-01-12T13:46:40Z"}}


def test_a_webhook_gets_every_field() -> None:
    assert json.loads(body_of("webhook", "", NOTICE)) == {
        "id": NOTICE.id,
        "on": "failed",
        "at": "1970-01-12T13:46:40Z",
        "rollout": "shop-0001",
        "bundle": "shop",
        "commit": "c" * 40,
        "text": NOTICE.text,
        "hint": NOTICE.hint,
    }


def test_an_outbox_is_bounded_and_a_replay_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MAX_PENDING", 3)
    outbox, written = Outbox(), []
    for number in range(5):
        one = Notice(id=f"r/{number}", on="paused", at=0.0, rollout="r", bundle="b", commit="", text="")
        written += outbox.want(one, ["x", "y"], 1.0)
        assert outbox.want(one, ["x", "y"], 2.0) == []
    written += outbox.sent("r/2", "x", 3.0)
    assert outbox.sent("r/2", "x", 4.0) == []
    again = Outbox()
    for event in written:
        again.apply(notices.decode(notices.encode(event)))
    for box in (outbox, again):
        assert (box.waiting_for("x"), box.waiting_for("y")) == (2, 3)
        found = box.next_for("y")
        assert found is not None
        assert found.id == "r/2"
    assert [e.id for e in written if isinstance(e, notices.Dropped) and e.to == "y"] == ["r/0", "r/1"]


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({"url": "https://x", "on": ALL, "colour": "red"}, "unknown field colour"),
        ({"url": "https://x", "on": []}, "length >= 1"),
        ({"url": "https://x", "on": ["sunrise"]}, "sunrise"),
        ({"on": ALL}, "exactly one of url and urlFile"),
        ({"url": "https://x", "urlFile": "y", "on": ALL}, "exactly one of url and urlFile"),
        ({"url": "file:///etc/passwd", "on": ALL}, "no http or https URL"),
        ({"url": "https://x", "on": ALL, "kind": "template"}, "body belongs to kind template"),
        ({"url": "https://x", "on": ALL, "body": "{}"}, "body belongs to kind template"),
        ({"url": "https://x", "on": ALL, "kind": "template", "body": '{"a": $text}'}, "body is no JSON"),
        ({"url": "https://x", "on": ALL, "kind": "template", "body": '"$secret"'}, "body names ${secret}"),
        ({"url": "https://x", "on": ALL, "kind": "template", "body": '"1 $ 2"'}, "write $$"),
        ({"url": "https://x", "on": ALL, "owedLonger": "0s"}, "owedLonger"),
        ({"url": "https://x", "on": ALL, "owedLonger": "soon"}, "owedLonger"),
        ({"url": "https://x", "on": ALL, "headersFrom": {"Host": "t"}}, "no header that can be set"),
        ({"url": "https://x", "on": ALL, "headersFrom": {"X Y": "t"}}, "no header that can be set"),
    ],
)
def test_a_settings_file_that_is_wrong_says_where(
    tmp_path: Path, endpoint: dict[str, object], said: str
) -> None:
    (tmp_path / "t").write_text("x")
    with pytest.raises(ValidationError) as failed:
        settings(tmp_path, {"name": "ops", **endpoint})
    assert failed.value.code == "L070"
    assert said in str(failed.value)
    assert "notify.yaml" in str(failed.value)


def test_a_secret_s_file_that_is_missing_or_no_line_is_named(tmp_path: Path) -> None:
    for content in (None, b"", b"two\nlines", b"\x00", b"x" * 20_000):
        path = tmp_path / "token"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValidationError) as failed:
            settings(tmp_path, hook("https://x", headersFrom={"Authorization": "token"}))
        assert failed.value.code == "L071"
        assert "token" in str(failed.value)


def test_two_endpoints_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="stands twice"):
        settings(tmp_path, hook("https://x"), hook("https://y"))
