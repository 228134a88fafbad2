"""The life of an identity: joining, renewing, coming back, being copied, being put out, and a change of the CA."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from e2e.programs import Program, Stage, code_in, stage
from muster_agent.identity import join as joining
from muster_agent.identity import x509
from muster_agent.link import client
from muster_agent.state.records import Identity
from muster_coordinator.api.views import cluster_view
from muster_coordinator.enrol.x509 import Authority
from muster_core.errors import JoinError
from muster_core.session.backoff import Backoff
from muster_proto.v1 import link_pb2 as wire
from unit.agent.hub import Agent, Hub, entry, first_certificate, hub, identity, until

LIFE = 10.0
DUE, LAPSED = 3000.0, 7200.0  # of an hour's life


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[Agent]]:
    found: list[Agent] = []
    yield found
    for agent in found:
        agent.close()


@pytest.fixture
def who() -> Identity:
    return identity()


async def agent_of(
    agents: list[Agent],
    folder: Path,
    who: Identity,
    at: Hub,
    *,
    issued: float = 0.0,
    life: float = 3600.0,
    name: str = "state",
) -> Agent:
    """An agent whose certificate was issued so many seconds ago."""
    agent = Agent(folder / name, who)
    agent.open(at, first_certificate(at, who, issued, life))
    agents.append(agent)
    await agent.state.durable()
    return agent


# --- renewing ---------------------------------------------------------------------------------------------------


async def test_a_certificate_is_renewed_while_the_stream_goes_on(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at, issued=6.5, life=LIFE)
        first = agent.enrolled().certificate
        async with anyio.create_task_group() as group:
            group.start_soon(agent.link.run)
            await until(lambda: agent.enrolled().certificate != first)
            assert at.engine.state.cluster("berlin-04").connection == 1
            assert (at.servicer.streams, agent.link.connected) == (1, True)
            assert at.engine.state.cluster("berlin-04").join.renewals == 1
            await until(lambda: time.time() > x509.validity(first)[1] + 0.1)
            agent.report("shop", "Ready")
            await until(lambda: "shop" in at.held())
            group.cancel_scope.cancel()
        # The first certificate is over; only with the new one is there a line.
        assert x509.validity(agent.enrolled().certificate)[1] > time.time()
        await agent.in_session(lambda: at.engine.state.cluster("berlin-04").connection == 2)
        assert agent.enrolled().renewals == 1


async def test_renewals_are_spread_around_two_thirds_of_a_life(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at, issued=DUE)
        agent.link._backoff = Backoff(uniform)
        await agent.in_session(lambda: agent.enrolled().renewals == 1)
    (low, high) = asked[0]
    assert low < 2 / 3 < high
    assert high - low >= 0.05
    start, end = x509.validity(agent.enrolled().certificate)
    assert x509.renewal_time(agent.enrolled().certificate, 0.5) == pytest.approx((start + end) / 2)


async def test_the_counter_is_on_disk_before_it_is_sent(
    agents: list[Agent], who: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at, issued=DUE)
        renew = at.enrolment.renew

        async def watched(name: str, key: bytes, request: wire.RenewRequest) -> wire.RenewResponse:
            on_disk = json.loads(await anyio.Path(tmp_path / "state" / "enrolment.json").read_text())
            seen.append((request.counter, on_disk["record"]["renewals"]))
            return await renew(name, key, request)

        monkeypatch.setattr(at.enrolment, "renew", watched)
        await agent.in_session(lambda: bool(agent.enrolled().renewals and seen))
    assert seen == [(1, 1)]


# --- coming back ------------------------------------------------------------------------------------------------


async def test_an_agent_that_was_away_past_expiry_is_back_without_a_token(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    """Also from a database that never heard of it: the registry and the identity key are enough.

    rancher/fleet#1444, #5620; open-cluster-management-io/enhancements PR #69: no way back once the first secret was gone.
    """
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at, issued=LAPSED)
        assert agent.enrolled().token_secret == ""
        await agent.in_session(lambda: agent.link.connected)
        assert agent.enrolled().renewals == 1
        join = at.engine.state.cluster("berlin-04").join
        assert join is not None
        assert (join.renewals, join.identity) == (1, joining.identity_key(who).public)


async def test_somebody_elses_key_does_not_come_back_as_the_cluster(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(identity()))
        agent = await agent_of(agents, tmp_path, who, at, issued=LAPSED)
        with pytest.raises(JoinError, match="J031"):
            await agent.link._come_back()
        lying = joining.join_request(who, agent.enrolled())
        lying.counter += 1000
        with pytest.raises(JoinError, match="J007"):
            await client.join(agent.enrolled(), lying)


async def test_a_coordinator_that_has_just_started_sends_nobody_away(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    async with hub(tmp_path / "hub") as at:
        agent = await agent_of(agents, tmp_path, who, at)
        async with anyio.create_task_group() as group:
            group.start_soon(agent.link.run)
            await until(lambda: agent.link._backoff._failures >= 2)
            assert agent.link._backoff.maximum == 60.0  # a refusal would have lengthened the pauses
            await at.register(entry(who))
            await until(lambda: agent.link.connected)
            group.cancel_scope.cancel()


# --- copies -----------------------------------------------------------------------------------------------------


async def test_two_copies_of_one_state_folder_are_found(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        original = await agent_of(agents, tmp_path, who, at, issued=DUE)
        await anyio.to_thread.run_sync(shutil.copytree, tmp_path / "state", tmp_path / "copy")
        await original.in_session(lambda: at.engine.state.cluster("berlin-04").join is not None)
        copy = await agent_of(agents, tmp_path, who, at, name="copy")
        certificate = copy.enrolled().certificate
        told = copy.link._not_renewed
        answers: list[str] = []
        copy.link._not_renewed = lambda error: (answers.append(error.code), told(error))[1]  # type: ignore[method-assign]
        await copy.in_session(lambda: len(answers) == 1)
        assert "berlin-04" in at.enrolment.disputed
        assert "J032" in cluster_view(at.engine.state, at.engine.state.cluster("berlin-04")).message
        said = [line for line in at.lines if "J032" in line]
        assert said
        assert "there may be two agents with one identity" in said[0]
        assert "Its counter is 1, 1 was seen" in said[0]
        assert copy.enrolled().certificate == certificate
        # The copy asks again with the same number: it never climbs past the original.
        for times in (2, 3):
            await copy.in_session(lambda times=times: len(answers) == times)
        assert answers == ["J032"] * 3
        assert at.engine.state.cluster("berlin-04").join.renewals == 1


async def test_a_copy_that_lapsed_does_not_come_back(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    async with hub(tmp_path / "hub", LIFE) as at:
        await at.register(entry(who))
        original = await agent_of(agents, tmp_path, who, at, issued=LAPSED)
        await anyio.to_thread.run_sync(shutil.copytree, tmp_path / "state", tmp_path / "copy")
        await original.in_session(lambda: original.link.connected)
        copy = await agent_of(agents, tmp_path, who, at, name="copy")
        for _ in range(2):
            with pytest.raises(JoinError, match="J032"):
                await copy.link._come_back()
        assert "berlin-04" in at.enrolment.disputed


# --- being put out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "another identity", "another uid"])
async def test_who_leaves_the_registry_loses_the_stream_at_once(
    agents: list[Agent], who: Identity, tmp_path: Path, how: str
) -> None:
    async with hub(tmp_path / "hub", LIFE, beat=60) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at)
        async with anyio.create_task_group() as group:
            group.start_soon(agent.link.run)
            await until(lambda: agent.link.connected)
            left = {
                "removed": [],
                "another identity": [entry(identity())],
                "another uid": [entry(who, uid="of-another")],
            }[how]
            await at.register(*left)
            with anyio.fail_after(1.0):
                await until(lambda: not agent.link.connected and at.servicer.streams == 0)
            # The good-bye asks for a long pause; a stream that merely broke would not.
            assert agent.link._backoff.minimum == 60.0
            group.cancel_scope.cancel()
        enrolled = agent.enrolled()
        async with client.session(enrolled, who) as stream:
            request = wire.RenewRequest(csr_der=x509.request(who.tls_key, "berlin-04"), counter=99)
            with pytest.raises(JoinError, match="J030"):
                await stream.renew(request)
        with pytest.raises(JoinError, match=r"J03[01]"):
            await agent.link._come_back()
        assert agent.enrolled().certificate == enrolled.certificate


# --- the authority ----------------------------------------------------------------------------------------------


async def test_an_agent_survives_a_change_of_the_ca(
    agents: list[Agent], who: Identity, tmp_path: Path
) -> None:
    """open-cluster-management-io/clusteradm#59: a change of the hub's CA stranded its agents."""
    data, other = tmp_path / "hub", tmp_path / "next"
    other.mkdir()
    new = Authority.load_or_make(other, dt.datetime.now(dt.UTC))
    async with hub(data, LIFE) as at:
        await at.register(entry(who))
        agent = await agent_of(agents, tmp_path, who, at, issued=DUE)
        old_ca = agent.enrolled().ca_pem
    shutil.copy(other / "ca.crt", data / "ca-next.crt")
    shutil.copy(other / "ca.key", data / "ca-next.key")
    async with hub(data, LIFE) as at:  # both are believed, the old one signs
        await at.register(entry(who))
        agent.point(at)
        agent.make()
        await agent.in_session(
            lambda: agent.enrolled().renewals == 1 and len(agent.enrolled().ca_pem) > len(old_ca)
        )
        assert new.pem.decode() in agent.enrolled().ca_pem
        by_old = agent.enrolled().certificate
    (data / "ca.crt").rename(data / "ca-previous.crt")
    (data / "ca-next.crt").rename(data / "ca.crt")
    (data / "ca-next.key").rename(data / "ca.key")
    async with hub(data, LIFE) as at:  # the new one signs, the old one's certificates are taken
        await at.register(entry(who))
        agent.point(at)
        agent.make()
        await agent.in_session(lambda: agent.enrolled().certificate != by_old, 15.0)
        assert agent.enrolled().renewals == 2
    (data / "ca-previous.crt").unlink()
    async with hub(data, LIFE) as at:  # the old one is gone
        await at.register(entry(who))
        agent.point(at)
        agent.make()
        await agent.in_session(lambda: agent.link.connected)
        assert at.authority.pem == new.pem


