"""Watches: what is sent, in which order, and how they end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from contract.kube.client import MERGE, Kube


class Events:
    def __init__(self, response: Any) -> None:
        self._response = response

    async def next(self) -> tuple[str, Any]:
        with anyio.fail_after(15):
            line = await self._response.content.readline()
        if not line:
            return "END", None
        event = json.loads(line)
        return event["type"], event["object"]

    async def named(self) -> tuple[str, str]:
        kind, obj = await self.next()
        return kind, obj["metadata"]["name"]


@asynccontextmanager
async def watching(kube: Kube, path: str = "", **query: str) -> AsyncIterator[Events]:
    query = {"watch": "true", "timeoutSeconds": "20", **query}
    url = kube.endpoint.url + (path or kube.path("configmaps"))
    async with kube.session.get(url, params=query) as response:
        assert response.status == 200
        yield Events(response)


async def _version(kube: Kube) -> str:
    return (await kube.call("GET", kube.path("configmaps"))).version


async def test_a_watch_from_a_version_sees_every_change_after_it(kube: Kube) -> None:
    made = await kube.config("one")
    async with watching(kube, resourceVersion=made.version, fieldSelector="metadata.name=one") as events:
        changed = await kube.call("PATCH", kube.path("configmaps", "one"), {"data": {"a": "2"}}, media=MERGE)
        kind, obj = await events.next()
        assert (kind, obj) == ("MODIFIED", changed.body)
        await kube.call("DELETE", kube.path("configmaps", "one"))
        kind, obj = await events.next()
        assert kind == "DELETED"
        assert obj["kind"] == "ConfigMap"
        assert int(obj["metadata"]["resourceVersion"]) > int(changed.version)


async def test_past_changes_are_replayed(kube: Kube) -> None:
    version = await _version(kube)
    await kube.config("one", labels={"w": "1"})
    await kube.config("two", labels={"w": "1"})
    await kube.call("DELETE", kube.path("configmaps", "one"))
    async with watching(kube, resourceVersion=version, labelSelector="w=1") as events:
        seen = [await events.named() for _ in range(3)]
    assert seen == [("ADDED", "one"), ("ADDED", "two"), ("DELETED", "one")]


async def test_without_a_version_the_present_comes_first(kube: Kube) -> None:
    await kube.config("one", labels={"w": "1"})
    async with watching(kube, labelSelector="w=1") as events:
        assert await events.named() == ("ADDED", "one")
        await kube.config("two", labels={"w": "1"})
        assert await events.named() == ("ADDED", "two")


async def test_leaving_the_selector_looks_like_a_removal(kube: Kube) -> None:
    made = await kube.config("one", labels={"w": "1"})
    path = kube.path("configmaps", "one")
    async with watching(kube, resourceVersion=made.version, labelSelector="w=1") as events:
        left = await kube.call("PATCH", path, {"metadata": {"labels": {"w": "2"}}}, media=MERGE)
        kind, obj = await events.next()
        assert kind == "DELETED"
        assert obj["metadata"]["labels"] == {"w": "1"}
        assert obj["metadata"]["resourceVersion"] == left.version
        await kube.call("PATCH", path, {"metadata": {"labels": {"w": "1"}}}, media=MERGE)
        assert await events.named() == ("ADDED", "one")


async def test_bookmarks_carry_a_version_only(kube: Kube) -> None:
    made = await kube.config("one")
    query = {"resourceVersion": made.version, "allowWatchBookmarks": "true", "timeoutSeconds": "8"}
    async with watching(kube, fieldSelector="metadata.name=none", **query) as events:
        kind, obj = await events.next()
    assert kind == "BOOKMARK"
    assert (obj["kind"], obj["apiVersion"]) == ("ConfigMap", "v1")
    assert int(obj["metadata"]["resourceVersion"]) >= int(made.version)
    assert "name" not in obj["metadata"]


async def test_initial_events_end_with_an_annotated_bookmark(kube: Kube) -> None:
    await kube.config("one", labels={"w": "1"})
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "labelSelector": "w=1",
    }
    async with watching(kube, **query) as events:
        assert await events.named() == ("ADDED", "one")
        kind, obj = await events.next()
    assert kind == "BOOKMARK"
    assert obj["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


async def test_booleans_are_read_as_go_reads_them(kube: Kube) -> None:
    await kube.config("one", labels={"w": "1"})
    for word in ("True", "1", "t", ""):
        async with watching(kube, watch=word, labelSelector="w=1") as events:
            assert await events.named() == ("ADDED", "one"), word
    for word in ("False", "0"):
        listed = await kube.call("GET", kube.path("configmaps"), watch=word)
        assert listed.body["kind"] == "ConfigMapList", word


async def test_a_watch_ends_at_its_timeout(kube: Kube) -> None:
    version = await _version(kube)
    query = {"resourceVersion": version, "fieldSelector": "metadata.name=none", "timeoutSeconds": "1"}
    async with watching(kube, **query) as events:
        assert await events.next() == ("END", None)


async def test_many_watchers_see_the_same(kube: Kube) -> None:
    version = await _version(kube)
    seen: list[list[tuple[str, str]]] = []

    async def one() -> None:
        async with watching(kube, resourceVersion=version, labelSelector="w=1") as events:
            seen.append([await events.named() for _ in range(3)])

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
        for number in range(3):
            await kube.config(f"c{number}", labels={"w": "1"})
    assert seen == [[("ADDED", "c0"), ("ADDED", "c1"), ("ADDED", "c2")]] * 20
