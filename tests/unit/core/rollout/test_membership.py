"""Who takes part: the same for the coordinator that starts a rollout and for whoever looks ahead."""

from __future__ import annotations

import msgspec
from muster_core.kinds.model import Bundle, Cluster, Fleet
from muster_core.rollout.membership import members_of
from muster_core.rollout.plan import Member

API = "muster.dev/v1alpha1"


def cluster(name: str, **spec: object) -> Cluster:
    said = {"uid": name, "identityKey": "k", "protectedLabels": {"tier": "store"}, **spec}
    return msgspec.convert(
        {"apiVersion": API, "kind": "Cluster", "metadata": {"name": name}, "spec": said}, Cluster
    )


BUNDLE = msgspec.convert(
    {
        "apiVersion": API,
        "kind": "Bundle",
        "metadata": {"name": "shop"},
        "spec": {"targets": [{"selector": {"matchLabels": {"tier": "store"}}}]},
    },
    Bundle,
)
FLEET = msgspec.convert(
    {
        "apiVersion": API,
        "kind": "Fleet",
        "metadata": {"name": "acme"},
        "spec": {"id": "7d41" * 8, "mode": "open", "siteClasses": {"edge": {"contactInterval": "4m"}}},
    },
    Fleet,
)


def test_a_member_has_the_interval_of_its_site_class_and_the_zone_of_its_site() -> None:
    clusters = {
        "a": cluster("a"),
        "b": cluster("b", siteClass="edge", site={"timeZone": "Europe/Berlin"}),
        "c": cluster("c", protectedLabels={"tier": "office"}),
    }
    labels = {"tier": "store"}
    assert members_of(BUNDLE, clusters, FLEET) == [
        Member("a", labels, 60.0, "UTC"),
        Member("b", labels, 240.0, "Europe/Berlin"),
    ]


def test_a_cluster_that_is_being_removed_takes_no_part() -> None:
    clusters = {"a": cluster("a"), "b": cluster("b", removal="uninstall")}
    assert [member.name for member in members_of(BUNDLE, clusters, FLEET)] == ["a"]
