"""The agent's own objects, rendered for one cluster.

Owns what differs from cluster to cluster: name, image, namespace, token, the Git host's CA. The objects themselves are
those of ``deploy/agent``, packaged with this program. Rendering is pure: objects in, objects out.
"""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from muster_core.errors import ValidationError
from muster_core.manifest.load import load_documents
from muster_core.manifest.objects import Manifest

NAMESPACE = "muster-system"
AGENT = "muster-agent"
TOKEN_SECRET = "muster-agent-token"  # noqa: S105 - an object's name
TOKEN_DIGEST = "muster.dev/token-digest"  # noqa: S105 - an annotation's name
CLUSTER = "muster.dev/cluster"
GIT_CA = "muster-agent-git-ca"
GIT_CA_FOLDER = "/var/run/muster/git-ca"


def default_image() -> str:
    """The image of this program's own version; a private registry's is passed by ``--image``."""
    return f"muster-agent:{version('muster-fleet')}"


@dataclass(frozen=True, slots=True)
class Installation:
    """One cluster's agent. ``token`` is the whole join token; ``git_ca`` is PEM text or empty."""

    cluster: str
    token: str = field(repr=False)
    image: str
    namespace: str = NAMESPACE
    git_ca: str = ""


def base_folder() -> Path:
    """``deploy/agent`` as it was packaged, or as it stands in a checkout of this project."""
    packaged = Path(str(files(__package__))) / "base"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "deploy" / "agent"


def base_objects() -> list[Manifest]:
    """The objects of the kustomization, in its order."""
    folder = base_folder()
    try:
        kustomization = load_documents((folder / "kustomization.yaml").read_bytes(), "kustomization.yaml")
        names: list[str] = kustomization[0].value["resources"]
        documents = [doc for name in names for doc in load_documents((folder / name).read_bytes(), name)]
    except OSError as error:
        raise ValidationError(
            "V030",
            f"the agent's manifest is not packaged with this program ({error.strerror})",
            object=str(folder),
            hint="Install it whole: pip install 'muster-fleet[all]'.",
        ) from error
    return [document.value for document in documents]


def token_digest(token: str) -> str:
    """Names a token without telling it: a new token starts the agent anew."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def render(objects: Iterable[Manifest], wanted: Installation) -> list[Manifest]:
    """The base's objects for this cluster; the arguments are not changed."""
    rendered = [_placed(copy.deepcopy(obj), wanted.namespace) for obj in objects]
    for obj in rendered:
        if obj["kind"] == "Secret":
            del obj["stringData"]
            obj["data"] = {"token": base64.b64encode(wanted.token.encode()).decode()}
        elif obj["kind"] == "Deployment":
            _deployment(obj, wanted)
    if wanted.git_ca:
        rendered.insert(len(rendered) - 1, _git_ca(wanted))
    return rendered


def _placed(obj: Manifest, namespace: str) -> Manifest:
    if obj["kind"] == "Namespace":
        obj["metadata"]["name"] = namespace
    elif "namespace" in obj["metadata"]:
        obj["metadata"]["namespace"] = namespace
    for subject in obj.get("subjects") or ():
        subject["namespace"] = namespace
    return obj


def _deployment(obj: Manifest, wanted: Installation) -> None:
    template = obj["spec"]["template"]
    notes = {CLUSTER: wanted.cluster, TOKEN_DIGEST: token_digest(wanted.token)}
    template["metadata"].setdefault("annotations", {}).update(notes)
    container = template["spec"]["containers"][0]
    container["image"] = wanted.image
    kept = [arg for arg in container["args"] if not arg.startswith("--namespace=")]
    container["args"] = [*kept, f"--namespace={wanted.namespace}", f"--cluster={wanted.cluster}"]
    if wanted.git_ca:
        container["args"].append(f"--git-ca-file={GIT_CA_FOLDER}/ca.crt")
        mount = {"name": "git-ca", "mountPath": GIT_CA_FOLDER, "readOnly": True}
        container["volumeMounts"].append(mount)
        template["spec"]["volumes"].append({"name": "git-ca", "configMap": {"name": GIT_CA}})


def _git_ca(wanted: Installation) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": AGENT}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": GIT_CA, "namespace": wanted.namespace, "labels": labels},
        "data": {"ca.crt": wanted.git_ca},
    }


def deployment_of(objects: Sequence[Manifest]) -> Manifest:
    return next(obj for obj in objects if obj["kind"] == "Deployment")
