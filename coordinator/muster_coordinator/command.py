"""``muster serve``: the flags of the coordinator, and nothing more."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import click
from muster_core.durations import parse_duration
from muster_core.errors import MusterError

from muster_coordinator.settings import Address, Settings


class AddressType(click.ParamType[Address]):
    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except MusterError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Database, CA, admin token, context file.",
)
@click.option("--repository", required=True, metavar="URL", help="The fleet repository (https, ssh or file).")
@click.option("--branch", default="main", show_default=True, help="The branch that holds desired state.")
@click.option(
    "--git-ca-file",
    type=click.Path(exists=True, path_type=Path),
    help="CA certificate of the Git host, if it is a private one.",
)
@click.option(
    "--link",
    type=AddressType(),
    default="0.0.0.0:7443",
    show_default=True,
    help="Where agents with certificates connect.",
)
@click.option(
    "--edge",
    type=AddressType(),
    default="0.0.0.0:7444",
    show_default=True,
    help="Where agents join and operators connect.",
)
@click.option(
    "--metrics",
    type=AddressType(),
    default="127.0.0.1:7445",
    show_default=True,
    help="/metrics, /healthz, /readyz.",
)
@click.option(
    "--advertise-link", metavar="HOST:PORT", help="How agents reach the link listener, where it differs."
)
@click.option(
    "--advertise-edge",
    metavar="HOST:PORT",
    help="How agents and operators reach the edge listener, where it differs.",
)
@click.option(
    "--poll",
    "poll_seconds",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds between looks at the repository.",
)
@click.option(
    "--certificate-life",
    type=DurationType(),
    default="24h",
    show_default=True,
    help="How long an agent's certificate lives (10s to 7d); it is renewed at two thirds.",
)
@click.option("--name", default="default", show_default=True, help="The context's name.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
def serve(
    data_dir: Path,
    repository: str,
    branch: str,
    git_ca_file: Path | None,
    link: Address,
    edge: Address,
    metrics: Address,
    advertise_link: str | None,
    advertise_edge: str | None,
    poll_seconds: float,
    certificate_life: float,
    name: str,
    log_format: Literal["json", "text"],
) -> int:
    """Run a coordinator.

    It needs a data folder and the fleet repository's URL. The first start makes a CA, an admin token and context.json in
    the data folder; point the CLI at it: muster --context DATA_DIR/context.json get clusters. It never holds a cluster's
    credential and never sees a secret.
    """
    from muster_coordinator.app import main
    from muster_coordinator.obs.logging import configure

    configure(log_format)
    settings = Settings(
        data_dir,
        repository,
        branch,
        git_ca_file,
        link,
        edge,
        metrics,
        advertise_link,
        advertise_edge,
        poll_seconds,
        name,
        dt.timedelta(seconds=certificate_life),
    )
    return main(settings)
