"""Sealing secrets, on the operator's machine: the coordinator sees only the file."""

from __future__ import annotations

import secrets as system_random
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import SecretError

from muster_cli.main import CHECKOUT

if TYPE_CHECKING:
    from muster_core.kinds.model import Cluster
    from muster_core.sealing.envelope import Recipient
    from muster_core.sealing.masked import Masked


@click.group()
def secret() -> None:
    """Secrets for many clusters in one file, each sealed to the cluster's own key."""


@secret.command("seal")
@click.argument("name")
@click.option("--namespace", required=True, help="The namespace it will live in; bound into the file.")
@click.option(
    "--type", "secret_type", default="Opaque", show_default=True, help="Any Kubernetes Secret type."
)
@click.option(
    "--from-literal",
    "literals",
    multiple=True,
    metavar="K=V",
    help="An entry as text (visible to other users of this machine: prefer --from-file).",
)
@click.option(
    "--from-file", "paths", multiple=True, metavar="K=PATH", help="An entry from a file; - is standard input."
)
@click.option(
    "--selector",
    "selector_text",
    required=True,
    metavar="SELECTOR",
    help="Which clusters, over protectedLabels of the registry.",
)
@click.option("--immutable", is_flag=True, help="The Kubernetes Secret will be immutable.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to write (default: secrets/NAME.yaml of the checkout; - is standard output).",
)
@CHECKOUT
def seal(
    name: str,
    namespace: str,
    secret_type: str,
    literals: tuple[str, ...],
    paths: tuple[str, ...],
    selector_text: str,
    immutable: bool,
    out: Path | None,
    checkout: Path,
) -> None:
    """Seal a secret to every cluster in the registry that SELECTOR matches now.

    Nobody else can open the file, not even you: keep the values at their source.
    """
    import msgspec
    import yaml
    from muster_core.fleet import read_registry
    from muster_core.sealing.envelope import seal as seal_file
    from muster_core.select import matches, parse_selector

    from muster_cli.checkout import REGISTRY_BRANCH, open_checkout
    from muster_cli.commands.clusters import _fleet

    data = _entries(literals, paths)
    selector = parse_selector(selector_text)
    with open_checkout(checkout) as clone:
        fleet, root = _fleet(clone), Path(str(clone.repo.working_dir))
        registry = clone.fetch(REGISTRY_BRANCH)
        clusters, problems = read_registry(clone.tree(registry))
    if problems:
        raise SecretError(
            "S017",
            "the registry has problems",
            object=str(problems[0]),
            hint="Mend the registry branch first.",
        )
    chosen = [cluster for cluster in clusters.values() if matches(selector, cluster.spec.protected_labels)]
    recipients = [_recipient(fleet.spec.id, cluster) for cluster in chosen]
    sealed = seal_file(
        fleet_id=fleet.spec.id,
        name=name,
        namespace=namespace,
        data=data,
        recipients=recipients,
        selector=selector,
        random=system_random.token_bytes,
        secret_type=secret_type,
        immutable=immutable,
    )
    value = msgspec.to_builtins(sealed)
    value["spec"]["selector"] = msgspec.to_builtins(selector)
    text = yaml.safe_dump(value, sort_keys=False, width=10_000)
    if str(out) == "-":
        click.echo(text, nl=False)
        return
    target = out or root / "secrets" / f"{name}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    click.echo(
        f"sealed {namespace}/{name} for {len(recipients)} clusters: {', '.join(r.name for r in recipients)}"
    )
    click.echo(f"next: name {target} in a bundle's spec.secrets, commit, push", err=True)


def _recipient(fleet_id: str, cluster: Cluster) -> Recipient:
    from muster_core.sealing.envelope import Recipient
    from muster_core.sealing.keys import decode_public, sealing_key_statement, verify

    name, uid = cluster.metadata.name, cluster.spec.uid
    if not cluster.spec.sealing_keys:
        raise SecretError("S018", "the registry entry has no sealing key", object=name)
    newest = max(cluster.spec.sealing_keys, key=lambda key: key.generation)
    public = decode_public(newest.key)
    statement = sealing_key_statement(fleet_id, uid, public, newest.generation)
    if not verify(decode_public(cluster.spec.identity_key), statement, bytes.fromhex(newest.signature)):
        raise SecretError(
            "S019",
            "the sealing key in the registry is not signed by the cluster's identity key",
            object=name,
            hint="Do not seal to it: somebody may have put their own key there.",
        )
    return Recipient("cluster", name, uid, public)


def _entries(literals: tuple[str, ...], paths: tuple[str, ...]) -> dict[str, Masked]:
    from muster_core.sealing.masked import Masked

    data: dict[str, Masked] = {}
    for text in (*literals, *paths):
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{key}: write KEY=VALUE")
        if key in data:
            raise click.UsageError(f"the entry {key} is given twice")
        if text in literals:
            data[key] = Masked(value.encode())
        else:
            data[key] = Masked(
                click.get_binary_stream("stdin").read() if value == "-" else Path(value).read_bytes()
            )
    if not data:
        raise click.UsageError("give at least one --from-literal or --from-file")
    return data
