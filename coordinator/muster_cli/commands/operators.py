"""Operators: certificates of their own, so that the audit log says who did what.

Owns ``muster operator``. The private key is made on this machine and stays here; only a request is sent. The
CA certificate that the new context believes is that of the context in use, never one from the answer.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muster_cli.verbs import OUTPUT, Nouns, client

if TYPE_CHECKING:
    from muster_proto.v1 import operator_pb2 as op

ROLES = ("viewer", "operator", "approver", "admin")


@click.group(cls=Nouns)
def operator() -> None:
    """People who may call this coordinator with a certificate of their own."""


@operator.command("certificate")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What NAME may do.")
@click.option("--days", type=click.IntRange(1, 398), default=30, show_default=True, help="How long it lives.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The context file to write (default: a context of this name in your configuration folder).",
)
@click.option(
    "--link-address", metavar="HOST:PORT", help="The link listener as NAME reaches it, where that differs."
)
@click.pass_context
def certificate(
    ctx: click.Context, name: str, role: str, days: int, out: Path | None, link_address: str | None
) -> None:
    """Make a certificate for NAME, and its context file.

    The key is made here; the coordinator signs its certificate.

    Hand the three files to NAME, or run it on NAME's machine: muster --context FILE get clusters.

    \b
    Example:
      muster operator certificate ada --role operator --out ada.json
    """
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli import context
    from muster_cli.x509 import new_request

    path = out or context.folder() / f"{name}.json"
    key, request = new_request(name)
    with client(ctx) as api:
        answer = api.issue_certificate(
            op.IssueCertificateRequest(name=name, role=role, days=days, csr_der=request)
        )
        ca_pem, called = api.context.ca_pem, api.context.name
    files = {end: path.with_name(f"{path.stem}{end}") for end in (".key", ".crt", ".ca.crt")}
    context.write_private(files[".key"], key)
    context.write_private(files[".crt"], answer.certificate_pem)
    context.write_private(files[".ca.crt"], ca_pem)
    context.write(
        path,
        context.ContextFile(
            ca_pem_file=files[".ca.crt"].name,
            link=link_address or answer.link_address,
            certificate_file=files[".crt"].name,
            key_file=files[".key"].name,
            name=called,
        ),
    )
    click.echo(f"operator/{name} has a certificate as {role} until {_day(answer.expires_unix)}")
    click.echo(f"Next: muster --context {path} get clusters", err=True)


@operator.command("list")
@OUTPUT
@click.pass_context
def listed(ctx: click.Context, style: str) -> None:
    """Every certificate that was issued, and whether it counts.

    \b
    Example:
      muster operator list
    """
    from muster_cli.output import Answer, Column

    columns: list[Column[op.OperatorEntry]] = [
        Column("OPERATOR", lambda one: one.name),
        Column("ROLE", lambda one: one.role),
        Column("STATE", lambda one: one.state),
        Column("UNTIL", lambda one: _day(one.expires_unix)),
        Column("SERIAL", lambda one: one.serial, wide=True),
    ]
    with client(ctx) as api:
        Answer(columns, "operator", style).show(
            list(api.list_operators().operators),
            "no operators; make a certificate: muster operator certificate NAME --role operator",
        )


@operator.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="For the audit log.")
@click.pass_context
def revoke(ctx: click.Context, name: str, reason: str) -> None:
    """End every certificate of NAME.

    None of them counts any more, on open connections too.

    \b
    Example:
      muster operator revoke ada --reason 'left the team'
    """
    with client(ctx) as api:
        revoked = api.revoke_operator(name, reason).operators
    click.echo(f"operator/{name} revoked ({len(revoked)})")


def _day(unix: int) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
