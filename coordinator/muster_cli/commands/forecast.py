"""What a rollout would be, before anything starts: who goes when, and how it is likely to go.

Owns ``muster rollout plan`` and ``muster rollout simulate``. Both resolve the plan by the code that the coordinator
resolves it by; the simulation runs the coordinator's machine. Neither changes anything anywhere.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from muster_core.durations import format_duration, parse_duration
from muster_core.errors import RolloutError, ValidationError

from muster_cli.output import counted, table, write_value
from muster_cli.verbs import CHECKOUT, OUTPUT, VALUES_OUTPUT, Verb

if TYPE_CHECKING:
    from muster_core.rollout.forecast import Forecast, Shares
    from muster_core.rollout.plan import Member, ResolvedPlan
    from muster_core.rollout.simulation import Likely, Run

    from muster_cli.outlook import Outlook

BINS = 10
LABEL = 24  # columns of a histogram's labels and counts
RUNS, MOST_RUNS_OF = 200, 200_000  # by default so many runs, but not more clusters than that in all
QUIET = 2.0  # seconds before anybody is told how far it is
PAUSE = 1.0

PLAN = click.option("--plan", "named", default="", metavar="NAME", help="Another plan than the bundle's.")


@click.command("plan", cls=Verb)
@click.argument("bundle")
@PLAN
@CHECKOUT
@OUTPUT
@click.pass_context
def plan(ctx: click.Context, bundle: str, named: str, checkout: Path, style: str) -> None:
    """Show who goes when, before anything starts.

    Resolves the plan of BUNDLE over the registry as the coordinator would, from the files of your checkout: edit a plan
    and look again. Who is away now is asked of the coordinator, if there is one. Exit code 1 when the plan cannot start.

    \b
    Example:
      muster rollout plan shop

    Next: muster rollout simulate BUNDLE says how long it is likely to take.
    """
    from muster_core.rollout.membership import turns

    from muster_cli import schedule
    from muster_cli.outlook import away_now, look, registered

    outlook = look(checkout, bundle, named, registered)
    resolved, refusal = _resolved(outlook, outlook.members())
    away = away_now(ctx, outlook)
    if style == "name":
        for wave in resolved.waves:
            for cluster in turns(wave):
                click.echo(f"cluster/{cluster}")
    elif style in {"json", "yaml"}:
        write_value(schedule.value(outlook, resolved, away), style)
    else:
        schedule.show(outlook, resolved, away, style)
    if refusal:
        click.echo(str(refusal), err=True)
        ctx.exit(1)


def _resolved(outlook: Outlook, members: Sequence[Member]) -> tuple[ResolvedPlan, RolloutError | None]:
    """The plan as the coordinator resolves it; where it refuses some as unmatched, the rest and its refusal."""
    import msgspec
    from muster_core.rollout.plan import resolve

    try:
        return resolve(outlook.plan, members, outlook.name), None
    except RolloutError as error:
        if error.code != "R002":
            raise
        spec = msgspec.structs.replace(outlook.plan.spec, unmatched="exclude")
        shown = msgspec.structs.replace(outlook.plan, spec=spec)
        return resolve(shown, members, outlook.name), error


# --- simulate ---------------------------------------------------------------------------------------------------


class ShareOption(click.ParamType[Any]):
    """``2%`` or ``0.02``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text} is no share: write 2% or 0.02", param, ctx)
        return share


