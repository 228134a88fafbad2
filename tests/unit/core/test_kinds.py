"""The kinds: what is accepted, and how what is not is explained."""

# ruff: noqa: E501 - in a table of cases, a case is a line
from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.errors import ValidationError
from muster_core.kinds.model import KINDS, Bundle, Cluster, Fleet, FleetSecret
from muster_core.kinds.parse import KindError, parse
from muster_core.kinds.plans import RolloutPlan
from muster_core.kinds.schema import schema
from muster_core.manifest.load import load_documents

BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets:
  - selector:
      matchLabels: {tier: store}
"""
PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  waves:
  - name: canary
    selector: {matchLabels: {ring: canary}}
  - {name: rest, rest: true}
"""
FLEET = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  id: 0123456789abcdef
"""


def refused(text: str, kind: type) -> str:
    with pytest.raises(KindError) as caught:
        parse(load_documents(text.encode(), "f.yaml")[0], kind)
    assert caught.value.code == "V002"
    return caught.value.message


def test_the_examples_are_accepted() -> None:
    for text, kind in ((BUNDLE, Bundle), (PLAN, RolloutPlan), (FLEET, Fleet)):
        document = load_documents(text.encode(), "f.yaml")[0]
        assert parse(document, kind).metadata.name


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Bundle, BUNDLE.replace("matchLabels", "matchLabel"),
         "f.yaml:7: spec.targets[0].selector.matchLabel: unknown field; did you mean matchLabels?"),
        (Bundle, BUNDLE + "  zzz: 1\n", "f.yaml:8: spec.zzz: unknown field; allowed: dependsOn, health, namespace, plan"),
        (Bundle, BUNDLE + "  dependOn: []\n", "f.yaml:8: spec.dependOn: unknown field; did you mean dependsOn?"),
        (Bundle, BUNDLE + "  namespace: 3\n", "f.yaml:8: spec.namespace: expected str, got int"),
        (Bundle, BUNDLE + "  health: {deadline: soon}\n",
         "f.yaml:8: spec.health.deadline: not the right form; write a duration like 30s, 10m or 1h30m"),
        (Bundle, BUNDLE + "  rollback: never\n", "f.yaml:8: spec.rollback: 'never' is not known; allowed: previous, none"),
        (Bundle, BUNDLE + "  render: {manifests: {}, kustomize: {}}\n",
         "f.yaml:8: spec.render: exactly one of manifests and kustomize"),
        (Bundle, BUNDLE.replace("shop", "Shop"), "f.yaml:3: metadata.name: not the right form; write a name"),
        (Bundle, BUNDLE.split("spec")[0] + "spec: {}\n", "f.yaml:4: spec: object missing required field targets"),
        (Bundle, BUNDLE.split("spec")[0] + "spec: {targets: []}\n", "f.yaml:4: spec.targets: expected array of length"),
        (Bundle, BUNDLE.replace("matchLabels: {tier: store}", "matchExpressions: [{key: a, operator: In}]"),
         "f.yaml:7: spec.targets[0].selector.matchExpressions[0]: In takes at least one of values"),
        (Bundle, BUNDLE.replace("matchLabels: {tier: store}", "matchExpressions: [{key: a, operator: Is}]"),
         "'Is' is not known; allowed: In, NotIn, Exists, DoesNotExist"),
        (Bundle, PLAN, "f.yaml:2: kind: 'RolloutPlan' is not the kind expected here; write Bundle"),
        (Bundle, BUNDLE.replace("v1alpha1", "v1"), "f.yaml:1: apiVersion: 'muster.dev/v1' is not known"),
        (Bundle, "- a\n", "f.yaml:1: a mapping with apiVersion and kind is expected"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, selector: {}}"), "spec.waves[1]: exactly one of names, selector, percent and rest: true"),
        (RolloutPlan, PLAN + "  - {name: late, selector: {}}\n", "rest: true takes what is left"),
        (RolloutPlan, PLAN.replace("name: rest,", "name: canary,"), "spec.waves[1].name: two waves are named canary"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, maxInFlight: 0}"), "spec.waves[1].maxInFlight: nobody could ever be in flight; at least 1 or 1%"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, quorum: 120%}"), "write a percentage like 25%"),
        (RolloutPlan, PLAN + "  onFailure: {action: rollback, scope: fleet}\n",
         "spec.onFailure.scope: 'fleet' is not known; allowed: target, wave, rollout"),
        (RolloutPlan, PLAN + "  onFailure: {action: abort, scope: wave}\n", "spec.onFailure.scope: only action: rollback has a scope"),
        (RolloutPlan, PLAN + "  supersede: later\n", "spec.supersede: 'later' is not known; allowed: queue, replace"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, maxInFlight: 0%}"), "spec.waves[1].maxInFlight: nobody could ever be in flight"),
        (RolloutPlan, PLAN.replace("rest: true", "percent: 0%"), "spec.waves[1].percent: not the right form; write a percentage from 1% to 100%"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, quorum: 100%, maxFailed: 5%}"),
         "spec.waves[1].quorum: a wave of which maxFailed lets 5% fail can then never have 100% done"),
        (RolloutPlan, PLAN.replace("rest: true", "selector: {matchLabels: {ring: canary}}"),
         "f.yaml:8: spec.waves[1].selector: the same clusters as wave canary, which takes them first"),
        (RolloutPlan, PLAN.replace("matchLabels: {ring: canary}", "") .replace("rest: true", "percent: 10%"),
         "spec.waves[1]: wave canary before it takes every cluster, so this one is empty"),
        (RolloutPlan, PLAN.replace("selector: {matchLabels: {ring: canary}}", "names: [a]").replace("rest: true", "names: [b, a]"),
         "spec.waves[1].names[1]: a is in wave canary already"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, soak: 10m}") + "  expire: 20m\n",
         "spec.expire: shorter than the deadline and the soaks of all waves together"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, window: {cron: '0 1 30 2 *', duration: 4h}}"),
         "spec.waves[1].window.cron: a window with this cron expression never opens"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, window: {cron: '0 1 * *', duration: 4h}}"), "spec.waves[1].window.cron: the cron"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, window: {cron: '0 1 * * *', duration: 4h, timeZone: Mars/Base}}"),
         "spec.waves[1].window.timeZone: the time zone is not known: Mars/Base"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, window: {cron: '0 1 * * *', duration: 5s}}"), "spec.waves[1].window.duration"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {after: [{}]}}"),
         "spec.waves[1].gates.after[0]: exactly one of approval, time, http and prometheus"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{approval: {count: 2, by: [ann]}}]}}"),
         "spec.waves[1].gates.before[0].approval.count: only 1 may approve"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{time: {after: tomorrow}}]}}"), "before[0].time.after"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{http: {url: 'ftp://x'}}]}}"), "http.url: not an http or https address"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{prometheus: {server: m, query: up}}]}}"),
         "before[0].prometheus: exactly one of below and above"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{http: {url: 'http://x', interval: 10ms}}]}}"), "interval: at least 1s"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{http: {url: 'http://x', consecutive: 3, failAfter: 1m}}]}}"),
         "before[0].http.failAfter: over before 3 measurements in a row could be made"),
        (Fleet, FLEET + "  limits: {maxDisrupted: 0}\n", "spec.limits.maxDisrupted: nobody could ever be in flight"),
        (Fleet, FLEET + "  metricServers: [{name: m, url: prometheus}]\n", "spec.metricServers[0].url: not an http or https address"),
        (Fleet, FLEET + "  metricServers: [{name: m, url: 'http://a'}, {name: m, url: 'http://b'}]\n",
         "spec.metricServers[1].name: two servers are named m"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{http: {url: 'http://[::1/'}}]}}"), "http.url: not an http"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{http: {url: 'http://h:99999/'}}]}}"), "http.url: not an http"),
        (RolloutPlan, PLAN.replace("rest: true}", 'rest: true, gates: {before: [{http: {url: "http://h/\\r\\nX: y"}}]}}'), "http.url: not an http"),
        (RolloutPlan, PLAN + f"  deadline: {'9' * 400}d\n", "spec.deadline: not the right form; write a duration"),
        (RolloutPlan, PLAN + f"  deadline: {'9' * 5000}s\n", "spec.deadline: not the right form; write a duration"),
        (RolloutPlan, PLAN + "  deadline: 0s\n", "spec.deadline: nobody could ever become healthy in no time"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, offline: {after: 0s}}"),
         "spec.waves[1].offline.after: nobody could ever acknowledge an offer in no time"),
        (RolloutPlan, PLAN.replace("rest: true}", f"rest: true, gates: {{before: [{'{approval: {}}, ' * 21}]}}}}"), "before: expected array of length"),
        (RolloutPlan, PLAN.split("  waves")[0] + f"  waves: [{'{name: w, percent: 1%}, ' * 1001}]\n",
         "spec.waves: expected array of length"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{time: {after: '0001-01-01T00:00:00+23:59'}}]}}"), "time.after"),
        (RolloutPlan, PLAN.replace("rest: true}", "rest: true, gates: {before: [{time: {after: '9999-12-31T23:59:59-23:59'}}]}}"), "time.after"),
        (RolloutPlan, PLAN + '  deadline: "10m\\n"\n', "spec.deadline: not the right form"),
        (Bundle, BUNDLE.replace("name: shop", 'name: "shop\\n"'), "metadata.name: not the right form; write a name"),
        (Fleet, FLEET + "  metricServers: [{name: m, url: 'http://[::1/'}]\n", "spec.metricServers[0].url: not an http or https address"),
        (Fleet, FLEET + "  mode: trusting\n", "spec.mode: 'trusting' is not known; allowed: signed-commits, directives, both, open"),
        (Fleet, FLEET + "  siteClasses: {edge: {contactInterval: 10ms}}\n", "contactInterval: at least 1s"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_is_allowed_is_said_with_file_and_line(
    kind: type, text: str, said: str
) -> None:
    assert said in refused(text, kind)


def test_protected_labels_win() -> None:
    text = """\
apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: a, labels: {tier: lies, region: eu}}
spec: {uid: u, identityKey: k, protectedLabels: {tier: store}}
"""
    cluster = parse(load_documents(text.encode(), "f.yaml")[0], Cluster)
    assert cluster.all_labels == {"tier": "store", "region": "eu"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_schemas_come_from_the_models_and_forbid_what_is_not_built(kind: str) -> None:
    value = schema(kind)
    assert value["title"] == kind
    assert json.dumps(value)
    models = [part for part in value["$defs"].values() if part.get("type") == "object"]
    assert models
    assert all(part.get("additionalProperties") is False for part in models if "properties" in part)


def test_a_schema_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="Kinds: Fleet"):
        schema("Pod")


def test_a_secret_names_its_namespace() -> None:
    text = "apiVersion: muster.dev/v1alpha1\nkind: FleetSecret\nmetadata: {name: a}\nspec: {}\n"
    assert "metadata: object missing required field namespace" in refused(text, FleetSecret)


PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["In", "10m", "25%", "a", "A b", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["selector", "matchLabels", "name", "targets", "waves", "source", "path", "values", "x", "1"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(list(KINDS)), PIECES, PIECES)
def test_no_value_crashes_the_parser(kind: str, metadata: object, spec: object) -> None:
    value = {"apiVersion": "muster.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    (document,) = load_documents(json.dumps(value).encode(), "f.yaml")
    with contextlib.suppress(KindError):
        parse(document, KINDS[kind])


CLUSTER = """\
apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: berlin-04}
spec:
  uid: 5f0c
  identityKey: ed25519:00
  site: {timeZone: %s, window: {cron: "%s", duration: %s}, veto: [shop]}
