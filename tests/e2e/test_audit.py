"""Who did what, and that nobody can change it afterwards unseen: installed programs, and their files on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.programs import Program, Stage, code_in, free_port, shop, until
from e2e.test_operators import Answer, muster
from muster_core.audit.chain import Entry, decode


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def entries(folder: Path) -> list[Entry]:
    return [decode(line) for file in segments(folder) for line in file.read_bytes().splitlines(keepends=True)]


def admin(fleet: Stage, *args: str) -> Answer:
    """The command in the operator's clone."""
    return muster(fleet.data / "context.json", *args, "--checkout", str(fleet.folder / "work"))


def heads(fleet: Stage) -> str:
    return muster(fleet.data / "context.json", "audit", "heads").out


# --- an agent's log ------------------------------------------------------------------------------------------------------


def test_an_agents_log_says_what_it_did_and_holds_and_an_edit_is_found(fleet: Stage) -> None:
    kube, agent = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: kube.version() == "1", why=fleet.logs)
    log = fleet.folder / "berlin-04" / "state" / "audit"
    until(lambda: {"join", "apply"} <= {entry.action for entry in entries(log)}, why=fleet.logs)
    agent.kill()
    applied = next(entry for entry in entries(log) if entry.action == "apply")
    assert (applied.object, applied.detail["rollout"], applied.detail["bundle"]) == (
        "bundle/shop", "shop-0001", "shop",
    )  # fmt: skip
    said = b"".join(file.read_bytes() for file in segments(log)).decode()
    assert (fleet.folder / "berlin-04" / "state.token").read_text() not in said
    held = admin(fleet, "audit", "verify", "--file", str(log))
    assert (held.code, "the log holds" in held.out) == (0, True), held.err
    (file,) = segments(log)
    file.write_bytes(file.read_bytes().replace(b"shop-0001", b"shop-0009", 1))
    changed = admin(fleet, "audit", "verify", "--file", str(log))
    assert (changed.code, "edited" in changed.err) == (1, True), changed.err


def test_an_old_volume_of_an_agent_raises_an_alarm_until_somebody_acknowledges_it(fleet: Stage) -> None:
    kube, agent = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: kube.version() == "1", why=fleet.logs)
    agent.kill()
    state, old = fleet.folder / "berlin-04" / "state", fleet.folder / "old"
    shutil.copytree(state, old)
    agent.start()
    fleet.commit(shop("2"))
    until(lambda: kube.version() == "2", why=fleet.logs)
    agent.kill()
    agent.start()
    newest = until(lambda: (seq := _known(fleet)) > len(entries(old / "audit")) and seq, why=fleet.logs)
    agent.kill()
    assert admin(fleet, "audit", "verify").code == 0
    shutil.rmtree(state)
    shutil.copytree(old, state)
    agent.start()
    until(lambda: "told" in heads(fleet), why=fleet.logs)
    uid = fleet.cluster("berlin-04").uid
    alarms = [entry for entry in entries(fleet.data / "audit") if entry.action == "head-alarm"]
    assert [(alarm.object, alarm.detail["code"]) for alarm in alarms] == [(f"cluster/{uid}", "MUSTER-T090")]
    assert int(alarms[0].detail["known"]) == newest
    assert code_in(fleet.cluster("berlin-04").message) == "MUSTER-T090"
    found = admin(fleet, "audit", "verify")
    assert (found.code, f"cluster/{uid}: went back" in found.err) == (1, True), found.err
    context = fleet.data / "context.json"
    seen = muster(context, "audit", "acknowledge", f"cluster/{uid}", "--reason", "the disk was restored")
    assert seen.code == 0, seen.err
    assert admin(fleet, "audit", "verify").code == 0
    assert "head-acknowledged" in muster(context, "audit", "log", "--tail", "5").out


def _known(fleet: Stage) -> int:
    """The agent's newest entry that the coordinator has on disk."""
    rows = fleet.rows("select seq from audit_heads")
    return int(rows[0][0]) if rows else 0


