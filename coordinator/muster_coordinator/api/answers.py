"""What operators are told when there is nothing to show, and what became of what was shown before.

Owns these sentences and their codes. It reads the state and never changes it.
"""

from __future__ import annotations

from muster_core.errors import MusterError, RolloutError
from muster_core.rollout.machine import RolloutMachine

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.fleetstate import FleetState


class NotFoundError(MusterError):
    """The named thing is not here."""


def fleet_problems(reading: Reading) -> str:
    """The first problem of the reading that is no bundle's own, and how many there are; or nothing."""
    found = [problem for problem in reading.problems if not problem.bundle]
    return f"{found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "") if found else ""


def no_release(reading: Reading, bundle: str) -> MusterError:
    """Why this bundle has no release: its own problem, a plan that cannot be read, or that there is no such bundle."""
    own = [problem for problem in reading.problems if problem.bundle == bundle]
    if not own and bundle not in reading.contents.bundles:
        return no_bundle(bundle)
    what = str(own[0]) if own else "it has no release"
    if not own or own[0].text.startswith("spec.plan:"):
        what = fleet_problems(reading) or what  # a plan that has an error is missing to its bundles
    return RolloutError("R007", what, object=bundle, hint="Run `muster validate .` and mend what it lists.")


def no_bundle(name: str) -> NotFoundError:
    return NotFoundError(
        "L041",
        "there is no such bundle in the fleet repository",
        object=name,
        hint="See them: muster get bundles.",
    )


def no_cluster(name: str) -> NotFoundError:
    return NotFoundError(
        "L040", "there is no such cluster", object=name, hint="See them: muster get clusters."
    )


def no_rollout(name: str) -> NotFoundError:
    return NotFoundError(
        "L042", "there is no such rollout", object=name, hint="See them: muster get rollouts."
    )


def of_a_debt(state: FleetState, machine: RolloutMachine, cluster: str) -> str:
    """What became of what a cluster was owed when its rollout ended."""
    bundle = machine.started.bundle
    ledger, known = state.debts.get(bundle), state.clusters.get(cluster)
    if ledger and (debt := ledger.debts.get(cluster)):
        what = "It" if debt.origin == machine.name else f"The release of {debt.origin}"
        match debt.state:
            case "owed":
                return f"{what} is offered when the cluster returns: muster rollout owed."
            case "failed" | "lost":
                return f"{what} was offered since and {debt.state}: {debt.message}".rstrip(": ") + "."
            case _:
                return f"{what} is {debt.state} now."
    report = known.reports.get(bundle) if known else None
    if report and report.release.tree_digest == machine.started.tree_digest:
        return f"It has caught up since: it runs {report.release.commit[:7]}."
    runs = f" It runs {report.release.commit[:7]}." if report and report.release.commit else ""
    return f"Nothing of it is owed any more: a later rollout reached it, or it left.{runs}"
