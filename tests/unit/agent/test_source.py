"""The agent's repository against real bare repositories: honest ones, rewritten ones, absent ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from muster_agent.source.repository import REGISTRY_BRANCH, SourceRepository
from muster_agent.trust.heads import require_descent
from muster_core.errors import GitError, TrustError
from unit.agent.stage import Origin


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin.make(tmp_path / "host")


@pytest.fixture
def source(origin: Origin, tmp_path: Path) -> Iterator[SourceRepository]:
    repository = SourceRepository(tmp_path / "fleet.git", origin.url, "main", None)
    yield repository
    repository.close()


async def test_both_branches_and_their_files_come(origin: Origin, source: SourceRepository) -> None:
    head = origin.commit({"a.yaml": "one", "b/c.yaml": "two"})
    registry = origin.commit({"clusters/x.yaml": "three"}, REGISTRY_BRANCH)
    assert await source.fetch() == (head, registry)
    tree = await source.tree(head)
    assert [file.path for file in tree.files()] == ["a.yaml", "b/c.yaml"]
    assert tree.read("b/c.yaml") == b"two"
    assert (await source.tree(registry)).read("clusters/x.yaml") == b"three"


async def test_refs_stay_in_our_namespace_and_tags_do_not_come(
    origin: Origin, source: SourceRepository, tmp_path: Path
) -> None:
    head = origin.commit({"a": "1"})
    origin.git("tag", "v1", inside="work")
    origin.git("push", "-q", str(origin.folder / "origin.git"), "v1", "main:refs/heads/other", inside="work")
    await source.fetch()
    refs = origin.git("--git-dir", str(tmp_path / "fleet.git"), "for-each-ref", "--format=%(refname)")
    assert refs.split() == ["refs/muster/remote/main"]
    assert await source.has(head)


async def test_the_first_clone_begins_at_the_anchor(origin: Origin, tmp_path: Path) -> None:
    """fluxcd/flux2#2314: full clones are too heavy."""
    before = origin.commit({"a": "1"})
    anchor = origin.commit({"a": "2"})
    between = origin.commit({"a": "3"})
    head = origin.commit({"a": "4"})
    source = SourceRepository(tmp_path / "shallow.git", origin.url, "main", None, anchor)
    try:
        assert (await source.fetch()).commit == head
        assert not await source.has(before)
        assert await source.has(between)
        assert await source.descends(head, anchor)
        newer = origin.commit({"a": "5"})
        assert (await source.fetch()).commit == newer
        await require_descent(source, newer, anchor=anchor, floor=head, branch_head=newer)
    finally:
        source.close()


async def test_a_forced_push_is_refused_and_the_old_commit_stays(
    origin: Origin, source: SourceRepository
) -> None:
    anchor = origin.commit({"a": "1"})
    floor = origin.commit({"a": "2"})
    await source.fetch()
    await source.pin("floor/fleet", floor)
    origin.git("reset", "-q", "--hard", anchor, inside="work")
    forced = origin.commit({"a": "evil"}, force=True)
    assert (await source.fetch()).commit == forced
    with pytest.raises(TrustError, match=r"MUSTER-T012 .*forced back"):
        await require_descent(source, forced, anchor=anchor, floor=floor, branch_head=forced)
    with pytest.raises(TrustError, match="MUSTER-T012"):
        await require_descent(source, anchor, anchor=anchor, floor=floor, branch_head=anchor)
    assert (await source.tree(floor)).read("a") == b"2"


async def test_another_history_is_not_from_the_anchor(origin: Origin, tmp_path: Path) -> None:
    anchor = origin.commit({"a": "1"})
    origin.git("checkout", "-q", "--orphan", "evil", inside="work")
    origin.git("commit", "-q", "-m", "evil", inside="work")
    origin.git("push", "-q", "--force", str(origin.folder / "origin.git"), "evil:main", inside="work")
    source = SourceRepository(tmp_path / "a.git", origin.url, "main", None, anchor)
    try:
        head = (await source.fetch()).commit
        with pytest.raises(TrustError, match="MUSTER-T011"):
            await require_descent(source, head, anchor=anchor, floor="", branch_head=head)
    finally:
        source.close()


async def test_a_commit_beside_the_tracked_branch_is_not_taken(
    origin: Origin, source: SourceRepository
) -> None:
    anchor = origin.commit({"a": "1"})
    head = origin.commit({"a": "2"})
    await source.fetch()
    beside = origin.git("commit-tree", "-p", anchor, "-m", "x", f"{anchor}^{{tree}}", inside="work")
    with pytest.raises(TrustError, match="MUSTER-T013"):
        await require_descent(source, beside, anchor=anchor, floor="", branch_head=head)
    origin.git("push", "-q", str(origin.folder / "origin.git"), f"{beside}:refs/heads/main-2", inside="work")
    source.branch = "main-2"
    await source.fetch()
    with pytest.raises(TrustError, match="MUSTER-T010"):
        await require_descent(source, beside, anchor=anchor, floor="", branch_head=head)


async def test_a_host_that_is_away_is_retryable_and_costs_nothing_that_was_there(
    origin: Origin, source: SourceRepository
) -> None:
    head = origin.commit({"a": "1"})
    await source.fetch()
    os.rename(origin.folder / "origin.git", origin.folder / "gone.git")
    with pytest.raises(GitError, match="MUSTER-G002") as caught:
        await source.fetch()
    assert caught.value.retryable
    assert (await source.tree(head)).read("a") == b"1"


async def test_a_branch_that_is_not_there_is_named(origin: Origin, source: SourceRepository) -> None:
    with pytest.raises(GitError, match="no branch main"):
        await source.fetch()


@pytest.mark.parametrize("url", ["--upload-pack=touch /tmp/x", "ext::sh -c true"])
def test_a_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(GitError, match="MUSTER-G001"):
        SourceRepository(tmp_path / "x.git", url, "main", None)


async def test_a_protocol_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    source = SourceRepository(tmp_path / "x.git", "http://127.0.0.1:9/x.git", "main", None)
    try:
        with pytest.raises(GitError, match="not allowed"):
            await source.fetch()
    finally:
        source.close()


async def test_links_are_listed_and_never_read(origin: Origin, source: SourceRepository) -> None:
    origin.commit({"a": "1"})
    (origin.folder / "work" / "link").symlink_to("/etc/passwd")
    head = origin.commit({})
    await source.fetch()
    tree = await source.tree(head)
    assert ("120000", "link") in [(file.mode, file.path) for file in tree.files()]
    with pytest.raises(GitError, match="MUSTER-G010"):
        tree.read("link")


async def test_a_replacement_object_is_not_followed(
    origin: Origin, source: SourceRepository, tmp_path: Path
) -> None:
    head = origin.commit({"a": "good"})
    await source.fetch()
    tree = await source.tree(head)
    evil = tmp_path / "evil"
    evil.write_text("evil")
    folder = str(tmp_path / "fleet.git")
    oid = origin.git("--git-dir", folder, "hash-object", "-w", str(evil))
    origin.git("--git-dir", folder, "replace", tree.oid("a"), oid)
    assert tree.read("a") == b"good"


def git_children() -> int:
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        found += name == "git" and rest.split()[1] == str(os.getpid()) and rest.split()[0] != "Z"
    return found


async def test_git_leaves_no_child_behind(origin: Origin, source: SourceRepository) -> None:
    head = origin.commit({"a": "1"})
    await source.fetch()
    (await source.tree(head)).read("a")
    assert git_children() == 1
    source.idle()
    assert git_children() == 0
