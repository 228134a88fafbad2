"""Ways into clusters: which ones a kubeconfig names, and a connection that leaves nothing on a disk.

Owns reading kubeconfigs and handing each credential to the cluster adapter through anonymous memory, which is gone when
the connection stands. What comes from somebody else (a hub's Secret) may hold keys and tokens and nothing that runs a
program or names a file. It never writes a credential to a file system.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from muster_core.errors import KubernetesError, ValidationError
from muster_core.manifest.dump import dump_yaml
from muster_core.manifest.load import load_documents

if TYPE_CHECKING:
    from muster_agent.cluster.kube import KubeCluster

#: ``mine``: anything goes; ``folder``: no program is run; ``inline``: nothing but what stands in the text.
Origin = Literal["mine", "folder", "inline"]
FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
PROGRAMS = ("exec", "auth-provider")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Access:
    """One context of a kubeconfig, with all that it needs. Drop it when the cluster has joined."""

    context: str
    where: str
    cluster: Mapping[str, Any] = field(repr=False)
    user: Mapping[str, Any] = field(repr=False)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[KubeCluster]:
        """The cluster's API, until the block is left."""
        from muster_agent.cluster.kube import KubeCluster

        with _in_memory(self) as path:
            api = await KubeCluster.connect(path)
        try:
            yield api
        finally:
            await api.aclose()


def cluster_name(context: str) -> str:
    """A cluster name made of a context's; ``MUSTER-V032`` when nothing usable is left."""
    name = re.sub(r"[^a-z0-9]+", "-", context.lower()).strip("-")[:63].rstrip("-")
    if not NAME.fullmatch(name):
        raise ValidationError(
            "V032", "no cluster name can be made of this context", object=context, hint="Pass --cluster NAME."
        )
    return name


def default_paths() -> list[Path]:
    """What ``KUBECONFIG`` names, or the usual file."""
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path.home() / ".kube" / "config"]


def read_files(paths: list[Path], origin: Origin = "mine") -> tuple[str, dict[str, Access]]:
    """The current context and all contexts of these files together; the first to say something wins."""
    current, found = "", dict[str, Access]()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise KubernetesError(
                "K050",
                f"the kubeconfig cannot be read ({error.strerror})",
                object=str(path),
                hint="Pass --kubeconfig FILE.",
            ) from error
        said, contexts = parse(data, str(path), origin, path.parent.resolve())
        current = current or said
        found = {**contexts, **found}
    return current, found


def chosen(
    paths: list[Path] | None, context: str | None, name: str | None, *, all_contexts: bool
) -> dict[str, Access]:
    """Who is meant, by cluster name. ``MUSTER-K055`` for a context that is not there, ``V033`` for two of one name."""
    current, found = read_files(paths or default_paths())
    if all_contexts:
        names: dict[str, Access] = {}
        for access in found.values():
            other = names.setdefault(cluster_name(access.context), access)
            if other is not access:
                raise ValidationError(
                    "V033",
                    f"contexts {other.context} and {access.context} make one cluster name",
                    object=cluster_name(access.context),
                    hint="Install them one by one with --cluster.",
                )
        return names
    wanted = context or current
    if wanted not in found:
        raise KubernetesError(
            "K055",
            "the kubeconfig has no such context" if wanted else "the kubeconfig has no current context",
            object=wanted,
            hint=f"Known: {', '.join(sorted(found)) or 'none'}.",
        )
    if name is not None and not NAME.fullmatch(name):
        raise ValidationError(
            "V032", "this is no cluster name", object=name, hint="Write lower-case letters, digits and '-'."
        )
    return {name or cluster_name(wanted): found[wanted]}


def parse(
    data: bytes, where: str, origin: Origin, folder: Path | None = None
) -> tuple[str, dict[str, Access]]:
    """The current context, and every context by name. ``MUSTER-K051`` for what is no kubeconfig."""
    try:
        value = load_documents(data, where)[0].value
        named = {
            part: {item["name"]: dict(item[part[:-1]]) for item in value.get(part) or ()}
            for part in ("clusters", "users", "contexts")
        }
        found = {
            name: Access(
                name,
                where,
                _checked(named["clusters"][context["cluster"]], origin, where, folder),
                _checked(named["users"][context["user"]], origin, where, folder),
            )
            for name, context in named["contexts"].items()
        }
    except (ValidationError, LookupError, TypeError, AttributeError) as error:
        raise KubernetesError(
            "K051", f"this is no kubeconfig ({type(error).__name__}: {error})", object=where
        ) from None
    return str(value.get("current-context") or ""), found


def _checked(section: dict[str, Any], origin: Origin, where: str, folder: Path | None) -> dict[str, Any]:
    """What this origin may say, with absolute paths."""
    if origin != "mine":
        for key in (*PROGRAMS, *(FILES if origin == "inline" else ())):
            if key in section:
                raise KubernetesError(
                    "K052",
                    f"a credential that is used unattended must not say {key}",
                    object=where,
                    hint="Put a token or a client certificate into it, as text.",
                )
    files = {key: str((folder or Path("/")) / section[key]) for key in FILES if key in section}
    return {**section, **files}


def _memory(stack: ExitStack, data: bytes) -> str:
    """A path to these bytes in memory."""
    if not hasattr(os, "memfd_create"):
        raise KubernetesError(
            "K053",
            "this system cannot hold a file in memory, and a credential is not written to a disk",
            hint="Run it on Linux.",
        )
    number = os.memfd_create("muster", os.MFD_CLOEXEC)
    stack.callback(os.close, number)
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(data)
    return f"/proc/self/fd/{number}"


@contextmanager
def _in_memory(access: Access) -> Iterator[Path]:
    """A kubeconfig with one context whose every part stands in memory, while the block runs."""
    with ExitStack() as stack:

        def placed(section: Mapping[str, Any]) -> dict[str, Any]:
            kept = {key: value for key, value in section.items() if not key.endswith("-data")}
            for key in section.keys() - kept.keys():
                try:
                    kept[key.removesuffix("-data")] = _memory(stack, base64.b64decode(section[key]))
                except (binascii.Error, TypeError) as error:
                    raise KubernetesError(
                        "K051", f"this is no kubeconfig ({key} is no base64)", object=access.where
                    ) from error
            return kept

        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": placed(access.cluster)}],
            "users": [{"name": "it", "user": placed(access.user)}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        yield Path(_memory(stack, dump_yaml(config).encode()))
