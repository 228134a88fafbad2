"""The commands of the first hour: init, validate, schema, version. They need no coordinator."""

from __future__ import annotations

import json
import secrets
from importlib.metadata import version as installed_version
from pathlib import Path

import click
from muster_core.errors import MusterError, ValidationError

from muster_cli import skeleton
from muster_cli.main import client


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="The fleet's name (default: the folder's).")
def init(path: Path, name: str | None) -> None:
    """Make a fleet repository skeleton at PATH. It validates as it is; nothing that exists is overwritten."""
    from muster_cli.checkout import create_repository

    path.mkdir(parents=True, exist_ok=True)
    if (path / "fleet.yaml").exists():
        raise ValidationError("V005", "there is a fleet already", object=str(path / "fleet.yaml"))
    fleet = name or path.resolve().name.lower()
    for relative, text in skeleton.files(fleet, secrets.token_hex(16)).items():
        target = path / relative
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    create_repository(path)
    click.echo(f"made fleet {fleet} in {path}")
    click.echo(
        f"next: cd {path} && git add . && git commit -m 'A fleet' && git push; then: muster serve --help",
        err=True,
    )


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("-o", "--output", "style", type=click.Choice(["table", "json", "yaml"]), default="table")
@click.pass_context
def validate(ctx: click.Context, path: Path, style: str) -> None:
    """Check a fleet repository: every file, every reference, every policy. Exit code 1 when something is wrong."""
    from muster_core.fleet import Problem, read_fleet

    from muster_cli.folder import FolderTree
    from muster_cli.output import write_value

    contents = read_fleet(FolderTree(path))
    problems = list(contents.problems)
    try:
        _compile(contents)
    except MusterError as error:
        problems.append(Problem("policies", 1, str(error)))
    if style != "table":
        write_value(
            [{"file": p.file, "line": p.line, "text": p.text, "bundle": p.bundle} for p in problems], style
        )
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(
            f"{len(contents.bundles)} bundles, {len(contents.plans)} plans, "
            f"{len(contents.policy_documents)} policies: {len(problems) or 'no'} problems",
            err=True,
        )
    ctx.exit(1 if problems else 0)


def _compile(contents: object) -> None:
    from muster_core.fleet import compile_fleet_policies

    compile_fleet_policies(contents)  # type: ignore[arg-type]


@click.command()
@click.argument("kind")
def schema(kind: str) -> None:
    """Print the JSON Schema of KIND (Fleet, Bundle, RolloutPlan, Cluster, FleetSecret)."""
    from muster_core.kinds.schema import schema as schema_of

    click.echo(json.dumps(schema_of(kind), indent=2))


@click.command()
@click.option("-o", "--output", "style", type=click.Choice(["table", "json", "yaml"]), default="table")
@click.option("--client", "only_client", is_flag=True, help="Do not ask a coordinator.")
@click.pass_context
def version(ctx: click.Context, style: str, only_client: bool) -> None:
    """Print the versions of this program and, where one is reachable, of its coordinator."""
    from muster_cli.output import write_value

    value = {"client": installed_version("muster-fleet")}
    if not only_client:
        try:
            with client(ctx) as operator:
                value["coordinator"] = operator.info().version
        except MusterError as error:
            click.echo(f"coordinator: {error}", err=True)
    if style == "table":
        for part, number in value.items():
            click.echo(f"{part}: {number}")
    else:
        write_value(value, style)
