"""Kyverno ``ClusterPolicy`` and ``Policy`` with validate patterns, compiled to rules.

Owns what of the format is built (pattern, anyPattern, failure actions, autogen for pod controllers) and the refusal, by
name, of everything else: a policy is never half enforced. Source: kyverno api/kyverno/v1, pkg/autogen, pkg/engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from muster_core.manifest.objects import ref_of
from muster_core.policy import wildcard
from muster_core.policy.match import Filters, Kind, Test, Where, parse_filters, parse_selector, selected
from muster_core.policy.pattern import BadPatternError, Matcher, Mismatch, compile_pattern
from muster_core.policy.verdict import Action, CompiledRule, Context, Verdict

AUTOGEN = "pod-policies.kyverno.io/autogen-controllers"
# The group is named, so that another project's Deployment is not taken for one.
CONTROLLERS: Mapping[str, Kind] = {
    "DaemonSet": Kind("apps", "*", "DaemonSet"),
    "Deployment": Kind("apps", "*", "Deployment"),
    "Job": Kind("batch", "*", "Job"),
    "ReplicaSet": Kind("apps", "*", "ReplicaSet"),
    "ReplicationController": Kind("", "*", "ReplicationController"),
    "StatefulSet": Kind("apps", "*", "StatefulSet"),
    "CronJob": Kind("batch", "*", "CronJob"),
}
LONGEST_NAME = 63
SPEC_FIELDS = {
    "rules",
    "validationFailureAction",
    "validationFailureActionOverrides",
    "background",
    "failurePolicy",
    "admission",
    "emitWarning",
    "schemaValidation",
    "webhookTimeoutSeconds",
    "webhookConfiguration",
}
WEBHOOK_FIELDS = {"failurePolicy", "timeoutSeconds"}
RULE_FIELDS = {"name", "match", "exclude", "validate", "skipBackgroundRequests", "reportProperties"}
VALIDATE_FIELDS = {
    "message",
    "pattern",
    "anyPattern",
    "failureAction",
    "failureActionOverrides",
    "allowExistingViolations",
}
Chosen = Callable[[Context], Action]


class _Rule(NamedTuple):
    """A rule as written, checked."""

    name: str
    include: Filters
    exclude: Filters | None
    patterns: list[Any]
    message: str
    action: Chosen
    path: str
    by_namespace: bool


def compile_policy(file: str, line: int, document: Mapping[str, Any]) -> list[CompiledRule]:
    """The rules of one policy, with those that autogen adds; :class:`PolicyError` names what is not built."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = str(metadata.get("name") or "")
    where = Where(file, line, name)
    if not name:
        raise where.refuse("metadata.name", "is missing")
    for key in document:
        if key not in {"apiVersion", "kind", "metadata", "spec", "status"}:
            raise where.refuse(str(key), "is not known")
    spec = where.only(document.get("spec"), SPEC_FIELDS, "spec")
    # Conditions there would narrow what the policy means.
    where.only(spec.get("webhookConfiguration") or {}, WEBHOOK_FIELDS, "spec.webhookConfiguration")
    if not isinstance(spec.get("rules"), list) or not spec["rules"]:
        raise where.refuse("spec.rules", "at least one rule is expected")
    rules = [_parsed(where, spec, rule, f"spec.rules[{i}]") for i, rule in enumerate(spec["rules"])]
    names = [rule.name for rule in rules]
    for index, rule_name in enumerate(names):
        if rule_name in names[:index]:
            raise where.refuse(f"spec.rules[{index}].name", f"{rule_name!r} is there twice")
    namespace = str(metadata.get("namespace") or "default") if document.get("kind") == "Policy" else ""
    annotations = metadata.get("annotations")
    asked = str(annotations.get(AUTOGEN, "all")) if isinstance(annotations, Mapping) else "all"
    chosen = _controllers(rules, asked)
    compiled: list[CompiledRule] = []
    for rule in rules:
        compiled.append(_compiled(where, rule, namespace))
        compiled += [_compiled(where, variant, namespace) for variant in _variants(rule, chosen)]
    return compiled


