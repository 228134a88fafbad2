"""Who may sign what: trust documents, made and signed on the operator's machine. No coordinator takes part."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from muster_core.durations import parse_duration
from muster_core.errors import TrustError

from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, VALUES_OUTPUT, Nouns

if TYPE_CHECKING:
    from muster_core.trust.documents import Role, TrustDocument, TrustKey

    from muster_cli.trust.chain import Chain

ROLE = click.Choice(["release", "policy", "registrar", "operator"])
PUBLIC = click.Path(exists=True, dir_okay=False, path_type=Path)
GITHUB = "a key with which GitHub signs for whoever presses its buttons"


@click.group(cls=Nouns)
def trust() -> None:
    """Who may sign what in this fleet: trust/<N>.json, a chain in which each version is signed by the one before."""


@trust.command("init")
@KEY
@click.option(
    "--expires", default="365d", show_default=True, help="When new releases stop without a next version."
)
@CHECKOUT
def init(key: Path | None, expires: str, checkout: Path) -> None:
    """Make trust/1.json.

    It has one root key, and every role in its hand.

    A start without ceremony, and no more than that: whoever has this one key decides everything. Share the roles
    out with add-key and remove-key, and the root with rotate-root, before the fleet matters. Without a key of
    yours one is made. Git is set up in this clone to sign commits with it.

    \b
    Example:
      muster trust init --key ~/.ssh/id_ed25519

    Next: commit trust/1.json and push; muster trust show.
    """
    from muster_core.fleet import read_settings

    from muster_cli.checkout import open_checkout
    from muster_cli.folder import FolderTree
    from muster_cli.trust.chain import read_chain
    from muster_cli.trust.founding import found, key_for
    from muster_cli.trust.roles import allowed_signers

    with open_checkout(checkout) as clone:
        fleet = read_settings(FolderTree(clone.root))
        mine, is_new = key_for(fleet.metadata.name, key, clone.setting)
        path = found(clone.root, fleet.spec.id, mine, parse_duration(expires))
        clone.sign_commits_with(mine.path)
        clone.know_signers(allowed_signers(read_chain(FolderTree(clone.root)).require()))
    click.echo(str(path))
    if is_new:
        click.echo(f"Made the key {mine.path}. Keep it safe, and a copy of it elsewhere.", err=True)
    click.echo(f"One root of one, {mine.fingerprint}: whoever has this key decides everything.", err=True)
    click.echo(
        "Commits in this clone are signed with it. Next: git add trust && git commit, and push.", err=True
    )


@trust.command("show")
@CHECKOUT
@VALUES_OUTPUT
def show(checkout: Path, style: str) -> None:
    """Show who may do what, and what waits for signatures.

    By the newest document that holds.

    \b
    Example:
      muster trust show
    """
    from muster_cli.output import write_value

    chain, _ = _chain(checkout)
    document = chain.require()
    if style != "table":
        write_value({"digest": document.digest, "document": msgspec.to_builtins(document)}, style)
        return
    click.echo(f"trust/{document.version}.json  fleet {document.fleet}  expires {document.expires}")
    click.echo(f"digest {document.digest}")
    roots = sorted(document.roots.fingerprints())
    click.echo(f"roots {document.roots.threshold} of {len(roots)}: {', '.join(roots)}")
    for role in document.roles:
        click.echo(f"{role.role:<10} {_bounds(role)}")
        for key in role.keys:
            dates = f"  {key.valid_after or '…'} to {key.valid_before or '…'}"
            shown = dates if key.valid_after or key.valid_before else ""
            click.echo(f"           {key.fingerprint}{shown}{'  forge' if key.forge else ''}")
    if chain.pending:
        _say_missing(chain)


def _bounds(role: Role) -> str:
    match role.role:
        case "operator":
            return f"directives for bundles {' '.join(role.bundles)}"
        case "registrar":
            return f"may {role.scope} entries: {' '.join(role.paths)}"
        case _:
            return " ".join(role.paths)


def _chain(checkout: Path) -> tuple[Chain, Path]:
    """The chain as it is in the folder, committed or not."""
    from muster_cli.checkout import open_checkout
    from muster_cli.folder import FolderTree
    from muster_cli.trust.chain import read_chain

    with open_checkout(checkout) as clone:
        root = clone.root
    return read_chain(FolderTree(root)), root


def _say_missing(chain: Chain) -> None:
    from muster_cli.trust.chain import missing

    if chain.pending is None:
        return
    version = chain.pending.document.version
    for whose, count, keys in missing(chain.pending, chain.holding):
        click.echo(
            f"trust/{version}.json waits for {count} more of {whose} roots: {', '.join(keys)}", err=True
        )
    click.echo("Next: each of them runs muster trust sign --key FILE.", err=True)


def _amend(
    checkout: Path,
    key: Path | None,
    change: Callable[[TrustDocument], TrustDocument],
    expires: str | None = None,
) -> None:
    """Writes the next version with a change, signed with the operator's key where it is a root."""
    from muster_core.times import format_time

    from muster_cli.checkout import open_checkout
    from muster_cli.trust.chain import Chain, amended, write
    from muster_cli.trust.founding import sign_document
    from muster_cli.trust.roles import allowed_signers
    from muster_cli.trust.signing import find_key

    chain, root = _chain(checkout)
    chain.require()
    newest = chain.newest
    if newest is None:
        return
    now = time.time()
    changed = change(newest.document)
    if expires:
        changed = msgspec.structs.replace(changed, expires=format_time(now + parse_duration(expires)))
    document = amended(chain, changed, format_time(now))
    with open_checkout(checkout) as clone:
        mine = find_key(key, clone.setting)
    known = chain.require().roots.fingerprints() | document.document.roots.fingerprints()
    if mine is not None and mine.fingerprint in known:
        document = sign_document(document, mine)
    click.echo(str(write(root, document)))
    after, _ = _chain(checkout)
    if after.pending is not None:
        _say_missing(Chain(after.holding, after.pending))
    else:
        with open_checkout(checkout) as clone:
            clone.know_signers(allowed_signers(after.require()))
        click.echo("It holds. Next: git add trust && git commit, and push it.", err=True)


