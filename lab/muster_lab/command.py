"""``muster demo``: a whole fleet on this machine."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave the fleet running afterwards and print commands to try.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep everything (logs too) in this folder.",
)
@click.pass_context
def demo(ctx: click.Context, keep: bool, folder: Path | None) -> None:
    """Start a whole fleet on this machine and tell its story.

    Six clusters join, a release goes out in waves, a policy refuses one, a broken one stops at the canary and goes back, an
    offline cluster is owed a release and caught up, and an edit by hand is healed. Real programs, an in-memory Kubernetes
    API per cluster, a real Git host. Every fact is checked; exit code 0 only if all hold. Needs git and nothing else.

    \b
    Example:
      muster demo --keep
    """
    from muster_lab.demo.show import tell

    ctx.exit(tell(keep=keep, folder=folder))