def _parsed(where: Where, spec: Mapping[str, Any], value: Any, path: str) -> _Rule:
    rule = where.only(value, RULE_FIELDS, path)
    name = str(rule.get("name") or "")
    if not name:
        raise where.refuse(f"{path}.name", "is missing")
    validate = where.only(rule.get("validate"), VALIDATE_FIELDS, f"{path}.validate")
    if ("pattern" in validate) == ("anyPattern" in validate):
        raise where.refuse(f"{path}.validate", "exactly one of pattern and anyPattern is expected")
    patterns = [validate["pattern"]] if "pattern" in validate else validate["anyPattern"]
    if not isinstance(patterns, list) or not patterns:
        raise where.refuse(f"{path}.validate.anyPattern", "a list of patterns is expected")
    for key, item in rule.items():
        if key != "validate":
            _refuse_variables(where, item, f"{path}.{key}")
    _refuse_variables(where, patterns, f"{path}.validate.pattern")
    include = parse_filters(where, rule.get("match"), f"{path}.match")
    if include is None:
        raise where.refuse(f"{path}.match", "is missing or empty")
    action, by_namespace = _action(where, spec, validate, f"{path}.validate")
    return _Rule(
        name,
        include,
        parse_filters(where, rule.get("exclude"), f"{path}.exclude"),
        patterns,
        str(validate.get("message") or ""),
        action,
        path,
        by_namespace,
    )


