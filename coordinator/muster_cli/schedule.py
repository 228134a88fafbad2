"""Who goes when, and what each wave waits for: a resolved plan as people and programs read it.

Owns the table and the values of ``muster rollout plan``. It resolves nothing and asks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
from muster_core.durations import format_duration
from muster_core.rollout.hours import Hours
from muster_core.rollout.membership import turns
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave, quorum_count
from muster_core.times import format_time

from muster_cli.outlook import Outlook
from muster_cli.output import counted, table

NAMED = 5


def _limits(wave: ResolvedWave) -> dict[str, Any]:
    return {
        "maxInFlight": wave.max_in_flight,
        "maxFailed": wave.max_failed,
        "maxLost": wave.max_failed if wave.max_lost is None else wave.max_lost,
        "quorum": quorum_count(wave.quorum_percent, len(wave.members)),
    }


def value(outlook: Outlook, resolved: ResolvedPlan, away: frozenset[str] | None) -> dict[str, Any]:
    return {
        "bundle": outlook.name,
        "plan": resolved.name,
        "clusters": sum(len(wave.members) for wave in resolved.waves),
        "away": None if away is None else sorted(away),
        "inNoWave": list(resolved.excluded),
        "deadlineSeconds": resolved.deadline,
        "onFailure": {"action": resolved.action, "scope": resolved.scope},
        "limits": {
            "maxInFlight": resolved.max_in_flight,
            "maxFailed": resolved.max_failed,
            "maxLost": resolved.max_lost,
            "fleetMaxDisrupted": outlook.most_disrupted(),
            "expireSeconds": resolved.expire,
        },
        "dependsOn": [other.name for other in outlook.bundle.spec.depends_on],
        "vetoes": _inside(resolved, outlook.vetoes()),
        "sitesWithWindow": _inside(resolved, outlook.sites()),
        "waves": [
            {
                "name": wave.name,
                **_limits(wave),
                "soakSeconds": wave.soak,
                "offlinePolicy": wave.offline_policy,
                **({"window": _window(wave)} if wave.window else {}),
                "gates": {
                    "before": [str(gate) for gate in wave.gates_before],
                    "after": [str(gate) for gate in wave.gates_after],
                },
                "members": [
                    {
                        "name": name,
                        "offlineAfterSeconds": wave.offline_after[name],
                        **({"spread": wave.spread[name]} if wave.spread else {}),
                        **({} if away is None else {"away": name in away}),
                    }
                    for name in turns(wave)
                ],
            }
            for wave in resolved.waves
        ],
    }


def show(outlook: Outlook, resolved: ResolvedPlan, away: frozenset[str] | None, style: str) -> None:
    size = sum(len(wave.members) for wave in resolved.waves)
    far = "" if away is None else f"; {len(away)} away now"
    click.echo(
        f"{outlook.name} by plan {resolved.name}: {counted(size, 'cluster')} in {counted(len(resolved.waves), 'wave')}{far}"
    )
    heads = ["WAVE", "CLUSTERS", "IN-FLIGHT", "MAY-FAIL", "MAY-BE-LOST", "QUORUM", "SOAK", "AWAY", "ORDER"]
    rows = []
    for number, wave in enumerate(resolved.waves):
        limits = _limits(wave)
        absent = "?" if away is None else str(sum(name in away for name in wave.members))
        rows.append([
            f"{number + 1} {wave.name}", str(len(wave.members)), *(str(value) for value in limits.values()),
            format_duration(wave.soak) if wave.soak else "-", absent, _order(wave, style),
        ])  # fmt: skip
    table(heads, rows)
    for line in (*_conditions(resolved), *_bounds(outlook, resolved)):
        click.echo(line)
    if resolved.excluded:
        click.echo(f"in no wave: {_some(resolved.excluded, style)}")


def _window(wave: ResolvedWave) -> dict[str, Any]:
    """A window as it is written, and when it is open next: the earliest of its sites."""
    if wave.window is None:
        return {}
    hours, now = Hours(wave), time.time()
    hours.look(now)
    opens = now if hours.open else hours.opens_at(hours.changes)
    return {
        "cron": wave.window.cron,
        "durationSeconds": wave.window.duration,
        "timeZone": wave.window.zone,
        "opensAt": format_time(opens),
    }


def _conditions(resolved: ResolvedPlan) -> Iterator[str]:
    """What each wave waits for beside the one before it."""
    for wave in resolved.waves:
        if found := _window(wave):
            zone = "each site's own time" if found["timeZone"] == "site" else found["timeZone"]
            span = format_duration(found["durationSeconds"])
            yield f"{wave.name}: offers go out at {found['cron']} for {span} ({zone}); open from {found['opensAt']}"
        for phase, gates in (("before", wave.gates_before), ("after", wave.gates_after)):
            for gate in gates:
                yield f"{wave.name}: {phase} it {gate}"


def _bounds(outlook: Outlook, resolved: ResolvedPlan) -> Iterator[str]:
    """What holds over all waves."""
    most = {
        "in flight": resolved.max_in_flight,
        "failed or lost": resolved.max_failed,
        "lost": resolved.max_lost,
        "in flight over all rollouts of the fleet": outlook.most_disrupted(),
    }
    said = [f"{count} {what}" for what, count in most.items() if count is not None]
    if said:
        yield f"over all waves at most {', '.join(said)}"
    if resolved.expire is not None:
        yield f"expires {format_duration(resolved.expire)} after its start"
    if outlook.bundle.spec.depends_on:
        names = ", ".join(other.name for other in outlook.bundle.spec.depends_on)
        yield f"each cluster waits until it is healthy on {names}"
    if sites := _inside(resolved, outlook.sites()):
        yield f"{counted(len(sites), 'site')} with a window of its own: {_some(sites, 'table')}"
    if vetoes := _inside(resolved, outlook.vetoes()):
        yield f"refused by the veto of {_some(vetoes, 'table')}"


def _inside(resolved: ResolvedPlan, names: Iterable[str]) -> list[str]:
    """Those that are in a wave, sorted."""
    return sorted(set(names) & {name for wave in resolved.waves for name in wave.members})


def _order(wave: ResolvedWave, style: str) -> str:
    """Members as they go; with a spread each with its value of the label, since only one is in flight at a time."""
    names = [f"{name}({wave.spread[name] or '-'})" if wave.spread else name for name in turns(wave)]
    return _some(names, style)


def _some(names: Sequence[str], style: str) -> str:
    left = len(names) - NAMED
    if style == "wide" or left <= 0:
        return " ".join(names)
    return " ".join(names[:NAMED]) + f" … {left} more"
