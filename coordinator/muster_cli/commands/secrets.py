"""Sealing secrets, on the operator's machine: the coordinator sees only the file."""

from __future__ import annotations

import secrets as system_random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import SecretError

from muster_cli.verbs import CHECKOUT, Nouns

if TYPE_CHECKING:
    from muster_core.kinds.model import Cluster, FleetSecret
    from muster_core.sealing.envelope import Recipient
    from muster_core.sealing.masked import Masked


@click.group(cls=Nouns)
def secret() -> None:
    """Secrets for many clusters in one file, each sealed to the cluster's own key."""


@secret.command("seal")
@click.option("--name", required=True, help="The name of the Kubernetes Secret.")
@click.option("--namespace", required=True, help="The namespace it will live in; bound into the file.")
@click.option(
    "--type", "secret_type", default="Opaque", show_default=True, help="Any type of a Kubernetes Secret."
)
@click.option(
    "--from-literal",
    "literals",
    multiple=True,
    metavar="K=V",
    help="An entry as text. Other users of this machine may see it: prefer --from-file.",
)
@click.option(
    "--from-file", "paths", multiple=True, metavar="K=PATH", help="An entry from a file; - is standard input."
)
@click.option(
    "--selector",
    "-l",
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
    """Seal a secret to the clusters that SELECTOR matches now.

    A file that is there already is sealed anew from what you give now: it keeps its id, gets a new data key, and
    clusters never go back to the old one.

    Nobody else can open the file, not even you: keep the values at their source.

    \b
    Example:
      muster secret seal --name db --namespace shop \\
        --from-file password=password.txt -l ring=stores
    """
    import msgspec
    from muster_core.fleet import in_service, read_registry
    from muster_core.manifest.dump import dump_yaml
    from muster_core.sealing.envelope import seal as seal_file
    from muster_core.select import matches, parse_selector

    from muster_cli.checkout import open_checkout
    from muster_cli.output import counted
    from muster_cli.trust.registry import accepted_registry

    data = _entries(literals, paths)
    selector = parse_selector(selector_text)
    with open_checkout(checkout) as clone:
        fleet = clone.fleet()
        commit, registered = accepted_registry(clone)
        _, problems = read_registry(clone.tree(commit))
        clusters = in_service(registered)
        target = out or clone.root / "secrets" / f"{name}.yaml"
    if problems:
        raise SecretError(
            "S017",
            "the registry has problems",
            object=str(problems[0]),
            hint="Mend the registry branch first.",
        )
    chosen = [known for known in clusters.values() if matches(selector, known.spec.protected_labels)]
    recipients = [_recipient(fleet.spec.id, known) for known in chosen]
    before = _present(target, name, namespace)
    sealed = seal_file(
        after=before,
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
    text = dump_yaml(msgspec.to_builtins(sealed))
    names = ", ".join(recipient.name for recipient in recipients)
    if str(out) == "-":
        click.echo(text, nl=False)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        click.echo(str(target))
        click.echo("Next: name it in spec.secrets of a bundle, commit, push.", err=True)
    click.echo(f"{namespace}/{name} is sealed for {counted(len(recipients), 'cluster')}: {names}", err=True)


def _present(path: Path, name: str, namespace: str) -> FleetSecret | None:
    """The file that is sealed anew: its id stays, so that no cluster ever goes back to what it said before."""
    from muster_core.kinds.model import FleetSecret
    from muster_core.kinds.parse import parse
    from muster_core.manifest.load import load_documents

    if not path.is_file():
        return None
    found = parse(load_documents(path.read_bytes(), str(path))[0], FleetSecret)
    if (found.metadata.name, found.metadata.namespace) != (name, namespace):
        raise SecretError(
            "S031",
            f"the file holds {found.metadata.namespace}/{found.metadata.name}",
            object=str(path),
            hint="Write another one: --out PATH.",
        )
    return found


def _recipient(fleet_id: str, cluster: Cluster) -> Recipient:
    from muster_core.sealing.envelope import Recipient
    from muster_core.sealing.keys import decode_public, sealing_key_statement, verify

    name, uid = cluster.metadata.name, cluster.spec.uid
    if not cluster.spec.sealing_keys:
        raise SecretError("S018", "the registry entry has no sealing key", object=name)
    newest = max(cluster.spec.sealing_keys, key=lambda key: key.generation)
    public = decode_public(newest.key)
    statement = sealing_key_statement(fleet_id, uid, public, newest.generation)
    try:
        signature = bytes.fromhex(newest.signature)
    except ValueError:
        signature = b""
    if not verify(decode_public(cluster.spec.identity_key), statement, signature):
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
    for texts, from_file in ((literals, False), (paths, True)):
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise click.UsageError(f"{key[:40]}: write KEY={'PATH' if from_file else 'VALUE'}")
            if key in data:
                raise click.UsageError(f"the entry {key} is given twice")
            data[key] = Masked(_file(value) if from_file else value.encode())
    if not data:
        raise click.UsageError("give at least one --from-literal or --from-file")
    return data


def _file(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
