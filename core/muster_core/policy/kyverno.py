"""Kyverno ``ClusterPolicy`` and ``Policy`` with validate patterns, compiled to rules.

Owns what of the format is built (match, exclude, pattern, anyPattern, failure actions, autogen for pod controllers) and the
refusal, by name, of everything else: a policy is never half enforced. Source: kyverno api/kyverno/v1, pkg/autogen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from muster_core.kinds.model import Requirement, Selector
from muster_core.manifest.objects import ref_of
from muster_core.policy.pattern import Mismatch, match
from muster_core.policy.verdict import Action, CompiledRule, Context, PolicyError, Verdict
from muster_core.policy.wildcard import matches as wildcard
from muster_core.select import matches as selects

AUTOGEN = "pod-policies.kyverno.io/autogen-controllers"
CONTROLLERS = (
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
    "CronJob",
)
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
RULE_FIELDS = {"name", "match", "exclude", "validate", "skipBackgroundRequests"}
VALIDATE_FIELDS = {
    "message",
    "pattern",
    "anyPattern",
    "failureAction",
    "failureActionOverrides",
    "allowExistingViolations",
}
RESOURCE_FIELDS = {
    "kinds",
    "name",
    "names",
    "namespaces",
    "annotations",
    "selector",
    "namespaceSelector",
    "operations",
}


class _Where:
    """A place in a document, for errors."""

    def __init__(self, file: str, line: int, policy: str) -> None:
        self.file, self.line, self.policy = file, line, policy

    def refuse(self, path: str, what: str) -> PolicyError:
        return PolicyError("P010", f"{self.file}:{self.line}: {path}: {what}", object=self.policy)

    def only(self, value: Any, allowed: set[str], path: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(path, "a mapping is expected")
        for key in value:
            if key not in allowed:
                raise self.refuse(f"{path}.{key}", "is not supported yet")
        return value


def compile_policy(file: str, line: int, document: Mapping[str, Any]) -> list[CompiledRule]:
    """The rules of one policy, with those that autogen adds; :class:`PolicyError` names what is not built."""
    metadata = document.get("metadata") if isinstance(document.get("metadata"), Mapping) else {}
    name = str((metadata or {}).get("name") or "")
    where = _Where(file, line, name)
    if not name:
        raise where.refuse("metadata.name", "is missing")
    spec = where.only(document.get("spec"), SPEC_FIELDS, "spec")
    namespace = str((metadata or {}).get("namespace") or "") if document.get("kind") == "Policy" else ""
    rules = spec.get("rules")
    if not isinstance(rules, list) or not rules:
        raise where.refuse("spec.rules", "at least one rule is expected")
    annotations = (metadata or {}).get("annotations") or {}
    compiled: list[CompiledRule] = []
    for index, rule in enumerate(rules):
        compiled += _rule(
            where, spec, rule, f"spec.rules[{index}]", str(annotations.get(AUTOGEN, "all")), namespace
        )
    return compiled


def _rule(
    where: _Where, spec: Mapping[str, Any], value: Any, path: str, autogen: str, namespace: str
) -> Iterator[CompiledRule]:
    rule = where.only(value, RULE_FIELDS, path)
    name = str(rule.get("name") or "")
    if not name:
        raise where.refuse(f"{path}.name", "is missing")
    validate = where.only(rule.get("validate"), VALIDATE_FIELDS, f"{path}.validate")
    patterns = [validate["pattern"]] if "pattern" in validate else validate.get("anyPattern")
    if ("pattern" in validate) == ("anyPattern" in validate) or not isinstance(patterns, list):
        raise where.refuse(f"{path}.validate", "exactly one of pattern and anyPattern is expected")
    _refuse_variables(where, rule, path)
    action = _action(where, spec, validate, path)
    include, exclude = (
        _filters(where, rule.get("match"), f"{path}.match"),
        _filters(where, rule.get("exclude"), f"{path}.exclude"),
    )
    if not include:
        raise where.refuse(f"{path}.match", "is missing")
    message = str(validate.get("message") or "")
    base = _Filter(include, exclude, namespace)
    yield _compiled(where.policy, name, base, patterns, message, action)
    for variant, controllers, prefix in _variants(autogen, base):
        moved = _Filter(
            [_moved(block, controllers) for block in include],
            [_moved(block, controllers) for block in exclude],
            namespace,
        )
        nested = [_nested(pattern, prefix) for pattern in patterns]
        yield _compiled(where.policy, f"{variant}{name}", moved, nested, message, action)


def _refuse_variables(where: _Where, value: Any, path: str) -> None:
    if isinstance(value, str) and "{{" in value and not path.endswith(".message"):
        raise where.refuse(path, "variables ({{ }}) are not supported yet")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_variables(where, inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_variables(where, inner, f"{path}[{index}]")


def _action(
    where: _Where, spec: Mapping[str, Any], validate: Mapping[str, Any], path: str
) -> Callable[[str], Action]:
    default = validate.get("failureAction") or spec.get("validationFailureAction") or "Audit"
    overrides = validate.get("failureActionOverrides") or spec.get("validationFailureActionOverrides") or []
    for item in overrides:
        where.only(item, {"action", "namespaces"}, f"{path}.validate.failureActionOverrides")
    for text in [default, *(item.get("action") for item in overrides)]:
        if str(text).lower() not in {"enforce", "audit"}:
            raise where.refuse(f"{path}.validate.failureAction", f"{text!r} is neither Enforce nor Audit")

    def action(namespace: str) -> Action:
        chosen = next(
            (
                o["action"]
                for o in overrides
                if any(wildcard(str(n), namespace) for n in o.get("namespaces") or [])
            ),
            default,
        )
        return "deny" if str(chosen).lower() == "enforce" else "audit"

    return action


Block = Mapping[str, Any]


def _filters(where: _Where, value: Any, path: str) -> list[tuple[str, list[Block]]]:
    """``[("any"|"all", resource blocks)]``; empty when nothing is said."""
    if value is None or value == {}:
        return []
    filters = where.only(value, {"any", "all", "resources"}, path)
    if "resources" in filters:
        return [("all", [_block(where, filters["resources"], f"{path}.resources")])]
    found = []
    for mode in ("any", "all"):
        if mode in filters:
            blocks = []
            for index, item in enumerate(filters[mode] or []):
                entry = where.only(item, {"resources"}, f"{path}.{mode}[{index}]")
                blocks.append(_block(where, entry.get("resources"), f"{path}.{mode}[{index}].resources"))
            found.append((mode, blocks))
    return found


def _block(where: _Where, value: Any, path: str) -> Block:
    block = dict(where.only(value, RESOURCE_FIELDS, path))
    for field in ("selector", "namespaceSelector"):
        if field in block:
            block[field] = _selector(where, block[field], f"{path}.{field}")
    return block


def _selector(where: _Where, value: Any, path: str) -> Selector:
    selector = where.only(value, {"matchLabels", "matchExpressions"}, path)
    terms = []
    for item in selector.get("matchExpressions") or []:
        entry = where.only(item, {"key", "operator", "values"}, f"{path}.matchExpressions")
        if entry.get("operator") not in {"In", "NotIn", "Exists", "DoesNotExist"}:
            raise where.refuse(
                f"{path}.matchExpressions", f"the operator {entry.get('operator')!r} is not known"
            )
        terms.append(
            Requirement(
                key=str(entry.get("key")),
                operator=entry["operator"],
                values=[str(v) for v in entry.get("values") or []],
            )
        )
    return Selector(match_labels=dict(selector.get("matchLabels") or {}), match_expressions=terms)


class _Filter:
    """Whether a rule means an object."""

    def __init__(
        self, include: list[tuple[str, list[Block]]], exclude: list[tuple[str, list[Block]]], namespace: str
    ) -> None:
        self.include, self.exclude, self.namespace = include, exclude, namespace

    def kinds(self) -> set[str]:
        return {
            str(kind) for _, blocks in self.include for block in blocks for kind in block.get("kinds") or []
        }

    def means(self, context: Context) -> bool:
        if self.namespace and (context.obj.get("metadata") or {}).get("namespace") != self.namespace:
            return False
        return all(_holds(mode, blocks, context) for mode, blocks in self.include) and not any(
            _holds(mode, blocks, context) for mode, blocks in self.exclude
        )


def _holds(mode: str, blocks: list[Block], context: Context) -> bool:
    return (any if mode == "any" else all)(_block_holds(block, context) for block in blocks)


def kind_matches(pattern: str, obj: Mapping[str, Any]) -> bool:
    """``Kind``, ``version/Kind``, ``group/version/Kind``, with wildcards; a subresource never matches an object."""
    parts = pattern.split("/")
    group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
    kind = str(obj.get("kind"))
    match parts:
        case [only]:
            return wildcard(only, kind)
        case [first, last]:
            return wildcard(first, version) and wildcard(last, kind)
        case [first, middle, last]:
            return wildcard(first, group) and wildcard(middle, version) and wildcard(last, kind)
        case _:
            return False


def _block_holds(block: Block, context: Context) -> bool:
    obj = context.obj
    metadata = obj.get("metadata") or {}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    is_namespace = obj.get("kind") == "Namespace"
    namespace = name if is_namespace else str(metadata.get("namespace") or "")
    tests: dict[str, Callable[[Any], bool]] = {
        "kinds": lambda kinds: any(kind_matches(str(kind), obj) for kind in kinds),
        "name": lambda text: wildcard(str(text), name),
        "names": lambda texts: any(wildcard(str(text), name) for text in texts),
        "namespaces": lambda texts: any(wildcard(str(text), namespace) for text in texts),
        "operations": lambda operations: context.operation in operations,
        "annotations": lambda wanted: _pairs_hold(wanted, metadata.get("annotations") or {}),
        "selector": lambda selector: _selected(selector, metadata.get("labels") or {}),
        "namespaceSelector": lambda selector: (
            not is_namespace and _selected(selector, context.namespace_labels)
        ),
    }
    return bool(block) and all(tests[field](value) for field, value in block.items())


def _selected(selector: Selector, labels: Mapping[str, str]) -> bool:
    exact = Selector(match_expressions=selector.match_expressions)
    return _pairs_hold(selector.match_labels, labels) and selects(exact, labels)


def _pairs_hold(wanted: Mapping[str, str], have: Mapping[str, str]) -> bool:
    return all(
        any(
            wildcard(str(key), str(name)) and wildcard(str(value), str(found)) for name, found in have.items()
        )
        for key, value in wanted.items()
    )


# --- autogen -----------------------------------------------------------------------------------------------------


def _variants(autogen: str, base: _Filter) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(name prefix, controllers, path prefix) of the rules that are added for pod controllers."""
    if base.kinds() != {"Pod"} or autogen == "none":
        return
    blocks = [block for _, group in [*base.include, *base.exclude] for block in group]
    if any(block.keys() & {"name", "names", "selector", "annotations"} for block in blocks):
        return
    chosen = CONTROLLERS if autogen in {"all", ""} else tuple(name.strip() for name in autogen.split(","))
    plain = tuple(name for name in chosen if name in CONTROLLERS and name != "CronJob")
    if plain:
        yield "autogen-", plain, ("spec", "template")
    if "CronJob" in chosen:
        yield "autogen-cronjob-", ("CronJob",), ("spec", "jobTemplate", "spec", "template")


