"""The agent's own namespace, which somebody may delete while the agent lives elsewhere or is being moved.

Owns writing an object of the agent's own there, and making the namespace again when it is gone. It never writes for a bundle.
"""

from __future__ import annotations

from muster_core.errors import KubernetesError
from muster_core.manifest.objects import Manifest

from muster_agent.cluster.port import ClusterApi

NAMESPACE_GONE = "K009"


async def apply_at_home(api: ClusterApi, obj: Manifest) -> Manifest:
    """Applies one of the agent's own objects with force; its namespace is made where it is not there."""
    try:
        return await api.apply(obj, force=True)
    except KubernetesError as error:
        if error.code != NAMESPACE_GONE:
            raise
    name = obj["metadata"]["namespace"]
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return await api.apply(obj, force=True)
