"""A rollout that waits for its time: the coordinator's machine and the agents' own ones, on a bad line.

Both are the real ones. What is between them is a model of the link: frames of agents wait until there is contact and are
never lost, those of the coordinator are lost when contact is, and what stands is sent again when contact begins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from muster_agent.reconcile import events as ae
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.state.records import Admission, BundleRecord, OfferRecord
from muster_core.release import Release
from muster_core.rollout import events as ev
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave
from property.recount import THIS, Driven

OLD, NEW = Release("shop", "c0", "digest-before"), Release("shop", "c1", THIS)
NOT_BEFORE, DEADLINE, AWAY = 2_000.0, 300.0, 120.0
GOOD = ae.HealthSeen(1, 1, ())
Down = OfferRecord | ae.Withdrawn


@dataclass
class Site:
    """One cluster: its agent's machine, what is on its disk, and both directions of its line."""

    name: str
    disk: BundleRecord = field(default_factory=lambda: BundleRecord(bundle="shop"))
    online: bool = True
    up: deque[tuple[str, int, str]] = field(default_factory=deque)
    down: deque[Down] = field(default_factory=deque)
    withdrawn: bool = False  # it heard so, before the time
    last: tuple[int, str] = (0, "")  # the last report that the coordinator has of this release

    def __post_init__(self) -> None:
        self.agent = BundleMachine(self.disk)

    def take(self, now: float) -> None:
        frame = self.down.popleft()
        if isinstance(frame, OfferRecord):
            self.withdrawn = False
            self.perform(self.agent.handle(ae.Offered(frame), now), now)
        else:
            self.withdrawn = now < NOT_BEFORE
            self.perform(self.agent.handle(frame, now), now)

    def restart(self, now: float) -> None:
        self.agent = BundleMachine(self.disk)
        self.perform(self.agent.start(now), now)

    def tick(self, now: float) -> None:
        self.perform(self.agent.handle(ae.Tick(), now), now)

    def perform(self, commands: list[ae.Command], now: float) -> None:
        queue = list(commands)
        while queue:
            match queue.pop(0):
                case ae.Save():
                    self.disk = self.agent.record
                case ae.Acknowledge(offer):
                    self.up.append(("acknowledged", offer.attempt, ""))
                case ae.Admit(offer):
                    early = now < offer.not_before
                    admission = Admission(offer.release, "r", "p")
                    queue += self.agent.handle(
                        ae.Staged(float(offer.not_before)) if early else ae.Admitted(admission, 60.0, False),
                        now,
                    )
                case ae.Readmit(admission):
                    queue += self.agent.handle(ae.Readmitted(admission, 60.0, False), now)
                case ae.Apply():
                    self._apply(now)
                    queue += self.agent.handle(ae.AppliedAll("", "", ()), now)
                    queue += self.agent.handle(GOOD, now)
                case ae.Report():
                    offer = self.agent.record.offer
                    self.up.append(("report", offer.attempt if offer else 0, self.agent.record.outcome))
                case other:
                    raise AssertionError(other)

    def _apply(self, now: float) -> None:
        admission = self.agent.record.admission
        assert admission is not None
        if admission.release == NEW:
            assert now >= NOT_BEFORE, "applied before its time"
            assert not self.withdrawn, "applied although it heard in time that it is taken back"


