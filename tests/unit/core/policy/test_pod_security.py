"""Pod Security where the fixtures of others do not look: templates, versions, and what is malformed."""

from __future__ import annotations

from typing import Any

import pytest
from muster_core.policy import PodSecuritySettings, PolicyError, Verdict, blocked, compile_policies

CONTAINER: dict[str, Any] = {"name": "a", "image": "a"}
HARDENED: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            **CONTAINER,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
PRIVILEGED = {"containers": [{**CONTAINER, "securityContext": {"privileged": True}}]}
TEMPLATES = {
    "v1/Pod": (),
    "v1/PodTemplate": ("template",),
    "v1/ReplicationController": ("spec", "template"),
    "apps/v1/Deployment": ("spec", "template"),
    "apps/v1/ReplicaSet": ("spec", "template"),
    "apps/v1/StatefulSet": ("spec", "template"),
    "apps/v1/DaemonSet": ("spec", "template"),
    "batch/v1/Job": ("spec", "template"),
    "batch/v1/CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def judge(
    spec: Any, kind: str = "v1/Pod", level: str = "restricted", version: str = "latest", **metadata: Any
) -> list[Verdict]:
    body: dict[str, Any] = {"metadata": metadata, "spec": spec}
    for step in reversed(TEMPLATES.get(kind, ())):
        body = {step: body}
    api, _, name = kind.rpartition("/")
    own = {**body.get("metadata", {}), "name": "a", "namespace": "b"}
    policies = compile_policies([], PodSecuritySettings(level, None, version))
    return list(policies.evaluate([{**body, "apiVersion": api, "kind": name, "metadata": own}]))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_workload_is_judged_by_its_template(kind: str) -> None:
    assert [v.status for v in judge(HARDENED, kind)] == ["pass"]
    [verdict] = blocked(judge(PRIVILEGED, kind, "baseline"))
    assert verdict.rule == "privileged"
    assert verdict.path == ".".join([*TEMPLATES[kind], "spec.containers[0].securityContext.privileged"])


def test_another_projects_job_is_no_workload() -> None:
    assert judge(PRIVILEGED, "batch.example.org/v1/Job") == []


@pytest.mark.parametrize("field", ["containers", "initContainers", "ephemeralContainers"])
def test_every_kind_of_container_is_looked_at(field: str) -> None:
    assert blocked(judge({**HARDENED, field: PRIVILEGED["containers"]}, level="baseline"))


@pytest.mark.parametrize(
    "spec",
    [
        None,
        "text",
        {"containers": "text"},
        {"containers": ["text"]},
        {"containers": {"a": 1}},
        {**HARDENED, "volumes": "text"},
        {**HARDENED, "securityContext": []},
        {"containers": [{**CONTAINER, "securityContext": "text"}]},
        {"containers": [{**CONTAINER, "securityContext": {"capabilities": {"add": "SYS_ADMIN"}}}]},
    ],
)
def test_what_is_malformed_never_passes(spec: Any) -> None:
    for level in ("baseline", "restricted"):
        assert blocked(judge(spec, level=level))


def test_a_level_that_warns_forbids_nothing() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": PRIVILEGED}
    verdicts = compile_policies([], PodSecuritySettings(None, "baseline")).evaluate([pod])
    assert [v.action for v in verdicts] == ["warn"]
    assert not blocked(verdicts)


@pytest.mark.parametrize(
    ("since", "before", "spec"),
    [
        (34, False, {"containers": [{**CONTAINER, "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
        (
            19,
            False,
            {"containers": [{**CONTAINER, "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]},
        ),
        (31, True, {"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}, "containers": []}),
        (
            27,
            True,
            {
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]},
                "containers": [],
            },
        ),
        (
            29,
            True,
            {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_fin_timeout"}]}, "containers": []},
        ),
        (32, True, {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}, "containers": []}),
        (
            37,
            True,
            {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_notsent_lowat"}]}, "containers": []},
        ),
        (
            35,
            True,
            {"hostUsers": False, "containers": [{**CONTAINER, "securityContext": {"procMount": "Unmasked"}}]},
        ),
    ],
)
def test_a_version_changes_the_verdict(since: int, before: bool, spec: dict[str, Any]) -> None:
    assert bool(blocked(judge(spec, level="baseline", version=f"v1.{since - 1}"))) is before
    assert bool(blocked(judge(spec, level="baseline", version=f"v1.{since}"))) is not before


def test_a_version_to_come_is_the_latest_and_nonsense_is_refused() -> None:
    assert judge(HARDENED, version="v1.99")[0].status == "pass"
    for version in ("1", "v2.1", "newest", "v1.x", ""):
        with pytest.raises(PolicyError, match="version"):
            judge(HARDENED, version=version)
    with pytest.raises(PolicyError, match="level"):
        judge(HARDENED, level="strict")


def test_null_is_absent() -> None:
    spec = {**HARDENED, "volumes": [{"name": "v", "hostPath": None, "emptyDir": {}}], "initContainers": None}
    assert judge(spec)[0].status == "pass"
