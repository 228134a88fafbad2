"""token create, cluster approve, secret seal: what comes from the operator's own checkout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from muster_core.kinds.model import Cluster, FleetSecret
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_core.sealing.envelope import open_secret
from muster_core.sealing.keys import fingerprint
from muster_core.token import JoinToken
from muster_core.trust.documents import decode
from unit.cli.stage import Hub, Member, Muster, Repositories, git

UID = "5f0c0000-0000-4000-8000-000000000004"


@pytest.fixture
def member() -> Member:
    return Member("berlin-04", UID)


def test_a_token_carries_what_the_coordinator_must_not_choose(
    muster: Muster, hub: Hub, repositories: Repositories, tmp_path: Path
) -> None:
    hub.info.ca_pem = b"a lie"
    hub.info.repository_url = "https://evil.example.com/fleet.git"
    hub.info.fleet_id = repositories.fleet_id
    answer = muster(
        "token", "create", "--cluster", "berlin-04", "--ttl", "2h", "--checkout", repositories.clone
    )
    assert answer.code == 0, answer.err
    token = JoinToken.decode(answer.out)
    assert token.ca_pem == (tmp_path / "hub" / "ca.crt").read_bytes()
    assert (token.edge_address, token.link_address, token.secret) == ("hub:1", "hub:2", "the-secret-part")
    assert (token.cluster, token.mode, token.fleet_id) == (
        "berlin-04",
        "signed-commits",
        repositories.fleet_id,
    )
    signed = decode((repositories.clone / "trust" / "1.json").read_bytes())
    assert token.trust_digest == signed.document.digest
    (repository,) = token.repositories
    assert (repository.name, repository.url, repository.branch) == ("fleet", str(repositories.origin), "main")
    assert repository.anchor == git(repositories.clone, "rev-parse", "HEAD")
    assert hub.requests[-1].ttl_seconds == 7200
    assert "the-secret-part" not in answer.err


def test_no_token_without_a_checkout_that_is_pushed(
    muster: Muster, hub: Hub, repositories: Repositories, tmp_path: Path
) -> None:
    outside = muster("token", "create", "--cluster", "a", "--checkout", tmp_path)
    assert outside.code == 1
    assert "MUSTER-G015" in outside.err
    repositories.commit({"README.md": "not pushed"})
    unpushed = muster("token", "create", "--cluster", "a", "--checkout", repositories.clone)
    assert unpushed.code == 1
    assert "MUSTER-G017" in unpushed.err
    assert "git push" in unpushed.err
    assert not any(type(request).__name__ == "CreateTokenRequest" for request in hub.requests)


def test_no_token_with_an_address_that_no_cluster_can_reach(
    muster: Muster, hub: Hub, repositories: Repositories
) -> None:
    def create(*flags: str) -> Any:
        return muster("token", "create", "--cluster", "a", "--checkout", repositories.clone, *flags)

    for hub.info.edge_address, hub.info.link_address, flag in (
        ("0.0.0.0:7444", "hub:2", "edge"),
        ("hub:1", "[::]:7443", "link"),
    ):
        answer = create()
        assert answer.code == 4
        assert "MUSTER-J016" in answer.err
        assert f"muster serve --advertise-{flag} HOST:PORT" in answer.err
        assert not any(type(request).__name__ == "CreateTokenRequest" for request in hub.requests)
        assert create(f"--{flag}-address", "seen:1").code == 0
        hub.requests.clear()


@pytest.mark.parametrize("name", ["", "Berlin", "a.b", "../up", "a" * 64, "-a", "a b"])
def test_a_token_for_what_is_no_name_is_not_made(
    muster: Muster, hub: Hub, repositories: Repositories, name: str
) -> None:
    answer = muster("token", "create", f"--cluster={name}", "--checkout", repositories.clone)
    assert answer.code == 2
    assert "no name of a cluster" in answer.err
    assert hub.requests == []


def test_a_folder_that_is_no_fleet_is_named(muster: Muster, hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", "-b", "main", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "nothing")
    for command in (("token", "create", "--cluster", "a"), ("cluster", "approve", "a")):
        answer = muster(*command, "--checkout", other)
        assert answer.code == 2
        assert f"MUSTER-V006 there is no fleet.yaml: {other}." in answer.err
        assert "--checkout DIR" in answer.err


def test_no_token_for_another_fleet(muster: Muster, hub: Hub, repositories: Repositories) -> None:
    hub.info.fleet_id = "f" * 32
    answer = muster("token", "create", "--cluster", "a", "--checkout", repositories.clone)
    assert answer.code == 4
    assert "MUSTER-J011" in answer.err


def test_approval_writes_the_registry_and_not_the_working_tree(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member
) -> None:
    hub.joins = [member.join(repositories.fleet_id)]
    answer = muster(
        "cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone, "--label", "region=eu",
        "--protected-label", "tier=store", "--value", "replicas=3", "--value", "code=1e3", "--site-class", "edge",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert re.fullmatch(r"cluster/berlin-04 approved \(registry [0-9a-f]{7}\)\n", answer.out)
    assert fingerprint(member.identity.public) in answer.err
    assert fingerprint(member.sealing.public) in answer.err
    entry = parse(load_documents(repositories.registry("clusters/berlin-04.yaml").encode(), "x")[0], Cluster)
    assert entry.spec.protected_labels == {"tier": "store"}
    assert entry.spec.values == {"replicas": 3, "code": "1e3"}
    assert (entry.metadata.labels, entry.spec.site_class, entry.spec.uid) == ({"region": "eu"}, "edge", UID)
    assert git(repositories.clone, "status", "--porcelain") == ""
    assert git(repositories.clone, "branch", "--show-current") == "main"
    assert "clusters" not in git(repositories.origin, "ls-tree", "--name-only", "main")
    assert (
        git(repositories.origin, "ls-tree", "-r", "--name-only", "muster/registry")
        == "clusters/berlin-04.yaml"
    )


def test_a_question_is_asked_and_no_means_nothing_is_written(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.joins = [member.join(repositories.fleet_id)]
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: "n")
    answer = muster("cluster", "approve", "berlin-04", "--checkout", repositories.clone)
    assert answer.code == 1
    assert git(repositories.origin, "branch", "--list", "muster/registry") == ""


def test_approvals_pile_up_and_repeat_without_a_new_commit(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member
) -> None:
    other = Member("munich-01", UID[:-1] + "1")
    for who in (member, other, member):
        hub.joins = [who.join(repositories.fleet_id)]
        assert muster("cluster", "approve", who.name, "--yes", "--checkout", repositories.clone).code == 0
    assert git(repositories.origin, "rev-list", "--count", "muster/registry") == "2"


def test_somebody_elses_push_in_between_is_built_upon(
    muster: Muster,
    hub: Hub,
    repositories: Repositories,
    member: Member,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from muster_cli.checkout import Checkout

    hub.joins = [member.join(repositories.fleet_id)]
    real, calls = Checkout.fetch, []

    def fetch_then_lose_the_race(self: Checkout, branch: str) -> str:
        commit = real(self, branch)
        if branch == "muster/registry" and not calls:
            calls.append(branch)
            rival = tmp_path / "rival"
            git(tmp_path, "clone", "-q", str(repositories.origin), str(rival))
            git(rival, "checkout", "-q", "--orphan", "muster/registry")
            git(rival, "rm", "-rqf", ".")
            (rival / "notes.txt").write_text("first")
            git(rival, "add", "-A")
            git(rival, "commit", "-qm", "first")
            git(rival, "push", "-q", "origin", "muster/registry")
        return commit

    monkeypatch.setattr(Checkout, "fetch", fetch_then_lose_the_race)
    assert muster("cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone).code == 0
    files = git(repositories.origin, "ls-tree", "-r", "--name-only", "muster/registry").split()
    assert files == ["clusters/berlin-04.yaml", "notes.txt"]


def test_a_sealing_key_that_is_not_the_clusters_is_refused(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member
) -> None:
    join = member.join(repositories.fleet_id)
    join.sealing_key = Member("evil", "u").sealing.public
    hub.joins = [join]
    answer = muster("cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone)
    assert answer.code == 4
    assert "MUSTER-J015" in answer.err
    assert git(repositories.origin, "branch", "--list", "muster/registry") == ""


def test_names_and_identities_are_not_handed_on(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member
) -> None:
    hub.joins = [member.join(repositories.fleet_id)]
    assert muster("cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone).code == 0
    hub.joins = [Member("berlin-04", UID).join(repositories.fleet_id)]
    taken = muster("cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone)
    assert taken.code == 4
    assert "MUSTER-J013" in taken.err
    member.name = "berlin-05"
    hub.joins = [member.join(repositories.fleet_id)]
    twice = muster("cluster", "approve", "berlin-05", "--yes", "--checkout", repositories.clone)
    assert "MUSTER-J014" in twice.err


def test_who_did_not_ask_is_not_approved(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member
) -> None:
    hub.joins = [member.join(repositories.fleet_id)]
    answer = muster("cluster", "approve", "nobody", "--yes", "--checkout", repositories.clone)
    assert answer.code == 3
    assert "Who asked: berlin-04" in answer.err
    wrong = muster(
        "cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone, "--site-class", "moon"
    )
    assert wrong.code == 2
    assert "connected, edge" in wrong.err
    assert (
        muster(
            "cluster", "approve", "berlin-04", "--label", "nonsense", "--checkout", repositories.clone
        ).code
        == 2
    )


def test_a_coordinator_that_has_not_seen_the_entry_is_said(
    muster: Muster, hub: Hub, repositories: Repositories, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_cli.commands.clusters.ISSUE_DEADLINE", 0.0)
    hub.issues_on_refresh = False
    hub.joins = [member.join(repositories.fleet_id)]
    answer = muster("cluster", "approve", "berlin-04", "--yes", "--checkout", repositories.clone)
    assert answer.code == 5
    assert "has not seen the entry yet" in answer.err


@pytest.fixture
def registered(muster: Muster, hub: Hub, repositories: Repositories, member: Member) -> Member:
    for who, tier in ((member, "store"), (Member("edge-1", UID[:-1] + "9"), "edge")):
        hub.joins = [who.join(repositories.fleet_id)]
        done = muster("cluster", "approve", who.name, "--yes", "--protected-label", f"tier={tier}", "--label", "note=x",
                      "--checkout", repositories.clone)  # fmt: skip
        assert done.code == 0
    return member


def test_a_secret_is_sealed_to_the_clusters_that_protected_labels_choose(
    muster: Muster, repositories: Repositories, registered: Member, tmp_path: Path
) -> None:
    """bitnami/sealed-secrets#120, #263, #220, #365: one secret for many clusters, without anybody's private key."""
    (tmp_path / "key").write_bytes(b"\x00binary")
    answer = muster(
        "secret", "seal", "--name", "shop-db", "--namespace", "shop", "--selector", "tier=store",
        "--from-literal", "password=a=b", "--from-file", f"key={tmp_path / 'key'}", "--checkout", repositories.clone,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    path = repositories.clone / "secrets" / "shop-db.yaml"
    assert answer.out.strip() == str(path)
    assert "sealed for 1 cluster: berlin-04" in answer.err
    text = path.read_bytes()
    assert b"a=b" not in text
    secret = parse(load_documents(text, "x")[0], FleetSecret)
    found = open_secret(secret, fleet_id=repositories.fleet_id, uid=UID, keys=[registered.sealing])
    assert {name: value.reveal() for name, value in found.data.items()} == {
        "password": b"a=b",
        "key": b"\x00binary",
    }
    assert muster("validate", repositories.clone).code == 0


def test_plain_labels_do_not_choose_who_can_open(
    muster: Muster, repositories: Repositories, registered: Member
) -> None:
    answer = muster("secret", "seal", "--name", "a", "--namespace", "b", "--selector", "note=x", "--from-literal", "k=v",
                    "--checkout", repositories.clone)  # fmt: skip
    assert answer.code == 2
    assert "MUSTER-S015" in answer.err


def test_a_forged_sealing_key_in_the_registry_is_not_sealed_to(
    muster: Muster, repositories: Repositories, registered: Member, tmp_path: Path
) -> None:
    rival = tmp_path / "rival"
    git(tmp_path, "clone", "-q", "-b", "muster/registry", str(repositories.origin), str(rival))
    path = rival / "clusters" / "berlin-04.yaml"
    forged = Member("evil", "u").sealing.public.hex()
    path.write_text(re.sub(r"x25519:[0-9a-f]+", f"x25519:{forged}", path.read_text()))
    git(rival, "commit", "-qam", "forged")
    git(rival, "push", "-q", "origin", "muster/registry")
    answer = muster("secret", "seal", "--name", "a", "--namespace", "b", "--selector", "tier=store", "--from-literal", "k=v",
                    "--checkout", repositories.clone)  # fmt: skip
    assert answer.code == 4
    assert "MUSTER-T040" in answer.err, "nobody who may has signed it"
    key = git(repositories.clone, "config", "user.signingkey")
    git(rival, "-c", "gpg.format=ssh", "commit", "-q", "--amend", "--no-edit", f"-S{key}")
    git(rival, "push", "-qf", "origin", "muster/registry")
    answer = muster("secret", "seal", "--name", "a", "--namespace", "b", "--selector", "tier=store", "--from-literal", "k=v",
                    "--checkout", repositories.clone)  # fmt: skip
    assert answer.code == 2
    assert "MUSTER-S019" in answer.err
    assert not (repositories.clone / "secrets").exists()


def test_a_registry_that_was_forced_back_is_not_sealed_by(
    muster: Muster, repositories: Repositories, registered: Member, tmp_path: Path
) -> None:
    """The clone remembers how far it was accepted: an older state, signed as it is, shows an operator old keys."""
    seal = ("secret", "seal", "--namespace", "b", "--selector", "tier=store", "--from-literal", "k=v",
            "--checkout", repositories.clone)  # fmt: skip
    rival = tmp_path / "rival"
    git(tmp_path, "clone", "-q", "-b", "muster/registry", str(repositories.origin), str(rival))
    key = git(repositories.clone, "config", "user.signingkey")
    git(rival, "-c", "gpg.format=ssh", "commit", "-q", "--allow-empty", "-m", "newer", f"-S{key}")
    git(rival, "push", "-q", "origin", "muster/registry")
    assert muster(*seal, "--name", "first").code == 0
    git(rival, "reset", "-q", "--hard", "HEAD~1")
    git(rival, "push", "-qf", "origin", "muster/registry")
    answer = muster(*seal, "--name", "second")
    assert answer.code == 4
    assert "MUSTER-T012" in answer.err
    assert not (repositories.clone / "secrets" / "second.yaml").exists()


@pytest.mark.parametrize(
    "more", [[], ["--from-literal", "novalue"], ["--from-literal", "k=1", "--from-literal", "k=2"]]
)
def test_entries_are_asked_for_clearly(muster: Muster, repositories: Repositories, more: list[str]) -> None:
    answer = muster(
        "secret",
        "seal",
        "--name",
        "a",
        "--namespace",
        "b",
        "--selector",
        "a=b",
        "--checkout",
        repositories.clone,
        *more,
    )
    assert answer.code == 2
    missing = muster(
        "secret", "seal", "--name", "a", "--namespace", "b", "--selector", "a=b", "--from-file", "k=/nowhere"
    )
    assert missing.code == 2
    assert "/nowhere" in missing.err