EXPIRES = click.option("--expires", metavar="DURATION", help="Also move the expiry, from now.")


@trust.command("add-key")
@click.argument("public", type=PUBLIC)
@click.option("--role", type=ROLE, required=True, help="What the key may do.")
@click.option(
    "--path", "paths", multiple=True, metavar="GLOB", help="Only these paths; ! takes away (release, policy)."
)
@click.option(
    "--bundle", "bundles", multiple=True, metavar="GLOB", help="Only directives for these bundles (operator)."
)
@click.option("--clusters", "selector", metavar="SELECTOR", help="Only these clusters (operator, registrar).")
@click.option(
    "--scope",
    type=click.Choice(["add", "manage"]),
    help="A registrar that only adds entries, or manages them.",
)
@click.option("--valid-after", default="", metavar="TIME", help="RFC 3339.")
@click.option("--valid-before", default="", metavar="TIME", help="RFC 3339.")
@click.option("--forge", is_flag=True, help=f"Yes, {GITHUB}.")
@EXPIRES
@KEY
@CHECKOUT
def add_key(
    public: Path,
    role: str,
    paths: tuple[str, ...],
    bundles: tuple[str, ...],
    selector: str | None,
    scope: str | None,
    valid_after: str,
    valid_before: str,
    forge: bool,
    expires: str | None,
    key: Path | None,
    checkout: Path,
) -> None:
    """Give the key of file PUBLIC a role.

    It has it from the next version of the trust document on.

    PUBLIC is an OpenSSH public key, or an OpenPGP certificate in armour. A key with bounds of its own (--path,
    --bundle, --clusters, --scope) gets a role entry of its own; one without joins the role's keys.

    \b
    Example:
      muster trust add-key ada.pub --role release --path 'bundles/**'

    Next: commit and push the new version; when more roots must sign: muster trust sign.
    """
    from muster_core.select import parse_selector
    from muster_core.times import parse_time
    from muster_core.trust.authority import FORGE_KEYS

    from muster_cli.trust.roles import default_role

    for text in filter(None, (valid_after, valid_before)):
        parse_time(text)
    added = _public(public, valid_after, valid_before, forge)
    if added.fingerprint in FORGE_KEYS and not forge:
        raise TrustError(
            "T059", f"this is {GITHUB}", object=added.fingerprint, hint="If that is meant: --forge."
        )

    def change(document: TrustDocument) -> TrustDocument:
        own: Role = default_role(role, [added])  # type: ignore[arg-type]
        if paths:
            own = msgspec.structs.replace(own, paths=list(paths))
        if bundles:
            own = msgspec.structs.replace(own, bundles=list(bundles))
        if selector:
            own = msgspec.structs.replace(own, clusters=parse_selector(selector))
        if scope:
            own = msgspec.structs.replace(own, scope=scope)
        same = [r for r in document.roles if msgspec.structs.replace(r, keys=own.keys) == own]
        roles = [r for r in document.roles if r not in same]
        known = [k for r in same for k in r.keys if k.fingerprint != added.fingerprint]
        return msgspec.structs.replace(
            document, roles=[*roles, msgspec.structs.replace(own, keys=[*known, added])]
        )

    _amend(checkout, key, change, expires)


def _public(path: Path, after: str, before: str, forge: bool) -> TrustKey:
    from muster_core.trust.documents import TrustKey
    from muster_core.trust.openpgp import read_certificate
    from muster_core.trust.sshsig import SshKey

    data = path.read_bytes()
    if data.lstrip().startswith(b"-----BEGIN PGP"):
        fingerprint, certificate = read_certificate(data)
        text = f"openpgp:{fingerprint}:{base64.b64encode(certificate).decode()}"
    else:
        text = SshKey.parse(data.decode(errors="replace").strip()).text()
    return TrustKey(key=text, valid_after=after, valid_before=before, forge=forge)


