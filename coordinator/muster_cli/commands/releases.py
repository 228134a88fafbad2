"""Approving content: a signed tag on what is checked out."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import TrustError

from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, Nouns

if TYPE_CHECKING:
    from muster_core.trust.documents import TrustDocument

    from muster_cli.checkout import Checkout

WAY = 200
WORDS = {"A": "added", "D": "removed"}


@click.group(cls=Nouns)
def release() -> None:
    """Releases: what agents may take because somebody who may has signed it."""


@release.command("sign")
@click.option("--yes", is_flag=True, help="Do not ask.")
@KEY
@CHECKOUT
def sign(yes: bool, key: Path | None, checkout: Path) -> None:
    """Approve what is checked out, with a signed tag.

    Shows what changed since the last approved tree, then signs the commit that is checked out and pushes the tag.

    A signed head needs no tag: git commit -S does the same. This is for heads that a forge made by merging.

    \b
    Example:
      git pull
      muster release sign

    Next: the rollout starts by itself; muster get rollouts.
    """
    from muster_core.trust.authority import Change, judge_content

    from muster_cli.checkout import open_checkout
    from muster_cli.trust.chain import read_chain

    with open_checkout(checkout) as clone:
        head = clone.published_head()
        document = read_chain(clone.tree(head)).require()
        clone.sign_as("signed-commits", key)
        base = _last_approved(clone, head, document)
        changes = clone.changes(base, head)
        for status, path in changes:
            click.echo(f"{WORDS.get(status, 'changed'):<8} {path}")
        since = base[:7] or "the beginning"
        click.echo(f"{len(changes)} paths differ from {since}; {head[:7]} is to be approved.", err=True)
        if not isinstance(clone.signer, str):
            judge_content(
                [Change(path, "changed") for _, path in changes],
                document,
                {clone.signer.fingerprint},
                now=time.time(),
            )
        if not yes:
            click.confirm("Sign it?", abort=True, err=True)
        name = _tag_name(clone, head)
        if name in clone.release_tags(head):
            click.echo(f"{name} is there already: you have signed it")
            return
        clone.tag(name, head, f"Approve {head}")
    click.echo(f"{name} signed and pushed")


def _tag_name(clone: Checkout, head: str) -> str:
    """One per commit and signer, so that several may approve the same head."""
    who = clone.signer if isinstance(clone.signer, str) else clone.signer.fingerprint
    return f"muster/release-{head[:12]}-{hashlib.sha256(who.encode()).hexdigest()[:8]}"


def _last_approved(clone: Checkout, head: str, document: TrustDocument) -> str:
    """The newest commit before ``head`` that a known key signed, by itself or by a release tag; empty where there
    is none."""
    from muster_core.trust.authority import signer_of
    from muster_core.trust.gitobject import parse_object

    for commit in clone.first_parents(head, WAY)[1:]:
        signed = [("commit", commit), *(("tag", f"refs/tags/{name}") for name in clone.release_tags(commit))]
        for kind, oid in signed:
            try:
                signer_of(parse_object(kind, clone.raw(kind, oid)), document)
            except TrustError:
                continue  # unsigned, or by nobody whom the document names: look further back
            return commit
    return ""
