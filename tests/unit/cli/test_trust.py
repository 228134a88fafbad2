"""Who may sign what, with the real command, real git and real keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from muster_core.trust.documents import decode
from unit.cli.stage import Muster, Repositories, git
from unit.core.trust.keys import Person


def key(folder: Path, name: str) -> Path:
    """A private key's file with its public half beside it."""
    person, path = Person(name), folder / name
    path.write_bytes(person.pem)
    path.chmod(0o600)
    path.with_name(name + ".pub").write_text(person.public + "\n")
    return path


def fingerprint(path: Path) -> str:
    from muster_core.trust.sshsig import SshKey

    return SshKey.parse(path.with_name(path.name + ".pub").read_text().strip()).fingerprint


def test_init_founds_trust_with_a_key_of_its_own_and_commits_are_signed(
    repositories: Repositories, muster: Muster
) -> None:
    signed = decode((repositories.clone / "trust" / "1.json").read_bytes())
    assert signed.document.roots.threshold == 1
    assert {role.role for role in signed.document.roles} == {"release", "policy", "registrar", "operator"}
    assert muster("trust", "verify", "--checkout", repositories.clone).code == 0
    raw = git(repositories.clone, "cat-file", "commit", "HEAD")
    assert "gpgsig -----BEGIN SSH SIGNATURE-----" in raw
    private = Path(git(repositories.clone, "config", "user.signingkey"))
    assert private.stat().st_mode & 0o777 == 0o600


def test_a_role_is_shared_out_and_taken_back_version_by_version(
    repositories: Repositories, muster: Muster, tmp_path: Path
) -> None:
    clone, ann = repositories.clone, key(tmp_path, "ann")
    added = muster(
        "trust", "add-key", f"{ann}.pub", "--role", "release", "--path", "bundles/**", "--checkout", clone
    )
    assert added.code == 0, added.err
    shown = json.loads(muster("trust", "show", "--checkout", clone, "-o", "json").out)
    assert shown["document"]["version"] == 2
    role = shown["document"]["roles"][-1]
    assert (role["role"], role["paths"]) == ("release", ["bundles/**"])
    assert fingerprint(ann) in muster("trust", "show", "--checkout", clone).out
    removed = muster("trust", "remove-key", fingerprint(ann), "--checkout", clone)
    assert removed.code == 0, removed.err
    assert fingerprint(ann) not in muster("trust", "show", "--checkout", clone).out
    assert muster("trust", "remove-key", fingerprint(ann), "--checkout", clone).code == 4


def test_new_roots_hold_when_old_and_new_have_signed(
    repositories: Repositories, muster: Muster, tmp_path: Path
) -> None:
    clone, ann, bob = repositories.clone, key(tmp_path, "ann"), key(tmp_path, "bob")
    rotated = muster(
        "trust", "rotate-root", "--add", f"{ann}.pub", "--add", f"{bob}.pub", "--threshold", "2", "--checkout", clone
    )  # fmt: skip
    assert rotated.code == 0, rotated.err
    assert "waits for 1 more of its own roots" in rotated.err
    waiting = muster("trust", "verify", "--checkout", clone)
    assert waiting.code == 1
    assert "version 1 holds" in waiting.out
    stranger = muster("trust", "sign", "--key", key(tmp_path, "eve"), "--checkout", clone)
    assert stranger.code == 4
    assert "MUSTER-T061" in stranger.err
    assert muster("trust", "sign", "--key", ann, "--checkout", clone).code == 0
    assert "version 2 holds" in muster("trust", "verify", "--checkout", clone).out


def test_a_forges_key_needs_its_flag(repositories: Repositories, muster: Muster, tmp_path: Path) -> None:
    not_a_key = tmp_path / "no.pub"
    not_a_key.write_text("ssh-dss AAAA nobody\n")
    answer = muster("trust", "add-key", not_a_key, "--role", "release", "--checkout", repositories.clone)
    assert answer.code == 4
    assert "MUSTER-T051" in answer.err


def test_release_sign_shows_what_changed_and_tags_it(repositories: Repositories, muster: Muster) -> None:
    clone = repositories.clone
    git(clone, "config", "commit.gpgsign", "false")
    repositories.commit({"bundles/hello/manifests/more.yaml": "# nothing\n"})
    git(clone, "push", "-q", "origin", "main")
    answer = muster("release", "sign", "--yes", "--checkout", clone)
    assert answer.code == 0, answer.err
    assert "added    bundles/hello/manifests/more.yaml" in answer.out
    assert "1 paths differ" in answer.err
    head = git(clone, "rev-parse", "HEAD")
    (name,) = git(repositories.origin, "tag", "--list", f"muster/release-{head[:12]}-*").split()
    tag = git(repositories.origin, "cat-file", "tag", f"refs/tags/{name}")
    assert f"object {head}" in tag
    assert "-----BEGIN SSH SIGNATURE-----" in tag
    again = muster("release", "sign", "--yes", "--checkout", clone)
    assert again.code == 0, again.err
    assert "you have signed it" in again.out


def test_a_key_without_the_role_signs_no_release(
    repositories: Repositories, muster: Muster, tmp_path: Path
) -> None:
    clone = repositories.clone
    git(clone, "config", "commit.gpgsign", "false")
    repositories.commit({"bundles/hello/manifests/more.yaml": "# nothing\n"})
    git(clone, "push", "-q", "origin", "main")
    answer = muster("release", "sign", "--yes", "--key", key(tmp_path, "eve"), "--checkout", clone)
    assert answer.code == 4
    assert "MUSTER-T042" in answer.err
    assert git(repositories.origin, "tag", "--list", "muster/*") == ""


@pytest.mark.parametrize("mode", ["directives", "both", "open"])
def test_init_takes_the_mode(tmp_path: Path, muster: Muster, mode: str) -> None:
    made = muster("init", tmp_path / "fleet", "--name", f"fleet-{mode}", "--mode", mode)
    assert made.code == 0, made.err
    assert f"mode: {mode}" in (tmp_path / "fleet" / "fleet.yaml").read_text()
    assert (tmp_path / "fleet" / "trust" / "1.json").exists() == (mode != "open")
    assert muster("validate", tmp_path / "fleet").code == 0
