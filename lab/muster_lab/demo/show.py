"""Tells the demo's story to a person: lines as things happen, a table of clusters and phases, a summary.

Owns the terminal and the exit code. It never decides whether a fact holds.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from muster_core.errors import MusterError
from muster_proto.v1 import operator_pb2 as op
from rich.console import Console
from rich.table import Table

from muster_lab.demo.fleet import Fleet, open_fleet
from muster_lab.demo.processes import DemoError, program
from muster_lab.demo.story import Story, summary

NEXT = (
    "Next: make demo ARGS=--keep leaves the fleet running, with commands to try. The tour in README.md makes a fleet "
    "of your own."
)
COLOURS = {"Ready": "green", "Applying": "yellow", "Pending": "dim", "Degraded": "red", "Blocked": "red"}


def tell(*, keep: bool, folder: Path | None) -> int:
    """0 when every fact holds, 1 when one does not, 130 when interrupted."""
    console = Console(no_color="NO_COLOR" in os.environ, highlight=False)
    work = folder or Path(tempfile.mkdtemp(prefix="muster-demo-"))
    (work / "logs").mkdir(parents=True, exist_ok=True)
    try:
        return anyio.run(_tell, console, work, keep)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        if folder is None:
            shutil.rmtree(work, ignore_errors=True)


async def _tell(console: Console, folder: Path, keep: bool) -> int:
    result = [130]
    async with anyio.create_task_group() as group:
        group.start_soon(_interrupt, group.cancel_scope)
        result[0] = await _story(console, folder, keep, result)
        group.cancel_scope.cancel()
    return result[0]


async def _interrupt(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _story(console: Console, folder: Path, keep: bool, result: list[int]) -> int:
    started = time.monotonic()
    console.print("[bold]A fleet on this machine.[/] Starting a Git host and a coordinator.")
    try:
        async with open_fleet(folder, console.print) as fleet, anyio.create_task_group() as group:
            story = Story(fleet, lambda text: _say(console, text))
            group.start_soon(_follow, console, fleet)
            await story.run()
            console.print(_table(await fleet.operator.list_clusters()))
            _say(console, summary(story.facts, time.monotonic() - started))
            if keep:
                result[0] = 0
                _try_this(console, fleet)
                await _until_something_dies(fleet)
            else:
                _say(console, NEXT)
            group.cancel_scope.cancel()
    except (DemoError, MusterError) as error:
        console.print("The demo failed:", str(error), style="red", markup=False)
        return 1
    except ExceptionGroup as group_error:
        ours, others = group_error.split((DemoError, MusterError))
        if others or ours is None:
            raise
        console.print("The demo failed:", str(_first(ours)), style="red", markup=False)
        return 1
    return 0


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Lines as they are; on a terminal what does not fit goes on below its own first word."""
    lines = text.splitlines()
    if console.is_terminal:
        lines = [part for line in lines for part in _folded(line, console.width)]
    console.print("\n".join(lines), style=style, markup=False, soft_wrap=True)


def _folded(line: str, width: int) -> list[str]:
    start = len(line) - len(line.lstrip(" ·✓✗"))
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * start,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [line]


async def _follow(console: Console, fleet: Fleet) -> None:
    """A line per event, as the coordinator tells it."""

    def read() -> None:
        try:
            for event in fleet.operator.events():
                if event.kind == op.Event.LOG:
                    anyio.from_thread.run_sync(partial(_say, console, f"   · {event.text}", style="dim"))
        except (MusterError, RuntimeError):
            return

    await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


def _table(clusters: op.ClusterList) -> Table:
    table = Table("CLUSTER", "STATE", "RING", "SHOP", "PHASE", "OBJECTS")
    for cluster in clusters.clusters:
        report = next((r for r in cluster.bundles if r.bundle == "shop"), None)
        phase = report.phase if report else "-"
        table.add_row(
            cluster.name,
            cluster.state,
            cluster.labels.get("ring", "-"),
            report.release.commit[:7] if report else "-",
            f"[{COLOURS.get(phase, 'white')}]{phase}[/]",
            f"{report.ready_count}/{report.object_count}" if report else "-",
        )
    return table


def _try_this(console: Console, fleet: Fleet) -> None:
    """Lines to copy, each whole."""

    def line(text: str) -> None:
        console.print(f"  {text}", markup=False, soft_wrap=True)

    console.print("\nThe fleet stays. Try, in another terminal:")
    programs = Path(program("muster")).parent
    if shutil.which("muster") != str(programs / "muster"):
        line(f"export PATH={shlex.quote(str(programs))}:$PATH")
    line(f"export MUSTER_CONTEXT={shlex.quote(str(fleet.context))}")
    for command in (
        "muster get clusters -o wide",
        "muster get rollouts",
        "muster describe bundle shop",
        "muster rollout explain shop-0004 edge-2",
    ):
        line(command)
    console.print("Roll something out: whatever is pushed there starts within seconds.")
    line(f"cd {shlex.quote(str(fleet.checkout))}")
    line("sed -i.bak 's/greeting: welcome/greeting: good morning/' bundles/shop/manifests/config.yaml")
    line("git commit -am 'Another greeting' && git push")
    line("muster rollout start shop -w")
    console.print("Ctrl-C ends everything.")
    sys.stdout.flush()


async def _until_something_dies(fleet: Fleet) -> None:
    while True:
        fleet.supervisor.check()
        await anyio.sleep(0.5)
