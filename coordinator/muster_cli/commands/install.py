"""Joining that needs nobody at the spoke: ``cluster install``, ``installer run``, ``agent manifest``.

Whoever holds a cluster's API credential may approve it: what its own API says of its agent is compared with the
join that the coordinator shows. The credential is used from memory and dropped when the agent has joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.durations import parse_duration

from muster_cli.commands.clusters import cluster
from muster_cli.commands.registry import label, revoke
from muster_cli.commands.removal import remove_cluster
from muster_cli.trust.signing import KEY
from muster_cli.verbs import (
    CHECKOUT,
    ENTRY_OPTIONS,
    REACHED_OPTIONS,
    VALUES_OUTPUT,
    Nouns,
    client,
    pairs,
    with_options,
)

if TYPE_CHECKING:
    from muster_cli.install.desk import Desk, Labels
    from muster_cli.install.fleetjoin import Ended
    from muster_cli.install.joining import Wanted
    from muster_cli.install.minting import Reached

for _command in (label, remove_cluster, revoke):
    cluster.add_command(_command)


AGENT_OPTIONS = [
    click.option("--image", help="The agent's image (default: muster-agent:VERSION of this program)."),
    click.option(
        "--namespace",
        default="muster-system",
        show_default=True,
        help="Where the agent lives in its cluster.",
    ),
    click.option(
        "--git-ca-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="CA certificate of the Git host, if it is a private one.",
    ),
    *REACHED_OPTIONS,
    click.option("--token-ttl", default="1h", show_default=True, help="How long the join token works."),
]


def _wanted(name: str, image: str | None, namespace: str, git_ca_file: Path | None) -> Wanted:
    from muster_cli.install.joining import Wanted
    from muster_cli.install.manifest import default_image

    ca = git_ca_file.read_text() if git_ca_file else ""
    return Wanted(name, image or default_image(), namespace, ca)


def _reached(edge_address: str | None, link_address: str | None, repository_url: str | None) -> Reached:
    from muster_cli.install.minting import Reached

    return Reached(edge_address, link_address, repository_url)


def _labels(
    labels: tuple[str, ...], protected: tuple[str, ...], site_class: str, values: tuple[str, ...] = ()
) -> Labels:
    from muster_core.substitute import typed

    from muster_cli.install.desk import Labels

    return Labels(
        pairs(labels, "--label"),
        pairs(protected, "--protected-label"),
        {key: typed(text) for key, text in pairs(values, "--value").items()},
        site_class,
    )


def _say(name: str, text: str) -> None:
    click.echo(f"{name}: {text}", err=True)


# --- agent manifest ------------------------------------------------------------------------------------------------


@click.group(cls=Nouns)
def agent() -> None:
    """The agent: print what it needs in its cluster."""


@agent.command("manifest")
@click.option("--cluster", "name", required=True, help="The one cluster that it is for.")
@with_options(AGENT_OPTIONS)
@CHECKOUT
@click.pass_context
def manifest(
    ctx: click.Context,
    name: str,
    image: str | None,
    namespace: str,
    git_ca_file: Path | None,
    edge_address: str | None,
    link_address: str | None,
    repository_url: str | None,
    token_ttl: str,
    checkout: Path,
) -> None:
    """Print the agent's objects for one cluster as YAML.

    A fresh join token is among them.

    Apply it within the token's life: muster agent manifest --cluster NAME | kubectl apply --server-side -f -
    Then approve: muster cluster approve NAME. The output holds a secret; keep it out of files that stay.

    \b
    Example:
      muster agent manifest --cluster berlin-04 \\
        | kubectl apply --server-side -f -
    """
    from muster_core.manifest.dump import dump_yaml

    from muster_cli.checkout import open_checkout
    from muster_cli.install.manifest import Installation, base_objects, render
    from muster_cli.install.minting import mint, source_of

    wanted = _wanted(name, image, namespace, git_ca_file)
    with open_checkout(checkout) as clone, client(ctx) as operator:
        source = source_of(clone, operator, _reached(edge_address, link_address, repository_url))
        token = mint(source, operator, name, int(parse_duration(token_ttl)))
    objects = render(base_objects(), Installation(name, token, wanted.image, wanted.namespace, wanted.git_ca))
    click.echo("---\n".join(dump_yaml(obj) for obj in objects), nl=False)


# --- cluster install -----------------------------------------------------------------------------------------------


@cluster.command("install")
@click.option(
    "--kube-context", metavar="NAME", help="A context of the kubeconfig (default: the current one)."
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The kubeconfig (default: KUBECONFIG, else ~/.kube/config).",
)
@click.option("--all-contexts", is_flag=True, help="Every context of the kubeconfig.")
@click.option("--cluster", "name", help="The cluster's name (default: made of the context's).")
@with_options(AGENT_OPTIONS)
@with_options(ENTRY_OPTIONS)
@click.option(
    "--value", "values", multiple=True, metavar="K=V", help="A value that this cluster's manifests see."
)
@click.option("--wait", default="5m", show_default=True, help="How long one cluster may take.")
@KEY
@CHECKOUT
@VALUES_OUTPUT
@click.pass_context
def install(
    ctx: click.Context,
    kube_context: str | None,
    kubeconfig: Path | None,
    all_contexts: bool,
    name: str | None,
    image: str | None,
    namespace: str,
    git_ca_file: Path | None,
    edge_address: str | None,
    link_address: str | None,
    repository_url: str | None,
    token_ttl: str,
    labels: tuple[str, ...],
    protected: tuple[str, ...],
    site_class: str,
    values: tuple[str, ...],
    wait: str,
    key: Path | None,
    checkout: Path,
    style: str,
) -> None:
    """Install the agent into clusters, and let them join.

    Clusters that you can reach, by your kubeconfig.

    Applies the agent with a fresh token, reads UID and public keys from the cluster's own API, and approves the
    join only if it has exactly these. Run it again after a break: it goes on; run it twice: nothing changes.

    \b
    Example:
      muster cluster install --kube-context berlin-04 \\
        --protected-label ring=stores

    Next: muster get clusters.
    """
    from muster_cli.checkout import open_checkout
    from muster_cli.install.desk import Desk
    from muster_cli.install.fleetjoin import join_all
    from muster_cli.install.joining import Patience
    from muster_cli.install.kubeconfig import chosen
    from muster_cli.output import write_value
    from muster_cli.program import exit_code

    if sum((all_contexts, bool(kube_context))) > 1 or (all_contexts and name):
        raise click.UsageError("--all-contexts takes neither --kube-context nor --cluster")
    clusters = chosen([kubeconfig] if kubeconfig else None, kube_context, name, all_contexts=all_contexts)
    entry = _labels(labels, protected, site_class, values)
    wanted = {key: _wanted(key, image, namespace, git_ca_file) for key in clusters}
    reached = _reached(edge_address, link_address, repository_url)
    patience = Patience(parse_duration(wait))
    with open_checkout(checkout) as clone, client(ctx) as operator:

        def desk() -> Desk:
            return Desk(clone, operator, reached, int(parse_duration(token_ttl)), entry, key)

        ended = join_all(desk, clusters, wanted, _say, patience)
    errors = [end.error for end in ended if end.error]
    if style == "table":
        for end in ended:
            if end.joined:
                click.echo(f"cluster/{end.name} {_word(end)}")
    else:
        write_value([end.value() for end in ended], style)
    for end in ended:
        if end.error:
            click.echo(str(end.error), err=True)
    codes = {exit_code(error) for error in errors}
    ctx.exit(next((code for code in (4, 5, 3, 2, 1) if code in codes), 0))


def _word(end: Ended) -> str:
    """``joined``, ``configured`` or ``unchanged``."""
    joined = end.joined
    if joined is None or joined.approved:
        return "joined"
    return "configured" if joined.applied.created or joined.applied.configured else "unchanged"


# --- installer run -------------------------------------------------------------------------------------------------


@click.group(cls=Nouns)
def installer() -> None:
    """Installs the agent into new clusters, unattended."""


@installer.command("run")
@click.option(
    "--kubeconfig-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with one kubeconfig for each cluster, named NAME or NAME.kubeconfig.",
)
@click.option(
    "--hub-kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A cluster with Cluster API's Cluster objects and their kubeconfig Secrets.",
)
@click.option("--hub-in-cluster", is_flag=True, help="The cluster that the installer runs in is that one.")
@with_options(AGENT_OPTIONS)
@with_options(ENTRY_OPTIONS)
@click.option(
    "--wait", default="10m", show_default=True, help="How long one attempt at one cluster may take."
)
@click.option("--poll", default="5s", show_default=True, help="How often the sources are looked at.")
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=32, show_default=True, help="Clusters at a time."
)
@KEY
@CHECKOUT
@click.pass_context
def run(
    ctx: click.Context,
    kubeconfig_dir: Path | None,
    hub_kubeconfig: Path | None,
    hub_in_cluster: bool,
    image: str | None,
    namespace: str,
    git_ca_file: Path | None,
    edge_address: str | None,
    link_address: str | None,
    repository_url: str | None,
    token_ttl: str,
    labels: tuple[str, ...],
    protected: tuple[str, ...],
    site_class: str,
    wait: str,
    poll: str,
    parallel: int,
    key: Path | None,
    checkout: Path,
) -> None:
    """Watch for new clusters and let them join, until SIGTERM. Labels come from these flags, never from a joiner.

    It holds the right to push the registry, so run it apart from the coordinator. One JSON line an event goes to
    standard output. Credentials stay in memory and are dropped when the agent has joined.

    \b
    Example:
      muster installer run --kubeconfig-dir new-clusters \\
        --label ring=stores
    """
    from muster_cli.checkout import open_checkout
    from muster_cli.install.desk import Desk
    from muster_cli.install.installer import Installer, run_until_stopped
    from muster_cli.install.joining import Patience
    from muster_cli.install.sources import ClusterApiHub, Folder

    if not (kubeconfig_dir or hub_kubeconfig or hub_in_cluster):
        raise click.UsageError(
            "say where new clusters appear: --kubeconfig-dir, --hub-kubeconfig or --hub-in-cluster"
        )
    sources: list[Folder | ClusterApiHub] = []
    if kubeconfig_dir:
        sources.append(Folder(kubeconfig_dir))
    if hub_kubeconfig or hub_in_cluster:
        sources.append(ClusterApiHub(hub_kubeconfig))
    entry, template = _labels(labels, protected, site_class), _wanted("", image, namespace, git_ca_file)
    reached = _reached(edge_address, link_address, repository_url)
    ttl, every, patience = (
        int(parse_duration(token_ttl)),
        parse_duration(poll),
        Patience(parse_duration(wait)),
    )
    with open_checkout(checkout) as clone, client(ctx) as operator:
        run_until_stopped(
            lambda: Installer(
                Desk(clone, operator, reached, ttl, entry, key), sources, template, patience, every, parallel
            )
        )
