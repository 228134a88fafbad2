"""The agent's public keys, where whoever may read this cluster can see them.

Owns one ConfigMap in the agent's namespace. An installer that holds this cluster's credential compares it with the join
that the hub shows, so that no hub can swap a key. It holds public halves only.
"""

from __future__ import annotations

import structlog
from muster_core.errors import KubernetesError
from muster_core.manifest.objects import ObjectRef
from muster_core.sealing.keys import encode_identity, encode_sealing, fingerprint

from muster_agent.cluster.port import ClusterApi
from muster_agent.identity.join import identity_key, sealing_key
from muster_agent.state.records import Identity

log = structlog.get_logger()

NAME = "muster-agent-identity"


async def publish(api: ClusterApi, namespace: str, identity: Identity) -> None:
    """Writes the ConfigMap, unless it says so already; makes the namespace where it is missing.

    A retryable refusal is logged: joining goes on.
    """
    public, sealing = identity_key(identity).public, sealing_key(identity)
    wanted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "data": {
            "identityKey": encode_identity(public),
            "sealingKey": encode_sealing(sealing.public),
            "sealingGeneration": str(sealing.generation),
        },
    }
    try:
        present = await api.get(ObjectRef("v1", "ConfigMap", namespace, NAME))
        if present is not None and present.get("data") == wanted["data"]:
            return
        try:
            await api.apply(wanted, force=True)
        except KubernetesError as error:
            if error.code != "K009":
                raise
            await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            await api.apply(wanted, force=True)
    except KubernetesError as error:
        if not error.retryable:
            raise
        log.warning("the public keys are not published: an installer cannot approve", error=str(error))
        return
    log.info("public keys published", config_map=f"{namespace}/{NAME}", identity=fingerprint(public))
