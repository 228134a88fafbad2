"""``muster audit``: who did what, and whether somebody changed that afterwards.

Owns reading, exporting, verifying and signing. Lines are judged here, on the operator's machine, against the heads that
were signed into the registry branch: the coordinator that keeps its log is not asked whether it is whole.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.terminal import harmless

from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, OUTPUT, Nouns, client

if TYPE_CHECKING:
    from muster_core.audit.chain import Head, Verdict
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli.checkout import Checkout


@click.group(cls=Nouns)
def audit() -> None:
    """Who did what: read the log, verify that it is whole, sign where it stands."""


@audit.command("log")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries with a higher number.")
@click.option("--tail", type=click.IntRange(1), help="Only the last so many.")
@click.option("-o", "--output", "style", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def log(ctx: click.Context, after: int, tail: int | None, style: str) -> None:
    """The coordinator's log: operators' calls, approvals, refusals, alarms. With -o json one entry a line.

    \b
    Example:
      muster audit log --tail 20

    Next: muster audit verify says whether it is whole.
    """
    from muster_core.audit.chain import decode

    with client(ctx) as api:
        lines = list(api.audit_lines(after))
    for line in lines[-tail:] if tail else lines:
        if style == "json":
            click.echo(line.decode(), nl=False)
            continue
        entry = decode(line)
        said = " ".join(f"{key}={value}" for key, value in entry.detail.items() if value)
        row = f"{entry.actor}  {entry.action}  {entry.object}  {entry.result}  {said}"
        click.echo(f"{entry.seq:>6}  {_time(entry.at)}  {harmless(row)}")


@audit.command("export")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries with a higher number.")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to (default: standard output).",
)
@click.pass_context
def export(ctx: click.Context, after: int, path: Path | None) -> None:
    """The coordinator's log as it is on disk there: lines of JSON that `muster audit verify --file` takes.

    \b
    Example:
      muster audit export --file audit.jsonl
    """
    with client(ctx) as api:
        data = b"".join(api.audit_lines(after))
    if path:
        path.write_bytes(data)
        click.echo(f"{len(data.splitlines())} entries written to {path}", err=True)
    else:
        sys.stdout.buffer.write(data)


@audit.command("heads")
@OUTPUT
@click.pass_context
def heads(ctx: click.Context, style: str) -> None:
    """The newest entry of every writer, as the coordinator knows it, and whose log went back.

    \b
    Example:
      muster audit heads
    """
    from muster_cli.output import Answer, Column

    columns: list[Column[op.AuditHead]] = [
        Column("WRITER", lambda head: head.writer),
        Column("ENTRY", lambda head: str(head.seq)),
        Column("ALARM", lambda head: f"told {head.told_seq} afterwards" if head.told_hash else "-"),
        Column("HASH", lambda head: head.hash, wide=True),
    ]
    with client(ctx) as api:
        Answer(columns, "head", style, identity="writer").show(list(api.audit_heads().heads))


@audit.command("acknowledge")
@click.argument("writer")
@click.option("--reason", required=True, help="Why its log went back; it is written down.")
@click.pass_context
def acknowledge(ctx: click.Context, writer: str, reason: str) -> None:
    """Say that you know why WRITER's log went back (a restored volume, an agent that joined anew).

    \b
    Example:
      muster audit acknowledge coordinator/default \\
        --reason 'restored from the backup of Monday'
    """
    with client(ctx) as api:
        head = api.acknowledge_head(writer, reason)
    click.echo(f"{writer} acknowledged at entry {head.seq}")


@audit.command("checkpoint")
@KEY
@CHECKOUT
@click.pass_context
def checkpoint(ctx: click.Context, key: Path | None, checkout: Path) -> None:
    """Verify, then sign the newest heads of all writers into the registry branch, from your checkout.

    What was signed cannot be taken back by whoever has the coordinator's disk. A log that does not hold is not signed.

    \b
    Example:
      muster audit checkpoint

    Next: muster audit verify judges against it from now on.
    """
    from muster_core.audit import checkpoint as points
    from muster_core.fleet import read_settings

    from muster_cli.checkout import open_checkout

    with open_checkout(checkout) as clone, client(ctx) as api:
        fleet = read_settings(clone.tree(clone.head()))
        clone.sign_as(fleet.spec.mode, key)
        told = list(api.audit_heads().heads)
        problems = _problems(api.audit_lines(), told, _signed(clone))
        if problems:
            _show(problems)
            ctx.exit(1)
        made = points.Checkpoint(
            format=1,
            fleet=fleet.spec.id,
            at=points.stamp(time.time()),
            heads={head.writer: points.Point(head.seq, head.hash) for head in told},
            alarms=[head.writer for head in told if head.told_hash],
        )
        commit = clone.add_to_registry(
            points.path_of(made), lambda tree: points.encode(made), f"Checkpoint of {len(told)} audit logs"
        )
        api.refresh()
    click.echo(f"{points.path_of(made)} signed (registry {commit[:7]}): {len(told)} logs")


@audit.command("verify")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, path_type=Path),
    help="An exported log, or a folder of an agent's audit files, instead of the coordinator's log.",
)
@click.option("--offline", is_flag=True, help="Do not ask the coordinator: only what was signed counts.")
@CHECKOUT
@click.pass_context
def verify(ctx: click.Context, path: Path | None, offline: bool, checkout: Path) -> None:
    """Is the log whole and unchanged? Exit code 1 when not.

    Judged against every checkpoint of your checkout's registry branch, and against the heads that the coordinator knows.

    \b
    Example:
      muster audit verify
      muster audit verify --file audit.jsonl --offline
    """
    from muster_cli.checkout import open_checkout

    if offline and path is None:
        raise click.UsageError("--offline needs --file")
    with open_checkout(checkout) as clone:
        signed = _signed(clone)
    told: list[op.AuditHead] = []
    if offline:
        lines = _lines_of(path) if path else []
    else:
        with client(ctx) as api:
            told = list(api.audit_heads().heads)
            lines = _lines_of(path) if path else list(api.audit_lines())
    problems = _problems(lines, told, signed, alone=path is not None)
    if problems:
        _show(problems)
        ctx.exit(1)
    count = sum(map(len, signed.values()))
    click.echo(
        f"the log holds: {len(lines)} entries, {count} signed heads, {len(told)} heads of the coordinator"
    )


def _problems(
    lines: Iterable[bytes], told: list[op.AuditHead], signed: dict[str, set[Head]], *, alone: bool = False
) -> list[str]:
    """What does not hold: of these lines, and (not ``alone``) of every other writer's head."""
    from muster_core.audit.chain import Head, decode, verify_lines
    from muster_core.audit.checkpoint import gone_back
    from muster_core.errors import ValidationError

    lines = list(lines)
    try:
        writer = decode(lines[0]).writer if lines else ""
    except ValidationError as error:
        return [str(error)]
    now = {head.writer: Head(head.seq, head.hash) for head in told if head.seq}
    known = set(signed.get(writer, ()))
    if writer in now:
        known.add(now[writer])
    found = []
    verdict = verify_lines(lines, known_heads=known)
    if not verdict.holds:
        found.append(_said(writer, verdict))
    if not lines:
        found.append("the log is empty")
    if alone:
        return found
    found += [f"{name}: {why}" for name, why in gone_back(signed, now).items() if name != writer]
    found += [
        f"{head.writer}: went back to entry {head.told_seq} after {head.seq}, and nobody acknowledged it"
        for head in told
        if head.told_hash
    ]
    return found


def _said(writer: str, verdict: Verdict) -> str:
    return f"{writer or 'the log'}: {verdict.code}: {verdict.reason}"


def _show(problems: list[str]) -> None:
    for problem in problems:
        click.echo(problem, err=True)


def _signed(clone: Checkout) -> dict[str, set[Head]]:
    """Heads of all checkpoints of the registry branch, which is accepted as agents accept it."""
    from muster_core.audit import checkpoint as points

    from muster_cli.trust.registry import accepted_registry

    commit, _ = accepted_registry(clone)
    if not commit:
        return {}
    tree = clone.tree(commit)
    paths = [file.path for file in tree.files() if points.PATH.match(file.path)]
    return points.known_heads(points.decode(tree.read(path), path) for path in paths)


def _lines_of(path: Path) -> list[bytes]:
    """An exported file, or the segments of a folder in their order."""
    files = sorted(path.glob("audit-*.jsonl")) if path.is_dir() else [path]
    return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]


def _time(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
