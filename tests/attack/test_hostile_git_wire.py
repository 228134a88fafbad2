"""What a Git host does on the wire itself: it stalls, never ends, cuts off, sends on, lies about refs.

The agent's own repository against the host's process over HTTPS, with small bounds; after each attack the same
repository fetches from the honest host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack.hostile_git import HostileGit, hostile_git
from muster_agent.source import repository
from muster_agent.source.children import Bounds
from muster_agent.source.repository import SourceRepository
from muster_agent.trust.heads import require_descent
from muster_core.errors import GitError, TrustError
from unit.agent.stage import Origin

MIB = 1 << 20
BOUNDS = Bounds(deadline=2.0, answered=MIB, fetched=4 * MIB)
FAR = Bounds(deadline=30.0, answered=MIB, fetched=4 * MIB)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileGit]:
    with hostile_git(tmp_path_factory.mktemp("host")) as found:
        yield found


class Wire:
    """An origin behind the host, and the agent's repository of it."""

    def __init__(self, folder: Path, host: HostileGit) -> None:
        self.host = host
        self.origin = Origin.make(host.root / folder.name)
        self.name = f"{folder.name}.git"
        (self.origin.folder / "origin.git").rename(host.root / self.name)
        (self.origin.folder / "origin.git").symlink_to(host.root / self.name)
        self.bare = host.root / self.name
        self.anchor = self.origin.commit({"a": "1"})
        self.folder = folder / "fleet.git"
        self.bounds = BOUNDS

    def source(self, bounds: Bounds = FAR, anchor: str = "") -> SourceRepository:
        return SourceRepository(
            self.folder, self.host.url(self.name), "main", self.host.ca_file, anchor, bounds
        )

    async def refuses(self, code: str, bounds: Bounds = FAR, **script: object) -> GitError:
        """A fetch under this attack fails with the code; nothing of it is left, and the honest host is taken after it."""
        source = self.source(bounds)
        self.host.lies(**script)
        try:
            with pytest.raises(GitError) as caught:
                await source.fetch()
            assert caught.value.code == code, caught.value
            assert caught.value.retryable
            assert git_children() == []
            assert not list(self.folder.glob("objects/pack/*tmp*"))
            self.host.lies()
            source._bounds = FAR
            head = self.origin.commit({"a": "after"})
            assert (await source.fetch()).commit == head
        finally:
            self.host.lies()
            source.close()
        return caught.value


def git_children() -> list[str]:
    """Processes that run git's side of a fetch from this host, whoever is their parent now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = stat.read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            words[0].rpartition(b"/")[2].startswith(b"git")
            and any(b"https://127.0.0.1" in word for word in words)
            and _runs_below(int(stat.parent.name))
        ):
            found.append(b" ".join(words).decode(errors="replace"))
    return found


def _runs_below(pid: int) -> bool:
    """Whether the process has this test's marker in its environment."""
    try:
        return MARK in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


MARK = f"MUSTER_ATTACK={os.getpid()}".encode()


