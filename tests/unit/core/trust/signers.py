"""The oracles of the signature tests: real ``git`` and ``ssh-keygen`` with keys made at run time."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

SSH_KINDS = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa-256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521"),
    "rsa-2048": ("-t", "rsa", "-b", "2048"),
    "rsa-3072": ("-t", "rsa", "-b", "3072"),
}


def run(*argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(argv, input=stdin, capture_output=True, env=env, check=False, timeout=50)
    assert done.returncode == 0, (argv, done.stderr.decode())
    return done.stdout


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> Path:
    """The private key file; the public one is beside it."""
    path = folder / f"{kind}{'-locked' if passphrase else ''}"
    if not path.exists():
        arguments = SSH_KINDS.get(kind) or ("-t", "rsa", "-b", "1024")
        run("ssh-keygen", "-q", *arguments, "-N", passphrase, "-C", f"{kind} of a test", "-f", path)
    return path


def public(key: Path) -> str:
    return key.with_name(key.name + ".pub").read_text().strip()


def ssh_sign(key: Path, payload: bytes, namespace: str = "git", *options: str) -> bytes:
    return run("ssh-keygen", "-q", "-Y", "sign", "-n", namespace, *options, "-f", key, stdin=payload)


def ssh_accepts(folder: Path, allowed: str, signature: bytes, payload: bytes, namespace: str = "git") -> bool:
    """What ``ssh-keygen -Y verify`` says when ``allowed`` is the one public key that counts."""
    signers, file = folder / "signers", folder / "signature"
    signers.write_text(f"me@example.com {allowed}\n")
    file.write_bytes(signature)
    argv = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "me@example.com", "-n", namespace, "-s", file]
    return subprocess.run(argv, input=payload, capture_output=True, check=False, timeout=50).returncode == 0


def dearmour(signature: bytes) -> bytes:
    return base64.b64decode(b"".join(signature.split(b"\n")[1:-2]))


def armour(data: bytes) -> bytes:
    encoded = base64.b64encode(data)
    lines = b"".join(encoded[at : at + 70] + b"\n" for at in range(0, len(encoded), 70))
    return b"-----BEGIN SSH SIGNATURE-----\n" + lines + b"-----END SSH SIGNATURE-----\n"


class GitRepo:
    """A repository of its own, without the configuration of whoever runs the tests."""

    def __init__(self, folder: Path, *, object_format: str = "sha1", **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "me@example.com",
            "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "me@example.com",
        } | environment  # fmt: skip
        self.git("init", "-q", "-b", "main", f"--object-format={object_format}")
        self.git("config", "commit.cleanup", "verbatim")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return run("git", "-C", self.folder, *arguments, stdin=stdin, env=self.env)

    def sign_with_ssh(self, key: Path) -> None:
        """Signs with ``key``, and this key alone may sign."""
        self.git("config", "gpg.format", "ssh")
        self.git("config", "user.signingKey", str(key))
        (self.folder / "allowed").write_text(f"me@example.com {public(key)}\n")
        self.git("config", "gpg.ssh.allowedSignersFile", str(self.folder / "allowed"))

    def commit(self, message: str = "A change\n", *options: str) -> bytes:
        """The raw object of a new commit."""
        self.git("commit", "-q", "--allow-empty", *options, "-F", "-", stdin=message.encode())
        return self.read("commit", "HEAD")

    def read(self, kind: str, name: str) -> bytes:
        return self.git("cat-file", kind, name)

    def write(self, kind: str, data: bytes) -> str:
        """The id of an object with exactly these bytes, well formed or not."""
        arguments = ("hash-object", "-t", kind, "-w", "--literally", "--stdin")
        return self.git(*arguments, stdin=data).decode().strip()

    def accepts(self, kind: str, data: bytes) -> bool:
        """What ``git verify-commit`` or ``verify-tag`` says of an object with these bytes."""
        argv = ["git", "-C", str(self.folder), f"verify-{kind}", self.write(kind, data)]
        done = subprocess.run(argv, capture_output=True, env=self.env, check=False, timeout=50)
        return done.returncode == 0
