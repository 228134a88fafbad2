"""Each kind's rule, by the shape that its controller writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.health import health
from muster_core.health.kstatus import _RULES


def obj(
    kind: str, api: str = "apps/v1", *, spec: Any = None, status: Any = None, **metadata: Any
) -> dict[str, Any]:
    body: dict[str, Any] = {"apiVersion": api, "kind": kind, "metadata": {"name": "x", **metadata}}
    return (
        body
        | ({"spec": spec} if spec is not None else {})
        | ({"status": status} if status is not None else {})
    )


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


ALL = {
    "observedGeneration": 1,
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}
TWO = {"replicas": 2}
LATE = condition("Progressing", "False", "ProgressDeadlineExceeded", "too slow")
DAEMONS = {
    "observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2,
    "numberAvailable": 2, "numberReady": 2,
}  # fmt: skip
STATEFUL = {"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "currentRevision": "a",
            "updateRevision": "a"}  # fmt: skip


@pytest.mark.parametrize(
    ("given_object", "status", "message"),
    [
        (None, "NotFound", "not there"),
        (obj("ConfigMap", "v1"), "Current", ""),
        (obj("ConfigMap", "v1", deletionTimestamp="2026-01-01T00:00:00Z"), "Terminating", "deleted"),
        (obj("Deployment", spec=TWO, status=ALL, generation=2), "InProgress", "generation 2"),
        (obj("Deployment", spec=TWO), "InProgress", "not seen"),
        (obj("Deployment", spec=TWO, status=ALL, generation=1), "Current", ""),
        (obj("Deployment", spec={}, status=ALL | dict.fromkeys(("replicas", "updatedReplicas"), 1)), "Current", ""),
        (obj("Deployment", spec={"replicas": 0}, status={"observedGeneration": 1}), "Current", ""),
        (obj("Deployment", spec=TWO, status=ALL | {"availableReplicas": 1}), "InProgress", "available: 1 of 2"),
        (obj("Deployment", spec=TWO, status=ALL | {"updatedReplicas": 1}), "InProgress", "updated: 1 of 2"),
        (obj("Deployment", spec=TWO, status=ALL | {"replicas": 3}), "InProgress", "old replicas"),
        (obj("Deployment", spec=TWO, status=ALL | {"conditions": [LATE]}), "Failed", "too slow"),
        (obj("Deployment", spec=TWO, status=ALL | {"conditions": [condition("ReplicaFailure", message="quota")]}),
         "Failed", "quota"),
        (obj("ReplicaSet", spec=TWO, status={"replicas": 2, "readyReplicas": 1}), "InProgress", "ready: 1 of 2"),
        (obj("ReplicaSet", spec=TWO, status={"replicas": 2, "readyReplicas": 2, "availableReplicas": 2}), "Current", ""),
        (obj("StatefulSet", spec=TWO, status=STATEFUL), "Current", ""),
        (obj("StatefulSet", spec=TWO, status=STATEFUL | {"readyReplicas": 1}), "InProgress", "ready: 1 of 2"),
        (obj("StatefulSet", spec=TWO, status=STATEFUL | {"updateRevision": "b"}), "InProgress", "revision"),
        (obj("StatefulSet", spec=TWO | {"updateStrategy": {"rollingUpdate": {"partition": 1}}},
             status=STATEFUL | {"updateRevision": "b", "updatedReplicas": 1}), "Current", ""),
        (obj("StatefulSet", spec=TWO | {"updateStrategy": {"type": "OnDelete"}}, status=STATEFUL | {"updatedReplicas": 0}),
         "Current", ""),
        (obj("DaemonSet", spec={}, status=DAEMONS), "Current", ""),
        (obj("DaemonSet", spec={}, status=DAEMONS | {"numberReady": 1}), "InProgress", "numberReady: 1 of 2"),
        (obj("DaemonSet", spec={}), "InProgress", "not seen"),
        (obj("Job", "batch/v1", spec={}), "InProgress", "not complete"),
        (obj("Job", "batch/v1", spec={}, status={"startTime": "t"}), "Current", ""),
        (obj("Job", "batch/v1", spec={}, status={"conditions": [condition("Complete")]}), "Current", ""),
        (obj("Job", "batch/v1", spec={}, status={"conditions": [condition("Failed", message="limit")]}), "Failed", "limit"),
        (obj("Pod", "v1", status={"phase": "Pending"}), "InProgress", "not ready"),
        (obj("Pod", "v1", status={"phase": "Running", "conditions": [condition("Ready")]}), "Current", ""),
        (obj("Pod", "v1", status={"phase": "Running", "containerStatuses":
             [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}), "Failed", "CrashLoopBackOff"),
        (obj("Pod", "v1", status={"phase": "Failed", "reason": "Evicted"}), "Failed", "Evicted"),
        (obj("Pod", "v1", status={"phase": "Succeeded"}), "Current", ""),
        (obj("PersistentVolumeClaim", "v1", status={"phase": "Lost"}), "InProgress", "Lost"),
        (obj("PersistentVolumeClaim", "v1", status={"phase": "Bound"}), "Current", ""),
        (obj("Service", "v1", spec={"type": "LoadBalancer"}), "InProgress", "address"),
        (obj("Service", "v1", spec={"type": "ClusterIP"}), "Current", ""),
        (obj("PodDisruptionBudget", "policy/v1"), "InProgress", "observed"),
        (obj("CustomResourceDefinition", "apiextensions.k8s.io/v1"), "InProgress", "established"),
        (obj("CustomResourceDefinition", "apiextensions.k8s.io/v1", status={"conditions": [condition("Established")]}),
         "Current", ""),
        (obj("CustomResourceDefinition", "apiextensions.k8s.io/v1",
             status={"conditions": [condition("NamesAccepted", "False", message="taken")]}), "Failed", "taken"),
        (obj("Widget", "e/v1", status={"conditions": [condition("Ready", "False", "Waiting")]}), "InProgress", "Waiting"),
        (obj("Widget", "e/v1", status={"conditions": [condition("Stalled", message="stuck")]}), "Failed", "stuck"),
        (obj("Widget", "e/v1", status={"conditions": [condition("Reconciling")]}), "InProgress", "reconciling"),
        (obj("Widget", "e/v1", status={"conditions": [condition("Ready")]}), "Current", ""),
        (obj("Deployment", "e/v1"), "Current", ""),
    ],
)  # fmt: skip
def test_health(given_object: dict[str, Any] | None, status: str, message: str) -> None:
    found = health(given_object)
    assert found.status == status
    assert message in found.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["True", "Ready", "Failed", "Running"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["conditions", "type", "status", "replicas", "phase", "containerStatuses", "state",
                                       "updateStrategy", "observedGeneration"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(sorted(_RULES)), JSON, JSON)
def test_no_shape_of_a_status_raises(rule: tuple[str, str], spec: Any, status: Any) -> None:
    group, kind = rule
    found = health(obj(kind, f"{group}/v1" if group else "v1", spec=spec, status=status))
    assert found.status in {"Current", "InProgress", "Failed"}
