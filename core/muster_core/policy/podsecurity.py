"""The Pod Security Standards: baseline and restricted, by version.

Owns the nineteen checks and the versions at which each began or changed. Source: kubernetes/pod-security-admission, policy.
It never looks beyond one pod specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

LATEST = 37
OLDEST = 25


class Finding(NamedTuple):
    check: str
    path: str
    message: str


Pod = Mapping[str, Any]
Check = Callable[[Pod, Mapping[str, Any], int], Iterator[Finding]]


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _containers(spec: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(_list(spec.get(field))):
            yield f"spec.{field}[{index}]", container


def _contexts(spec: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "spec.securityContext", _map(spec.get("securityContext"))
    for path, container in _containers(spec):
        yield f"{path}.securityContext", _map(container.get("securityContext"))


def _windows(spec: Pod) -> bool:
    return bool(_map(spec.get("os")).get("name") == "windows")


def _host_user(spec: Pod) -> bool:
    """A pod in a user namespace of its own relaxes some checks from 1.35 on."""
    return spec.get("hostUsers") is not False


# --- baseline ----------------------------------------------------------------------------------------------------


def _host_process(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for path, context in _contexts(spec):
        if _map(context.get("windowsOptions")).get("hostProcess"):
            yield Finding("windowsHostProcess", f"{path}.windowsOptions.hostProcess", "must not be true")


def _host_namespaces(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield Finding("hostNamespaces", f"spec.{field}", "must not be true")


def _privileged(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for path, container in _containers(spec):
        if _map(container.get("securityContext")).get("privileged"):
            yield Finding("privileged", f"{path}.securityContext.privileged", "must not be true")


BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)


def _capabilities_baseline(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for path, container in _containers(spec):
        added = _map(_map(container.get("securityContext")).get("capabilities")).get("add") or []
        bad = [name for name in added if name not in BASELINE_CAPABILITIES]
        if bad:
            yield Finding(
                "capabilities_baseline",
                f"{path}.securityContext.capabilities.add",
                f"must not include {', '.join(map(str, bad))}",
            )


def _host_path(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for index, volume in enumerate(_list(spec.get("volumes"))):
        if "hostPath" in volume:
            yield Finding("hostPathVolumes", f"spec.volumes[{index}].hostPath", "must not be set")


def _host_ports(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for path, container in _containers(spec):
        for index, port in enumerate(_list(container.get("ports"))):
            if port.get("hostPort"):
                yield Finding(
                    "hostPorts", f"{path}.ports[{index}].hostPort", f"must not be {port['hostPort']}"
                )


def _host_probes(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if version < 34:
        return
    for path, container in _containers(spec):
        lifecycle = _map(container.get("lifecycle"))
        handlers = {
            name: _map(container.get(name)) for name in ("livenessProbe", "readinessProbe", "startupProbe")
        }
        handlers |= {f"lifecycle.{name}": _map(lifecycle.get(name)) for name in ("postStart", "preStop")}
        for name, handler in handlers.items():
            for action in ("httpGet", "tcpSocket"):
                host = _map(handler.get(action)).get("host")
                if host:
                    yield Finding(
                        "hostProbesAndHostLifecycle", f"{path}.{name}.{action}.host", "must not be set"
                    )


APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def _apparmor(spec: Pod, metadata: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for key, value in _map(metadata.get("annotations")).items():
        if (
            key.startswith(APPARMOR)
            and value not in ("", "runtime/default")
            and not str(value).startswith("localhost/")
        ):
            yield Finding("appArmorProfile", f'metadata.annotations["{key}"]', f"must not be {value}")
    if version >= 30:
        for path, context in _contexts(spec):
            kind = _map(context.get("appArmorProfile")).get("type")
            if kind not in (None, "RuntimeDefault", "Localhost"):
                yield Finding("appArmorProfile", f"{path}.appArmorProfile.type", f"must not be {kind}")


def _selinux(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    allowed = {"", None, "container_t", "container_init_t", "container_kvm_t"} | (
        {"container_engine_t"} if version >= 31 else set()
    )
    for path, context in _contexts(spec):
        options = _map(context.get("seLinuxOptions"))
        if options.get("type") not in allowed:
            yield Finding("seLinuxOptions", f"{path}.seLinuxOptions.type", f"must not be {options['type']}")
        for field in ("user", "role"):
            if options.get(field):
                yield Finding("seLinuxOptions", f"{path}.seLinuxOptions.{field}", "must not be set")


def _proc_mount(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if version >= 35 and not _host_user(spec):
        return
    for path, container in _containers(spec):
        mount = _map(container.get("securityContext")).get("procMount")
        if mount not in (None, "Default"):
            yield Finding("procMount", f"{path}.securityContext.procMount", f"must not be {mount}")


def _seccomp_baseline(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for path, context in _contexts(spec):
        kind = _map(context.get("seccompProfile")).get("type")
        if kind not in (None, "RuntimeDefault", "Localhost"):
            yield Finding("seccompProfile_baseline", f"{path}.seccompProfile.type", f"must not be {kind}")


SYSCTLS: tuple[tuple[int, frozenset[str]], ...] = (
    (
        0,
        frozenset(
            {
                "kernel.shm_rmid_forced",
                "net.ipv4.ip_local_port_range",
                "net.ipv4.tcp_syncookies",
                "net.ipv4.ping_group_range",
                "net.ipv4.ip_unprivileged_port_start",
            }
        ),
    ),
    (27, frozenset({"net.ipv4.ip_local_reserved_ports"})),
    (
        29,
        frozenset(
            {
                "net.ipv4.tcp_keepalive_time",
                "net.ipv4.tcp_fin_timeout",
                "net.ipv4.tcp_keepalive_intvl",
                "net.ipv4.tcp_keepalive_probes",
            }
        ),
    ),
    (32, frozenset({"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"})),
    (37, frozenset({"net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat"})),
)


def _sysctls(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    allowed = frozenset().union(*(names for since, names in SYSCTLS if version >= since))
    for index, item in enumerate(_list(_map(spec.get("securityContext")).get("sysctls"))):
        if item.get("name") not in allowed:
            yield Finding(
                "sysctls", f"spec.securityContext.sysctls[{index}].name", f"must not be {item.get('name')}"
            )


# --- restricted --------------------------------------------------------------------------------------------------

VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)


def _volumes(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    for index, volume in enumerate(_list(spec.get("volumes"))):
        kinds = [key for key in volume if key != "name"]
        if any(kind not in VOLUMES for kind in kinds):
            yield Finding(
                "restrictedVolumes", f"spec.volumes[{index}]", f"must not be of type {', '.join(kinds)}"
            )


def _escalation(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if _windows(spec):
        return
    for path, container in _containers(spec):
        if _map(container.get("securityContext")).get("allowPrivilegeEscalation") is not False:
            yield Finding(
                "allowPrivilegeEscalation",
                f"{path}.securityContext.allowPrivilegeEscalation",
                "must be false",
            )


def _non_root(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if version >= 35 and not _host_user(spec):
        return
    pod = _map(spec.get("securityContext")).get("runAsNonRoot")
    if pod is False:
        yield Finding("runAsNonRoot", "spec.securityContext.runAsNonRoot", "must not be false")
    for path, container in _containers(spec):
        own = _map(container.get("securityContext")).get("runAsNonRoot")
        if own is False or (own is None and pod is not True):
            yield Finding(
                "runAsNonRoot", f"{path}.securityContext.runAsNonRoot", "must be true, here or for the pod"
            )


def _user(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if version >= 35 and not _host_user(spec):
        return
    for path, context in _contexts(spec):
        if context.get("runAsUser") == 0:
            yield Finding("runAsUser", f"{path}.runAsUser", "must not be 0")


def _seccomp_restricted(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if _windows(spec):
        return
    good = ("RuntimeDefault", "Localhost")
    pod = _map(_map(spec.get("securityContext")).get("seccompProfile")).get("type")
    if pod is not None and pod not in good:
        yield Finding(
            "seccompProfile_restricted", "spec.securityContext.seccompProfile.type", f"must not be {pod}"
        )
    for path, container in _containers(spec):
        own = _map(_map(container.get("securityContext")).get("seccompProfile")).get("type")
        if (own or pod) not in good:
            yield Finding(
                "seccompProfile_restricted",
                f"{path}.securityContext.seccompProfile.type",
                "must be RuntimeDefault or Localhost, here or for the pod",
            )


def _capabilities_restricted(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if _windows(spec):
        return
    for path, container in _containers(spec):
        capabilities = _map(_map(container.get("securityContext")).get("capabilities"))
        if "ALL" not in (capabilities.get("drop") or []):
            yield Finding(
                "capabilities_restricted", f"{path}.securityContext.capabilities.drop", "must include ALL"
            )
        bad = [name for name in capabilities.get("add") or [] if name != "NET_BIND_SERVICE"]
        if bad:
            yield Finding(
                "capabilities_restricted",
                f"{path}.securityContext.capabilities.add",
                f"must not include {', '.join(map(str, bad))}",
            )


def _proc_mount_restricted(spec: Pod, _: Mapping[str, Any], version: int) -> Iterator[Finding]:
    if version < 35:
        return
    for path, container in _containers(spec):
        mount = _map(container.get("securityContext")).get("procMount")
        if mount not in (None, "Default"):
            yield Finding("procMount_restricted", f"{path}.securityContext.procMount", f"must not be {mount}")


BASELINE: tuple[Check, ...] = (
    _host_process,
    _host_namespaces,
    _privileged,
    _capabilities_baseline,
    _host_path,
    _host_ports,
    _host_probes,
    _apparmor,
    _selinux,
    _proc_mount,
    _seccomp_baseline,
    _sysctls,
)
# A restricted check stands in for its baseline sibling where both would say the same.
RESTRICTED: tuple[Check, ...] = (
    _host_process,
    _host_namespaces,
    _privileged,
    _host_ports,
    _host_probes,
    _apparmor,
    _selinux,
    _proc_mount,
    _sysctls,
    _volumes,
    _escalation,
    _non_root,
    _user,
    _seccomp_restricted,
    _capabilities_restricted,
    _proc_mount_restricted,
)
LEVELS: Mapping[str, tuple[Check, ...]] = {"privileged": (), "baseline": BASELINE, "restricted": RESTRICTED}


def parse_version(text: str) -> int | None:
    """The minor of ``latest`` or ``v1.N``; None when the text is neither."""
    if text == "latest":
        return LATEST
    minor = text.removeprefix("v").removeprefix("1.")
    return int(minor) if minor.isdigit() and text.removeprefix("v").startswith("1.") else None


def findings(level: str, version: int, spec: Pod, metadata: Mapping[str, Any]) -> list[Finding]:
    """What a pod specification violates at this level."""
    return [finding for check in LEVELS[level] for finding in check(spec, metadata, version)]
