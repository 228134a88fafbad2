"""The columns of each kind of thing.

Owns which facts a table shows, in which order and in which words. It never asks a coordinator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from muster_core.durations import format_duration
from muster_core.times import format_time
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op

from muster_cli.output import Column, age, ago
from muster_cli.standing import took

NAMED = 8


def short(release: wire.Release) -> str:
    """The commit as people say it."""
    return release.commit[:7] or "-"


def worst_of(cluster: op.ClusterView) -> str:
    """The first message of a bundle that is not Ready."""
    bad = (f"{r.bundle}: {r.message}" for r in cluster.bundles if r.phase != "Ready" and r.message)
    return cluster.message or next(bad, "-")


def where(bundle: op.BundleView) -> str:
    """Which release is where: ``3f2c9d1 ×38, a81b02e ×2 (owed 1), none ×1``."""
    return ", ".join(_counted(count) for count in bundle.releases) or "-"


def _counted(count: op.ReleaseCount) -> str:
    owed = f" (owed {count.owed})" if count.owed else ""
    return f"{_or_none(count.release)} ×{count.clusters}{owed}"


def _or_none(release: wire.Release) -> str:
    return short(release) if release.commit else "none"


def elsewhere(bundle: op.BundleView) -> str:
    """The clusters that do not have the release that the bundle moves to, by what they have."""
    names: dict[str, list[str]] = {}
    for place in bundle.places:
        if place.release.tree_digest != bundle.target.tree_digest:
            names.setdefault(_or_none(place.release), []).append(place.cluster)
    told = (
        f"{commit}: {', '.join(sorted(found)[:NAMED])}"
        + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
        for commit, found in sorted(names.items())
    )
    return "; ".join(told) or "-"


def wave(rollout: op.RolloutView) -> str:
    if not rollout.waves:
        return "-"
    number = min(rollout.wave_index, len(rollout.waves) - 1)
    return f"{number + 1}/{len(rollout.waves)} {rollout.waves[number].name}"


def because(rollout: op.RolloutView) -> str:
    """Why it was started, and why it ended as it did."""
    return "; ".join(text for text in (rollout.reason, rollout.why) if text) or "-"


CLUSTERS: Sequence[Column[op.ClusterView]] = (
    Column("CLUSTER", lambda c: c.name),
    Column("STATE", lambda c: c.state),
    Column("BUNDLES", lambda c: f"{sum(r.phase == 'Ready' for r in c.bundles)}/{len(c.bundles)}"),
    Column("OWED", lambda c: ",".join(c.owed) or "-"),
    Column("SEEN", lambda c: age(c.last_seen_unix_ms)),
    Column("CLASS", lambda c: c.site_class or "-"),
    Column("AGENT", lambda c: c.agent_version or "-", wide=True),
    Column("KUBERNETES", lambda c: c.kubernetes_version or "-", wide=True),
    Column(
        "LABELS", lambda c: ",".join(f"{k}={v}" for k, v in sorted(c.labels.items())), wide=True, long=True
    ),
    Column("MESSAGE", lambda c: worst_of(c), long=True),
)
BUNDLES: Sequence[Column[op.BundleView]] = (
    Column("BUNDLE", lambda b: b.name),
    Column("TARGET", lambda b: short(b.target)),
    Column("PLAN", lambda b: b.plan or "-", wide=True, spare=True),
    Column("READY", lambda b: f"{b.ready}/{b.matched}"),
    Column("DEGRADED", lambda b: str(b.degraded)),
    Column("BLOCKED", lambda b: str(b.blocked)),
    Column("OWED", lambda b: str(b.owed)),
    Column("ROLLOUT", lambda b: b.active_rollout or "-"),
    Column("WHERE", lambda b: where(b), long=True),
    Column("ELSEWHERE", lambda b: elsewhere(b), wide=True, long=True),
    Column("ERROR", lambda b: b.error or "-", long=True),
)
ROLLOUTS: Sequence[Column[op.RolloutView]] = (
    Column("ROLLOUT", lambda r: r.name),
    Column("BUNDLE", lambda r: r.bundle, spare=True),
    Column("RELEASE", lambda r: short(r.release), spare=True),
    Column("STATE", lambda r: r.state),
    Column("WAVE", lambda r: wave(r)),
    Column("DONE", lambda r: f"{r.done}/{r.total}"),
    Column("IN-FLIGHT", lambda r: str(r.in_flight)),
    Column("FAILED", lambda r: str(r.failed)),
    Column("LOST", lambda r: str(r.lost)),
    Column("OWED", lambda r: str(r.owed)),
    Column("AGE", lambda r: age(r.started_unix_ms)),
    Column("BY", lambda r: r.started_by, wide=True),
    Column("WHY", lambda r: r.why or "-", long=True),
)
HISTORY: Sequence[Column[op.RolloutView]] = (
    Column("ROLLOUT", lambda r: r.name),
    Column("RELEASE", lambda r: short(r.release)),
    Column("STATE", lambda r: r.state),
    Column("DONE", lambda r: f"{r.done}/{r.total}"),
    Column("FAILED", lambda r: str(r.failed + r.lost), wide=True),
    Column("OWED", lambda r: str(r.owed), wide=True),
    Column("TOOK", lambda r: took(r, time.time())),
    Column("STARTED", lambda r: ago(r.started_unix_ms)),
    Column("BY", lambda r: r.started_by or "-"),
    Column("PLAN", lambda r: r.plan, wide=True, spare=True),
    Column("WHY", lambda r: because(r), long=True),
)
TOKENS: Sequence[Column[op.Token]] = (
    Column("TOKEN", lambda t: t.id),
    Column("CLUSTER", lambda t: t.cluster),
    Column("STATE", lambda t: t.state),
    Column(
        "EXPIRES",
        lambda t: f"in {format_duration(t.expires_unix - time.time())}" if t.state == "Valid" else "-",
    ),
    Column("AGE", lambda t: age(t.created_unix * 1000)),
)
FREEZES: Sequence[Column[op.Freeze]] = (
    Column("FREEZE", lambda f: f.name),
    Column("CLUSTERS", lambda f: f"{f.clusters} ({f.selector or 'all'})"),
    Column("BUNDLE", lambda f: f.bundle or "all"),
    Column("UNTIL", lambda f: format_time(f.until_unix)),
    Column("ENDS", lambda f: f"in {format_duration(f.until_unix - time.time())}"),
    Column("BY", lambda f: f.by),
    Column("AGE", lambda f: age(f.created_unix * 1000), wide=True),
    Column("REASON", lambda f: f.reason or "-", long=True),
)
OWED: Sequence[Column[op.Owed]] = (
    Column("CLUSTER", lambda o: o.cluster),
    Column("BUNDLE", lambda o: o.release.bundle),
    Column("RELEASE", lambda o: short(o.release)),
    Column("ROLLOUT", lambda o: o.rollout),
    Column("STATE", lambda o: o.state),
    Column("SINCE", lambda o: age(o.since_unix_ms)),
    Column(
        "SIGNED-UNTIL", lambda o: format_time(o.directive_expires_unix) if o.directive_expires_unix else "-"
    ),
    Column("MESSAGE", lambda o: o.message or "-", long=True),
)
