"""Plans: what is done, in which order, and that equal digests mean nothing is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from muster_core.apply.plan import Applied, Live, kinds_of, plan, rank
from muster_core.manifest.objects import ObjectRef


def ref(kind: str, name: str = "x", api: str = "v1", space: str = "shop") -> ObjectRef:
    return ObjectRef(api, kind, "" if kind in ("Namespace", "CustomResourceDefinition") else space, name)


A, B = ref("ConfigMap", "a"), ref("ConfigMap", "b")
KNOWN = Applied("d", "o", "u")
SEEN = Live("u", "set", "o")


def test_what_is_as_it_was_applied_needs_nothing() -> None:
    assert plan({A: "d"}, {A: KNOWN}, {A: SEEN}, prune=True).empty


def test_a_new_object_is_applied_and_is_no_drift() -> None:
    done = plan({A: "d"}, {}, {}, prune=True)
    assert (done.then, done.drifted) == ((A,), ())


def test_a_changed_object_is_applied_and_is_no_drift() -> None:
    done = plan({A: "new"}, {A: KNOWN}, {A: SEEN}, prune=True)
    assert (done.then, done.drifted) == ((A,), ())


def test_an_object_that_went_away_is_drift() -> None:
    done = plan({A: "d"}, {A: KNOWN}, {}, prune=True)
    assert (done.then, done.drifted) == ((A,), (A,))


def test_an_object_whose_fields_of_ours_changed_is_drift() -> None:
    done = plan({A: "d"}, {A: KNOWN}, {A: SEEN._replace(owned="else")}, prune=True)
    assert (done.then, done.drifted) == ((A,), (A,))


def test_namespaces_and_definitions_are_a_stage_before_all_else() -> None:
    refs = [
        ref("Deployment", api="apps/v1"),
        ref("CustomResourceDefinition"),
        ref("Widget", api="e/v1"),
        ref("Namespace"),
    ]
    done = plan(dict.fromkeys(refs, "d"), {}, {}, prune=True)
    assert [r.kind for r in done.first] == ["Namespace", "CustomResourceDefinition"]
    assert [r.kind for r in done.then] == ["Deployment", "Widget"]


def test_webhooks_come_last_and_configuration_before_its_users() -> None:
    kinds = ["ValidatingWebhookConfiguration", "Widget", "Deployment", "Secret", "ServiceAccount", "Service"]
    order = sorted((ref(kind) for kind in kinds), key=rank)
    assert [r.kind for r in order] == [
        "ServiceAccount", "Secret", "Service", "Deployment", "Widget", "ValidatingWebhookConfiguration"
    ]  # fmt: skip


def test_prune_runs_backwards_and_never_takes_a_namespace() -> None:
    live = dict.fromkeys((ref("Namespace"), ref("Secret"), ref("Deployment", api="apps/v1"), A), SEEN)
    done = plan({A: "d"}, {A: KNOWN}, live, prune=True)
    assert [r.kind for r in done.prune] == ["Deployment", "Secret"]
    assert plan({A: "d"}, {A: KNOWN}, live, prune=False).empty


def test_what_is_already_gone_is_not_pruned() -> None:
    assert plan({}, {A: KNOWN}, {}, prune=True).empty


def test_kinds_are_counted_once() -> None:
    assert kinds_of([A, B, ref("Namespace")]) == {("v1", "ConfigMap"), ("v1", "Namespace")}


REFS = st.sampled_from(
    [ref(kind, name) for kind in ("Namespace", "ConfigMap", "Deployment", "Widget") for name in "ab"]
)
DIGESTS = st.sampled_from("pq")


@given(
    st.dictionaries(REFS, DIGESTS),
    st.dictionaries(REFS, st.builds(Applied, DIGESTS, DIGESTS)),
    st.dictionaries(REFS, st.builds(Live, st.just("u"), st.just("s"), DIGESTS)),
    st.booleans(),
)
def test_carrying_a_plan_out_leaves_an_empty_plan(
    desired: dict[ObjectRef, str], applied: dict[ObjectRef, Applied], live: dict[ObjectRef, Live], prune: bool
) -> None:
    done = plan(desired, applied, live, prune=prune)
    assert done == plan(dict(reversed(desired.items())), applied, live, prune=prune), (
        "order of input plays no part"
    )
    for r in done.first + done.then:
        applied = {**applied, r: Applied(desired[r], "o")}
        live = {**live, r: Live("u", "s", "o")}
    live = {r: seen for r, seen in live.items() if r not in done.prune}
    assert plan(desired, applied, live, prune=prune).empty
    assert not set(done.prune) & desired.keys()