@pytest.fixture
def wire(tmp_path: Path, host: HostileGit, monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setenv("MUSTER_ATTACK", str(os.getpid()))
    return Wire(tmp_path, host)


@pytest.mark.parametrize("how", ["stall", "drip"])
@pytest.mark.parametrize("what", ["advertise", "refs", "fetch"])
async def test_a_host_that_holds_the_line_is_left_at_the_deadline(wire: Wire, what: str, how: str) -> None:
    began = time.monotonic()
    error = await wire.refuses("G002", BOUNDS, say={what: how})
    if not (how == "drip" and what != "fetch"):  # else git itself sees that it is no answer
        assert "did not end within 2 s" in str(error)
    assert time.monotonic() - began < 20


async def test_a_pack_that_never_ends_is_stopped_by_its_size(wire: Wire) -> None:
    error = await wire.refuses("G016", say={"fetch": "endless"})
    assert "more than 4,194,304 bytes" in str(error)
    assert sum(path.stat().st_size for path in wire.folder.rglob("*") if path.is_file()) < MIB


async def test_a_list_of_refs_that_never_ends_is_stopped(wire: Wire) -> None:
    await wire.refuses("G002", say={"refs": "endless"})


async def test_a_pack_that_is_too_big_is_stopped_and_leaves_nothing(wire: Wire) -> None:
    before = wire.anchor
    source = wire.source()
    try:
        await source.fetch()
        for inside in ("work", "origin.git"):
            wire.origin.git("config", "core.compression", "0", inside=inside)
        (wire.origin.folder / "work" / "big").write_bytes(os.urandom(24 * MIB))
        wire.origin.commit({})
        with pytest.raises(GitError, match="MUSTER-G016"):
            await source.fetch()
        assert sum(path.stat().st_size for path in wire.folder.rglob("*") if path.is_file()) < MIB
        wire.origin.git("reset", "-q", "--hard", before, inside="work")
        honest = wire.origin.commit({"a": "2"}, force=True)
        assert (await source.fetch()).commit == honest
    finally:
        source.close()


async def test_a_pack_that_breaks_off_is_not_taken(wire: Wire) -> None:
    await wire.refuses("G002", say={"fetch": "cut"})


async def test_a_redirect_to_another_host_is_not_followed_and_nothing_is_told_to_it(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("default login admin password secret\n")
    monkeypatch.setenv("HOME", str(home))
    with hostile_git(tmp_path / "other") as other:
        for target in (
            f"https://localhost:{wire.host.port}/elsewhere",  # a name for which its certificate is good
            f"https://localhost:{other.port}",
            f"file://{wire.bare.parent}",
            "ext::sh -c true ",
        ):
            await wire.refuses("G002", redirect=target)
        assert other.requests() == []
        assert not [seen for seen in wire.host.requests() if seen["path"].startswith("/elsewhere")]


async def test_no_credentials_are_sent_even_when_they_are_asked_for(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    helper = "[credential]\n\thelper = \"!printf 'username=admin\\\\npassword=secret\\\\n'\"\n"
    (home / ".gitconfig").write_text(helper)
    (home / ".netrc").write_text("default login admin password secret\n")
    monkeypatch.setenv("HOME", str(home))
    await wire.refuses("G002", say={"advertise": "unauthorized"})
    seen = wire.host.requests()
    assert seen
    assert {(request["authorization"], request["cookie"]) for request in seen} == {("", "")}


async def test_a_host_with_another_certificate_is_not_talked_to(wire: Wire, tmp_path: Path) -> None:
    with hostile_git(tmp_path / "other") as other:
        source = SourceRepository(tmp_path / "x.git", other.url("x.git"), "main", wire.host.ca_file)
        try:
            with pytest.raises(GitError, match=r"MUSTER-G002.*certificate"):
                await source.fetch()
        finally:
            source.close()
        assert other.requests() == []


async def test_refs_of_the_host_stay_out_of_the_repository(wire: Wire) -> None:
    """Replacements, notes, other branches, tags: nothing comes that was not named, nothing lies outside refs/muster."""
    evil = wire.origin.git("commit-tree", f"{wire.anchor}^{{tree}}", "-m", "evil", inside="work")
    for ref in (
        f"refs/replace/{wire.anchor}",
        "refs/notes/commits",
        "refs/heads/other",
        "refs/tags/v1",
        "refs/muster/x",
    ):
        wire.origin.git("push", "-q", str(wire.bare), f"{evil}:{ref}", inside="work")
    source = wire.source(anchor=wire.anchor)
    try:
        await source.fetch()
        refs = wire.origin.git("--git-dir", str(wire.folder), "for-each-ref", "--format=%(refname)").split()
        assert [ref for ref in refs if not ref.startswith("refs/muster/")] == []
        assert "refs/muster/x" not in refs
        assert not await source.has(evil)
        assert b"parent" not in await source.raw("commit", wire.anchor)
    finally:
        source.close()


async def test_a_ref_to_a_commit_that_is_never_sent_gives_nothing(wire: Wire) -> None:
    await wire.refuses("G002", refs={"refs/heads/main": "1234567890" * 4})


async def test_grafts_and_alternates_of_the_host_are_its_own_affair(wire: Wire, tmp_path: Path) -> None:
    """Grafts hide history and alternates bring objects from elsewhere: on the host's side they only break the pack."""
    before, head = wire.origin.commit({"a": "2"}), wire.origin.commit({"a": "3"})
    (wire.bare / "info").mkdir(exist_ok=True)
    (wire.bare / "info" / "grafts").write_text(f"{head}\n")
    source = wire.source()
    try:
        # The commit says that it has a parent: a pack without it is no history.
        with pytest.raises(GitError, match="MUSTER-G002"):
            await source.fetch()
        (wire.bare / "info" / "grafts").unlink()
        assert (await source.fetch()).commit == head
        assert await source.descends(head, before)
        assert not (wire.folder / "info" / "grafts").exists()
        assert not (wire.folder / "objects" / "info" / "alternates").exists()
    finally:
        source.close()


async def test_a_host_of_files_sends_nobody_to_another_host(wire: Wire, tmp_path: Path) -> None:
    """A host may serve plain files and name other hosts as alternates; nobody goes there."""
    wire.origin.git("--git-dir", str(wire.bare), "update-server-info")
    with hostile_git(tmp_path / "other") as other:
        alternate = f"https://localhost:{other.port}/x.git/objects\n"
        (wire.bare / "objects" / "info").mkdir(exist_ok=True)
        (wire.bare / "objects" / "info" / "http-alternates").write_text(alternate)
        for loose in wire.bare.glob("objects/??"):
            loose.rename(tmp_path / f"away-{loose.name}")
        wire.host.lies(say={"advertise": "dumb"})
        source = wire.source()
        try:
            with pytest.raises(GitError, match="MUSTER-G002"):
                await source.fetch()
        finally:
            source.close()
            wire.host.lies()
        assert other.requests() == []


async def test_two_heads_that_change_with_every_fetch_do_not_fill_the_disk(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fetch brings a head that is not above the last one; what no ref holds any more goes."""
    monkeypatch.setattr(repository, "MAX_PACKS", 4)
    source = wire.source()
    try:
        floor = (await source.fetch()).commit
        await source.pin("floor/fleet", floor)
        for number in range(12):
            wire.origin.git("reset", "-q", "--hard", wire.anchor, inside="work")
            head = wire.origin.commit({"a": f"{number}"}, force=True)
            assert (await source.fetch()).commit == head
        assert len(list(wire.folder.glob("objects/pack/*.pack"))) <= 6
        assert await source.has(floor)
        assert (await source.tree(head)).read("a") == b"11"
    finally:
        source.close()


async def test_a_tree_that_unfolds_without_end_is_stopped(wire: Wire) -> None:
    """Eleven trees of ten entries each: 10^10 files out of a kilobyte."""
    git = wire.origin.git
    inner = git("hash-object", "-w", "a", inside="work")
    mode = "100644"
    for _ in range(10):
        raw = b"".join(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(inner) for name in "abcdefghij")
        (wire.origin.folder / "tree").write_bytes(raw)
        inner = git("hash-object", "-t", "tree", "-w", str(wire.origin.folder / "tree"), inside="work")
        mode = "40000"
    bomb = git("commit-tree", inner, "-p", wire.anchor, "-m", "bomb", inside="work")
    git("push", "-q", str(wire.bare), f"{bomb}:refs/heads/main", inside="work")
    source = wire.source()
    try:
        assert (await source.fetch()).commit == bomb
        with pytest.raises(GitError, match="MUSTER-G016"):
            await source.tree(bomb)
        with pytest.raises(
            GitError, match=r"MUSTER-G01[56]"
        ):  # git keeps the list in memory, which is bounded
            await source.changes(wire.anchor, bomb)
    finally:
        source.close()


async def test_a_commit_of_many_megabytes_is_not_read(wire: Wire) -> None:
    raw = wire.origin.git("cat-file", "commit", wire.anchor, inside="work").replace(
        "\n\nchange", "\n\n" + "x" * 3 * MIB
    )
    (wire.origin.folder / "commit").write_text(raw)
    big = wire.origin.git(
        "hash-object", "-t", "commit", "-w", str(wire.origin.folder / "commit"), inside="work"
    )
    wire.origin.git("push", "-q", "-f", str(wire.bare), f"{big}:refs/heads/main", inside="work")
    source = wire.source()
    try:
        assert (await source.fetch()).commit == big
        with pytest.raises(GitError, match="MUSTER-G016"):
            await source.raw("commit", big)
    finally:
        source.close()


async def test_history_that_a_shallow_host_cuts_off_is_called_incomplete(wire: Wire, tmp_path: Path) -> None:
    """The host has only the newest commit: whether it descends from the floor cannot be told, so nothing is taken."""
    floor = wire.origin.commit({"a": "2"})
    source = wire.source(anchor=wire.anchor)
    try:
        assert (await source.fetch()).commit == floor
        wire.origin.commit({"a": "3"})
        head = wire.origin.commit({"a": "4"})
        shallow = wire.host.root / f"shallow-{wire.name}"
        wire.origin.git("clone", "-q", "--bare", "--depth=1", f"file://{wire.bare}", str(shallow))
        wire.host.lies(serve=shallow.name)
        assert (await source.fetch()).commit == head
        with pytest.raises(TrustError, match="MUSTER-T014 history-incomplete"):
            await require(source, head, wire.anchor, floor)
        wire.host.lies()
        assert (await source.fetch()).commit == head
        await require(source, head, wire.anchor, floor)
    finally:
        wire.host.lies()
        source.close()


async def require(source: SourceRepository, commit: str, anchor: str, floor: str) -> None:
    await require_descent(source, commit, anchor=anchor, floor=floor, branch_head=commit)