def _refuse_variables(where: Where, value: Any, path: str) -> None:
    """``{{ }}`` and ``$( )``. A message may hold them: it is shown as written."""
    if isinstance(value, str):
        if "{{" in value:
            raise where.refuse(path, "variables ({{ }}) are not supported yet")
        if "$(" in value:
            raise where.refuse(path, "references ($( )) are not supported yet")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_variables(where, key, path)
            _refuse_variables(where, inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_variables(where, inner, f"{path}[{index}]")


# --- what a failure does -----------------------------------------------------------------------------------------


def _action(
    where: Where, spec: Mapping[str, Any], validate: Mapping[str, Any], path: str
) -> tuple[Chosen, bool]:
    """The rule's overrides, the rule's action, the policy's overrides, the policy's action: the first that speaks."""
    audit: Action = "warn" if spec.get("emitWarning") is True else "audit"
    enforce: Action = audit if spec.get("admission") is False else "deny"

    def read(text: Any, at: str) -> Action:
        if str(text).lower() not in {"enforce", "audit"}:
            raise where.refuse(at, f"{text!r} is neither Enforce nor Audit")
        return enforce if str(text).lower() == "enforce" else audit

    def overrides(value: Any, at: str) -> list[tuple[Test, Action]]:
        if not isinstance(value, list | None):
            raise where.refuse(at, "a list is expected")
        found = []
        for index, item in enumerate(value or []):
            entry = where.only(item, {"action", "namespaces", "namespaceSelector"}, f"{at}[{index}]")
            found.append(
                (
                    _override(where, entry, f"{at}[{index}]"),
                    read(entry.get("action"), f"{at}[{index}].action"),
                )
            )
        return found

    first = overrides(validate.get("failureActionOverrides"), f"{path}.failureActionOverrides")
    policy_wide = spec.get("validationFailureActionOverrides")
    rest = overrides(policy_wide, "spec.validationFailureActionOverrides")
    default = read(spec.get("validationFailureAction") or "Audit", "spec.validationFailureAction")
    if validate.get("failureAction"):
        rest, default = [], read(validate["failureAction"], f"{path}.failureAction")
    tests = [*first, *rest]
    by_namespace = any(
        "namespaceSelector" in item
        for item in [*(validate.get("failureActionOverrides") or []), *(policy_wide or [])]
    )
    return (lambda context: next((action for test, action in tests if test(context)), default)), by_namespace


def _override(where: Where, entry: Mapping[str, Any], path: str) -> Test:
    names = where.texts(entry.get("namespaces"), f"{path}.namespaces")
    means = wildcard.any_of(list(names))
    given = entry.get("namespaceSelector")
    selector = parse_selector(where, given, f"{path}.namespaceSelector") if given is not None else None

    def test(context: Context) -> bool:
        namespace = str((context.obj.get("metadata") or {}).get("namespace") or "")
        if names and not means(namespace):
            return False
        return selected(selector, context.namespace_labels) if selector is not None else bool(names)

    return test


# --- autogen -----------------------------------------------------------------------------------------------------


def _controllers(rules: list[_Rule], asked: str) -> tuple[str, ...]:
    """For which controllers the rules of this policy are repeated. One rule that names objects cancels it for all."""
    blocks = [
        block for rule in rules for part in (rule.include, rule.exclude) if part for block in part.blocks
    ]
    if any(block.specific or (len(block.kinds) > 1 and block.names_pods) for block in blocks):
        return ()
    # Written without group and version; v1/Pod asks for pods alone, as in Kyverno.
    plain = {Kind("*", "*", name) for name in ("Pod", *CONTROLLERS)}
    if not any(kind in plain for block in blocks for kind in block.kinds):
        return ()
    if asked in ("all", ""):
        return tuple(CONTROLLERS)
    wanted = {name.strip() for name in asked.split(",")}
    return tuple(CONTROLLERS) if "all" in wanted else tuple(name for name in CONTROLLERS if name in wanted)


def _variants(rule: _Rule, chosen: tuple[str, ...]) -> Iterator[_Rule]:
    """The rules that are added for pod controllers."""
    if rule.name.startswith("autogen-") or not any(block.names_pods for block in rule.include.blocks):
        return
    excluded = [block for block in (rule.exclude.blocks if rule.exclude else ()) if block.kinds]
    if excluded and not any(block.names_pods for block in excluded):
        return
    plain = tuple(CONTROLLERS[name] for name in chosen if name != "CronJob")
    if plain:
        yield _moved(rule, "autogen", plain, ("spec", "template"))
    if "CronJob" in chosen:
        to = (CONTROLLERS["CronJob"],)
        yield _moved(rule, "autogen-cronjob", to, ("spec", "jobTemplate", "spec", "template"))


def _moved(rule: _Rule, prefix: str, kinds: tuple[Kind, ...], steps: tuple[str, ...]) -> _Rule:
    patterns = rule.patterns
    for step in reversed(steps):
        patterns = [{step: pattern} for pattern in patterns]
    return rule._replace(
        name=f"{prefix}-{rule.name}"[:LONGEST_NAME],
        include=rule.include.moved(kinds),
        exclude=rule.exclude.moved(kinds) if rule.exclude else None,
        patterns=patterns,
    )


# --- rules -------------------------------------------------------------------------------------------------------


def _compiled(where: Where, rule: _Rule, namespace: str) -> CompiledRule:
    matchers = _matchers(where, rule)
    included = rule.include.test()
    excluded = rule.exclude.test() if rule.exclude else None
    policy, name, message, action = where.policy, rule.name, rule.message, rule.action

    def evaluate(context: Context) -> Verdict | None:
        if namespace and (context.obj.get("metadata") or {}).get("namespace") != namespace:
            return None
        if not included(context) or (excluded is not None and excluded(context)):
            return None
        misses: list[Mismatch] = []
        for matcher in matchers:
            missed = matcher(context.obj)
            if missed is None:
                return Verdict(
                    "pass", policy, name, context.name or str(ref_of(context.obj)), "", "", action(context)
                )
            misses.append(missed)
        ref = context.name or str(ref_of(context.obj))
        real = [missed for missed in misses if not missed.skip]
        if not real:
            return Verdict("skip", policy, name, ref, "", "", action(context))
        said = message or f"{real[0].path} {real[0].message}"
        return Verdict("fail", policy, name, ref, real[0].path, said, action(context))

    blocks = [*rule.include.blocks, *(rule.exclude.blocks if rule.exclude else ())]
    labels = rule.by_namespace or any(block.namespace_labels for block in blocks)
    return CompiledRule(
        policy, name, _index(rule.include), frozenset({"namespaceLabels"} if labels else ()), evaluate
    )


def _matchers(where: Where, rule: _Rule) -> list[Matcher]:
    try:
        return [compile_pattern(pattern) for pattern in rule.patterns]
    except BadPatternError as error:
        raise where.refuse(f"{rule.path}.validate.pattern.{error.path}", error.what) from error


def _index(include: Filters) -> frozenset[str]:
    """The kinds under which the rule is found; empty when it may mean any."""
    kinds: set[str] = set()
    for block in include.blocks:
        names = {kind.kind.lower() for kind in block.kinds}
        if not names or any(wildcard.has_wildcard(name) for name in names):
            if include.mode == "any":
                return frozenset()
            continue
        kinds |= names
    return frozenset(kinds)
