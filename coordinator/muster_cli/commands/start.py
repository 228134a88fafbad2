"""The commands of the first hour: init, validate, schema, version. They need no coordinator."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Container, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import MusterError, ValidationError
from muster_core.terminal import harmless

from muster_cli import skeleton
from muster_cli.trust.signing import KEY
from muster_cli.verbs import VALUES_OUTPUT, Verb, client, warn_of_git

TRUST_LIFETIME = 365 * 86_400.0

if TYPE_CHECKING:
    from muster_core.fleet import FleetContents, Problem
    from muster_core.kinds.model import Cluster
    from muster_core.tree import Tree

    from muster_cli.preview import Judgement


@click.command(cls=Verb)
@click.argument("path", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="The fleet's name (default: the folder's).")
@click.option(
    "--mode",
    type=click.Choice(["signed-commits", "directives", "both", "open"]),
    default="signed-commits",
    show_default=True,
    help="What agents ask for: signed commits, an operator's directive, both, or (a lab) nothing.",
)
@KEY
def init(path: Path, name: str | None, mode: str, key: Path | None) -> None:
    """Make a fleet repository skeleton at PATH. It validates as it is; nothing that exists is overwritten.

    It has a trust document with one root: your key, or a new one. Git is set up in it to sign commits with that key.

    \b
    Example:
      muster init my-fleet

    Next: commit, push, and start a coordinator for it: muster serve --help.
    """
    from muster_cli.checkout import create_repository, open_checkout
    from muster_cli.folder import FolderTree
    from muster_cli.trust.chain import read_chain
    from muster_cli.trust.founding import found, key_for
    from muster_cli.trust.roles import allowed_signers

    if (path / "fleet.yaml").exists():
        raise ValidationError(
            "V005",
            "there is a fleet already",
            object=str(path / "fleet.yaml"),
            hint="Name another folder, or check this one: muster validate.",
        )
    fleet = name or re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")[:63] or "fleet"
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fleet):
        raise click.BadParameter("write lower-case letters, digits and '-'", param_hint="--name")
    path.mkdir(parents=True, exist_ok=True)
    create_repository(path)
    fleet_id, lines = secrets.token_hex(16), list[str]()
    if mode == "open":
        lines.append("Mode open: nothing is signed, whoever can push can deploy. For a lab only.")
    else:
        with open_checkout(path) as clone:
            mine, is_new = key_for(fleet, key, clone.setting)
            click.echo(str(found(path, fleet_id, mine, TRUST_LIFETIME)))
            clone.sign_commits_with(mine.path)
            clone.know_signers(allowed_signers(read_chain(FolderTree(path)).require()))
        lines += [f"Made the key {mine.path}. Keep it safe, and a copy of it elsewhere."] if is_new else []
        lines.append(f"Commits here are signed with {mine.fingerprint}, the one root: muster trust show")
    for relative, text in skeleton.files(fleet, fleet_id, mode).items():
        target = path / relative
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            click.echo(str(target))
    for line in lines:
        click.echo(line, err=True)
    click.echo(f"Fleet {fleet} is made. Next:", err=True)
    click.echo(f"  cd {path} && muster validate . && git add . && git commit -m 'A fleet'", err=True)
    click.echo("  then push it, and start a coordinator for it: muster serve --help", err=True)


@click.command(cls=Verb)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@VALUES_OUTPUT
@click.pass_context
def validate(ctx: click.Context, path: Path, style: str) -> None:
    """Check a fleet repository.

    That is every file, every reference, every manifest, and what the fleet's policies say of each object. Exit code 1
    when something is wrong; a policy that only warns is told. Bundles that match no cluster are named, and objects
    judged with the clusters' values, where the clone knows the registry branch (git fetch first).

    \b
    Example:
      muster validate .

    Next: muster rollout plan BUNDLE shows who would go when.
    """
    from muster_core.fleet import read_fleet, unmatched
    from muster_core.manifest.check import manifest_problems

    from muster_cli.folder import FolderTree
    from muster_cli.output import counted, write_value

    tree = FolderTree(path)
    contents = read_fleet(tree)
    clusters, registry_problems = _registry(path)
    problems = [*contents.problems, *registry_problems, *unmatched(contents, clusters)]
    unsound = manifest_problems(tree, contents, clusters)
    problems += unsound
    judged = _policies(tree, contents, clusters, {problem.bundle for problem in unsound})
    problems += judged.denied
    problems = list(dict.fromkeys(problems))
    problems.sort(key=lambda problem: (problem.file, problem.line))
    if style == "table":
        for problem in problems:
            click.echo(harmless(str(problem)))
    else:
        write_value([problem._asdict() for problem in problems], style)
    for warning in judged.warned:
        click.echo(f"warning: {warning}", err=True)
    for line in judged.unjudged:
        click.echo(f"note: {line}", err=True)
    parts = (
        counted(len(contents.bundles), "bundle"),
        counted(len(contents.plans), "plan"),
        counted(len(contents.secrets), "secret"),
        counted(len(contents.policy_documents), "policy"),
    )
    found = counted(len(problems), "problem") if problems else "no problems"
    click.echo(f"{', '.join(parts)}: {found}", err=True)
    ctx.exit(1 if problems else 0)


def _policies(
    tree: Tree, contents: FleetContents, clusters: Mapping[str, Cluster], unsound: Container[str]
) -> Judgement:
    """What the policies say, or why they cannot be used."""
    from muster_core.fleet import Problem, compile_fleet_policies

    from muster_cli.preview import Judgement, judge

    try:
        policies = compile_fleet_policies(contents)
    except MusterError as error:
        found = re.match(r"(?P<file>[^:\s]+):(?P<line>\d+): (?P<text>.*)", error.message, re.DOTALL)
        if found:
            return Judgement([Problem(found["file"], int(found["line"]), found["text"])])
        return Judgement([Problem(error.object or "policies", 1, error.message)])
    return judge(tree, contents, policies, clusters, unsound)


def _registry(path: Path) -> tuple[dict[str, Cluster], list[Problem]]:
    """The registry branch of this clone, when the folder is the root of a clone that knows it."""
    from muster_core.errors import GitError
    from muster_core.fleet import read_registry

    try:
        from muster_cli.checkout import REGISTRY_BRANCH, open_checkout

        with open_checkout(path) as clone:
            commit = clone.known(REGISTRY_BRANCH) if clone.root.resolve() == path.resolve() else ""
            if not commit:
                return {}, []
            clusters, problems = read_registry(clone.tree(commit))
    except (GitError, ImportError):
        return {}, []
    return clusters, [problem._replace(file=f"{REGISTRY_BRANCH}:{problem.file}") for problem in problems]


@click.command(cls=Verb)
@click.argument("kind")
def schema(kind: str) -> None:
    """Print the JSON Schema of KIND.

    KIND is Fleet, Bundle, RolloutPlan, Cluster or FleetSecret, in any case.

    \b
    Example:
      muster schema bundle > bundle.schema.json
    """
    from muster_core.kinds.model import KINDS
    from muster_core.kinds.schema import schema as schema_of

    named = {name.lower(): name for name in KINDS}.get(kind.lower(), kind)
    click.echo(json.dumps(schema_of(named), indent=2))


@click.command(cls=Verb)
@VALUES_OUTPUT
@click.option("--client", "only_client", is_flag=True, help="Do not ask a coordinator.")
@click.pass_context
def version(ctx: click.Context, style: str, only_client: bool) -> None:
    """Print the versions of this program and its coordinator.

    \b
    Example:
      muster version
      muster version --client
    """
    from muster_cli.output import write_value

    value = {"client": installed_version("muster-fleet")}
    if not only_client:
        try:
            with client(ctx) as operator:
                value["coordinator"] = operator.info().version
                warn_of_git(operator)
        except MusterError as error:
            click.echo(f"coordinator: {error}", err=True)
    if style == "table":
        for part, number in value.items():
            click.echo(f"{part}: {number}")
    else:
        write_value(value, style)
