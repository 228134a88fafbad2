"""Each heavy dependency stands behind one module (or one package) of a program."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "kubernetes_asyncio": {"agent/muster_agent/cluster/kube.py"},
    "grpc": {
        "agent/muster_agent/link/client.py",
        "coordinator/muster_coordinator/link/agents.py",
        "coordinator/muster_coordinator/link/listeners.py",
        "coordinator/muster_coordinator/link/operators.py",
        "coordinator/muster_coordinator/link/statuses.py",
        "coordinator/muster_cli/client.py",
    },
    "git": {
        "agent/muster_agent/source/repository.py",
        "coordinator/muster_coordinator/catalog/repository.py",
        "coordinator/muster_cli/checkout.py",
    },
    "sqlalchemy": {
        f"coordinator/muster_coordinator/store/sql/{name}.py"
        for name in ("dump", "migrations", "place", "postgres", "schema", "sqlite", "store")
    },
    "nacl": {"core/muster_core/sealing/envelope.py", "core/muster_core/sealing/keys.py"},
    "cryptography": {
        "agent/muster_agent/identity/x509.py",
        "coordinator/muster_cli/x509.py",
        "coordinator/muster_coordinator/enrol/x509.py",
        "core/muster_core/trust/sshsig.py",
    },
    "aiohttp": {"agent/muster_agent/cluster/kube.py", "coordinator/muster_coordinator/outgoing.py"},
    "jwt": {
        "coordinator/muster_coordinator/access/issuer.py",
        "coordinator/muster_coordinator/access/oidc.py",
    },
    "pysequoia": {"core/muster_core/trust/openpgp.py"},
}


def imported(path: Path) -> Iterator[str]:
    """Every top-level package that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", list(ALLOWED))
def test_a_heavy_dependency_has_one_place(package: str) -> None:
    modules = [path for folder in ("core", "agent", "coordinator") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 50
    users = {str(path.relative_to(ROOT)) for path in modules if package in set(imported(path))}
    assert users <= ALLOWED[package]
