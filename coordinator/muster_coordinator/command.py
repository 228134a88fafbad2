"""``muster serve``: the flags of the coordinator, and nothing more."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import click
from muster_core.durations import parse_seconds
from muster_core.errors import MusterError

from muster_coordinator.access.roles import Role
from muster_coordinator.options import chosen, database_options
from muster_coordinator.settings import Address, Oidc, Settings
from muster_coordinator.store.address import DatabaseUrl


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
            return parse_seconds(str(value))
        except MusterError as error:
            self.fail(str(error), param, ctx)


class PairType(click.ParamType[tuple[str, str]]):
    """The value may hold further equals signs, the key none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = str(value).partition("=")
        if not key or not equals or not text:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return key, text


class RoleType(click.ParamType[tuple[str, Role]]):
    name = "GROUP=ROLE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Role]:
        group, equals, word = str(value).rpartition("=")
        if not group or not equals:
            self.fail(f"{value!r} is not GROUP=ROLE", param, ctx)
        try:
            return group, Role.parse(word)
        except ValueError as error:
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
    type=DurationType(),
    default="30s",
    show_default=True,
    help="How long between looks at the repository.",
)
@click.option(
    "--certificate-life",
    type=DurationType(),
    default="24h",
    show_default=True,
    help="How long an agent's certificate lives (10s to 7d); it is renewed at two thirds.",
)
@click.option("--oidc-issuer", metavar="URL", help="Take operators' bearer tokens of this issuer (https).")
@click.option("--oidc-audience", metavar="TEXT", help="The audience that its tokens must be for.")
@click.option(
    "--oidc-role",
    "oidc_roles",
    type=RoleType(),
    multiple=True,
    help="What a group may: viewer, operator, approver or admin (repeatable).",
)
@click.option(
    "--oidc-ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CA certificate of the issuer, if it is a private one.",
)
@click.option("--oidc-groups-claim", default="groups", show_default=True, help="The claim that lists groups.")
@click.option(
    "--oidc-name-claim",
    default="sub",
    show_default=True,
    help="The claim that names the person, in rollouts and in the audit log.",
)
@click.option(
    "--oidc-require",
    "oidc_required",
    type=PairType("CLAIM=VALUE"),
    multiple=True,
    help="A claim that must have exactly this text, such as a tenant's id (repeatable).",
)
@click.option(
    "--notify",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Whom to tell of pauses, failures, wanted approvals and long debts (docs/notifications.md).",
)
@database_options
@click.option(
    "--name",
    default="default",
    show_default=True,
    help="Of this coordinator: in its context, and in its audit log. Each of a shared database has its own.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="auto is text at a terminal, json elsewhere.",
)
@click.option("--debug", is_flag=True, help="Log also what only developers ask for.")
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
    oidc_issuer: str | None,
    oidc_audience: str | None,
    oidc_roles: tuple[tuple[str, Role], ...],
    oidc_ca_file: Path | None,
    oidc_groups_claim: str,
    oidc_name_claim: str,
    oidc_required: tuple[tuple[str, str], ...],
    notify: Path | None,
    database: DatabaseUrl | None,
    database_file: DatabaseUrl | None,
    name: str,
    log_format: Literal["auto", "json", "text"],
    debug: bool,
) -> int:
    """Run a coordinator.

    It needs a data folder and the fleet repository's URL. The first start makes a CA, an admin token and context.json in
    the data folder; point the CLI at it: muster --context DATA_DIR/context.json get clusters. It never holds a cluster's
    credential and never sees a secret.

    With --database several coordinators share one PostgreSQL database: one leads, the others wait and take over when it ends.
    A standby needs ca.crt, ca.key and admin-token of the first in its own data folder, and a --name of its own.

    \b
    Example:
      muster serve --data-dir hub --repository https://git.example.com/fleet

    Next: muster token create --cluster NAME, in your clone of that repository.
    """
    oidc = None
    if oidc_issuer:
        if not oidc_audience or not oidc_roles:
            raise click.UsageError("--oidc-issuer needs --oidc-audience and at least one --oidc-role")
        oidc = Oidc(
            oidc_issuer,
            oidc_audience,
            dict(oidc_roles),
            oidc_ca_file,
            oidc_groups_claim,
            oidc_name_claim,
            dict(oidc_required),
        )
    elif oidc_audience or oidc_roles or oidc_ca_file or oidc_required:
        raise click.UsageError("an --oidc option needs --oidc-issuer")
    from muster_host.ending import run
    from muster_host.logs import configure

    from muster_coordinator import app

    configure(log_format, debug=debug)
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
        oidc,
        notify,
        chosen(database, database_file),
    )
    return run(app.serve, settings)