class Staging(RuleBasedStateMachine):
    """Everybody is honest; only the line and the people are not to be relied on."""

    @initialize(number=st.integers(1, 3), flying=st.integers(1, 3), had_one=st.booleans())
    def start(self, number: int, flying: int, had_one: bool) -> None:
        names = tuple(f"c{index}" for index in range(number))
        wave = ResolvedWave(
            name="all", members=names, max_in_flight=flying, max_failed=0, quorum_percent=50, soak=30.0,
            offline_after=dict.fromkeys(names, AWAY),
        )  # fmt: skip
        plan = ResolvedPlan(
            name="rings", waves=(wave,), deadline=DEADLINE, action="pause", catch_up_in_flight=1
        )
        before = Admission(OLD, "r", "p")
        disk = (
            BundleRecord(bundle="shop", admission=before, last_healthy=before)
            if had_one
            else BundleRecord(bundle="shop")
        )
        self.sites = {name: Site(name, disk) for name in names}
        self.driven = Driven(plan, not_before=NOT_BEFORE)
        self.follow(self.driven.log)
        for name in names:
            self.tell(ev.Contact(name, True))

    # --- the coordinator ---------------------------------------------------------------------------

    def tell(self, given: ev.Input) -> None:
        self.follow(self.driven.give(given))

    def follow(self, events: list[ev.AnyEvent]) -> None:
        for event in events:
            if isinstance(event, ev.OfferMade):
                self.send(event.cluster, self.offer(event.cluster, event.attempt))
            elif isinstance(event, ev.OfferWithdrawn):
                self.send(event.cluster, ae.Withdrawn("shop-0001", event.attempt))

    def offer(self, name: str, attempt: int) -> OfferRecord:
        return OfferRecord("shop-0001", attempt, NEW, not_before=int(NOT_BEFORE))

    def send(self, name: str, frame: Down) -> None:
        if self.sites[name].online:
            self.sites[name].down.append(frame)

    def recall(self, site: Site) -> None:
        """As the coordinator does: what is staged of an offer that stands no more is taken back."""
        attempt, outcome = site.last
        if outcome == "staged" and not self.driven.machine.stands(site.name, attempt):
            self.send(site.name, ae.Withdrawn("shop-0001", attempt))

    # --- what happens ------------------------------------------------------------------------------

    def pick(self, number: int) -> Site:
        return list(self.sites.values())[number % len(self.sites)]

    def hear(self, site: Site) -> None:
        """The coordinator takes one frame."""
        kind, attempt, outcome = site.up.popleft()
        note(f"{self.driven.now}: {site.name} says {kind} {attempt} {outcome}")
        if kind == "acknowledged":
            self.tell(ev.Acknowledged(site.name, attempt))
            return
        site.last = (attempt, outcome)
        if attempt and outcome in {"staged", "applying", "healthy", "failed", "returned"}:
            self.tell(ev.Reported(site.name, attempt, THIS, outcome))  # type: ignore[arg-type]
        self.recall(site)

    @rule(number=st.integers(0, 2), both=st.integers(0, 2))
    def line_works(self, number: int, both: int) -> None:
        site = self.pick(number)
        if not site.online:
            return
        while site.down and both != 1:
            site.take(self.driven.now)
        while site.up and both != 2:
            self.hear(site)

    @rule()
    def every_line_works(self) -> None:
        for site in self.sites.values():
            while site.online and (site.down or site.up):
                while site.down:
                    site.take(self.driven.now)
                while site.up:
                    self.hear(site)

    @rule(number=st.integers(0, 2))
    def line_breaks(self, number: int) -> None:
        site = self.pick(number)
        if site.online:
            site.online = False
            site.down.clear()
            self.tell(ev.Contact(site.name, False))

    @rule(number=st.integers(0, 2))
    def line_is_back(self, number: int) -> None:
        site, machine = self.pick(number), self.driven.machine
        if site.online:
            return
        site.online = True
        before = len(site.down)
        self.tell(ev.Contact(site.name, True))
        self.recall(site)
        target = machine.targets[site.name]
        offered = any(isinstance(frame, OfferRecord) for frame in list(site.down)[before:])
        if machine.stands(site.name, target.attempt) and not offered:
            self.send(site.name, self.offer(site.name, target.attempt))

    @rule(seconds=st.sampled_from([1, 30, 60, 121, 400, 1_000]))
    def time_passes(self, seconds: int) -> None:
        """A line that works is never slower than a second, and nobody sleeps past the time."""
        if self.driven.now < NOT_BEFORE < self.driven.now + seconds:
            first = int(NOT_BEFORE - self.driven.now)
            self.time_passes(first)
            seconds -= first
        if seconds > 1:
            self.every_line_works()
        self.driven.now += seconds
        for site in self.sites.values():
            site.tick(self.driven.now)
        if seconds > 1:
            self.every_line_works()
        self.tell(ev.Tick())

    @rule()
    def its_time_comes(self) -> None:
        self.time_passes(max(1, int(NOT_BEFORE - self.driven.now)))

    @rule(number=st.integers(0, 2))
    def agent_restarts(self, number: int) -> None:
        self.pick(number).restart(self.driven.now)

    @rule()
    def coordinator_restarts(self) -> None:
        """The log comes back; contact is told anew."""
        self.driven.machine = self.driven.replayed()
        for site in self.sites.values():
            if site.online:
                self.tell(ev.Contact(site.name, True))

    @rule()
    def pause(self) -> None:
        self.tell(ev.Pause("test", "look"))

    @rule()
    def resume(self) -> None:
        self.tell(ev.Resume("test", ""))

    @rule(number=st.integers(0, 2), on=st.booleans())
    def hold(self, number: int, on: bool) -> None:
        name = self.pick(number).name
        self.tell(ev.Hold(name, "frozen") if on else ev.Unhold(name))

    @rule(number=st.integers(0, 15))
    def end(self, number: int) -> None:
        if number == 0:
            self.tell(ev.Abort("test", ""))
        elif number == 1:
            self.tell(ev.Supersede("shop-0002"))

    def teardown(self) -> None:
        """Lines are good and people go on: nobody is stuck, and nobody has failed for having waited."""
        if not hasattr(self, "driven"):
            return
        for number, site in enumerate(self.sites.values()):
            self.line_is_back(number)
            self.tell(ev.Unhold(site.name))
        machine = self.driven.machine
        self.every_line_works()
        for _ in range(60):
            if machine.has_ended:
                break
            if machine.state == "Paused":
                if machine.count("lost", "failed"):
                    self.tell(ev.Retry("test", "again"))
                if machine.state == "Paused":
                    self.tell(ev.Resume("test", ""))
            self.every_line_works()
            wake = machine.next_wake()
            ours = [site.agent.next_wake() for site in self.sites.values()]
            times = [at for at in (wake, *ours) if at is not None]
            self.time_passes(max(1, int(min(times) - self.driven.now) + 1) if times else 1)
        assert machine.has_ended, (machine.state, machine.why)
        failed = [event for event in self.driven.log if isinstance(event, ev.TargetFailed)]
        assert not failed, "an honest cluster in contact failed"
        if machine.state != "Succeeded":
            staged = [site.name for site in self.sites.values() if site.agent.record.outcome == "staged"]
            assert not staged, "it is back, and was not told"
        self.driven.check_prefixes()


TestStaging = Staging.TestCase
# A story is long and its states are few: a quarter of the examples finds what there is.
TestStaging.settings = settings(max_examples=max(1, settings().max_examples // 4))
