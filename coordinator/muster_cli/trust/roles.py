"""What the roles of a new fleet may touch.

Owns the default globs: whoever releases content may not change what is allowed, and nobody but a registrar touches
the registry.
"""

from __future__ import annotations

from collections.abc import Sequence

from muster_core.trust.documents import Role, RoleName, TrustDocument, TrustKey

POLICY_PATHS = ["policies/**", "fleet.yaml"]
RELEASE_PATHS = ["**", "!policies/**", "!fleet.yaml", "!trust/**"]
REGISTRY_PATHS = ["clusters/**"]
ROLES: Sequence[RoleName] = ("release", "policy", "registrar", "operator")


def allowed_signers(document: TrustDocument) -> list[str]:
    """Lines of git's allowed signers file for every SSH key with a role; who signed is told by the roles."""
    roles: dict[str, list[str]] = {}
    for role in document.roles:
        for key in role.keys:
            if role.role != "operator" and not key.key.startswith("openpgp:"):
                roles.setdefault(" ".join(key.key.split()[:2]), []).append(role.role)
    return [f'{"+".join(dict.fromkeys(names))} namespaces="git" {key}' for key, names in roles.items()]


def default_role(name: RoleName, keys: Sequence[TrustKey]) -> Role:
    """A role with the paths that it has when nobody says otherwise."""
    match name:
        case "release":
            return Role(role=name, keys=list(keys), paths=RELEASE_PATHS)
        case "policy":
            return Role(role=name, keys=list(keys), paths=POLICY_PATHS)
        case "registrar":
            return Role(role=name, keys=list(keys), paths=REGISTRY_PATHS, scope="manage")
        case "operator":
            return Role(role=name, keys=list(keys))
