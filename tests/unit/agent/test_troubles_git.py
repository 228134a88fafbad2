"""The agent against a Git host in trouble and against hostile commits: the last good state stays, and it is said."""

# ruff: noqa: F811 - a fixture has the name that tests ask for
from __future__ import annotations

import os
import resource

import msgspec
import pytest
import yaml
from muster_core.errors import GitError
from muster_core.kinds.base import Selector
from muster_core.kinds.model import FleetSecret
from muster_core.sealing.envelope import Recipient, seal
from muster_core.sealing.keys import SealingKey
from muster_core.sealing.masked import Masked
from unit.agent.stage import FLEET_ID, bundle, config_map
from unit.agent.test_pipeline import MAPS, Stage, anyio_backend, stage  # noqa: F401 - fixtures
from unit.agent.troubles import BLOG, last, offer, phase

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join(['*' + before] * 9)}]\n"
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "a depth bomb": "a: " + "[" * 100_000,
    "an alias bomb": BOMB,
    "a key that is there twice": config_map("web", "one") + "data: {a: 'two'}\n",
    "a document of more than eight mebibytes": "a: '" + "x" * (9 << 20) + "'\n",
    "a document of more than four mebibytes": "a: '" + "x" * (5 << 20) + "'\n",
    "no object": "- 1\n",
    "bytes that are no text": "a: \udcff\n",
}


async def healed(stage: Stage, times: int) -> None:
    await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
    await stage.until(lambda: last(stage).healed_count == times)
    assert await stage.value() == "one"


