"""The status that a kubelet would write for a pod.

Owns pure functions from a pod to its status in each scene: pulling (never becomes ready), starting (runs, not ready yet),
running, crashed, done. It never decides which scene comes next.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

Obj = dict[str, Any]
CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(pod: Obj, scene: str, address: str, restarts: int = 0) -> Obj:
    spec, time = pod["spec"], now()
    ready = scene == "running"
    states: dict[str, Obj] = {
        "pulling": {"waiting": {"reason": "ImagePullBackOff", "message": "the tag says: never"}},
        "starting": {"running": {"startedAt": time}},
        "running": {"running": {"startedAt": time}},
        "crashed": {"waiting": {"reason": "CrashLoopBackOff", "message": "the tag says: crash"}},
        "done": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": time, "finishedAt": time}},
    }
    phases = {"pulling": "Pending", "done": "Succeeded"}
    off = {"Ready", "ContainersReady"} if not ready else set()
    return {
        "phase": phases.get(scene, "Running"),
        "startTime": (pod.get("status") or {}).get("startTime") or time,
        "hostIP": "192.0.2.1",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            {
                "type": name,
                "status": "False" if name in off else "True",
                "lastProbeTime": None,
                "lastTransitionTime": time,
                **({"reason": "ContainersNotReady"} if name in off else {}),
            }
            for name in CONDITIONS
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "" if scene == "pulling" else f"lab://{container['image']}",
                "ready": ready,
                "started": scene in ("starting", "running"),
                "restartCount": restarts or (1 if scene == "crashed" else 0),
                "state": states[scene],
            }
            for container in spec["containers"]
        ],
    }


def node(name: str) -> Obj:
    room = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "PodPlayer",
                    "message": "there is no kubelet: the pod player sets pod status",
                    "lastHeartbeatTime": now(),
                    "lastTransitionTime": now(),
                }
            ],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": dict.fromkeys(
                (
                    "machineID",
                    "systemUUID",
                    "bootID",
                    "kernelVersion",
                    "osImage",
                    "containerRuntimeVersion",
                    "kubeletVersion",
                    "kubeProxyVersion",
                    "operatingSystem",
                    "architecture",
                ),
                "lab",
            ),
        },
    }