def _moved(filters: tuple[str, list[Block]], controllers: tuple[str, ...]) -> tuple[str, list[Block]]:
    mode, blocks = filters
    return mode, [{**block, "kinds": list(controllers)} if "kinds" in block else block for block in blocks]


def _nested(pattern: Any, prefix: tuple[str, ...]) -> Any:
    for step in reversed(prefix):
        pattern = {step: pattern}
    return pattern


def _compiled(
    policy: str,
    name: str,
    filters: _Filter,
    patterns: list[Any],
    message: str,
    action: Callable[[str], Action],
) -> CompiledRule:
    def evaluate(context: Context) -> Verdict | None:
        if not filters.means(context):
            return None
        ref = ref_of(context.obj)
        misses = [match(context.obj, pattern) for pattern in patterns]
        return _judged(policy, name, str(ref), misses, message, action(ref.namespace))

    kinds = frozenset(kind.rpartition("/")[2].lower() for kind in filters.kinds())
    exact = frozenset() if any("*" in kind or "?" in kind for kind in kinds) else kinds
    needs = (
        frozenset({"namespaceLabels"})
        if any("namespaceSelector" in b for _, g in [*filters.include, *filters.exclude] for b in g)
        else frozenset()
    )
    return CompiledRule(policy, name, exact, needs, evaluate)


def _judged(
    policy: str, rule: str, ref: str, misses: list[Mismatch | None], message: str, action: Action
) -> Verdict:
    if any(missed is None for missed in misses):
        return Verdict("pass", policy, rule, ref, "", "", action)
    real = [missed for missed in misses if missed is not None and not missed.skip]
    if not real:
        return Verdict("skip", policy, rule, ref, "", "", action)
    first = real[0]
    return Verdict("fail", policy, rule, ref, first.path, message or f"{first.path} {first.message}", action)
