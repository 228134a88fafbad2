"""Offers as they go out, and the names by which answers come back.

Owns the form of a catch-up's name: ``<rollout>+catchup``, with the registry entry's digest when a changed entry is
what is caught up with. It never decides who is offered what.
"""

from __future__ import annotations

from muster_core.release import Release
from muster_core.rollout.board import Target
from muster_core.rollout.catchup import Debt
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import link_pb2 as wire

CATCHUP = "+catchup"
ENTRY_DIGITS = 12


def release_of(machine: RolloutMachine) -> Release:
    started = machine.started
    return Release(started.bundle, started.commit, started.tree_digest)


def wire_release(release: Release) -> wire.Release:
    return wire.Release(bundle=release.bundle, commit=release.commit, tree_digest=release.tree_digest)


def offer_of(machine: RolloutMachine, target: Target) -> wire.Offer:
    started = machine.started
    return wire.Offer(
        rollout=started.rollout,
        release=wire_release(release_of(machine)),
        attempt=target.attempt,
        returns=bool(started.returns),
        not_before_unix=int(started.not_before),
    )


def offer_of_debt(bundle: str, debt: Debt) -> wire.Offer:
    return wire.Offer(
        rollout=catchup_name(debt.origin, debt.entry),
        release=wire_release(Release(bundle, debt.commit, debt.tree_digest)),
        attempt=1,
        registry_digest=debt.entry,
        catch_up=True,
        returns=bool(debt.returns),
    )


def catchup_name(origin: str, entry: str) -> str:
    return f"{origin}{CATCHUP}" + (f".{entry[:ENTRY_DIGITS]}" if entry else "")


def catchup_origin(rollout: str) -> str | None:
    """The rollout that a catch-up is of; None when the name is an ordinary rollout's."""
    origin, mark, _ = rollout.partition(CATCHUP)
    return origin if mark else None