class TimeOption(click.ParamType[Any]):
    """``90s``, or ``90s..10m``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Likely:
        from muster_core.rollout.simulation import Likely, parse_likely

        if isinstance(value, Likely):
            return value
        try:
            return parse_likely(str(value))
        except ValidationError as error:
            self.fail(f"{error.message}. {error.hint}", param, ctx)


@click.command("simulate", cls=Verb)
@click.argument("bundle")
@PLAN
@click.option("--clusters", type=click.IntRange(1, 1_000_000), metavar="N",
    help="A fleet of this size, in the proportions of the registry (default: the registry itself).")  # fmt: skip
@click.option("--apply-time", type=TimeOption(), default="30s..3m", show_default=True, metavar="TIME",
    help="From an offer to healthy: one time, or median and 99th percentile.")  # fmt: skip
@click.option("--failure-rate", type=ShareOption(), default="0%", show_default=True, metavar="SHARE",
    help="Clusters that fail although the release is good.")  # fmt: skip
@click.option("--bad-release", type=ShareOption(), default="0%", show_default=True, metavar="SHARE",
    help="Clusters on which the release is bad.")  # fmt: skip
@click.option("--bad-shows", type=click.Choice(["failed", "silent"]), default="failed", show_default=True,
    help="A bad release fails there, or cuts the cluster off.")  # fmt: skip
@click.option("--offline-rate", type=ShareOption(), default="0%", show_default=True, metavar="SHARE",
    help="Clusters that are away when it starts.")  # fmt: skip
@click.option("--return-after", type=TimeOption(), default="1h..12h", show_default=True, metavar="TIME",
    help="When those that are away return.")  # fmt: skip
@click.option("--approval-after", type=TimeOption(), default="10m..4h", show_default=True, metavar="TIME",
    help="How long people take to approve a wave that asks for it.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1, 100_000), metavar="N",
    help=f"How often (default: {RUNS}, fewer over large fleets).")  # fmt: skip
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same luck.")
@CHECKOUT
@VALUES_OUTPUT
@click.pass_context
def simulate(
    ctx: click.Context, bundle: str, named: str, clusters: int | None, apply_time: Likely, failure_rate: float,
    bad_release: float, bad_shows: str, offline_rate: float, return_after: Likely,
    approval_after: Likely, runs: int | None, seed: int,
    checkout: Path, style: str,
) -> None:  # fmt: skip
    """Run the plan of BUNDLE on virtual time, many times over.

    The coordinator's own machine, in a fleet made of chances: says how long it is likely to take, and how many clusters
    are harmed when the release is bad. It starts now: windows and start times are waited for. What gates measure is always
    well here. Clusters that the coordinator knows to be away are away here too, unless --clusters makes the fleet up.

    \b
    Example:
      muster rollout simulate shop --bad-release 10%
    """
    import msgspec
    from muster_core.rollout import forecast
    from muster_core.rollout import simulation as sim
    from muster_core.rollout.membership import limited, made_up, scaled
    from muster_core.rollout.plan import resolve

    from muster_cli.outlook import away_now, look, registered, registered_if_any

    outlook = look(checkout, bundle, named, registered if clusters is None else registered_if_any)
    members, away = outlook.members(), frozenset[str]()
    if clusters is None:
        away = away_now(ctx, outlook) or frozenset()
    else:
        members = scaled(members, clusters) if members else made_up(outlook.plan, clusters)
    resolved = limited(resolve(outlook.plan, members, outlook.name), outlook.most_disrupted())
    number = runs or max(1, min(RUNS, MOST_RUNS_OF // len(members)))
    world = sim.World(
        starts_at=time.time(),
        apply_time=apply_time,
        failure_rate=failure_rate,
        bad_release=bad_release,
        bad_shows="silent" if bad_shows == "silent" else "failed",
        verdict_after=parse_duration(outlook.bundle.spec.health.deadline),
        offline_rate=offline_rate,
        return_after=return_after,
        away=away,
        approval_after=approval_after,
        sites=outlook.sites(),
        vetoes=outlook.vetoes(),
        may_return=outlook.bundle.spec.rollback == "previous",
    )
    progress = Progress(number, len(members))
    found = list(sim.simulate(resolved, world, number, seed, progress.heard))
    progress.end()
    answer = forecast.forecast(resolved, found, seed)
    if style == "table":
        _show_forecast(outlook.name, answer, found, world.bad_release)
    else:
        write_value(msgspec.to_builtins(answer), style)


class Progress:
    """Says on standard error how far it is, once it takes long: one line that changes, or lines where nobody looks."""

    def __init__(self, runs: int, clusters: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs, self._clusters, self._clock = runs, clusters, clock
        self._next = clock() + QUIET
        self._live = sys.stderr.isatty()
        self._said = False

    def heard(self, run: int, settled: int) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next, self._said = now + PAUSE * (1 if self._live else 5), True
        share = (run + settled / self._clusters) / self._runs
        text = f"simulating: {100 * share:.0f} %, run {run + 1} of {self._runs}"
        click.echo(f"\r{text}" if self._live else text, err=True, nl=not self._live)

    def end(self) -> None:
        if self._said and self._live:
            click.echo("\r\x1b[K", err=True, nl=False)


def _show_forecast(bundle: str, answer: Forecast, runs: Sequence[Run], bad: float) -> None:
    size, number = counted(answer.clusters, "cluster"), counted(answer.runs, "run")
    click.echo(f"{bundle} by plan {answer.plan}: {size}, {number}, seed {answer.seed}")
    click.echo("ended " + ", ".join(f"{state} {count}" for state, count in answer.outcomes.items()))
    heads = [
        "WAVE",
        "SIZE",
        "REACHED",
        "PASSED",
        "TAKES p50",
        "p90",
        "p99",
        "HARMED p50",
        "p99",
        "MOST",
        "OWED p50",
    ]
    rows = [
        [
            f"{number + 1} {wave.name}", str(wave.members), str(wave.reached), str(wave.passed),
            *(format_duration(at) if wave.passed else "-" for at in (wave.seconds.p50, wave.seconds.p90, wave.seconds.p99)),
            f"{wave.harmed.p50:.0f}", f"{wave.harmed.p99:.0f}", str(wave.at_most), f"{wave.owed.p50:.0f}",
        ]
        for number, wave in enumerate(answer.waves)
    ]  # fmt: skip
    table(heads, rows)
    good = [run.seconds for run in runs if run.state == "Succeeded"]
    stopped = [run.seconds for run in runs if run.state != "Succeeded"]
    for label, values, shares in (
        ("until it succeeded", good, answer.seconds),
        ("until it stopped", stopped, answer.stopped),
    ):
        if values:
            _distribution(label, values, shares, format_duration)
    if any(run.taken_back for run in runs):
        _distribution("healthy ones taken back", [run.taken_back for run in runs], answer.taken_back, _whole)
    if bad or any(run.harmed for run in runs):
        _distribution("clusters harmed", [run.harmed for run in runs], answer.harmed, _whole)


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _distribution(label: str, values: Sequence[float], shares: Shares, text: Callable[[float], str]) -> None:
    click.echo(
        f"{label}: p50 {text(shares.p50)}, p90 {text(shares.p90)}, p99 {text(shares.p99)}, most {text(shares.most)}"
    )
    for line in histogram(values, text, shutil.get_terminal_size().columns):
        click.echo(line)


def histogram(values: Sequence[float], text: Callable[[float], str], columns: int) -> list[str]:
    """Lines no wider than ``columns``: from, to, a bar in proportion, how many. One value alone needs none."""
    low, high = min(values), max(values)
    if low == high:
        return []
    whole = text is _whole
    step = max(1.0, -(-(high - low + 1) // BINS)) if whole else (high - low) / BINS
    counts: dict[int, int] = {}
    for value in values:
        place = min(BINS - 1, int((value - low) / step))
        counts[place] = counts.get(place, 0) + 1
    room = max(1, columns - LABEL - 8)
    lines = []
    for place in range(max(counts) + 1):
        count = counts.get(place, 0)
        begins, ends = low + place * step, low + (place + 1) * step - (1 if whole else 0)
        label = text(begins) if begins == ends else f"{text(begins)}–{text(ends)}"
        bar = "█" * max(1 if count else 0, round(room * count / max(counts.values())))
        lines.append(f"  {label:>{LABEL - 4}}  {bar} {count}".rstrip())
    return lines
