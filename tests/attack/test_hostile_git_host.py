"""A Git host in the attacker's hands: what it serves, and what the agent does not take.

One site for all attacks here, whose agent fetches over HTTPS from a host that lies. After every attack the host is
honest again, and the agent must take an honest release: no attack leaves a mark.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from attack.git_stage import MAIN, MAP, REGISTRY, Attack, attacked, shop_of
from e2e.programs import until

LINK = "bundles/shop/manifests/evil.yaml"
BIG = "bundles/shop/manifests/big.bin"
SHELL = b"#!/bin/sh\ntouch /tmp/muster-attack-hook-ran\n"
FLOORS = "/api/v1/namespaces/muster-system/secrets/muster-floors"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    with attacked(tmp_path_factory.mktemp("git")) as attack:
        yield attack


@pytest.fixture
def attack(running: Attack) -> Iterator[Attack]:
    yield running
    running.mends()


# --- history -------------------------------------------------------------------------------------------------------


def test_a_rewound_branch_takes_nothing_back(attack: Attack) -> None:
    old, new = attack.honest(), attack.honest()
    attack.push(old)
    attack.complains("MUSTER-T012")
    assert attack.floors["fleet"] == new
    attack.refuses(old, "T012")
    attack.stays()


def test_a_rewritten_history_is_refused_even_when_a_releaser_signed_it(attack: Attack) -> None:
    before, _ = attack.honest(), attack.honest()
    beside = attack.crafted(before, shop_of("evil"), "releaser")
    attack.push(beside)
    attack.complains("MUSTER-T012")
    attack.refuses(beside, "T012")
    attack.stays()


def test_another_repository_signed_by_the_same_key_is_refused(attack: Attack) -> None:
    paths = attack.git("ls-tree", "-r", "--name-only", "main").splitlines()
    files = {path: attack.git("show", f"main:{path}") + "\n" for path in paths}
    other = attack.crafted("", {**files, **shop_of("evil")}, "releaser")
    attack.push(other)
    attack.refuses(other, "T011")
    attack.stays()


def test_a_replay_of_an_older_signed_commit_after_the_state_was_lost_gains_nothing(attack: Attack) -> None:
    """The state folder loses floors, trust and its clone; they come back from the cluster, whatever the host serves.

    gittuf/gittuf#695: how fresh a branch is, Git alone cannot tell.
    """
    old, new = attack.honest(), attack.honest()
    attack.push(old)
    attack.loses_state()
    until(lambda: attack.floors.get("fleet") == new, why=attack.why)
    secret = json.loads(base64.b64decode(attack.site.kube.ask("GET", FLOORS)["data"]["floors.json"]))
    assert (secret["branches"]["fleet"], secret["bundles"]["shop"]) == (new, new)
    attack.complains("MUSTER-T01")
    attack.offers(old)
    attack.hears("release not admitted")
    assert attack.floors["fleet"] == new


def test_floors_come_back_from_parents_when_their_secret_is_lost_too(attack: Attack) -> None:
    old, new = attack.honest(), attack.honest()
    attack.push(old)
    attack.loses_state(and_secret=True)
    until(lambda: attack.kept("bundles").get("shop") == new, why=attack.why)
    # Nobody remembers the branch's own floor, so the old head is one that may be looked at; the bundle stays.
    until(lambda: attack.floors.get("fleet") == old, why=attack.why)
    attack.offers(old)
    assert "MUSTER-T01" in attack.hears("release not admitted")
    assert attack.kept("bundles")["shop"] == new


def test_two_heads_that_change_with_every_question_move_nothing(attack: Attack) -> None:
    """The host answers from two repositories in turn, and has the objects of both: one head is beside the floor."""
    good, evil = attack.honest(), attack.crafted("main~1", shop_of("evil"), "releaser")
    other = attack.fleet.folder / "b.git"
    attack.git("clone", "-q", "--bare", str(attack.fleet.folder / "origin.git"), str(other))
    attack.push(evil, MAIN, "b.git")
    attack.push(evil, "refs/heads/evil")
    before = len(attack.log())
    attack.host.lies(serve=["origin.git", "b.git", "b.git"])
    for _ in range(5):
        attack.looks()
        assert attack.floors["fleet"] == good
    until(lambda: "MUSTER-T012" in attack.log()[before:], why=attack.why)
    attack.refuses(evil, "T012")
    assert attack.floors["fleet"] == good
    attack.stays()
    attack.push("", "refs/heads/evil")


# --- who signed ----------------------------------------------------------------------------------------------------


def test_an_unsigned_head_is_refused(attack: Attack) -> None:
    evil = attack.crafted("main", shop_of("evil"))
    attack.push(evil)
    attack.refuses(evil, "T040")
    attack.stays()


def test_a_head_signed_by_a_stranger_is_refused(attack: Attack) -> None:
    evil = attack.crafted("main", shop_of("evil"), "stranger")
    attack.push(evil)
    attack.refuses(evil, "T041")


def test_a_head_whose_paths_exceed_the_signers_role_is_refused(attack: Attack) -> None:
    evil = attack.crafted("main", {**shop_of("evil"), "policies/lax.yaml": "kind: nothing\n"}, "releaser")
    attack.push(evil)
    attack.refuses(evil, "T042")


def test_a_signature_moved_to_another_tree_is_refused(attack: Attack) -> None:
    """The host takes a signed commit apart and puts its signature on its own tree."""
    raw = attack.git("cat-file", "commit", attack.crafted("main", shop_of("two"), "releaser")) + "\n"
    tree = attack.git("rev-parse", f"{attack.crafted('main', shop_of('evil'))}^{{tree}}")
    forged = f"tree {tree}" + raw[45:]
    evil = attack.git("hash-object", "-t", "commit", "-w", "--stdin", data=forged.encode())
    attack.push(evil)
    attack.refuses(evil, "T052")


def test_a_tag_object_under_another_name_approves_nothing(attack: Attack) -> None:
    evil = attack.crafted("main", shop_of("evil"))
    attack.git("tag", "-f", f"-u{attack.fleet.key('releaser')}", "-m", "x", "elsewhere", evil)
    attack.push(evil)
    attack.push("refs/tags/elsewhere", "refs/tags/muster/release-1")
    attack.refuses(evil, "T044")


def test_a_tag_moved_to_another_commit_approves_nothing(attack: Attack) -> None:
    """The host says that a releaser's tag of an old commit peels to the evil one."""
    good, evil = attack.honest(), attack.crafted("main", shop_of("evil"))
    attack.git("tag", "-f", f"-u{attack.fleet.key('releaser')}", "-m", "x", "muster/release-2", good)
    attack.push(evil)
    attack.push("refs/tags/muster/release-2", "refs/tags/muster/release-2")
    tag = attack.git("rev-parse", "refs/tags/muster/release-2")
    attack.host.lies(refs={"refs/tags/muster/release-2": f"{tag} peeled:{evil}"})
    attack.refuses(evil, "T044")


