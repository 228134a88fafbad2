"""What operators may ask and do, as plain calls.

Owns the operator API's meaning; the link module carries it. Every action goes through the engine, so it is durable before
it is answered. It never lets a caller choose content: only which known commit, and when.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version

from muster_core.errors import JoinError, LinkError, RolloutError
from muster_core.kinds.model import NEEDS_DIRECTIVE
from muster_core.names import RULE, is_name
from muster_core.release import Release
from muster_core.rollout.explain import explain
from muster_core.rollout.machine import RolloutMachine
from muster_core.select import matches, parse_selector
from muster_core.session.capability import CAPABILITY
from muster_core.trust.directive import decode
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.access.calls import CALLER
from muster_coordinator.api import decisions, views
from muster_coordinator.api.answers import (
    fleet_problems,
    no_bundle,
    no_cluster,
    no_release,
    no_rollout,
    of_a_debt,
)
from muster_coordinator.api.watchers import Watchers
from muster_coordinator.catalog.catalog import Catalog, Reading
from muster_coordinator.enrol import tokens
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.launch import Start
from muster_coordinator.rollout.returning import TakeBack
from muster_coordinator.store.port import Store


@dataclass(slots=True)
class OperatorApi:
    """``addresses`` are those that agents should use: (link, edge)."""

    engine: Engine
    catalog: Catalog
    store: Store
    watchers: Watchers
    clock: Callable[[], float]
    random: Callable[[int], bytes]
    ca_pem: bytes
    addresses: tuple[str, str]
    # What watchers were told last: who asks to join, with which keys, and of which reading.
    _asking: dict[str, bytes] = field(default_factory=dict, init=False)
    _reading: Reading = field(default_factory=Reading, init=False)

    def info(self) -> op.Info:
        reading = self.engine.state.reading
        fleet = reading.contents.fleet
        return op.Info(
            version=version("muster-fleet"),
            capability=CAPABILITY,
            fleet_id=fleet.spec.id if fleet else "",
            fleet_name=fleet.metadata.name if fleet else "",
            mode=fleet.spec.mode if fleet else "",
            repository_url=self.catalog.repository.url,
            branch=self.catalog.repository.branch,
            head_commit=reading.heads.commit,
            registry_commit=reading.heads.registry,
            ca_pem=self.ca_pem,
            link_address=self.addresses[0],
            edge_address=self.addresses[1],
            catalog_error=self.catalog.error or fleet_problems(reading),
        )

    async def refresh(self) -> op.Info:
        await self.catalog.refresh()
        return self.info()

    async def create_token(self, request: op.CreateTokenRequest) -> op.CreateTokenResponse:
        if not is_name(request.cluster):
            raise JoinError(
                "J008",
                "a token is for one cluster; this is no name of one",
                object=request.cluster,
                hint=f"Write {RULE}.",
            )
        row, secret = await tokens.create(
            self.store, request.cluster, request.ttl_seconds or 3600, int(self.clock()), self.random
        )
        return op.CreateTokenResponse(id=row.id, secret=secret, expires_unix=row.expires)

    async def list_tokens(self) -> op.TokenList:
        now = self.clock()
        return op.TokenList(
            tokens=[
                op.Token(
                    id=t.id,
                    cluster=t.cluster,
                    created_unix=t.created,
                    expires_unix=t.expires,
                    used_unix=t.used,
                    state="Used" if t.used else "Expired" if t.expires <= now else "Valid",
                )
                for t in await self.store.tokens()
            ]
        )

    def list_joins(self) -> op.JoinList:
        """Only joins that wait for an approval."""
        clusters = self.engine.state.clusters
        return op.JoinList(joins=[view for name in clusters if (view := views.join_view(clusters[name]))])

    def list_clusters(self, selector: str) -> op.ClusterList:
        state, wanted = self.engine.state, parse_selector(selector)
        names = [name for name in sorted(state.clusters) if matches(wanted, views.labels_of(state, name))]
        return op.ClusterList(clusters=[views.cluster_view(state, state.clusters[name]) for name in names])

    def list_bundles(self, request: op.ListBundlesRequest) -> op.BundleList:
        state, wanted = self.engine.state, parse_selector(request.selector)
        names = sorted(views.bundle_names(state.reading))
        shown = [views.bundle_view(state, name, places=request.places) for name in names]
        return op.BundleList(bundles=[view for view in shown if matches(wanted, dict(view.labels))])

    def list_rollouts(self, bundle: str) -> op.RolloutList:
        machines = self.engine.state.rollouts.values()
        return op.RolloutList(
            rollouts=[
                views.rollout_view(m, targets=False)
                for m in machines
                if not bundle or m.started.bundle == bundle
            ]
        )

    def get_cluster(self, name: str) -> op.ClusterView:
        state = self.engine.state
        if name not in state.clusters:
            raise no_cluster(name)
        return views.cluster_view(state, state.clusters[name])

    def get_bundle(self, name: str) -> op.BundleView:
        state = self.engine.state
        if name not in views.bundle_names(state.reading):
            raise no_bundle(name)
        return views.bundle_view(state, name)

    def get_rollout(self, name: str) -> op.RolloutView:
        return views.rollout_view(self._machine(name), targets=True)

    def _machine(self, name: str) -> RolloutMachine:
        machine = self.engine.state.rollouts.get(name)
        if machine is None:
            raise no_rollout(name)
        return machine

    async def start_rollout(self, request: op.StartRolloutRequest) -> op.RolloutView:
        await self.catalog.refresh()
        by = CALLER.get().name

        def work(effects: Effects, now: float) -> op.RolloutView:
            state, bundle = self.engine.state, request.bundle
            digest = state.reading.contents.digests.get(bundle)
            if digest is None:
                raise no_release(state.reading, bundle)
            head = state.reading.heads.commit
            back = _goes_back(request)
            if back is not None:
                self.engine.keep_directive(
                    back, request.directive, request.directive_signature, request.cluster_uids, effects, now
                )
                machine = self.engine.start(
                    Start(back, request.plan, by, request.reason, True, request.not_before_unix), effects, now
                )
                return views.rollout_view(machine, targets=True)
            if request.commit and not head.startswith(request.commit):
                raise RolloutError(
                    "R008",
                    "only the newest commit of the tracked branch can be rolled out in this mode",
                    object=request.commit,
                    hint=f"The newest is {head[:7]}; to go back, revert in Git, or sign it: rollout start --go-back.",
                )
            runs = state.rollouts_of(bundle)
            if runs and runs[-1].started.tree_digest == digest and not request.again:
                if not runs[-1].has_ended:  # the push has started it already
                    _require_same_time(runs[-1], request.not_before_unix)
                    return views.rollout_view(runs[-1], targets=True)
                raise RolloutError(
                    "R009",
                    f"{runs[-1].name} was of this very release ({runs[-1].state})",
                    object=bundle,
                    hint="Pass --again to do it once more.",
                )
            release = Release(bundle, head, digest)
            fleet = state.reading.contents.fleet
            if request.directive:
                self.engine.keep_directive(
                    release,
                    request.directive,
                    request.directive_signature,
                    request.cluster_uids,
                    effects,
                    now,
                )
            elif fleet and fleet.spec.mode in NEEDS_DIRECTIVE and not state.directives.of(release):
                raise RolloutError(
                    "R017",
                    f"the fleet's mode is {fleet.spec.mode}, and no directive was signed for this release",
                    object=str(release),
                    hint="Sign one: muster rollout start BUNDLE --key FILE.",
                )
            machine = self.engine.start(
                Start(release, request.plan, by, request.reason, not_before=request.not_before_unix),
                effects,
                now,
            )
            return views.rollout_view(machine, targets=True)

        result: op.RolloutView = await self.engine.ask(work)
        return result

    async def roll_back(self, request: op.RollBackRequest) -> op.RolloutView:
        """Whoever has the newest release goes back to the one before; what runs of the bundle is ended."""
        self.get_bundle(request.bundle)
        order = TakeBack(request.bundle, request.commit, CALLER.get().name, request.reason)
        machine = await self.engine.ask(self.engine.take_back(order))
        return views.rollout_view(machine, targets=True)

    async def act(self, request: op.ActOnRolloutRequest) -> op.RolloutView:
        self._machine(request.rollout)
        caller = CALLER.get()
        if request.action not in decisions.ACTIONS:
            raise LinkError("L043", "no such action", object=str(request.action))
        caller.require_action(op.ActOnRolloutRequest.Action.Name(request.action))
        await self.engine.ask(self.engine.act(request.rollout, decisions.order(request, caller.name)))
        return self.get_rollout(request.rollout)

    def explain(self, request: op.ExplainRequest) -> op.Explanation:
        machine, cluster = self._machine(request.rollout), request.cluster
        if cluster not in machine.targets and cluster not in self.engine.state.clusters:
            raise no_cluster(cluster)
        text = explain(machine, cluster, self.clock())
        target = machine.targets[cluster]
        if machine.has_ended and target.state == "owed":
            text = f"{cluster} was owed at the end. {of_a_debt(self.engine.state, machine, cluster)}"
        return op.Explanation(text=text, target=views.target_view(machine, cluster))

    # --- watching --------------------------------------------------------------------------------------------------

    def publish(self, effects: Effects) -> None:
        """Tells watchers what a batch changed."""
        asking, faulty = self._asking_anew(effects), self._faulty_anew()
        self.watchers.wake(effects.rollouts)
        if not len(self.watchers):
            return
        now = self.clock()
        at = int(now * 1000)
        events = [op.Event(kind=op.Event.LOG, at_unix_ms=at, text=line) for line in effects.lines]
        events += self._present(effects.clusters, effects.bundles | faulty, (), asking, now)
        ways = {brief: self._rollouts(effects.rollouts, now, brief) for brief in self.watchers.ways()}
        for watcher in self.watchers:
            for event in (*events, *ways[watcher.brief]):
                watcher.tell(event)

    def _asking_anew(self, effects: Effects) -> set[str]:
        """Who asks to join since this batch. An agent that waits asks every second; that is told once."""
        anew = set()
        for name in effects.clusters | effects.batch.joins.keys():
            cluster = self.engine.state.clusters.get(name)
            keys = views.asks_with(cluster) if cluster else None
            if keys is None:
                self._asking.pop(name, None)
            elif self._asking.get(name) != keys:
                self._asking[name] = keys
                anew.add(name)
        return anew

    def _faulty_anew(self) -> set[str]:
        """Bundles that are nothing but an error in a new reading; what the others are is in the batch."""
        reading = self.engine.state.reading
        if reading is self._reading:
            return set()
        self._reading = reading
        return {problem.bundle for problem in reading.problems if problem.bundle}

    def _rollouts(self, names: Iterable[str], now: float, brief: bool) -> list[op.Event]:
        state, at = self.engine.state, int(now * 1000)
        return [
            op.Event(
                kind=op.Event.ROLLOUT,
                at_unix_ms=at,
                rollout=views.rollout_view(state.rollouts[name], targets=not brief),
            )
            for name in sorted(names)
            if name in state.rollouts
        ]

    def _present(
        self,
        clusters: set[str],
        bundles: set[str],
        rollouts: Iterable[str],
        asking: set[str],
        now: float,
        brief: bool = False,
    ) -> list[op.Event]:
        state, at = self.engine.state, int(now * 1000)
        events = [
            op.Event(kind=op.Event.JOIN, at_unix_ms=at, join=join)
            for name in sorted(asking)
            if name in state.clusters and (join := views.join_view(state.clusters[name]))
        ]
        events += [
            op.Event(
                kind=op.Event.CLUSTER, at_unix_ms=at, cluster=views.cluster_view(state, state.clusters[name])
            )
            for name in sorted(clusters)
            if name in state.clusters
        ]
        events += [
            op.Event(kind=op.Event.BUNDLE, at_unix_ms=at, bundle=views.bundle_view(state, name))
            for name in sorted(bundles)
        ]
        return events + self._rollouts(rollouts, now, brief)

    async def watch(self, request: op.WatchRequest) -> AsyncIterator[op.Event]:
        """The present state, then ``SYNCED``, then changes; all of it anew when the reader was too slow."""
        every = not (request.clusters or request.bundles or request.rollouts)

        def wants(event: op.Event) -> bool:
            match event.kind:
                case op.Event.CLUSTER:
                    return (request.clusters or every) and request.name in ("", event.cluster.name)
                case op.Event.JOIN:
                    return (request.clusters or every) and request.name in ("", event.join.cluster)
                case op.Event.BUNDLE:
                    return (request.bundles or every) and request.name in ("", event.bundle.name)
                case op.Event.ROLLOUT:
                    return (request.rollouts or every) and request.name in ("", event.rollout.name)
                case _:
                    return True

        watcher = self.watchers.add(wants, brief=request.brief)
        try:
            while True:
                state = self.engine.state
                watcher.overflowed = False
                for event in self._present(
                    set(state.clusters),
                    views.bundle_names(state.reading),
                    set(state.rollouts),
                    set(state.clusters),
                    self.clock(),
                    request.brief,
                ):
                    if wants(event):
                        yield event
                yield op.Event(kind=op.Event.SYNCED, at_unix_ms=int(self.clock() * 1000))
                while not watcher.overflowed:
                    yield await watcher.next()
        finally:
            self.watchers.remove(watcher)


def _require_same_time(running: RolloutMachine, not_before: int) -> None:
    """``MUSTER-R053`` where a start that changes nothing asks for another time than the rollout has."""
    if not_before and not_before != int(running.started.not_before):
        raise RolloutError(
            "R053",
            "it runs already, and is not to wait for that time",
            object=running.name,
            hint=f"End it, then start it anew: muster rollout abort {running.name}, muster rollout start --again.",
        )


def _goes_back(request: op.StartRolloutRequest) -> Release | None:
    """The release that an operator's directive goes back to; whether it may is for the agents to judge."""
    if not request.directive:
        return None
    directive = decode(request.directive)
    return directive.release if directive.goes_back and directive.release.bundle == request.bundle else None