async def test_a_repository_that_is_deleted_stops_nothing_and_is_taken_again_when_it_is_back(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    async with stage.agent(poll=0.2):
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
        there, gone = stage.origin.folder / "origin.git", stage.origin.folder / "gone.git"
        there.rename(gone)
        said = ""
        while "MUSTER-G002" not in said:
            await healed(stage, last(stage).healed_count + 1)
            said += capfd.readouterr().out
        assert "the last good state stays" in said
        assert last(stage).phase == "Ready"
        gone.rename(there)
        new = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
        await stage.until(lambda: stage.reconciler.head.commit == new)
        await offer(stage, new, "shop-0002")
        await phase(stage, "Ready", rollout="shop-0002")
        assert await stage.value() == "two"


async def test_a_symbolic_link_in_a_bundle_refuses_that_bundle_alone(stage: Stage) -> None:
    async with stage.agent():
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
        stage.origin.git("checkout", "-q", "main", inside="work")
        link = stage.origin.folder / "work" / "bundles" / "shop" / "passwd.yaml"
        link.symlink_to("/etc/passwd")
        evil = stage.commit(BLOG)
        await stage.reconciler._fetch()
        await offer(stage, evil, "shop-0002", digest="0" * 64)
        report = await phase(stage, "Blocked", code="V050", rollout="shop-0002")
        assert "bundles/shop/passwd.yaml" in report.message
        assert report.release.commit == stage.commits[0]
        await offer(stage, evil, "blog-0001", "blog")
        await phase(stage, "Ready", "blog")
        await healed(stage, 1)


@pytest.mark.parametrize("path", ["..", ".git"])
async def test_a_commit_with_a_path_out_of_its_tree_never_gets_in(stage: Stage, path: str) -> None:
    async with stage.agent():
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
        git = stage.origin.git
        git("checkout", "-q", "main", inside="work")
        blob = git("hash-object", "-w", "fleet.yaml", inside="work")
        raw = stage.origin.folder / "evil"
        raw.write_bytes(b"100644 " + path.encode() + b"\0" + bytes.fromhex(blob))
        tree = git("hash-object", "-t", "tree", "-w", "--literally", str(raw), inside="work")
        evil = git("commit-tree", tree, "-p", stage.commits[0], "-m", "x", inside="work")
        git("push", "-q", str(stage.origin.folder / "origin.git"), f"{evil}:refs/heads/main", inside="work")
        with pytest.raises(GitError) as caught:
            await stage.reconciler._fetch()
        assert caught.value.code == "G002"
        assert "hasDot" in str(caught.value)
        await healed(stage, 1)
        # Even if such objects were here, whoever writes files is not given them.
        stage.reconciler._source._repo.git.execute(
            [
                "git",
                "-c",
                "fetch.fsckObjects=false",
                "-c",
                "transfer.fsckObjects=false",
                "fetch",
                "-q",
                stage.origin.url,
                "main",
            ]
        )
        with pytest.raises(GitError) as caught:
            await stage.reconciler._source.tree(evil)
        assert caught.value.code == "G017"


async def test_a_file_name_that_is_no_text_is_refused_and_the_process_goes_on(stage: Stage) -> None:
    async with stage.agent():
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
        stage.commit({"bundles/shop/\udcff.yaml": config_map("x", "1")})
        with pytest.raises(GitError) as caught:
            await stage.reconciler._fetch()
        assert caught.value.code == "G017"
        await offer(stage, stage.commits[-1], "shop-0002", digest="0" * 64)
        report = await phase(stage, "Blocked", code="G017", rollout="shop-0002")
        assert report.release.commit == stage.commits[0]
        await healed(stage, 1)


@pytest.mark.parametrize("what", HOSTILE)
async def test_hostile_yaml_refuses_its_bundle_with_file_and_line_and_no_other(
    stage: Stage, what: str
) -> None:
    path = stage.origin.folder / "work" / "bundles" / "shop" / "hostile.yaml"
    async with stage.agent():
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
        stage.origin.git("checkout", "-q", "main", inside="work")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        path.write_bytes(HOSTILE[what].encode(errors="surrogateescape"))
        evil = stage.commit(BLOG)
        await stage.reconciler._fetch()
        digest = "" if what != "a document of more than eight mebibytes" else "0" * 64
        await offer(stage, evil, "shop-0002", digest=digest)
        await stage.until(lambda: (last(stage).rollout, last(stage).phase) == ("shop-0002", "Blocked"))
        assert "bundles/shop/hostile.yaml" in last(stage).message
        if not digest:
            assert "bundles/shop/hostile.yaml:" in last(stage).message
        await offer(stage, evil, "blog-0001", "blog")
        await phase(stage, "Ready", "blog")
        await healed(stage, 1)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


async def test_locks_that_a_killed_git_left_stop_no_later_fetch(stage: Stage) -> None:
    async with stage.agent():
        await offer(stage, stage.commits[0], "shop-0001")
        await phase(stage, "Ready")
    folder = stage.folder / "state" / "fleet.git"
    for left in ("config.lock", "packed-refs.lock", "shallow.lock", "refs/muster/remote/main.lock"):
        (folder / left).touch()
    new = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
    async with stage.agent():
        await stage.until(lambda: stage.reconciler.head.commit == new)
        await offer(stage, new, "shop-0002")
        await phase(stage, "Ready", rollout="shop-0002")


def sealed(uid: str, key: SealingKey) -> str:
    secret = seal(
        fleet_id=FLEET_ID, name="db", namespace="shop", data={"password": Masked(b"hunter2")},
        recipients=[Recipient("cluster", "berlin", uid, key.public)], selector=Selector(), random=os.urandom,
    )  # fmt: skip
    assert isinstance(secret, FleetSecret)
    return yaml.safe_dump(msgspec.to_builtins(secret))


async def test_a_secret_for_another_cluster_blocks_its_bundle_alone(stage: Stage) -> None:
    spec = bundle(", secrets: [../../secrets/db.yaml]")
    files = {**BLOG, "bundles/shop/bundle.yaml": spec}
    other = SealingKey.generate()
    foreign = stage.commit({**files, "secrets/db.yaml": sealed("another-cluster", other)})
    async with stage.agent():
        await offer(stage, foreign, "shop-0001")
        await offer(stage, foreign, "blog-0001", "blog")
        await phase(stage, "Ready", "blog")
        await stage.until(lambda: last(stage).phase == "Blocked")
        report = last(stage)
        assert report.code.startswith("S")
        assert "db" in report.message
        assert await stage.value() is None  # nothing half-applied
        ours = stage.commit({"secrets/db.yaml": sealed(stage.uid, stage.sealing)})
        await offer(stage, ours, "shop-0002")
        await phase(stage, "Ready", rollout="shop-0002")
        assert (await stage("GET", "/api/v1/namespaces/shop/secrets/db"))[0] == 200