# --- the coordinator's log, and what was signed --------------------------------------------------------------------------


@contextmanager
def signed_fleet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A fleet that ``muster init`` made, mode signed-commits, with a coordinator."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "home" / ".config"))
    data, link, edge = folder / "hub", free_port(), free_port()
    flags = [
        f"--data-dir={data}", f"--repository=file://{folder / 'origin.git'}", f"--link=127.0.0.1:{link}",
        f"--edge=127.0.0.1:{edge}", "--metrics=127.0.0.1:0", "--poll=60",
    ]  # fmt: skip
    hub = Program(
        [sys.executable, "-c", "from muster_coordinator.command import serve; serve()", *flags],
        folder / "hub.log",
    )
    found = Stage(folder, hub, data, link=f"127.0.0.1:{link}", edge=f"127.0.0.1:{edge}")
    subprocess.run(
        [sys.executable, "-m", "muster_cli.main", "init", str(folder / "work"), "--name", "acme"],
        check=True, capture_output=True, env={**os.environ},
    )  # fmt: skip
    found.git("init", "-q", "--bare", "-b", "main", "origin.git", inside="")
    found.git("remote", "add", "origin", str(folder / "origin.git"))
    found.git("add", "-A")
    found.git("commit", "-qm", "A fleet")
    found.git("push", "-q", "origin", "HEAD:main")
    found.git("fetch", "-q", "origin")
    try:
        found.start_hub()
        yield found
    finally:
        hub.kill()


def cut(log: Path, before: Path) -> None:
    """All but the first entries are gone."""
    (file,) = segments(log)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))


def edited(log: Path, before: Path) -> None:
    """An entry names somebody else."""
    (file,) = segments(log)
    file.write_bytes(file.read_bytes().replace(b'"actor":"admin"', b'"actor":"admon"', 1))


def restored(log: Path, before: Path) -> None:
    """The folder as it was before the checkpoint."""
    shutil.rmtree(log)
    shutil.copytree(before, log)


def gone(log: Path, before: Path) -> None:
    """The folder is empty."""
    shutil.rmtree(log)


@pytest.mark.parametrize("tamper", [cut, edited, restored, gone])
def test_a_checkpoint_shows_that_the_coordinators_log_was_changed(
    tamper: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_fleet(tmp_path, monkeypatch) as fleet:
        log, before = fleet.data / "audit", tmp_path / "before"
        fleet.refresh()
        shutil.copytree(log, before)
        for _ in range(3):
            fleet.refresh()
        made = admin(fleet, "audit", "checkpoint")
        assert (made.code, " signed (registry " in made.out) == (0, True), made.err
        assert fleet.git("ls-tree", "-r", "--name-only", "origin/muster/registry").startswith("audit/")
        held = admin(fleet, "audit", "verify")
        assert (held.code, "1 signed heads" in held.out) == (0, True), held.err
        fleet.hub.kill()
        tamper(log, before)
        fleet.start_hub()
        fleet.refresh()
        found = admin(fleet, "audit", "verify")
        assert (found.code, "coordinator/default: " in found.err) == (1, True), (found.out, found.err)
        again = admin(fleet, "audit", "checkpoint")
        assert again.code == 1, "what does not hold is not signed"


def test_a_checkpoint_that_nobody_who_may_has_signed_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_fleet(tmp_path, monkeypatch) as fleet:
        assert admin(fleet, "audit", "checkpoint").code == 0
        fleet.git("clone", "-q", "-b", "muster/registry", str(tmp_path / "origin.git"), "registry", inside="")
        (file,) = (tmp_path / "registry" / "audit").iterdir()
        fleet.commit(
            {f"audit/{file.name}": file.read_text().replace("0", "1")}, tell=False, inside="registry"
        )
        refused = admin(fleet, "audit", "verify")
        assert (refused.code, code_in(refused.err)) == (4, "MUSTER-T040"), refused.err
