"""Signing with the operator's own SSH key.

Owns finding the key (a flag, ``MUSTER_SIGNING_KEY``, git's ``user.signingkey``) and making an SSH signature with
it: here where the file has no passphrase, by ``ssh-keygen`` where it has one, lives in an agent or on a token. It
never reads a passphrase.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import TrustError

if TYPE_CHECKING:
    from muster_core.trust.sshsig import SshKey

KEYGEN_DEADLINE = 120
Sign = Callable[[bytes, str], bytes]
KEY = click.option(
    "--key",
    "key",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="MUSTER_SIGNING_KEY",
    help="The SSH private key to sign with (default: MUSTER_SIGNING_KEY, else git's user.signingkey).",
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key by its file (or the public half of one that an agent holds)."""

    path: Path
    public: SshKey

    @property
    def fingerprint(self) -> str:
        return self.public.fingerprint

    def sign(self, payload: bytes, namespace: str) -> bytes:
        """An armoured SSH signature; ``MUSTER-T053`` when neither way works."""
        from muster_core.trust.sshsig import sign_ssh, verify_ssh

        try:
            signature = sign_ssh(self.path.read_bytes(), payload, namespace=namespace)
        except TrustError as error:
            if error.code != "T053":
                raise
            signature = self._by_keygen(payload, namespace, error)
        verify_ssh(signature, payload, namespace=namespace)
        return signature

    def _by_keygen(self, payload: bytes, namespace: str, reason: TrustError) -> bytes:
        program = shutil.which("ssh-keygen")
        if program is None:
            raise reason
        with tempfile.TemporaryDirectory(prefix="muster-sign-") as folder:
            file = Path(folder) / "statement"
            file.write_bytes(payload)
            command = [program, "-Y", "sign", "-n", namespace, "-f", str(self.path), str(file)]
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=KEYGEN_DEADLINE, check=False)
            made = file.with_suffix(".sig")
            if done.returncode or not made.exists():
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise TrustError(
                    "T053",
                    f"ssh-keygen did not sign ({said[-1] if said else done.returncode})",
                    object=str(self.path),
                )
            return made.read_bytes()


def public_key(path: Path) -> SshKey:
    """Of a ``.pub`` file, or of the one beside a private key; ``MUSTER-T051`` where there is none."""
    from muster_core.trust.sshsig import SshKey

    beside = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
    try:
        return SshKey.parse(beside.read_text().strip())
    except OSError as error:
        raise TrustError(
            "T051",
            f"its public half cannot be read ({error.strerror})",
            object=str(beside),
            hint=f"ssh-keygen -y -f {path} > {beside}",
        ) from error


def find_key(given: Path | None, git_setting: Callable[[str], str]) -> SigningKey | None:
    """The key of the flag, or the one with which git signs; None where neither names an SSH key's file."""
    if given is None:
        named = git_setting("user.signingkey") if git_setting("gpg.format") == "ssh" else ""
        if not named or named.startswith(("ssh-", "key::")):
            return None
        given = Path(os.path.expanduser(named))
    private = given.with_suffix("") if given.suffix == ".pub" and given.with_suffix("").exists() else given
    return SigningKey(private, public_key(given))


def require_key(given: Path | None, git_setting: Callable[[str], str]) -> SigningKey:
    """``MUSTER-T056`` where there is no key to sign with."""
    key = find_key(given, git_setting)
    if key is None:
        raise TrustError(
            "T056",
            "there is no key to sign with",
            hint="Make one: ssh-keygen -t ed25519 -f ~/.ssh/muster, and pass --key ~/.ssh/muster.",
        )
    return key
