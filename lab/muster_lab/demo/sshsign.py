"""Signs commits for a git that has no ``ssh-keygen``: git's ``gpg.ssh.program`` in the demo.

Owns the one call that git makes (``-Y sign -n git -f KEY FILE``, the signature goes to ``FILE.sig``). Keys without
a passphrase only. Contract: git-config(1), gpg.ssh.program, and ssh-keygen(1)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from muster_core.trust.sshsig import sign_ssh


def main() -> int:
    parser = argparse.ArgumentParser(prog="sshsign", description="Signs a file with an SSH key (lab only).")
    parser.add_argument("-Y", dest="action", choices=["sign"], required=True)
    parser.add_argument("-n", dest="namespace", required=True)
    parser.add_argument("-f", dest="key", type=Path, required=True)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    signature = sign_ssh(
        arguments.key.read_bytes(), arguments.file.read_bytes(), namespace=arguments.namespace
    )
    arguments.file.with_name(arguments.file.name + ".sig").write_bytes(signature)
    return 0


if __name__ == "__main__":
    sys.exit(main())
