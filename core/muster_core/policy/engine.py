"""All policies of one commit, compiled, indexed by kind, and asked together.

Owns the set, its digest, and which documents are policies at all. It never fetches: what rules need is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from muster_core.manifest.objects import digest, ref_of
from muster_core.policy import podsecurity
from muster_core.policy.kyverno import compile_policy
from muster_core.policy.podspec import MalformedError, Pod
from muster_core.policy.verdict import Action, CompiledRule, Context, PolicyError, Verdict
from muster_core.policy.workloads import KINDS, template_of

_KYVERNO = re.compile(r"^kyverno\.io/v\d")


class PodSecuritySettings(NamedTuple):
    """Levels are privileged, baseline, restricted; ``version`` is ``latest`` or ``v1.N``."""

    enforce: str | None
    warn: str | None
    version: str = "latest"


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Immutable; equal digests mean equal verdicts."""

    digest: str
    rules: tuple[CompiledRule, ...]
    _index: Mapping[str, tuple[CompiledRule, ...]]
    _any: tuple[CompiledRule, ...]

    def evaluate(
        self,
        objects: Sequence[Mapping[str, Any]],
        *,
        namespace_labels: Mapping[str, Mapping[str, str]] | None = None,
        exists: frozenset[str] = frozenset(),
    ) -> tuple[Verdict, ...]:
        """Every verdict but those of rules that do not mean the object, in the order of objects and rules.

        ``exists`` names objects (as :class:`ObjectRef` prints them) that are there already.
        """
        known = namespace_labels or {}
        verdicts = []
        for obj in objects:
            ref = ref_of(obj)
            name = str(ref)
            labels = (
                {**known.get(ref.namespace, {}), "kubernetes.io/metadata.name": ref.namespace}
                if ref.namespace
                else {}
            )
            context = Context(obj, None, "UPDATE" if name in exists else "CREATE", labels, name=name)
            for rule in (*self._index.get(ref.kind.lower(), ()), *self._any):
                try:
                    verdict = rule.evaluate(context)
                except Exception as error:  # noqa: BLE001 - whatever goes wrong in a rule, the object does not pass
                    what = f"the rule could not be judged ({type(error).__name__})"
                    verdict = Verdict("error", rule.policy, rule.rule, name, "", what, "deny")
                if verdict is not None:
                    verdicts.append(verdict)
        return tuple(verdicts)


def compile_policies(
    documents: Sequence[tuple[str, int, Mapping[str, Any]]], pod_security: PodSecuritySettings | None
) -> PolicySet:
    """A set from ``(file, line, value)``; :class:`PolicyError` rejects all of it for one feature that is not built."""
    rules: list[CompiledRule] = []
    errors: list[PolicyError] = []
    ordered = sorted(documents, key=lambda item: (item[0], item[1]))
    seen: dict[tuple[str, str], str] = {}
    for file, line, value in ordered:
        try:
            _refuse_others(file, line, value)
            _refuse_twins(file, line, value, seen)
            rules += compile_policy(file, line, value)
        except PolicyError as error:
            errors.append(error)
    if errors:
        raise _together(errors)
    if pod_security:
        rules += _pod_security(pod_security)
    index: dict[str, list[CompiledRule]] = {}
    for rule in rules:
        for key in rule.kinds:
            index.setdefault(key, []).append(rule)
    content = [[file, dict(value)] for file, _, value in ordered]
    settings = list(pod_security) if pod_security else None
    return PolicySet(
        digest({"documents": content, "podSecurity": settings}),
        tuple(rules),
        {key: tuple(found) for key, found in index.items()},
        tuple(rule for rule in rules if not rule.kinds),
    )


def _refuse_others(file: str, line: int, value: Mapping[str, Any]) -> None:
    kind, version = str(value.get("kind")), str(value.get("apiVersion"))
    if not _KYVERNO.match(version) or kind not in {"ClusterPolicy", "Policy"}:
        raise PolicyError(
            "P011",
            f"{file}:{line}: kind: {version} {kind} is not supported yet",
            object=file,
            hint="Supported: kyverno.io ClusterPolicy and Policy with validate.pattern or anyPattern.",
        )


def _refuse_twins(file: str, line: int, value: Mapping[str, Any], seen: dict[tuple[str, str], str]) -> None:
    """Two policies of one name would be one in a cluster, and nobody could tell which."""
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    namespace = metadata.get("namespace") or "default" if value.get("kind") == "Policy" else ""
    key = (str(namespace), str(metadata.get("name")))
    if key in seen:
        raise PolicyError(
            "P010", f"{file}:{line}: metadata.name: {key[1]!r} is also in {seen[key]}", object=key[1]
        )
    seen[key] = f"{file}:{line}"


def _together(errors: list[PolicyError]) -> PolicyError:
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    lines = "\n".join(error.message for error in errors)
    return PolicyError(first.code, f"{len(errors)} policies cannot be used:\n{lines}", hint=first.hint)


def _pod_security(settings: PodSecuritySettings) -> list[CompiledRule]:
    version = podsecurity.parse_version(settings.version)
    if version is None:
        raise PolicyError(
            "P012",
            f"podSecurity.version: {settings.version!r} is no version; write latest or v1.N",
            object="fleet.yaml",
        )
    levels: list[tuple[str | None, Action]] = [(settings.enforce, "deny"), (settings.warn, "warn")]
    for level, _ in levels:
        if level and level not in podsecurity.LEVELS:
            known = ", ".join(podsecurity.LEVELS)
            raise PolicyError(
                "P012", f"podSecurity: {level!r} is no level; known are {known}", object="fleet.yaml"
            )
    return [_level(level, action, version) for level, action in levels if level and level != "privileged"]


def _level(level: str, action: Action, version: int) -> CompiledRule:
    policy = f"pod-security/{level}"
    asked = podsecurity.checks(level, version)

    def evaluate(context: Context) -> Verdict | None:
        found = template_of(context.obj)
        if found is None:
            return None
        path, template = found
        name = context.name or str(ref_of(context.obj))
        if not isinstance(template, Mapping) or not isinstance(template.get("spec"), Mapping):
            where = ".".join([*path, "spec"])
            return Verdict(
                "error", policy, level, name, where, "there is no pod specification to judge", "deny"
            )
        metadata = template.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            where = ".".join([*path, "metadata"])
            return Verdict("error", policy, level, name, where, "a mapping is expected", "deny")
        try:
            findings = podsecurity.findings(asked, version, Pod(template["spec"], metadata))
        except MalformedError as error:
            return Verdict("error", policy, level, name, ".".join([*path, "spec"]), str(error), "deny")
        if not findings:
            return Verdict("pass", policy, level, name, "", "", action)
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        where = ".".join([*path, first.path])
        return Verdict(
            "fail", policy, first.check, name, where, f"{first.path} {first.message}{more}", action
        )

    return CompiledRule(policy, level, KINDS, frozenset(), evaluate)
