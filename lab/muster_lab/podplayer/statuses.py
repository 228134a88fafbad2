"""The status that controllers write in each scene of a workload's life.

Owns four pure functions, one a kind: (object, scene) to status. Scenes: progressing, ready, stuck (the
progress deadline passed), crashed. It never decides which scene comes next.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

Obj = dict[str, Any]


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(old: Obj, kind: str, value: str, reason: str, message: str) -> Obj:
    before = next((item for item in old.get("conditions") or () if item["type"] == kind), None)
    same = before is not None and before["status"] == value
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastUpdateTime": _now(),
        "lastTransitionTime": before["lastTransitionTime"] if same and before else _now(),
    }


def _counts(**values: int) -> Obj:
    """Zero is left out, as the real status does."""
    return {key: value for key, value in values.items() if value}


def deployment(obj: Obj, scene: str) -> Obj | None:
    spec, old = obj["spec"], obj.get("status") or {}
    name, wanted = obj["metadata"]["name"], spec.get("replicas", 1)
    status: Obj = {"observedGeneration": obj["metadata"].get("generation", 0)}
    before = min(old.get("availableReplicas", 0), wanted)
    if scene == "ready":
        status |= _counts(
            replicas=wanted, updatedReplicas=wanted, readyReplicas=wanted, availableReplicas=wanted
        )
        progressing = ("True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.')
        available = True
    elif scene == "crashed":
        status |= _counts(replicas=wanted, updatedReplicas=wanted, unavailableReplicas=wanted)
        progressing = ("True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.')
        available = wanted == 0
    else:
        surge = 1 if before else wanted
        status |= _counts(
            replicas=before + surge,
            updatedReplicas=surge,
            readyReplicas=before,
            availableReplicas=before,
            unavailableReplicas=surge,
        )
        progressing = ("True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
        if scene == "stuck":
            progressing = (
                "False",
                "ProgressDeadlineExceeded",
                f'ReplicaSet "{name}" has timed out progressing.',
            )
        available = before >= wanted
    status["conditions"] = [
        _condition(
            old, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
        )
        if available
        else _condition(
            old,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
        _condition(old, "Progressing", *progressing),
    ]
    return status


def stateful_set(obj: Obj, scene: str) -> Obj | None:
    wanted = obj["spec"].get("replicas", 1)
    ready = wanted if scene == "ready" else 0
    revision = f"{obj['metadata']['name']}-{obj['metadata'].get('generation', 0)}"
    old = obj.get("status") or {}
    status: Obj = {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "replicas": wanted,
        "availableReplicas": ready,
        "collisionCount": 0,
        "updateRevision": revision,
        "currentRevision": revision if scene == "ready" else old.get("currentRevision", revision),
    }
    return status | _counts(
        readyReplicas=ready, currentReplicas=ready, updatedReplicas=ready or min(wanted, 1)
    )


def daemon_set(obj: Obj, scene: str) -> Obj | None:
    """The lab pretends to have one node."""
    ready = 1 if scene == "ready" else 0
    status: Obj = {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "currentNumberScheduled": 1,
        "desiredNumberScheduled": 1,
        "numberMisscheduled": 0,
        "numberReady": ready,
        "updatedNumberScheduled": 1,
    }
    return status | _counts(numberAvailable=ready, numberUnavailable=1 - ready)


def job(obj: Obj, scene: str) -> Obj | None:
    old = obj.get("status") or {}
    if any(item["type"] in ("Complete", "Failed") for item in old.get("conditions") or ()):
        return None
    wanted = obj["spec"].get("completions") or obj["spec"].get("parallelism", 1)
    status: Obj = {"startTime": old.get("startTime", _now()), "ready": 0, "terminating": 0}
    if obj["spec"].get("suspend"):
        return None
    if scene == "ready":
        now = _now()
        status |= {"succeeded": wanted, "completionTime": now, "uncountedTerminatedPods": {}}
        status["conditions"] = [
            {
                "type": kind,
                "status": "True",
                "reason": "CompletionsReached",
                "message": "Reached expected number of succeeded pods",
                "lastProbeTime": now,
                "lastTransitionTime": now,
            }
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        return status
    return status | {"active": obj["spec"].get("parallelism", 1)}
