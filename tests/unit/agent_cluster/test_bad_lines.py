"""The adapter, the observer and the applier against a server that misbehaves, and a server that is not there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from muster_agent.cluster.apply import Applier
from muster_agent.cluster.kube import KubeCluster, _lines
from muster_agent.cluster.observe import Observer
from muster_core.errors import KubernetesError
from muster_core.manifest.objects import ObjectRef, ref_of
from muster_lab.kube import LabKube, Settings
from muster_lab.kube.faults import Faults, Override


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LabKube]:
    async with LabKube.serve(Settings(tmp_path / "lab", ready_delay=0.05)) as server:
        yield server


@pytest.fixture
async def api(lab: LabKube) -> AsyncIterator[KubeCluster]:
    cluster = await KubeCluster.connect(lab.kubeconfig)
    yield cluster
    await cluster.aclose()


def config(name: str = "one", data: dict[str, str] | None = None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {"a": "1"}}


def by_ref(*objects: dict[str, Any]) -> dict[ObjectRef, dict[str, Any]]:
    return {ref_of(obj): obj for obj in objects}


@contextlib.asynccontextmanager
async def observing(
    api: KubeCluster, changed: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Observer]:
    observer = Observer(api, changed, lambda low, _: low)
    async with anyio.create_task_group() as group:
        await group.start(observer.run)
        yield observer
        group.cancel_scope.cancel()


async def until(fact: Callable[[], object], seconds: float = 15) -> None:
    with anyio.fail_after(seconds):
        while not fact():
            await anyio.sleep(0.02)


def requests(lab: LabKube) -> int:
    return sum(lab.requests.verbs.values())


async def test_a_server_that_asks_to_slow_down_is_asked_again_after_its_time(
    api: KubeCluster, lab: LabKube
) -> None:
    lab.face.faults = Faults(status_override=Override(code=429, retry_after=0, count=2))
    assert (await api.apply(config()))["data"] == {"a": "1"}


async def test_a_server_that_never_stops_asking_has_its_code(api: KubeCluster, lab: LabKube) -> None:
    await api.resource("v1", "ConfigMap")
    lab.face.faults = Faults(status_override=Override(code=429, retry_after=0, count=0))
    lab.requests.reset()
    with pytest.raises(KubernetesError) as caught:
        await api.apply(config())
    assert (caught.value.code, caught.value.retryable) == ("K002", True)
    assert requests(lab) == 4


async def test_a_server_that_fails_is_retryable(api: KubeCluster, lab: LabKube) -> None:
    await api.resource("v1", "ConfigMap")
    lab.face.faults = Faults(status_override=Override(code=503, count=1))
    with pytest.raises(KubernetesError) as caught:
        await api.apply(config())
    assert (caught.value.code, caught.value.retryable) == ("K001", True)


async def test_a_server_that_is_away_is_retryable(api: KubeCluster, lab: LabKube) -> None:
    lab.face.faults = Faults(partition=True)
    with pytest.raises(KubernetesError) as caught:
        await api.version()
    assert (caught.value.code, caught.value.retryable) == ("K001", True)


async def test_a_pass_ends_at_the_first_object_that_gets_no_answer(api: KubeCluster, lab: LabKube) -> None:
    async with observing(api) as observer:
        applier = Applier(api, observer, "default")
        first = await applier.apply("shop", by_ref(config()), {}, prune=True, note={})
        objects = by_ref(*(config(f"c{number}") for number in range(50)), config())
        once = api._once

        async def cut(method: str, path: str, *rest: Any) -> Any:
            lab.face.faults = Faults(partition=path.endswith("/c0") and method == "PATCH")
            return await once(method, path, *rest)

        api._once = cut  # type: ignore[method-assign]
        result = await applier.apply("shop", objects, first.applied, prune=True, note={})
        assert [change.error.code for change in result.changes if change.error] == ["K001"]
        api._once = once  # type: ignore[method-assign]
        lab.face.faults = Faults()
        again = await applier.apply("shop", objects, result.applied, prune=True, note={})
        assert (again.errors, again.writes) == ([], 50)


async def test_an_object_that_failed_while_it_was_healed_is_healed_later(
    api: KubeCluster, lab: LabKube
) -> None:
    async with observing(api) as observer:
        applier = Applier(api, observer, "default")
        objects = by_ref(config())
        first = await applier.apply("shop", objects, {}, prune=True, note={})
        other = await KubeCluster.connect(lab.kubeconfig)
        await _change_as_another(other, config(data={"a": "9"}))
        await other.aclose()
        ref = ref_of(config())
        await until(lambda: observer.seen[ref].live.owned != first.applied[ref].owned)
        lab.face.faults = Faults(status_override=Override(code=429, retry_after=0, count=0))
        failed = await applier.apply("shop", objects, first.applied, prune=True, note={})
        assert [change.error.code for change in failed.errors if change.error] == ["K002"]
        lab.face.faults = Faults()
        healed = await applier.apply("shop", objects, failed.applied, prune=True, note={})
        assert (healed.errors, healed.healed) == ([], [ref])


async def _change_as_another(api: KubeCluster, obj: dict[str, Any]) -> None:
    import json

    path = f"/api/v1/namespaces/default/configmaps/{obj['metadata']['name']}"
    await api._request("PATCH", path, {"fieldManager": "kubectl-edit"}, json.dumps({"data": obj["data"]}).encode(),
                       "application/merge-patch+json")  # fmt: skip


async def test_a_watch_that_broke_lists_anew_and_misses_nothing(api: KubeCluster, lab: LabKube) -> None:
    changed: list[str] = []
    async with observing(api, changed.append) as observer:
        applier = Applier(api, observer, "default")
        objects = by_ref(config(), config("two"))
        done = await applier.apply("shop", objects, {}, prune=True, note={})
        lab.face.faults = Faults(partition=True)
        lab.watches.close_all()
        await anyio.sleep(0.1)
        lab.face.faults = Faults()
        await api.delete(ref_of(config()), "")
        await _change_as_another(api, config("two", {"a": "9"}))
        await until(lambda: ref_of(config()) not in observer.seen)
        await until(
            lambda: (
                observer.seen[ref_of(config("two"))].live.owned != done.applied[ref_of(config("two"))].owned
            )
        )
        lab.requests.reset()
        healed = await applier.apply("shop", objects, done.applied, prune=True, note={})
        assert {ref.name for ref in healed.healed} == {"one", "two"}


async def test_a_version_that_expired_lists_anew(api: KubeCluster, lab: LabKube) -> None:
    async with observing(api) as observer:
        applier = Applier(api, observer, "default")
        await applier.apply("shop", by_ref(config()), {}, prune=True, note={})
        lab.objects.store.forget()
        lab.watches.close_all()
        await _change_as_another(api, config(data={"b": "2"}))
        await api.delete(ref_of(config()), "")
        await until(lambda: ref_of(config()) not in observer.seen)


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hot_loop(
    api: KubeCluster, lab: LabKube
) -> None:
    opened = 0
    watch = api.watch

    def short(*args: Any) -> Any:
        nonlocal opened
        opened += 1

        async def ended() -> AsyncIterator[Any]:
            return
            yield

        return ended() if opened < 5 else watch(*args)

    api.watch = short  # type: ignore[method-assign]
    async with observing(api) as observer:
        await observer.watch({("v1", "ConfigMap")})
        started = anyio.current_time()
        await until(lambda: opened == 5)
        assert anyio.current_time() - started >= 0.3  # four times at least half of the smallest delay


async def test_nothing_is_kept_of_an_object_but_digests_and_health(api: KubeCluster, lab: LabKube) -> None:
    async with observing(api) as observer:
        applier = Applier(api, observer, "default")
        await applier.apply("shop", by_ref(config(data={"a": "a-long-plain-text"})), {}, prune=True, note={})
        assert "a-long-plain-text" not in repr(observer.seen)


async def test_a_watch_of_a_kind_that_cannot_be_listed_says_why(
    api: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_agent.cluster.observe.LIST_WAIT", 0.5)
    async with observing(api) as observer:
        with pytest.raises(KubernetesError) as caught:
            await observer.watch({("example.com/v1", "Widget")})
    assert caught.value.code == "K004"


class Chunks:
    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    async def iter_any(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part


async def test_lines_of_more_than_four_mebibytes_are_read() -> None:
    line = b"x" * (6 << 20)
    parts = [line[n : n + 65536] for n in range(0, len(line), 65536)]
    assert [len(found) async for found in _lines(Chunks(b"a\n\nb", b"c\n", *parts, b"\n"))] == [
        1,
        2,
        len(line),
    ]


async def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster_agent.cluster.kube.MAX_LINE", 10)
    with pytest.raises(ValueError, match="too large"):
        [line async for line in _lines(Chunks(b"x" * 11))]


async def test_without_a_way_into_the_cluster_there_is_a_code(tmp_path: Path) -> None:
    for where in (tmp_path / "missing", None):
        with pytest.raises(KubernetesError) as caught:
            await KubeCluster.connect(where)
        assert caught.value.code == "K011"


async def test_proxies_of_the_environment_play_no_part(lab: LabKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    api = await KubeCluster.connect(lab.kubeconfig)
    try:
        assert (await api.version()).startswith("v1.")
    finally:
        await api.aclose()


def test_the_generated_models_are_never_imported(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys
from muster_agent.cluster.kube import KubeCluster
try:
    asyncio.run(KubeCluster.connect(pathlib.Path(sys.argv[1])))
except Exception as error:
    assert "K011" in str(error), error
print(sum(name.startswith("kubernetes_asyncio.client.models") for name in sys.modules),
      sum(name.startswith("kubernetes_asyncio") for name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, check=True
    )
    models, modules = map(int, done.stdout.split())
    assert models <= 1
    assert modules < 60
