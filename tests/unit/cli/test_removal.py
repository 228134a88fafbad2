"""bundle remove, cluster remove, and the site of a cluster: what is written, what is asked, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from muster_cli.commands import removal
from muster_core.kinds.model import Cluster
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Answer, Hub, Member, Muster, Repositories, git
from unit.cli.test_trust import key

NAME = "berlin-04"
ENTRY = "clusters/berlin-04.yaml"
BUNDLE = "apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s}\nspec: {%s, targets: [{selector: {}}]}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"


@pytest.fixture
def registered(muster: Muster, hub: Hub, repositories: Repositories) -> Repositories:
    hub.joins = [Member(NAME, "5f0c0000-0000-4000-8000-000000000004").join(repositories.fleet_id)]
    assert muster("cluster", "approve", NAME, "--yes", "--checkout", repositories.clone).code == 0
    return repositories


def remove(muster: Muster, at: Repositories, *more: str) -> Answer:
    return muster("cluster", "remove", NAME, "--yes", "--checkout", at.clone, *more)


def entries(at: Repositories) -> str:
    return git(at.origin, "ls-tree", "-r", "--name-only", "muster/registry")


def entry(at: Repositories) -> Cluster:
    return parse(load_documents(at.registry(ENTRY).encode(), "x")[0], Cluster)


# --- a bundle -----------------------------------------------------------------------------------------------------


def shop(at: Repositories, **more: str) -> Path:
    files = {
        "bundles/shop/bundle.yaml": BUNDLE % ("shop", "source: {path: m}, namespace: shop, plan: rings"),
        "bundles/shop/m/web.yaml": MAP,
        "plans/rings.yaml": "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: rings}\n"
        "spec: {waves: [{name: all, rest: true}]}\n",
    }
    at.commit(files | more)
    return at.clone / "bundles/shop/bundle.yaml"


def test_a_bundle_that_is_removed_keeps_where_it_goes_and_loses_what_it_is(
    muster: Muster, repositories: Repositories
) -> None:
    path = shop(repositories)
    answer = muster("bundle", "remove", "shop", "--checkout", repositories.clone)
    assert (answer.code, answer.out.strip()) == (0, str(path)), answer.err
    assert "Next: git commit -m 'Remove shop' bundles/shop/bundle.yaml && git push\n" in answer.err
    stays = "What stays in the clusters: its PersistentVolumeClaims, CustomResourceDefinitions, Namespaces\n"
    assert stays in answer.err
    spec = yaml.safe_load(path.read_text())["spec"]
    assert (spec["plan"], spec["remove"]) == ("rings", {})
    assert {"source", "render", "namespace", "secrets"}.isdisjoint(spec)
    assert muster("validate", repositories.clone).code == 0
    # Said again, with more: that is what counts.
    repositories.commit({})
    answer = muster("bundle", "remove", "shop", "--claims", "--namespaces", "--checkout", repositories.clone)
    assert "What stays in the clusters: its CustomResourceDefinitions\n" in answer.err
    assert "An agent may delete no namespace unless its cluster grants that" in answer.err
    said = yaml.safe_load(path.read_text())["spec"]["remove"]
    assert said == {"namespaces": True, "claims": True}


def test_a_fleet_with_directives_is_told_to_sign_the_removal(
    muster: Muster, repositories: Repositories
) -> None:
    fleet = (repositories.clone / "fleet.yaml").read_text()
    shop(repositories, **{"fleet.yaml": fleet.replace("signed-commits", "directives")})
    answer = muster("bundle", "remove", "shop", "--checkout", repositories.clone)
    assert "&& git push && muster rollout start shop\n" in answer.err


def test_a_namespace_does_not_go_without_its_claims_being_named(
    muster: Muster, repositories: Repositories
) -> None:
    before = shop(repositories).read_text()
    answer = muster("bundle", "remove", "shop", "--namespaces", "--checkout", repositories.clone)
    assert answer.code == 2
    assert "give --claims as well" in answer.err
    assert (repositories.clone / "bundles/shop/bundle.yaml").read_text() == before


def test_a_bundle_is_not_taken_away_under_those_that_need_it(
    muster: Muster, repositories: Repositories
) -> None:
    needs = BUNDLE % ("till", "source: {path: m}, plan: rings, dependsOn: [{name: shop}]")
    path = shop(repositories, **{"bundles/till/bundle.yaml": needs, "bundles/till/m/web.yaml": MAP})
    before = path.read_text()
    answer = muster("bundle", "remove", "shop", "--checkout", repositories.clone)
    assert answer.code == 4
    assert "MUSTER-L090 till cannot do without it: shop." in answer.err
    assert "muster bundle remove till" in answer.err
    assert path.read_text() == before
    # Once that one goes too, nothing needs it.
    assert muster("bundle", "remove", "till", "--checkout", repositories.clone).code == 0
    repositories.commit({})
    assert muster("bundle", "remove", "shop", "--checkout", repositories.clone).code == 0


def test_a_bundle_that_is_not_there_is_answered_with_those_that_are(
    muster: Muster, repositories: Repositories
) -> None:
    shop(repositories)
    answer = muster("bundle", "remove", "shopp", "--checkout", repositories.clone)
    assert answer.code == 3
    assert "MUSTER-L041" in answer.err
    assert "shop" in answer.err.partition("It has: ")[2]


# --- a cluster ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--orphan",)])
def test_a_cluster_is_forgotten_without_asking_it_anything(
    muster: Muster, registered: Repositories, flags: tuple[str, ...]
) -> None:
    count = git(registered.origin, "rev-list", "--count", "muster/registry")
    answer = remove(muster, registered, *flags)
    assert answer.code == 0, answer.err
    assert "cluster/berlin-04 removed (registry " in answer.out
    assert ENTRY not in entries(registered)
    assert git(registered.origin, "rev-list", "--count", "muster/registry") == str(int(count) + 1)


def test_an_uninstall_asks_first_and_takes_the_entry_out_when_it_is_done(
    muster: Muster, hub: Hub, registered: Repositories
) -> None:
    kept = "nothing is left of its bundles; kept there: v1/Namespace shop: muster cluster remove berlin-04"
    hub.clusters = [op.ClusterView(name=NAME, state="Removed", online=True, message=kept)]
    answer = remove(muster, registered, "--uninstall")
    assert answer.code == 0, answer.err
    assert ENTRY not in entries(registered)
    asked = git(registered.origin, "show", f"muster/registry~1:{ENTRY}")
    assert "removal: uninstall" in asked
    assert "kept there: v1/Namespace shop\n" in answer.err
    assert "kubectl delete namespace/muster-system" in answer.err


def test_one_that_is_out_of_contact_stays_listed_until_it_is_back(
    muster: Muster, hub: Hub, registered: Repositories
) -> None:
    hub.clusters = [op.ClusterView(name=NAME, state="Removing", online=False)]
    answer = remove(muster, registered, "--uninstall")
    assert answer.code == 0
    assert "cluster/berlin-04 is Removing" in answer.out
    assert "muster cluster remove berlin-04 --uninstall" in answer.err
    assert entry(registered).spec.removal == "uninstall"


def test_a_cluster_that_is_not_done_in_time_is_told_and_keeps_its_entry(
    muster: Muster, hub: Hub, registered: Repositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.01)
    monkeypatch.setattr(removal, "LOOK", 0.01)
    hub.clusters = [op.ClusterView(name=NAME, state="Removing", online=True)]
    answer = remove(muster, registered, "--uninstall")
    assert answer.code == 5
    assert "MUSTER-J071" in answer.err
    assert entry(registered).spec.removal == "uninstall"


def test_who_is_being_uninstalled_is_not_forgotten_by_the_way(
    muster: Muster, hub: Hub, registered: Repositories
) -> None:
    hub.clusters = [op.ClusterView(name=NAME, state="Removing", online=False)]
    assert remove(muster, registered, "--uninstall").code == 0
    answer = remove(muster, registered)
    assert answer.code == 4
    assert "MUSTER-L092" in answer.err
    assert ENTRY in entries(registered)
    assert remove(muster, registered, "--orphan").code == 0
    assert ENTRY not in entries(registered)


def test_a_revoked_cluster_cannot_be_asked_to_uninstall(muster: Muster, registered: Repositories) -> None:
    assert muster("cluster", "revoke", NAME, "--yes", "--checkout", registered.clone).code == 0
    answer = remove(muster, registered, "--uninstall")
    assert answer.code == 4
    assert "MUSTER-L091" in answer.err
    assert "--orphan" in answer.err
    assert entry(registered).spec.revoked
    assert remove(muster, registered).code == 0


def test_both_at_once_is_neither(muster: Muster, registered: Repositories) -> None:
    answer = remove(muster, registered, "--uninstall", "--orphan")
    assert answer.code == 2
    assert ENTRY in entries(registered)


def test_a_cluster_that_is_not_there(muster: Muster, registered: Repositories) -> None:
    answer = muster("cluster", "remove", "nobody", "--yes", "--checkout", registered.clone)
    assert answer.code == 3
    assert "MUSTER-J012" in answer.err


def test_a_key_that_may_not_change_the_registry_pushes_nothing(
    muster: Muster, registered: Repositories, tmp_path: Path
) -> None:
    """Agents and coordinator would refuse the whole registry from there on: its owner hears it before."""
    head = git(registered.origin, "rev-parse", "muster/registry")
    eve, ann = key(tmp_path, "eve"), key(tmp_path, "ann")
    assert "MUSTER-T041" in remove(muster, registered, "--key", str(eve)).err
    added = ("trust", "add-key", f"{ann}.pub", "--role", "release", "--path", "bundles/**")
    assert muster(*added, "--checkout", registered.clone).code == 0
    registered.commit({})
    answer = remove(muster, registered, "--key", str(ann))
    assert answer.code == 4
    assert "MUSTER-T043" in answer.err
    assert "muster trust show" in answer.err
    assert git(registered.origin, "rev-parse", "muster/registry") == head
    assert remove(muster, registered).code == 0


# --- its site -----------------------------------------------------------------------------------------------------


def label(muster: Muster, at: Repositories, *more: str) -> Answer:
    return muster("cluster", "label", NAME, "--checkout", at.clone, *more)


def test_a_site_says_when_it_takes_releases_and_which_it_never_takes(
    muster: Muster, registered: Repositories
) -> None:
    answer = label(muster, registered, "--site-window", "0 1 * * * 5h", "--time-zone", "Europe/Berlin",
                   "--veto", "shop", "--veto", "till")  # fmt: skip
    assert answer.code == 0, answer.err
    site = entry(registered).spec.site
    assert site
    assert site.window
    assert (site.window.cron, site.window.duration, site.time_zone) == ("0 1 * * *", "5h", "Europe/Berlin")
    assert site.veto == ["shop", "till"]
    assert label(muster, registered, "--no-veto", "shop", "--site-window", "none").code == 0
    site = entry(registered).spec.site
    assert site
    assert (site.window, site.veto, site.time_zone) == (None, ["till"], "Europe/Berlin")
    assert label(muster, registered, "--no-veto", "till", "--time-zone", "UTC").code == 0
    assert "site:" not in registered.registry(ENTRY), "what says nothing is not written"


@pytest.mark.parametrize(
    "flags", [("--site-window", "daily 5h"), ("--time-zone", "Berlin"), ("--site-window", "0 1 * * *"), ()]
)
def test_a_site_that_cannot_be_is_not_pushed(
    muster: Muster, registered: Repositories, flags: tuple[str, ...]
) -> None:
    head = git(registered.origin, "rev-parse", "muster/registry")
    answer = label(muster, registered, *flags)
    assert answer.code == 2, answer.err
    assert "MUSTER-V" in answer.err
    assert git(registered.origin, "rev-parse", "muster/registry") == head
