"""A database that is none, is damaged, is full or holds what nobody wrote: one line that says so, and nothing half kept."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from e2e.programs import Stage, code_in, stage
from muster_coordinator.rollout import directives
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.record import CATCHUP_STREAM
from muster_coordinator.store.port import Batch, EventRow, ReportRow, StoreError
from muster_coordinator.store.sql.store import SqlStore
from muster_proto.v1 import operator_pb2 as op


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def filled(path: Path) -> None:
    store = await SqlStore.open(path)
    await store.commit(Batch([EventRow("shop-0001", n, b"x" * 500) for n in range(1, 200)]))
    await store.close()


async def refused(path: Path) -> str:
    with pytest.raises(StoreError) as error:
        await read(path)
    assert str(path) in str(error.value)
    return error.value.code


async def read(path: Path) -> None:
    store = await SqlStore.open(path)
    try:
        await store.streams()
    finally:
        await store.close()


async def load(store: SqlStore) -> None:
    engine = Engine(store, lambda: 0.0, lambda _: None, 1.0)
    try:
        await engine.load()
    finally:
        await engine.aclose()


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "muster.db").write_bytes(b"no database at all, and long enough to be looked at as one. " * 50)
    assert await refused(tmp_path / "muster.db") == "L031"
    assert (tmp_path / "muster.db").read_bytes().startswith(b"no database")


async def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "muster.db").mkdir()
    assert await refused(tmp_path / "muster.db") == "L031"


async def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    await filled(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    assert await refused(path) == "L031"


async def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    await filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)
    assert await refused(path) == "L031"


@pytest.mark.parametrize("stream", ["shop-0001", CATCHUP_STREAM + "shop", directives.STREAM + "shop"])
async def test_a_log_that_nobody_wrote_is_named(tmp_path: Path, stream: str) -> None:
    store = await SqlStore.open(tmp_path / "muster.db")
    try:
        await store.commit(Batch([EventRow(stream, 1, b'{"type":"from-the-future"}')]))
        with pytest.raises(StoreError, match=stream) as error:
            await load(store)
        assert error.value.code == "L032"
    finally:
        await store.close()


async def test_a_report_that_nobody_wrote_is_named(tmp_path: Path) -> None:
    store = await SqlStore.open(tmp_path / "muster.db")
    try:
        await store.commit(Batch(reports={("a", "shop"): ReportRow("a", "shop", b"\xff\xff\xff")}))
        with pytest.raises(StoreError, match="report of shop on a"):
            await load(store)
    finally:
        await store.close()


FULL = """
import anyio, resource, sys
from pathlib import Path
from muster_coordinator.rollout.record import CATCHUP_STREAM
from muster_coordinator.store.port import Batch, EventRow, StoreError
from muster_coordinator.store.sql.store import SqlStore

async def main():
    store = await SqlStore.open(Path(sys.argv[1]))
    kept = 0
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        while True:
            await store.commit(Batch([EventRow("a", kept + 1, b"x" * 4000)]))
            kept += 1
    except StoreError as error:
        assert error.code == "L031", error
    assert 1 < kept < 100, kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.commit(Batch([EventRow("a", kept + 1, b"room again")]))
    assert [row.number for row in (await store.streams())["a"]] == list(range(1, kept + 2))
    await store.close()

anyio.run(main)
"""


def test_a_full_disk_is_told_and_room_is_enough_to_go_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "muster.db")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_coordinator_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with stage(tmp_path) as fleet:
        assert fleet.hub.process is not None
        pid = fleet.hub.process.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        made = {"one"}
        fleet.token("one")
        log = (fleet.data / "muster.db-wal").stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (log + 50_000, unlimited[1]))
        assert code_in(until_it_fails(fleet, made)) == "MUSTER-L031", fleet.logs()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        fleet.token("last")
        tokens = fleet.call("ListTokens", op.ListTokensRequest()).tokens
        assert {token.cluster for token in tokens} == {*made, "last"}


def test_a_damaged_database_ends_the_start_in_one_line(tmp_path: Path) -> None:
    with stage(tmp_path) as fleet:
        said = start_on(fleet, b"garbage " * 1000)
        assert said.count("\n") == 1
        assert code_in(said) == "MUSTER-L031"
        assert "Traceback" not in said


def until_it_fails(fleet: Stage, made: set[str]) -> str:
    """Makes tokens until the coordinator refuses one; what it says."""
    for number in range(100):
        try:
            fleet.token(f"more-{number}")
        except grpc.RpcError as error:
            return str(error.details())
        made.add(f"more-{number}")
    raise AssertionError("the disk was never full")


def start_on(fleet: Stage, database: bytes) -> str:
    """What the coordinator says that is started on this database; it must end by itself."""
    fleet.hub.kill()
    for path in fleet.data.glob("muster.db*"):
        path.unlink()
    (fleet.data / "muster.db").write_bytes(database)
    before = len(fleet.hub.log.read_text())
    fleet.hub.start()
    fleet.hub.ended()
    return fleet.hub.log.read_text()[before:]