def test_a_certificates_life_has_bounds(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    for life in (dt.timedelta(seconds=9), dt.timedelta(days=8)):
        with pytest.raises(JoinError, match="J022"):
            Authority.load_or_make(tmp_path, now, life)
    Authority.load_or_make(tmp_path, now, dt.timedelta(days=7))


def test_a_bundle_that_is_no_ca_changes_nothing(tmp_path: Path, who: Identity) -> None:
    authority = Authority.load_or_make(tmp_path, dt.datetime.now(dt.UTC))
    leaf = authority.client(x509.request(who.tls_key, "a"), "a", "u", b"\0" * 32, dt.datetime.now(dt.UTC))
    assert x509.is_authority(authority.pem)
    assert not x509.is_authority(leaf)
    assert not x509.is_authority(authority.pem + leaf)
    assert not x509.is_authority(b"nonsense")


# --- tokens, as processes ---------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as found:
        yield found


def last_line(agent: Program) -> str:
    """What the agent said last that is no log."""
    return [line for line in agent.log.read_text().splitlines() if not line.startswith("{")][-1]


def test_a_token_that_is_not_good_ends_the_agent_with_one_clear_line(fleet: Stage) -> None:
    kube = fleet.kube("berlin-04")

    running: dict[str, Program] = {}

    def run(name: str, token: str) -> None:
        agent = running[name] = fleet.agent("berlin-04", kube, token, state=name)
        agent.start()

    short = fleet.token("berlin-04", ttl=1)
    made = time.time()
    used = fleet.token("berlin-04")
    fleet.agent("berlin-04", kube, used, state="first").start()
    fleet.approve("berlin-04")
    run("unknown", fleet.token_of("berlin-04", "A" * 43))
    run("used", used)
    run("wrong name", fleet.token("munich-01"))
    run("cut", used[:-9])
    run("empty", fleet.token_of("berlin-04", ""))
    time.sleep(max(0.0, made + 2.0 - time.time()))  # until the short one is over
    run("expired", short)
    answers = {name: (agent.ended(40), last_line(agent)) for name, agent in running.items()}
    assert {name: code for name, (code, _) in answers.items()} == dict.fromkeys(answers, 1)
    assert {name: code_in(line) for name, (_, line) in answers.items()} == {
        "unknown": "MUSTER-J003",
        "used": "MUSTER-J004",
        "expired": "MUSTER-J005",
        "wrong name": "MUSTER-J041",
        "cut": "MUSTER-J001",
        "empty": "MUSTER-J031",
    }
    assert all("muster token create" in line for name, (_, line) in answers.items() if name != "empty"), (
        answers
    )
