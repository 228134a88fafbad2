"""The Pod Security Standards: baseline and restricted, by version.

Owns the nineteen checks and the versions at which each began or changed. Source: kubernetes/pod-security-admission, policy.
It never looks beyond one pod specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from muster_core.policy.podspec import Pod, items, mapping, names

LATEST = 37
WINDOWS_SINCE = 25  # pods of Windows are exempt from what only Linux has


class Finding(NamedTuple):
    check: str
    path: str
    message: str


Check = Callable[[Pod, int], Iterator[Finding]]


# --- baseline ----------------------------------------------------------------------------------------------------


def _host_process(pod: Pod, version: int) -> Iterator[Finding]:
    for path, context in pod.contexts:
        if mapping(context.get("windowsOptions")).get("hostProcess"):
            yield Finding("windowsHostProcess", f"{path}.windowsOptions.hostProcess", "must not be true")


def _host_namespaces(pod: Pod, version: int) -> Iterator[Finding]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield Finding("hostNamespaces", f"spec.{field}", "must not be true")


def _privileged(pod: Pod, version: int) -> Iterator[Finding]:
    for path, context in pod.secured:
        if context.get("privileged"):
            yield Finding("privileged", f"{path}.privileged", "must not be true")


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


def _capabilities_baseline(pod: Pod, version: int) -> Iterator[Finding]:
    for path, context in pod.secured:
        added = mapping(context.get("capabilities")).get("add")
        bad = [name for name in names(added) if name not in BASELINE_CAPABILITIES]
        if bad:
            yield Finding(
                "capabilities_baseline",
                f"{path}.capabilities.add",
                f"must not include {', '.join(map(str, bad))}",
            )


def _host_path(pod: Pod, version: int) -> Iterator[Finding]:
    for index, volume in enumerate(items(pod.spec.get("volumes"))):
        if volume.get("hostPath") is not None:
            yield Finding("hostPathVolumes", f"spec.volumes[{index}].hostPath", "must not be set")


def _host_ports(pod: Pod, version: int) -> Iterator[Finding]:
    for path, container in pod.containers:
        for index, port in enumerate(items(container.get("ports"))):
            if port.get("hostPort"):
                yield Finding(
                    "hostPorts", f"{path}.ports[{index}].hostPort", f"must not be {port['hostPort']}"
                )


PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS = ("postStart", "preStop")


def _host_probes(pod: Pod, version: int) -> Iterator[Finding]:
    if version < 34:
        return
    for path, container in pod.containers:
        lifecycle = mapping(container.get("lifecycle"))
        handlers = [(name, container[name]) for name in PROBES if name in container]
        handlers += [(f"lifecycle.{name}", lifecycle[name]) for name in HOOKS if name in lifecycle]
        for name, value in handlers:
            handler = mapping(value)
            for action in ("httpGet", "tcpSocket"):
                host = mapping(handler.get(action)).get("host")
                if host:
                    yield Finding(
                        "hostProbesAndHostLifecycle", f"{path}.{name}.{action}.host", "must not be set"
                    )


GOOD_PROFILES = ("RuntimeDefault", "Localhost")
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def _apparmor(pod: Pod, version: int) -> Iterator[Finding]:
    for key, value in pod.annotations.items():
        if (
            key.startswith(APPARMOR)
            and value not in ("", "runtime/default")
            and not str(value).startswith("localhost/")
        ):
            yield Finding("appArmorProfile", f'metadata.annotations["{key}"]', f"must not be {value}")
    for path, context in pod.contexts:
        profile = context.get("appArmorProfile")
        if profile is not None and mapping(profile).get("type") not in GOOD_PROFILES:
            kind = mapping(profile).get("type")
            yield Finding("appArmorProfile", f"{path}.appArmorProfile.type", f"must not be {kind}")


SELINUX = frozenset({"", None, "container_t", "container_init_t", "container_kvm_t"})
SELINUX_31 = SELINUX | {"container_engine_t"}


def _selinux(pod: Pod, version: int) -> Iterator[Finding]:
    allowed = SELINUX_31 if version >= 31 else SELINUX
    for path, context in pod.contexts:
        options = mapping(context.get("seLinuxOptions"))
        if options.get("type") not in allowed:
            yield Finding("seLinuxOptions", f"{path}.seLinuxOptions.type", f"must not be {options['type']}")
        for field in ("user", "role"):
            if options.get(field):
                yield Finding("seLinuxOptions", f"{path}.seLinuxOptions.{field}", "must not be set")


def _proc_mount(pod: Pod, version: int) -> Iterator[Finding]:
    if version >= 35 and not pod.is_host_user:
        return
    for path, context in pod.secured:
        mount = context.get("procMount")
        if mount not in (None, "Default"):
            yield Finding("procMount", f"{path}.procMount", f"must not be {mount}")


SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"
FIELDS_SINCE = 19  # before it, seccomp was set by annotations


def _seccomp_baseline(pod: Pod, version: int) -> Iterator[Finding]:
    if version < FIELDS_SINCE:
        keys = {f"{SECCOMP_CONTAINER}{container.get('name')}" for _, container in pod.containers}
        for key, value in pod.annotations.items():
            if (key == SECCOMP_POD or key in keys) and not _old_profile(str(value)):
                where = f'metadata.annotations["{key}"]'
                yield Finding("seccompProfile_baseline", where, f"must not be {value}")
        return
    for path, context in pod.contexts:
        profile = context.get("seccompProfile")
        kind = mapping(profile).get("type")
        if profile is not None and kind not in GOOD_PROFILES:
            yield Finding("seccompProfile_baseline", f"{path}.seccompProfile.type", f"must not be {kind}")


def _old_profile(value: str) -> bool:
    return value in ("runtime/default", "docker/default") or value.startswith("localhost/")


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


def _sysctls(pod: Pod, version: int) -> Iterator[Finding]:
    for index, item in enumerate(items(pod.context.get("sysctls"))):
        if not any(item.get("name") in added for since, added in SYSCTLS if version >= since):
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


def _volumes(pod: Pod, version: int) -> Iterator[Finding]:
    for index, volume in enumerate(items(pod.spec.get("volumes"))):
        kinds = [key for key in volume if key != "name" and volume[key] is not None]
        if any(kind not in VOLUMES for kind in kinds):
            yield Finding(
                "restrictedVolumes", f"spec.volumes[{index}]", f"must not be of type {', '.join(kinds)}"
            )


def _escalation(pod: Pod, version: int) -> Iterator[Finding]:
    if version < 8 or (version >= WINDOWS_SINCE and pod.is_windows):
        return
    for path, context in pod.secured:
        if context.get("allowPrivilegeEscalation") is not False:
            yield Finding(
                "allowPrivilegeEscalation",
                f"{path}.allowPrivilegeEscalation",
                "must be false",
            )


def _non_root(pod: Pod, version: int) -> Iterator[Finding]:
    if version >= 35 and not pod.is_host_user:
        return
    of_pod = pod.context.get("runAsNonRoot")
    if of_pod is False:
        yield Finding("runAsNonRoot", "spec.securityContext.runAsNonRoot", "must not be false")
    for path, context in pod.secured:
        own = context.get("runAsNonRoot")
        if own is False or (own is None and of_pod is not True):
            yield Finding("runAsNonRoot", f"{path}.runAsNonRoot", "must be true, here or for the pod")


def _user(pod: Pod, version: int) -> Iterator[Finding]:
    if version < 23 or (version >= 35 and not pod.is_host_user):
        return
    for path, context in pod.contexts:
        if context.get("runAsUser") == 0:
            yield Finding("runAsUser", f"{path}.runAsUser", "must not be 0")


def _seccomp_restricted(pod: Pod, version: int) -> Iterator[Finding]:
    if version >= WINDOWS_SINCE and pod.is_windows:
        return
    good = GOOD_PROFILES
    of_pod = mapping(pod.context.get("seccompProfile")).get("type")
    if of_pod is not None and of_pod not in good:
        yield Finding(
            "seccompProfile_restricted", "spec.securityContext.seccompProfile.type", f"must not be {of_pod}"
        )
    for path, context in pod.secured:
        own = mapping(context.get("seccompProfile")).get("type")
        if (own or of_pod) not in good:
            yield Finding(
                "seccompProfile_restricted",
                f"{path}.seccompProfile.type",
                "must be RuntimeDefault or Localhost, here or for the pod",
            )


def _capabilities_restricted(pod: Pod, version: int) -> Iterator[Finding]:
    if version >= WINDOWS_SINCE and pod.is_windows:
        return
    for path, context in pod.secured:
        capabilities = mapping(context.get("capabilities"))
        if "ALL" not in names(capabilities.get("drop")):
            yield Finding("capabilities_restricted", f"{path}.capabilities.drop", "must include ALL")
        bad = [name for name in names(capabilities.get("add")) if name != "NET_BIND_SERVICE"]
        if bad:
            yield Finding(
                "capabilities_restricted",
                f"{path}.capabilities.add",
                f"must not include {', '.join(map(str, bad))}",
            )


def _proc_mount_restricted(pod: Pod, version: int) -> Iterator[Finding]:
    if version < 35:
        return
    for path, context in pod.secured:
        mount = context.get("procMount")
        if mount not in (None, "Default"):
            yield Finding("procMount_restricted", f"{path}.procMount", f"must not be {mount}")


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
RESTRICTED: tuple[tuple[Check, int, Check | None], ...] = (
    # check, since, and the baseline sibling for which it stands in from then on
    (_volumes, 0, _host_path),
    (_escalation, 8, None),
    (_non_root, 0, None),
    (_user, 23, None),
    (_seccomp_restricted, FIELDS_SINCE, _seccomp_baseline),
    (_capabilities_restricted, 22, _capabilities_baseline),
    (_proc_mount_restricted, 35, _proc_mount),
)
LEVELS = ("privileged", "baseline", "restricted")


def checks(level: str, version: int) -> tuple[Check, ...]:
    """What is checked at a level, in the order in which findings are told."""
    if level == "privileged":
        return ()
    if level == "baseline":
        return BASELINE
    added = [item for item in RESTRICTED if version >= item[1]]
    replaced = {sibling for _, _, sibling in added}
    return (*(check for check in BASELINE if check not in replaced), *(check for check, _, _ in added))


def parse_version(text: str) -> int | None:
    """The minor of ``latest`` or ``v1.N``; None when the text is neither. A version not known yet is the latest."""
    if text == "latest":
        return LATEST
    found = re.fullmatch(r"v?1\.([0-9]{1,4})", text)
    return min(int(found[1]), LATEST) if found else None


def findings(asked: tuple[Check, ...], version: int, pod: Pod) -> list[Finding]:
    """What a pod violates; :class:`MalformedError` when it cannot be read."""
    return [finding for check in asked for finding in check(pod, version)]