@trust.command("remove-key")
@click.argument("fingerprint")
@click.option("--role", type=ROLE, help="Only from this role (default: from all).")
@EXPIRES
@KEY
@CHECKOUT
def remove_key(
    fingerprint: str, role: str | None, expires: str | None, key: Path | None, checkout: Path
) -> None:
    """Take a key's roles away, in the next version. What it signed before and was accepted stays.

    \b
    Example:
      muster trust remove-key SHA256:qX3... --role release

    Next: commit and push the new version.
    """

    def change(document: TrustDocument) -> TrustDocument:
        roles, found = [], False
        for entry in document.roles:
            left = [k for k in entry.keys if k.fingerprint != fingerprint]
            if role in (None, entry.role) and len(left) < len(entry.keys):
                found = True
                entry = msgspec.structs.replace(entry, keys=left)
            if entry.keys:
                roles.append(entry)
        if not found:
            raise TrustError("T057", "no role has this key", object=fingerprint, hint="muster trust show")
        return msgspec.structs.replace(document, roles=roles)

    _amend(checkout, key, change, expires)


@trust.command("rotate-root")
@click.option("--add", "added", type=PUBLIC, multiple=True, help="A new root key's public file.")
@click.option("--remove", "removed", multiple=True, metavar="FINGERPRINT", help="A root key that goes.")
@click.option("--threshold", type=click.IntRange(1, 16), help="How many roots must sign from then on.")
@EXPIRES
@KEY
@CHECKOUT
def rotate_root(
    added: tuple[Path, ...],
    removed: tuple[str, ...],
    threshold: int | None,
    expires: str | None,
    key: Path | None,
    checkout: Path,
) -> None:
    """Change the root keys or their threshold. The old roots and the new ones must both sign.

    \b
    Example:
      muster trust rotate-root --add ada.pub --threshold 2

    Next: the others sign with muster trust sign; then commit and push.
    """
    from muster_core.trust.documents import Roots
    from muster_core.trust.sshsig import SshKey

    new = [SshKey.parse(path.read_text().strip()) for path in added]

    def change(document: TrustDocument) -> TrustDocument:
        kept = [k for k in document.roots.keys if SshKey.parse(k).fingerprint not in removed]
        known = {SshKey.parse(k).fingerprint for k in kept}
        keys = [*kept, *(k.text() for k in new if k.fingerprint not in known)]
        wanted = threshold or document.roots.threshold
        if wanted > len(keys):
            raise TrustError(
                "T060", f"{wanted} of {len(keys)} root keys cannot sign", hint="Give --threshold."
            )
        return msgspec.structs.replace(document, roots=Roots(threshold=wanted, keys=keys))

    _amend(checkout, key, change, expires)


@trust.command("sign")
@KEY
@CHECKOUT
def sign(key: Path | None, checkout: Path) -> None:
    """Add your signature to the version that waits for some.

    \b
    Example:
      muster trust sign --key ~/.ssh/id_ed25519

    Next: commit and push; muster trust verify says whether it holds.
    """
    from muster_cli.checkout import open_checkout
    from muster_cli.trust.chain import write
    from muster_cli.trust.founding import sign_document
    from muster_cli.trust.signing import require_key

    chain, root = _chain(checkout)
    if chain.pending is None:
        click.echo("Nothing waits for a signature.", err=True)
        return
    with open_checkout(checkout) as clone:
        mine = require_key(key, clone.setting)
    roots = chain.pending.document.roots.fingerprints()
    roots |= chain.holding.roots.fingerprints() if chain.holding else set()
    if mine.fingerprint not in roots:
        raise TrustError(
            "T061", "this key is no root, old or new", object=mine.fingerprint, hint="muster trust show"
        )
    click.echo(str(write(root, sign_document(chain.pending, mine))))
    after, _ = _chain(checkout)
    _say_missing(after)


@trust.command("verify")
@CHECKOUT
@VALUES_OUTPUT
@click.pass_context
def verify(ctx: click.Context, checkout: Path, style: str) -> None:
    """Check the chain of trust documents. Exit code 1 while a version waits for signatures.

    \b
    Example:
      muster trust verify
    """
    from muster_cli.output import write_value
    from muster_cli.trust.chain import missing

    chain, _ = _chain(checkout)
    version = chain.holding.version if chain.holding else 0
    digest = chain.holding.digest if chain.holding else ""
    waits = missing(chain.pending, chain.holding) if chain.pending else []
    if style != "table":
        rows = [{"whose": whose, "missing": count, "of": keys} for whose, count, keys in waits]
        write_value({"version": version, "digest": digest, "waitsFor": rows}, style)
    else:
        click.echo(f"version {version} holds, digest {digest}" if version else "no version holds")
        _say_missing(chain)
    ctx.exit(1 if waits or not version else 0)
