"""Writes the generated modules of the wire, so that nobody edits them by hand.

Run by ``make gen``; ``--check`` compares instead (``make check``). Needs the pinned grpcio-tools and mypy-protobuf.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Writes ``*_pb2.py``, ``*_pb2_grpc.py`` and their stubs below ``out``."""
    files = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *files,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def main() -> int:
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate(out)
        stale = [
            str(made.relative_to(out))
            for made in sorted(out.rglob("*_pb2*"))
            if not (ROOT / made.relative_to(out)).exists()
            or (ROOT / made.relative_to(out)).read_bytes() != made.read_bytes()
        ]
    if stale:
        print("generated code is stale, run `make gen`: " + ", ".join(stale), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
