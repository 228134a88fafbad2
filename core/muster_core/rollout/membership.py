"""Who takes part in a rollout: the clusters of a registry that a bundle targets, or ones made up for a simulation.

Owns the way from registry entries to members, for whoever resolves a plan: the coordinator that starts it and the operator
who looks ahead see the same ones. It never asks a coordinator: labels are those of the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from muster_core.durations import parse_duration
from muster_core.kinds.base import Selector
from muster_core.kinds.model import Bundle, Cluster, Fleet, SiteClass
from muster_core.kinds.plans import RolloutPlan, Wave
from muster_core.rollout.plan import Member, ResolvedPlan, ResolvedWave
from muster_core.select import targeted

# Made-up waves are each so many times the one before, as canary, tenth and rest are.
GROWTH = 10


def contact_interval(fleet: Fleet | None, site_class: str) -> float:
    """How often clusters of this class say that they live, in seconds; the default for one that is not named."""
    site = fleet.spec.site_classes.get(site_class) if fleet else None
    return parse_duration((site or SiteClass()).contact_interval)


def takes(bundle: Bundle, entry: Cluster) -> bool:
    """Whether this cluster gets releases of the bundle: it is targeted, and not on its way out of the fleet."""
    return not entry.is_leaving and targeted(bundle, entry.all_labels)


def members_of(bundle: Bundle, clusters: Mapping[str, Cluster], fleet: Fleet | None) -> list[Member]:
    """The clusters of a registry that take the bundle, in the registry's order."""
    return [
        Member(
            name,
            entry.all_labels,
            contact_interval(fleet, entry.spec.site_class),
            entry.spec.site.time_zone if entry.spec.site else "UTC",
        )
        for name, entry in clusters.items()
        if takes(bundle, entry)
    ]


def scaled(members: Sequence[Member], count: int) -> list[Member]:
    """``count`` members in the proportions of these, which come first; copies are named after what they copy."""
    found, width = list(members[:count]), len(str(count))
    for number in range(len(found), count):
        like = members[number % len(members)]
        found.append(like._replace(name=f"{like.name}-{number:0{width}}"))
    return found


def made_up(plan: RolloutPlan, count: int) -> list[Member]:
    """``count`` members for a fleet without a registry: each wave that selects has a tenth of the one after it."""
    interval, width = contact_interval(None, ""), len(str(count))
    named = [name for wave in plan.spec.waves for name in wave.names]
    kinds = [_labels(wave) for wave in plan.spec.waves if wave.selector is not None or wave.rest]
    weights = [GROWTH**place for place in range(len(kinds))]
    found = [Member(name, {}, interval) for name in dict.fromkeys(named)]
    for place, labels in enumerate(kinds):
        left, last = count - len(found), place == len(kinds) - 1
        share = left if last else max(1, left * weights[place] // sum(weights[place:]))
        for _ in range(min(left, share)):
            found.append(Member(f"cluster-{len(found):0{width}}", labels, interval))
    while len(found) < count:  # waves by names and percent alone
        found.append(Member(f"cluster-{len(found):0{width}}", {}, interval))
    return found


def limited(plan: ResolvedPlan, most: int | None) -> ResolvedPlan:
    """A plan that is alone in its fleet: the fleet's limit is then one of the rollout's own."""
    if most is None:
        return plan
    own = plan.max_in_flight
    return msgspec.structs.replace(plan, max_in_flight=most if own is None else min(own, most))


def turns(wave: ResolvedWave) -> list[str]:
    """The members in the order in which they are first offered; with a spread one value of its label after the other."""
    first: dict[str, int] = {}
    for place, name in enumerate(wave.members):
        first.setdefault(wave.spread.get(name, ""), place)
    return sorted(wave.members, key=lambda name: first[wave.spread.get(name, "")])


def _labels(wave: Wave) -> dict[str, str]:
    """Labels that this wave's selector takes, as far as labels can; none for the rest."""
    selector = wave.selector or Selector()
    labels = dict(selector.match_labels)
    for term in selector.match_expressions:
        if term.operator == "In" and term.values:
            labels[term.key] = term.values[0]
        elif term.operator == "Exists":
            labels.setdefault(term.key, "x")
    return labels
