"""The demo's story: what happens to the fleet, act by act, and the check that closes each act.

Owns the order of events and the facts. Every fact is read from the operator API or from a site's own Kubernetes API,
never from the memory of the demo. It never touches agent or coordinator internals.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from muster_lab.demo import shop
from muster_lab.demo.fleet import Fleet
from muster_lab.demo.processes import DemoError

if TYPE_CHECKING:
    from muster_proto.v1 import link_pb2 as wire
    from muster_proto.v1 import operator_pb2 as op

ACT_DEADLINE = 60.0


@dataclass(slots=True)
class Story:
    """Runs the acts on a fleet; ``say`` prints one line, ``facts`` collects what was proven."""

    fleet: Fleet
    say: Callable[[str], None]
    facts: list[str] = field(default_factory=list)

    async def run(self) -> None:
        for act in (
            self.joining,
            self.first_version,
            self.forbidden_manifest,
            self.broken_version,
            self.owed_and_caught_up,
            self.healed,
        ):
            started = time.monotonic()
            await act()
            self.say(f"   ({time.monotonic() - started:.1f} s)")

    def _proven(self, fact: str) -> None:
        self.facts.append(fact)
        self.say(f" ✓ {fact}")

    async def _until(
        self, what: str, fact: Callable[[], Awaitable[object]], deadline: float = ACT_DEADLINE
    ) -> None:
        """Waits until ``fact()`` is true, while every program stays alive."""
        last: object = None
        with anyio.move_on_after(deadline):
            while True:
                self.fleet.supervisor.check()
                last = await fact()
                if last is True:
                    return
                await anyio.sleep(0.2)
        raise DemoError(f"not so after {deadline:.0f} s: {what} (last seen: {last})")

    async def _rollout_of(self, commit: str) -> op.RolloutView | None:
        listed: op.RolloutList = await self.fleet.operator.list_rollouts()
        return next((rollout for rollout in listed.rollouts if rollout.release.commit == commit), None)

    async def _ended(self, commit: str, state: str) -> op.RolloutView:
        """The rollout of a commit, once it reached ``state``."""

        async def reached() -> object:
            rollout = await self._rollout_of(commit)
            if rollout is None:
                return "no rollout yet"
            if rollout.state == state:
                return True
            if rollout.state in {"Succeeded", "Failed", "Aborted", "RolledBack"}:
                raise DemoError(f"{rollout.name} ended {rollout.state}, expected {state}: {rollout.why}")
            return f"{rollout.name} {rollout.state}: {rollout.why}"

        await self._until(f"the rollout of {commit[:7]} is {state}", reached)
        found = await self._rollout_of(commit)
        if found is None:
            raise DemoError(f"the rollout of {commit[:7]} vanished")
        whole: op.RolloutView = await self.fleet.operator.get_rollout(found.name)
        return whole

    async def _versions(self) -> dict[str, str]:
        """What each site's own API says is installed: cluster -> version in the shop's ConfigMap."""
        found = {}
        for name, site in self.fleet.sites.items():
            config = await site.get("/api/v1/namespaces/shop/configmaps/shop")
            found[name] = config["data"]["version"] if config else "none"
        return found

    async def _report(self, cluster: str) -> wire.Report | None:
        view = await self.fleet.operator.get_cluster(cluster)
        return next((report for report in view.bundles if report.bundle == "shop"), None)

    # --- acts --------------------------------------------------------------------------------------------------

    async def joining(self) -> None:
        self.say("1. Six clusters join, each with a token of its own that works once.")
        for name, ring in shop.CLUSTERS.items():
            await self.fleet.join(name, ring)

        async def online() -> object:
            states = {c.name: c.state for c in (await self.fleet.operator.list_clusters()).clusters}
            return all(states.get(name) == "Online" for name in shop.CLUSTERS) or states

        await self._until("all six clusters are Online", online)
        self._proven("six clusters joined and are Online")
        tokens = (await self.fleet.operator.list_tokens()).tokens
        if len(tokens) != len(shop.CLUSTERS) or any(token.state != "Used" for token in tokens):
            raise DemoError(f"tokens should all be Used: {[t.state for t in tokens]}")
        self._proven("each of the six tokens is used up")

    async def first_version(self) -> None:
        self.say(
            "2. Version 1 goes out in waves: canary, stores, edge. Its password is sealed to these six clusters."
        )
        await self.fleet.seal_secret()
        commit = await self.fleet.commit(
            "shop: version 1",
            {
                **shop.files("1.0"),
                "bundles/shop/bundle.yaml": shop.bundle(secret=True),
            },
        )
        rollout = await self._ended(commit, "Succeeded")
        if [wave.name for wave in rollout.waves] != ["canary", "stores", "edge"] or rollout.done != len(
            shop.CLUSTERS
        ):
            raise DemoError(f"{rollout.name}: {rollout.done} of {len(shop.CLUSTERS)} done")
        versions = await self._versions()
        if set(versions.values()) != {"1.0"}:
            raise DemoError(f"not every site runs 1.0: {versions}")
        self._proven("version 1 is Ready on all six clusters, wave after wave")
        for name, site in self.fleet.sites.items():
            secret = await site.get("/api/v1/namespaces/shop/secrets/shop-db")
            if not secret or secret["data"]["password"] != self.fleet.secret_base64:
                raise DemoError(f"{name}: the secret is not what was sealed")
        self._proven("each site opened the sealed secret with its own key")

    async def forbidden_manifest(self) -> None:
        self.say("3. A manifest that a policy forbids: a Deployment without the label team.")
        commit = await self.fleet.commit("shop: forget the team label", shop.files("1.1", team=None))
        rollout = await self._ended(commit, "RolledBack")
        report = await self._report("canary-1")
        violations = [v for v in report.violations if v.action == "deny"] if report else []
        if not violations:
            raise DemoError("canary-1 reports no violation")
        first = violations[0]
        if (
            "require-labels" not in first.policy
            or not first.rule
            or "Deployment" not in first.object
            or not first.path
        ):
            raise DemoError(f"the refusal does not name policy, rule, object and path: {first}")
        self.say(
            f"   refused by policy {first.policy}, rule {first.rule}: {first.object} at {first.path}: {first.message}"
        )
        touched = [t.cluster for t in rollout.targets if t.state not in {"waiting", "skipped"}]
        if touched != ["canary-1"]:
            raise DemoError(f"clusters that were touched: {touched}")
        if set((versions := await self._versions()).values()) != {"1.0"}:
            raise DemoError(f"something was applied: {versions}")
        self._proven("the policy refused it at the canary, nothing was applied anywhere")

    async def broken_version(self) -> None:
        self.say("4. Version 2, whose image never becomes ready.")
        commit = await self.fleet.commit("shop: version 2", shop.files("2.0", image=shop.NEVER_IMAGE))
        self.say("   the canary has 10 s to become healthy (health.deadline of the bundle): waiting for that")
        rollout = await self._ended(commit, "RolledBack")
        states = {target.cluster: target.state for target in rollout.targets}
        if states["canary-1"] != "returned" or any(
            state not in {"waiting", "skipped"} for name, state in states.items() if name != "canary-1"
        ):
            raise DemoError(f"targets: {states}")
        if set((versions := await self._versions()).values()) != {"1.0"}:
            raise DemoError(f"not every site is on 1.0: {versions}")
        self._proven("the canary failed, returned to version 1 by itself, and no other cluster was touched")

    async def owed_and_caught_up(self) -> None:
        self.say("5. Version 3, while the line of edge-2 is cut.")
        await self.fleet.line.cut()

        async def offline() -> object:
            state = (await self.fleet.operator.get_cluster("edge-2")).state
            return state == "Offline" or state

        self.say("   waiting until it counts as Offline: three times its contact interval without a word")
        await self._until("edge-2 is Offline", offline)
        commit = await self.fleet.commit("shop: version 3", shop.files("3.0"))
        self.say(
            "   the wave edge gives it 8 s to answer (offline.after of the plan), then its change is owed"
        )
        rollout = await self._ended(commit, "Succeeded")
        states = {target.cluster: target.state for target in rollout.targets}
        if states["edge-2"] != "owed" or any(s != "done" for n, s in states.items() if n != "edge-2"):
            raise DemoError(f"targets: {states}")
        self._proven("the rollout succeeded without edge-2, which is owed version 3")
        self.fleet.line.mend()
        self.say("   the line of edge-2 is mended")

        async def caught_up() -> object:
            report = await self._report("edge-2")
            view = await self.fleet.operator.get_cluster("edge-2")
            good = report and report.phase == "Ready" and report.release.commit == commit and not view.owed
            return bool(good) or f"{view.state}, owed {list(view.owed)}"

        await self._until("edge-2 is caught up", caught_up)
        if set((versions := await self._versions()).values()) != {"3.0"}:
            raise DemoError(f"not every site is on 3.0: {versions}")
        self._proven("edge-2 came back and caught up by itself")

    async def healed(self) -> None:
        self.say("6. Somebody edits a live object by hand on store-2.")
        before = await self._report("store-2")
        site = self.fleet.sites["store-2"]
        await site.patch("/api/v1/namespaces/shop/configmaps/shop", {"data": {"greeting": "go away"}})

        async def mended() -> object:
            config = await site.get("/api/v1/namespaces/shop/configmaps/shop")
            report = await self._report("store-2")
            if not config or config["data"]["greeting"] != "welcome":
                return "not mended yet"
            return bool(report and before and report.healed_count > before.healed_count) or "not reported yet"

        await self._until("the edit is undone and reported", mended)
        report = await self._report("store-2")
        self._proven(f"the edit was undone and reported ({report.last_healed if report else ''})")


def summary(facts: list[str], seconds: float) -> str:
    """What was proven, as text."""
    return "\n".join([f"{len(facts)} facts hold, in {seconds:.0f} s:", *(f"  ✓ {fact}" for fact in facts)])
