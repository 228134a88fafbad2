"""The tree digest: what starts a rollout, and what does not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from muster_core.errors import ValidationError
from muster_core.kinds.model import Bundle, Cluster, FleetSecret
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_core.release import BundleAt, Release, bundle_tree, entry_digest, registry_digest, tree_digest
from muster_core.tree import MemoryTree, Subtree

SPEC = "targets: [{selector: {}}], source: {path: overlay, include: [../../bases/web]}"
FILES = {
    "bundles/shop/bundle.yaml": b"",
    "bundles/shop/overlay/a.yaml": b"a: 1\n",
    "bases/web/b.yaml": b"b: 1\n",
    "bases/website/c.yaml": b"c: 1\n",
    "README.md": b"x",
}
SECRET = """\
apiVersion: muster.dev/v1alpha1
kind: FleetSecret
metadata: {name: db, namespace: shop}
spec:
  format: 1
  fileId: f1
  keyGeneration: 1
  revision: 1
  selector: {}
  commitment: c
  entries: {}
  recipients: [cluster a u 1 sealedbox YQ==]
  mac: m
"""


def bundle(spec: str = SPEC) -> Bundle:
    text = f"apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {{name: shop}}\nspec: {{{spec}}}\n"
    return parse(load_documents(text.encode(), "f.yaml")[0], Bundle)


def secret(text: str = SECRET) -> FleetSecret:
    return parse(load_documents(text.encode(), "f.yaml")[0], FleetSecret)


def digest(files: Mapping[str, bytes], spec: str = SPEC, secrets: tuple[FleetSecret, ...] = ()) -> str:
    at = BundleAt(bundle(spec), "bundles/shop/bundle.yaml", "bundles/shop")
    return tree_digest(MemoryTree(files), at, secrets)


def test_only_source_and_includes_count() -> None:
    base = digest(FILES)
    assert digest({**FILES, "README.md": b"y", "bases/website/c.yaml": b"c: 2\n"}) == base
    assert digest({**FILES, "bundles/shop/overlay/a.yaml": b"a: 2\n"}) != base
    assert digest({**FILES, "bases/web/b.yaml": b"b: 2\n"}) != base
    assert digest({**FILES, "bundles/shop/overlay/new.yaml": b""}) != base


def test_the_bundle_counts_by_meaning_and_its_plan_not_at_all() -> None:
    base = digest(FILES)
    assert digest({**FILES, "bundles/shop/bundle.yaml": b"# a comment\n"}) == base
    assert digest(FILES, SPEC + ", plan: other") == base
    assert digest(FILES, SPEC + ", namespace: shop") != base
    assert digest(FILES, SPEC.replace("selector: {}", "selector: {}, values: {a: 1}")) != base


def test_secrets_count_without_their_recipients() -> None:
    one = digest(FILES, SPEC, (secret(),))
    assert one != digest(FILES)
    assert digest(FILES, SPEC, (secret(SECRET.replace("cluster a u", "cluster b v")),)) == one
    for before, after in (
        ("revision: 1", "revision: 2"),
        ("mac: m", "mac: n"),
        ("fileId: f1", "fileId: f2"),
        ("keyGeneration: 1", "keyGeneration: 2"),
    ):
        assert digest(FILES, SPEC, (secret(SECRET.replace(before, after)),)) != one


def test_files_cannot_stand_for_each_other() -> None:
    moved = {**FILES, "bundles/shop/overlay/b.yaml": b"a: 1\n"}
    del moved["bundles/shop/overlay/a.yaml"]
    assert digest(moved) != digest(FILES)


def test_render_sees_only_these_files() -> None:
    at = BundleAt(bundle(), "bundles/shop/bundle.yaml", "bundles/shop")
    seen = bundle_tree(MemoryTree(FILES), at)
    assert [file.path for file in seen.files()] == ["bases/web/b.yaml", "bundles/shop/overlay/a.yaml"]
    assert seen.read("bases/web/b.yaml") == b"b: 1\n"
    with pytest.raises(ValidationError, match="outside the bundle's source") as caught:
        seen.read("README.md")
    assert caught.value.code == "V022"
    with pytest.raises(ValidationError, match="no such file"):
        Subtree(MemoryTree(FILES), ("",)).read("nothing")


def test_a_release_is_shown_short() -> None:
    assert str(Release("shop", "3f2c9d1aaaa", "d")) == "shop@3f2c9d1"


def test_a_changed_registry_entry_has_another_digest() -> None:
    text = (
        "apiVersion: muster.dev/v1alpha1\nkind: Cluster\n"
        "metadata: {name: a}\nspec: {uid: u, identityKey: k}\n"
    )
    one = parse(load_documents(text.encode(), "f.yaml")[0], Cluster)
    other = msgspec.convert(
        {**msgspec.to_builtins(one), "metadata": {"name": "a", "labels": {"x": "y"}}}, Cluster
    )
    assert registry_digest(one) == registry_digest(msgspec.convert(msgspec.to_builtins(one), Cluster))
    assert registry_digest(one) != registry_digest(other)


def test_a_removal_is_made_of_its_own_spec_alone() -> None:
    spec = "targets: [{selector: {}}], remove: {}"
    base = digest(FILES, spec)
    assert digest({**FILES, "bundles/shop/overlay/a.yaml": b"a: 2\n"}, spec) == base
    assert digest({"bundles/shop/bundle.yaml": b""}, spec) == base
    assert digest(FILES, "targets: [{selector: {}}], remove: {claims: true}") != base


def test_when_a_site_takes_releases_offers_none_anew() -> None:
    text = "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec: {uid: u, identityKey: k%s}\n"
    plain, site, going = (
        parse(load_documents((text % more).encode(), "f.yaml")[0], Cluster)
        for more in ("", ", site: {veto: [shop]}", ", removal: uninstall")
    )
    assert entry_digest(plain) == entry_digest(site) == entry_digest(going) == registry_digest(plain)
    assert len({registry_digest(plain), registry_digest(site), registry_digest(going)}) == 3