def test_a_lightweight_tag_approves_nothing(attack: Attack) -> None:
    evil = attack.crafted("main", shop_of("evil"))
    attack.push(evil)
    attack.push(evil, "refs/tags/muster/release-3")
    attack.refuses(evil, "T040")


def test_a_replacement_of_a_good_commit_changes_nothing(attack: Attack) -> None:
    good, evil = attack.fleet.commit(shop_of("two")), attack.crafted("main", shop_of("evil"))
    attack.push(evil, f"refs/replace/{good}")
    attack.takes(attack.fleet.offer(good, attack.rollout()))
    assert attack.site.kube.version() == "two"
    attack.push("", f"refs/replace/{good}")


# --- what is in a tree ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"..", "G002"),
        (b".git", "G002"),
        (b".GIT", "G002"),
        (b"git~1", "G002"),
        (b"a/b", "G002"),
        (b"/etc", "G002"),
        (b"\xff\xfe", "G017"),
        (b"new\nline", "G017"),
        ("\u202egnp".encode(), "G017"),
    ],
)
def test_a_path_that_leads_out_of_the_tree_is_refused(attack: Attack, name: bytes, code: str) -> None:
    good = attack.git("rev-parse", "main^{tree}")
    entries = attack.git("ls-tree", good).splitlines()
    kept = [(line.split()[0], line.split("\t")[1].encode(), line.split()[2]) for line in entries]
    kept = [(mode.lstrip("0"), path, oid) for mode, path, oid in kept]
    evil = attack.tree(*sorted([*kept, ("100644", name, attack.blob("evil"))], key=lambda entry: entry[1]))
    commit = attack.commit_of(evil, "main", "policy")
    attack.push(commit)
    attack.complains(f"MUSTER-{code}", commit)
    attack.stays()


@pytest.mark.parametrize(("mode", "content"), [("120000", "/etc/passwd"), ("160000", "1" * 40)])
def test_a_link_or_a_submodule_in_a_bundle_refuses_its_release(
    attack: Attack, mode: str, content: str
) -> None:
    evil = attack.crafted("main", {LINK: content}, "releaser", mode)
    attack.push(evil)
    rollout = attack.rollout()
    offer = attack.fleet.offer(attack.git("rev-parse", "main"), rollout)
    offer.release.commit = evil
    assert attack.refused(offer) == "V050"
    attack.git("reset", "-q", "--soft", attack.crafted(evil, {LINK: None}, "releaser"))


def test_attributes_and_hooks_of_the_repository_change_nothing(attack: Attack) -> None:
    """Filters, line ends, ident and hooks are for whoever checks out; the agent reads what was signed."""
    files = {
        ".gitattributes": "* text eol=crlf ident filter=evil export-ignore\n",
        "hooks/post-checkout": SHELL,
        "hooks/reference-transaction": SHELL,
    }
    marked = {MAP: shop_of("$Id$")[MAP]}
    good = attack.fleet.commit(
        {**{p: v if isinstance(v, str) else v.decode() for p, v in files.items()}, **marked}
    )
    attack.takes(attack.fleet.offer(good, attack.rollout()))
    assert attack.site.kube.version() == "$Id$"
    attack.fleet.commit(dict.fromkeys(files))


def test_a_file_of_many_megabytes_refuses_its_release(attack: Attack) -> None:
    evil = attack.crafted("main", {BIG: b"x" * (9 << 20)}, "releaser")
    attack.push(evil)
    offer = attack.fleet.offer(attack.git("rev-parse", "main"), attack.rollout())
    offer.release.commit = evil
    assert attack.refused(offer) == "V050"
    attack.git("reset", "-q", "--soft", attack.crafted(evil, {BIG: None}, "releaser"))


# --- the host itself -----------------------------------------------------------------------------------------------


def test_a_registry_that_vanishes_is_no_reason_to_forget_it(attack: Attack) -> None:
    floors = attack.floors
    attack.host.lies(refs={REGISTRY: None})
    attack.looks()
    attack.honest()
    assert attack.floors["registry"] == floors["registry"]
