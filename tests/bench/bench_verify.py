"""What it costs to take a signed commit apart and verify it, per kind of key.

Commits are signed by real ``git`` with keys made at the start. One operation is what an agent does for a head: parse the
raw object, verify the signature, compare the key with the one that may sign (for OpenPGP: find it among three certificates,
parsed anew each time). CPU time of this process, in milliseconds; median and spread of five repeats, raw in ``results/``.
Nothing is asserted but that the signer was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from figures import keep, machine, tell
from muster_core.trust.gitobject import parse_object
from muster_core.trust.openpgp import verify_openpgp
from muster_core.trust.sshsig import SshKey, verify_ssh

REPEATS = 5
OPERATIONS = int(os.environ.get("MUSTER_BENCH_OPERATIONS", "1000"))
GOAL_MS = 1.0
SSH = {
    "ssh-ed25519": ("ed25519", "256"),
    "ecdsa-sha2-nistp256": ("ecdsa", "256"),
    "ecdsa-sha2-nistp384": ("ecdsa", "384"),
    "ecdsa-sha2-nistp521": ("ecdsa", "521"),
    "ssh-rsa 2048": ("rsa", "2048"),
    "ssh-rsa 3072": ("rsa", "3072"),
    "ssh-rsa 4096": ("rsa", "4096"),
}
OPENPGP = ("ed25519", "nistp256", "rsa3072")


def run(folder: Path, *argv: str) -> bytes:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GNUPGHOME": str(folder / "gpg")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(argv, cwd=folder, env=env, check=True, capture_output=True, timeout=120).stdout


def commit(folder: Path, *options: str) -> bytes:
    """A merge-sized message, signed."""
    who = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    message = "A change of the shop\n\n" + "It says at some length what was changed, and why.\n" * 10
    run(folder, "git", *who, *options, "commit", "-q", "--allow-empty", "-S", "-m", message)
    return run(folder, "git", "cat-file", "commit", "HEAD")


def ssh_operation(folder: Path, kind: str, bits: str) -> Callable[[], bool]:
    key = folder / f"{kind}-{bits}"
    run(folder, "ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", str(key))
    allowed = SshKey.parse(key.with_name(key.name + ".pub").read_text())
    data = commit(folder, "-c", "gpg.format=ssh", "-c", f"user.signingKey={key}")

    def operation() -> bool:
        found = parse_object("commit", data)
        return verify_ssh(found.signature or b"", found.payload) == allowed

    return operation


def openpgp_operation(folder: Path, kind: str) -> Callable[[], bool]:
    user = f"{kind}@example.com"
    data = commit(folder, "-c", f"user.signingKey={user}")
    certificates = [run(folder, "gpg", "--export", f"{one}@example.com") for one in OPENPGP]
    listing = run(folder, "gpg", "--with-colons", "--list-keys", user).decode().splitlines()
    allowed = next(line.split(":")[9] for line in listing if line.startswith("fpr:"))

    def operation() -> bool:
        found = parse_object("commit", data)
        return verify_openpgp(found.signature or b"", found.payload, certificates) == allowed

    return operation


def measure(operation: Callable[[], bool]) -> float:
    """Milliseconds of CPU per operation."""
    begun = time.process_time()
    good = sum(operation() for _ in range(OPERATIONS))
    spent = time.process_time() - begun
    assert good == OPERATIONS, good
    return spent / OPERATIONS * 1000


def main() -> int:
    runs: dict[str, list[float]] = {}
    print(f"parse and verify one signed commit; {machine()}; CPU ms, {REPEATS} runs of {OPERATIONS:,}")
    with tempfile.TemporaryDirectory(prefix="verify", dir="/tmp") as name:
        folder = Path(name)
        (folder / "gpg").mkdir(mode=0o700)
        run(folder, "git", "init", "-q", "-b", "main")
        operations = {kind: ssh_operation(folder, *arguments) for kind, arguments in SSH.items()}
        for kind in OPENPGP:
            quiet = ("gpg", "--quiet", "--batch", "--passphrase", "", "--quick-generate-key")
            run(folder, *quiet, f"{kind}@example.com", kind, "sign", "never")
        operations |= {f"openpgp {kind}": openpgp_operation(folder, kind) for kind in OPENPGP}
        run(folder, "gpgconf", "--kill", "all")
        for kind, operation in operations.items():
            operation()
            values = runs[kind] = [measure(operation) for _ in range(REPEATS)]
            tell(kind, values, "ms", f"{GOAL_MS:g}")
    keep("verify", {"operations": OPERATIONS, "goal_ms": GOAL_MS, "cpu_ms": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
