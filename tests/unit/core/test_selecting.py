"""Which cluster is meant, with which values, and what the values do to manifests."""

# ruff: noqa: E501 - in a table of cases, a case is a line
from __future__ import annotations

import pytest
from muster_core.errors import ValidationError
from muster_core.kinds.base import Requirement, Selector
from muster_core.kinds.model import Bundle, Cluster
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_core.select import matches, parse_selector, targeted, values_for
from muster_core.substitute import substitute, typed

LABELS = {"tier": "store", "ring": "canary", "app.kubernetes.io/name": "x"}
CLUSTER = """\
apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: berlin-04, labels: {region: eu}}
spec: {uid: u, identityKey: k, protectedLabels: {tier: store}, values: {domain: b.example.com, debug: true, replicas: 5}}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets:
  - selector: {matchLabels: {tier: store}}
    values: {replicas: 2, colour: red}
  - selector: {matchLabels: {region: eu}}
    values: {colour: blue, size: 1.5}
  - selector: {matchLabels: {region: us}}
    values: {colour: green}
  render:
    substitute: {REGION: "${cluster.labels.region}", NAME: "is-${cluster.name}", DEBUG: "${cluster.values.debug}", DOMAIN: "x"}
"""


def bundle(text: str = BUNDLE) -> Bundle:
    return parse(load_documents(text.encode(), "f.yaml")[0], Bundle)


def cluster(text: str = CLUSTER) -> Cluster:
    return parse(load_documents(text.encode(), "f.yaml")[0], Cluster)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("tier=store", True),
        ("tier==store,ring=canary", True),
        ("tier=edge", False),
        ("tier!=edge", True),
        ("missing!=x", True),
        ("tier in (edge, store)", True),
        ("tier notin (edge,store)", False),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("tier", True),
        ("!tier", False),
        ("! missing", True),
        ("app.kubernetes.io/name=x", True),
        (" tier = store , ring in (canary) ", True),
        ("tier=", False),
    ],
)
def test_selectors_mean_what_they_mean_to_kubernetes(text: str, holds: bool) -> None:
    assert matches(parse_selector(text), LABELS) is holds


@pytest.mark.parametrize("text", ["=a", "a in", "a in (b", "a b", "a=b c=d", "(", "a>1", ",", "a=b,,c=d"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a selector") as caught:
        parse_selector(text)
    assert caught.value.code == "V032"


def test_text_and_fields_say_the_same() -> None:
    assert parse_selector("a=b,c in (d,e),!f") == Selector(
        match_labels={"a": "b"},
        match_expressions=[
            Requirement(key="c", operator="In", values=["d", "e"]),
            Requirement(key="f", operator="DoesNotExist"),
        ],
    )


def test_values_come_in_order_targets_cluster_substitute() -> None:
    assert values_for(bundle(), cluster()) == {
        "replicas": 5,
        "colour": "blue",
        "size": 1.5,
        "domain": "b.example.com",
        "debug": True,
        "REGION": "eu",
        "NAME": "is-berlin-04",
        "DEBUG": "true",
        "DOMAIN": "x",
    }


def test_a_cluster_that_is_not_meant_gets_none() -> None:
    other = cluster(CLUSTER.replace("store", "edge").replace("region: eu", "region: asia"))
    assert values_for(bundle(), other) is None
    assert not targeted(bundle(), other.all_labels)
    assert targeted(bundle(), cluster().all_labels)


def test_a_label_that_the_cluster_lacks_is_named() -> None:
    with pytest.raises(
        ValidationError, match=r"substitute.REGION names \$\{cluster.labels.region\}"
    ) as caught:
        values_for(bundle(), cluster(CLUSTER.replace("region", "zone")))
    assert (caught.value.code, caught.value.object) == ("V023", "berlin-04")


VALUES = {"N": 3, "S": "text", "B": True, "EMPTY": ""}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("${S}", "text"),
        ("${N}", 3),
        ("${B}", True),
        ("n=${N} b=${B}", "n=3 b=true"),
        ("${X:=dft}", "dft"),
        ("${X:=8080}", 8080),
        ("${X:-a b}", "a b"),
        ("${X:=}", ""),
        ("${EMPTY:=x}", "x"),
        ("${EMPTY}", ""),
        ("$${S}", "${S}"),
        ("a$${S}b${S}", "a${S}btext"),
        ("$S ${} ${1} $(S)", "$S ${} ${1} $(S)"),
        (
            {"spec": {"replicas": "${N}", "l": ["${S}", 1, None]}},
            {"spec": {"replicas": 3, "l": ["text", 1, None]}},
        ),
        (
            {"metadata": {"labels": {"n": "${N}", "${S}": "x"}}},
            {"metadata": {"labels": {"n": "3", "text": "x"}}},
        ),
        (
            {"kind": "ConfigMap", "data": {"n": "${N}", "b": "${B}"}},
            {"kind": "ConfigMap", "data": {"n": "3", "b": "true"}},
        ),
        ({"kind": "Widget", "data": {"n": "${N}"}}, {"kind": "Widget", "data": {"n": 3}}),
        ({"env": [{"name": "A", "value": "${N}"}]}, {"env": [{"name": "A", "value": "3"}]}),
    ],
)
def test_references_become_values(before: object, after: object) -> None:
    result = substitute(before, VALUES)
    assert result == after
    assert type(result) is type(after)


def test_a_value_cannot_add_structure() -> None:
    assert substitute({"a": "x ${S}"}, {"S": "}\nb: 1"}) == {"a": "x }\nb: 1"}
    assert substitute("${S}", {"S": "${OTHER}"}) == "${OTHER}"


def test_a_name_without_value_and_default_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"no value for \$\{NOPE\}") as caught:
        substitute({"a": ["${NOPE}"]}, VALUES)
    assert caught.value.code == "V024"


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("-1", -1), ("007", "007"), ("true", True), ("1.5", "1.5"), ("", "")]
)
def test_text_is_typed_as_in_yaml(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)