"""


@pytest.mark.parametrize(
    ("zone", "cron", "duration", "said"),
    [
        ("Mars/Phobos", "0 1 * * *", "5h", "spec.site.timeZone: the time zone is not known: Mars/Phobos"),
        (
            "Europe/Berlin",
            "0 0 31 2 *",
            "5h",
            "spec.site.window.cron: a window with this cron expression never opens",
        ),
        (
            "Europe/Berlin",
            "0 1 * *",
            "5h",
            "spec.site.window.cron: the cron expression of a window cannot be used",
        ),
        (
            "Europe/Berlin",
            "0 1 * * *",
            "5s",
            "spec.site.window.duration: a window is open for a minute at least",
        ),
        (
            "Europe/Berlin",
            "0 1 * * *",
            "long",
            "spec.site.window.duration: not the right form; write a duration",
        ),
    ],
)
def test_a_site_s_window_that_cannot_be_used_is_refused_at_its_field(
    zone: str, cron: str, duration: str, said: str
) -> None:
    assert said in refused(CLUSTER % (zone, cron, duration), Cluster)


def test_a_site_s_window_is_accepted() -> None:
    text = CLUSTER % ("Europe/Berlin", "0 1 * * *", "5h")
    site = parse(load_documents(text.encode(), "f.yaml")[0], Cluster).spec.site
    assert site is not None
    assert (site.time_zone, site.veto) == ("Europe/Berlin", ["shop"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("source: {path: app}", "spec.source: means nothing beside spec.remove"),
        ("render: {kustomize: {}}", "spec.render: means nothing beside spec.remove"),
        ("namespace: shop", "spec.namespace: means nothing beside spec.remove"),
        ("secrets: [../../secrets/db.yaml]", "spec.secrets: means nothing beside spec.remove"),
        ("remove: {namespaces: true}", "spec.remove.namespaces: a namespace takes its claims with it"),
    ],
)
def test_a_removal_says_nothing_of_objects(more: str, said: str) -> None:
    text = BUNDLE + f"  {more}\n" + ("" if "remove:" in more else "  remove: {}\n")
    assert said in refused(text, Bundle)
