"""Kyverno policies: which objects a rule means, autogen, actions, and the refusal of what is not built."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from muster_core.policy import PolicyError, PolicySet, blocked, compile_policies
from muster_core.policy.match import parse_kind

REQUIRE_TEAM: dict[str, Any] = {
    "apiVersion": "kyverno.io/v1",
    "kind": "ClusterPolicy",
    "metadata": {"name": "require-labels", "annotations": {"policies.kyverno.io/title": "Require Labels"}},
    "spec": {
        "validationFailureAction": "Enforce",
        "background": True,
        "rules": [
            {
                "name": "check-for-labels",
                "match": {"any": [{"resources": {"kinds": ["Pod"]}}]},
                "validate": {
                    "message": "The label `team` is required.",
                    "pattern": {"metadata": {"labels": {"team": "?*"}}},
                },
            }
        ],
    },
}
POD_PATH: dict[str, tuple[str, ...]] = {
    "v1/Pod": (),
    "apps/v1/Deployment": ("spec", "template"),
    "batch/v1/CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def policy(**changes: Any) -> dict[str, Any]:
    """The policy with parts of its one rule changed; ``spec_`` and ``annotations_`` change those."""
    document = copy.deepcopy(REQUIRE_TEAM)
    document["spec"] |= changes.pop("spec_", {})
    document["metadata"]["annotations"] |= changes.pop("annotations_", {})
    document["spec"]["rules"][0] |= changes
    return document


def compiled(*documents: dict[str, Any]) -> PolicySet:
    return compile_policies([(f"policies/{i}.yaml", 1, d) for i, d in enumerate(documents)], None)


def obj(
    kind: str = "apps/v1/Deployment", labels: Any = None, namespace: str = "shop", **metadata: Any
) -> dict[str, Any]:
    """A workload whose pod has these labels."""
    version, _, name = kind.rpartition("/")
    body: dict[str, Any] = {"metadata": {"labels": labels or {}}, "spec": {"containers": []}}
    for step in reversed(POD_PATH.get(kind, ())):
        body = {step: body}
    own = {"name": "web", "namespace": namespace, **metadata}
    return {**body, "apiVersion": version, "kind": name, "metadata": {**body.get("metadata", {}), **own}}


def said(policies: PolicySet, *objects: dict[str, Any], **more: Any) -> list[str]:
    return [verdict.status for verdict in policies.evaluate(objects, **more)]


@pytest.mark.parametrize("kind", POD_PATH)
def test_the_well_known_policy_denies_a_pod_without_a_team(kind: str) -> None:
    policies = compiled(REQUIRE_TEAM)
    [verdict] = blocked(policies.evaluate([obj(kind)]))
    assert verdict.policy == "require-labels"
    assert verdict.rule.endswith("check-for-labels")
    assert verdict.object == f"{kind} shop/web"
    assert verdict.path == ".".join([*POD_PATH[kind], "metadata.labels.team"])
    assert verdict.message == "The label `team` is required."
    assert said(policies, obj(kind, {"team": "a"})) == ["pass"]


def test_another_projects_deployment_is_not_meant() -> None:
    assert said(compiled(REQUIRE_TEAM), obj("example.org/v1/Deployment")) == []


@pytest.mark.parametrize(
    ("asked", "rules"),
    [
        (None, ["check-for-labels", "autogen-check-for-labels", "autogen-cronjob-check-for-labels"]),
        ("none", ["check-for-labels"]),
        ("Deployment,StatefulSet", ["check-for-labels", "autogen-check-for-labels"]),
        ("CronJob", ["check-for-labels", "autogen-cronjob-check-for-labels"]),
    ],
)
def test_the_annotation_chooses_controllers(asked: str | None, rules: list[str]) -> None:
    annotations = {"pod-policies.kyverno.io/autogen-controllers": asked} if asked else {}
    assert [rule.rule for rule in compiled(policy(annotations_=annotations)).rules] == rules


@pytest.mark.parametrize(
    "block",
    [
        {"kinds": ["Pod"], "names": ["a"]},
        {"kinds": ["Pod"], "name": "a"},
        {"kinds": ["Pod"], "selector": {}},
        {"kinds": ["Pod"], "annotations": {"a": "b"}},
        {"kinds": ["Pod", "Service"]},
        {"kinds": ["ConfigMap"]},
        {"kinds": ["v1/Pod"]},
    ],
)
def test_what_cancels_autogen(block: dict[str, Any]) -> None:
    assert len(compiled(policy(match={"any": [{"resources": block}]})).rules) == 1


def test_one_rule_cancels_autogen_for_the_whole_policy() -> None:
    document = policy()
    named = {"any": [{"resources": {"kinds": ["ConfigMap"], "names": ["a"]}}]}
    document["spec"]["rules"].append({**document["spec"]["rules"][0], "name": "other", "match": named})
    assert [rule.rule for rule in compiled(document).rules] == ["check-for-labels", "other"]


def test_an_exclude_of_other_kinds_never_frees_controllers() -> None:
    exclude = {
        "any": [
            {"resources": {"kinds": ["Namespace"]}},
            {"resources": {"kinds": ["Pod"], "namespaces": ["x"]}},
        ]
    }
    policies = compiled(policy(exclude=exclude))
    assert said(policies, obj()) == ["fail"]
    assert said(policies, obj(namespace="x")) == []


@pytest.mark.parametrize("exclude", [{}, {"any": []}, {"all": []}, None])
def test_an_empty_exclude_excludes_nothing(exclude: Any) -> None:
    assert said(compiled(policy(exclude=exclude)), obj("v1/Pod")) == ["fail"]


@pytest.mark.parametrize(
    "match", [{}, {"any": []}, {"resources": {}}, {"any": [{"resources": {"kinds": []}}]}, None]
)
def test_an_empty_match_is_refused(match: Any) -> None:
    with pytest.raises(PolicyError):
        compiled(policy(match=match))


@pytest.mark.parametrize(
    ("block", "object_", "meant"),
    [
        ({"namespaces": ["sh*"]}, obj(), True),
        ({"namespaces": ["kube-*"]}, obj(), False),
        ({"kinds": ["*"]}, obj(), True),
        ({"kinds": ["*/*"]}, obj(), True),
        ({"kinds": ["apps/v1/Deployment"]}, obj(), True),
        ({"kinds": ["apps/v1beta*/Deployment"]}, obj(), False),
        ({"kinds": ["apps/*/*"]}, obj(), True),
        ({"kinds": ["v1/Deployment"]}, obj(), True),
        ({"kinds": ["Deployment/scale"]}, obj(), False),
        ({"kinds": ["deployment"]}, obj(), False),
        ({"kinds": ["Deployment"], "names": ["w?b"]}, obj(), True),
        ({"kinds": ["Deployment"], "name": "web", "names": ["api"]}, obj(), False),
        ({"selector": {"matchLabels": {"app*": "w*"}}}, obj("v1/Pod", {"app": "web"}), True),
        ({"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, obj(), False),
        ({"annotations": {"x": "y*"}}, obj(annotations={"x": "yes"}), True),
        ({"operations": ["UPDATE"]}, obj(), False),
        ({"namespaces": ["web"], "kinds": ["Namespace"]}, obj("v1/Namespace", namespace=""), True),
        ({"namespaceSelector": {"matchLabels": {"env": "prod"}}}, obj(), True),
        ({"namespaceSelector": {"matchLabels": {"env": "dev"}}}, obj(), False),
    ],
)
def test_which_objects_are_meant(block: dict[str, Any], object_: dict[str, Any], meant: bool) -> None:
    policies = compiled(policy(match={"any": [{"resources": block}]}))
    assert bool(said(policies, object_, namespace_labels={"shop": {"env": "prod"}})) is meant


def test_updates_are_known_by_name() -> None:
    policies = compiled(policy(match={"any": [{"resources": {"kinds": ["Pod"], "operations": ["UPDATE"]}}]}))
    assert said(policies, obj("v1/Pod"), exists=frozenset({"v1/Pod shop/web"})) == ["fail"]


def test_a_namespaced_policy_stays_in_its_namespace() -> None:
    document = policy() | {"kind": "Policy"}
    assert said(compiled(document), obj("v1/Pod"), obj("v1/Pod", namespace="default")) == ["fail"]
    document["metadata"]["namespace"] = "shop"
    assert said(compiled(document), obj("v1/Pod"), obj("v1/Pod", namespace="default")) == ["fail"]


PATTERN = REQUIRE_TEAM["spec"]["rules"][0]["validate"]["pattern"]
OVERRIDE = [{"action": "Enforce", "namespaces": ["shop"]}]


@pytest.mark.parametrize(
    ("spec", "validate", "action"),
    [
        ({}, {}, "deny"),
        ({"validationFailureAction": "audit"}, {}, "audit"),
        ({"validationFailureAction": "Audit", "emitWarning": True}, {}, "warn"),
        ({"validationFailureAction": "Audit"}, {"failureAction": "Enforce"}, "deny"),
        ({"validationFailureAction": "Enforce"}, {"failureAction": "Audit"}, "audit"),
        ({"validationFailureAction": "Audit", "validationFailureActionOverrides": OVERRIDE}, {}, "deny"),
        ({"validationFailureActionOverrides": OVERRIDE}, {"failureAction": "Audit"}, "audit"),
        (
            {"validationFailureAction": "Audit"},
            {"failureAction": "Audit", "failureActionOverrides": OVERRIDE},
            "deny",
        ),
        ({"admission": False}, {}, "audit"),
        (
            {"validationFailureAction": "Audit"},
            {
                "failureActionOverrides": [
                    {"action": "Enforce", "namespaceSelector": {"matchLabels": {"env": "prod"}}}
                ]
            },
            "deny",
        ),
    ],
)
def test_the_nearest_action_counts(spec: dict[str, Any], validate: dict[str, Any], action: str) -> None:
    policies = compiled(policy(spec_=spec, validate={"pattern": PATTERN, **validate}))
    [verdict] = policies.evaluate([obj("v1/Pod")], namespace_labels={"shop": {"env": "prod"}})
    assert verdict.action == action
    assert bool(blocked([verdict])) is (action == "deny")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mutate": {}}, "spec.rules[0].mutate"),
    ({"generate": {}}, "spec.rules[0].generate"),
    ({"verifyImages": []}, "spec.rules[0].verifyImages"),
    ({"context": []}, "spec.rules[0].context"),
    ({"preconditions": {}}, "spec.rules[0].preconditions"),
    ({"celPreconditions": []}, "spec.rules[0].celPreconditions"),
    ({"validate": {"deny": {}}}, "spec.rules[0].validate.deny"),
    ({"validate": {"foreach": []}}, "spec.rules[0].validate.foreach"),
    ({"validate": {"cel": {}}}, "spec.rules[0].validate.cel"),
    ({"validate": {"podSecurity": {}}}, "spec.rules[0].validate.podSecurity"),
    ({"validate": {"pattern": {"a": "{{ request.name }}"}}}, "variables ({{ }})"),
    ({"validate": {"pattern": {"{{ x }}": "a"}}}, "variables ({{ }})"),
    ({"validate": {"pattern": {"a": "$(./../b)"}}}, "references ($( ))"),
    ({"match": {"any": [{"resources": {"kinds": ["Pod"]}, "subjects": []}]}}, "match.any[0].subjects"),
    ({"spec_": {"applyRules": "One"}}, "spec.applyRules"),
    (
        {"spec_": {"webhookConfiguration": {"matchConditions": []}}},
        "spec.webhookConfiguration.matchConditions",
    ),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED)
def test_what_is_not_built_refuses_the_policy_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError) as caught:
        compiled(policy(**changes))
    assert caught.value.message.startswith("policies/0.yaml:1: ")
    assert named in caught.value.message
    assert caught.value.message.endswith("not supported yet")


@pytest.mark.parametrize(
    "changes",
    [
        {"validate": {"pattern": {"a": {"+(b)": 1}}}},
        {"validate": {"anyPattern": []}},
        {"validate": {}},
        {"validate": {"pattern": {}, "anyPattern": [{}]}},
        {"match": {"any": [{"resources": {"kinds": "Pod"}}]}},
        {"match": {"any": [{"resources": {"kinds": ["a/b/c/d/e"]}}]}},
        {"match": {"any": [{"resources": {"kinds": ["Pod"]}}], "resources": {"kinds": ["Pod"]}}},
        {"name": ""},
        {"spec_": {"validationFailureAction": "Maybe"}},
    ],
)
def test_what_is_wrong_refuses_the_policy(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        compiled(policy(**changes))


def test_a_policy_without_rules_or_twice_is_refused() -> None:
    empty = policy()
    empty["spec"]["rules"] = []
    for documents in ([empty], [policy(), policy()]):
        with pytest.raises(PolicyError):
            compiled(*documents)


def test_every_refusal_is_told_at_once() -> None:
    gatekeeper = {
        "apiVersion": "templates.gatekeeper.sh/v1",
        "kind": "ConstraintTemplate",
        "metadata": {"name": "t"},
    }
    with pytest.raises(PolicyError) as caught:
        compiled(policy(), policy(mutate={}), gatekeeper)
    for file in (
        "policies/1.yaml:1: ",
        "policies/2.yaml:1: ",
        "templates.gatekeeper.sh/v1 ConstraintTemplate",
    ):
        assert file in caught.value.message


def test_the_set_is_named_by_its_content() -> None:
    assert compiled(policy()).digest == compiled(policy()).digest
    assert compiled(policy()).digest != compiled(policy(name="x")).digest
    documents = [("b.yaml", 1, policy()), ("a.yaml", 1, policy() | {"metadata": {"name": "other"}})]
    forward, backward = compile_policies(documents, None), compile_policies(documents[::-1], None)
    assert forward.digest == backward.digest
    assert [(r.policy, r.rule) for r in forward.rules] == [(r.policy, r.rule) for r in backward.rules]


def test_a_rule_that_cannot_be_judged_denies_though_it_only_audits() -> None:
    policies = compiled(
        policy(spec_={"validationFailureAction": "Audit"}, match={"any": [{"resources": {"selector": {}}}]})
    )
    [verdict] = blocked(
        policies.evaluate([obj("v1/Pod") | {"metadata": {"name": "a", "labels": "no mapping"}}])
    )
    assert verdict.status == "error"


def test_any_pattern_passes_by_one_and_skips_only_by_all() -> None:
    rules = {"anyPattern": [{"(a)": 1, "b": 1}, {"(a)": 2, "b": 2}]}
    policies = compiled(policy(match={"any": [{"resources": {"kinds": ["Thing"]}}]}, validate=rules))
    thing = {"apiVersion": "x/v1", "kind": "Thing", "metadata": {"name": "a"}}
    assert said(policies, thing | {"a": 2, "b": 2}, thing | {"a": 2, "b": 3}, thing | {"a": 3}) == [
        "pass",
        "fail",
        "skip",
    ]


def test_kind_selectors() -> None:
    assert parse_kind("Pod.status") == ("*", "*", "Pod", "status")
    assert parse_kind("*/exec") == ("*", "*", "*", "exec")
    assert parse_kind("*/Pod") == ("*", "*", "Pod", "")
    assert parse_kind("v1/Pod/exec") == ("*", "v1", "Pod", "exec")
    assert parse_kind("networking.k8s.io/v1/Ingress") == ("networking.k8s.io", "v1", "Ingress", "")
