"""The lab's API server as a program and its switches: what the contract cannot ask of a real server."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from muster_lab.kube import LabKube, Settings
from muster_lab.kube.objects import Options

SPACE = "/api/v1/namespaces/default/configmaps"


class Caller:
    def __init__(self, server: LabKube, session: aiohttp.ClientSession) -> None:
        self.server, self.session = server, session

    async def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        async with self.session.request(method, self.server.url + path, json=body, params=query) as response:
            return response.status, json.loads(await response.read())

    async def config(self, name: str) -> Any:
        status, body = await self("POST", SPACE, {"metadata": {"name": name}, "data": {"a": "1"}})
        assert status == 201
        return body


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Caller]:
    async with LabKube.serve(settings) as server:
        context = ssl.create_default_context(cafile=str(server.files.ca))
        headers = {"Authorization": f"Bearer {server.token}", "User-Agent": "unit/1"}
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            yield Caller(server, session)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Caller]:
    async with running(Settings(tmp_path, ready_delay=0.05)) as caller:
        yield caller


async def test_a_status_override_fails_the_next_requests_with_retry_after(call: Caller) -> None:
    override = {"statusOverride": {"code": 429, "retryAfter": 7, "count": 2}}
    assert (await call("PUT", "/lab/faults", override))[0] == 200
    for _ in range(2):
        async with call.session.get(call.server.url + SPACE) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "7"
            body = await response.json()
            assert (body["reason"], body["details"]["retryAfterSeconds"]) == ("TooManyRequests", 7)
    assert (await call("GET", SPACE))[0] == 200


async def test_an_error_rate_fails_everything_and_is_taken_back(call: Caller) -> None:
    await call("PUT", "/lab/faults", {"errorRate": 1.0})
    status, body = await call("GET", SPACE)
    assert (status, body["reason"]) == (500, "InternalError")
    await call("PUT", "/lab/faults", {})
    assert (await call("GET", SPACE))[0] == 200


async def test_latency_delays_requests(call: Caller) -> None:
    await call("PUT", "/lab/faults", {"latencyMs": 200})
    start = time.monotonic()
    await call("GET", SPACE)
    assert time.monotonic() - start >= 0.2


async def test_a_partition_cuts_watches_and_requests_but_not_its_own_switch(call: Caller) -> None:
    version = (await call("GET", SPACE))[1]["metadata"]["resourceVersion"]
    query = {"watch": "true", "resourceVersion": version}
    async with call.session.get(call.server.url + SPACE, params=query) as response:
        assert (await call("PUT", "/lab/faults", {"partition": True}))[1]["partition"] is True
        with anyio.fail_after(5), pytest.raises(aiohttp.ClientError):
            await response.content.read()
    with pytest.raises(aiohttp.ClientError):
        await call("GET", SPACE)
    await call("PUT", "/lab/faults", {"partition": False})
    assert (await call("GET", SPACE))[0] == 200


async def test_dropped_watches_end_once(call: Caller) -> None:
    version = (await call("GET", SPACE))[1]["metadata"]["resourceVersion"]
    query = {"watch": "true", "resourceVersion": version}
    async with call.session.get(call.server.url + SPACE, params=query) as response:
        answer = await call("PUT", "/lab/faults", {"dropWatches": True})
        assert answer[1]["dropWatches"] is False
        with anyio.fail_after(5), pytest.raises(aiohttp.ClientError):
            await response.content.read()
    await call.config("one")
    query["fieldSelector"] = "metadata.name=one"
    async with call.session.get(call.server.url + SPACE, params=query) as response:
        assert json.loads(await response.content.readline())["object"]["metadata"]["name"] == "one"


async def test_an_unknown_fault_is_refused_by_name(call: Caller) -> None:
    status, body = await call("PUT", "/lab/faults", {"latency": 5})
    assert status == 400
    assert "latency" in body["message"]


async def test_the_switches_need_the_token(call: Caller) -> None:
    url = call.server.url + "/lab/faults"
    async with call.session.put(url, json={}, headers={"Authorization": "Bearer x"}) as response:
        assert response.status == 401


async def test_requests_are_counted_by_verb_and_client(call: Caller) -> None:
    await call("DELETE", "/lab/requests")
    await call.config("one")
    await call("GET", SPACE)
    await call("GET", SPACE + "/one")
    await call("GET", "/apis")
    _, report = await call("GET", "/lab/requests")
    assert (report["reads"], report["writes"], report["discovery"]) == (2, 1, 1)
    assert report["byUserAgent"]["unit/1"]["byVerb"] == {"create": 1, "list": 1, "get": 1, "discovery": 1}


async def test_compaction_expires_watches_and_continue_tokens(call: Caller) -> None:
    first = await call.config("one")
    await call.config("two")
    _, page = await call("GET", SPACE, limit="1")
    assert (await call("POST", "/lab/compact"))[0] == 200
    status, body = await call("GET", SPACE, limit="1", **{"continue": page["metadata"]["continue"]})
    assert (status, body["reason"]) == (410, "Expired")
    query = {"watch": "true", "resourceVersion": first["metadata"]["resourceVersion"]}
    async with call.session.get(call.server.url + SPACE, params=query) as response:
        event = json.loads(await response.content.readline())
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_a_short_history_expires_by_itself(tmp_path: Path) -> None:
    async with running(Settings(tmp_path, history=3)) as call:
        first = await call.config("one")
        for number in range(5):
            await call.config(f"c{number}")
        query = {"watch": "true", "resourceVersion": first["metadata"]["resourceVersion"]}
        async with call.session.get(call.server.url + SPACE, params=query) as response:
            assert json.loads(await response.content.readline())["object"]["code"] == 410


async def test_it_says_that_it_has_no_rbac(call: Caller) -> None:
    _, version = await call("GET", "/version")
    assert "no RBAC" in version["gitCommit"]


async def test_three_thousand_objects_are_listed_in_pages(call: Caller) -> None:
    server = call.server
    resource = server.catalog.find("", "v1", "configmaps")
    assert resource is not None
    for number in range(3000):
        body = {"metadata": {"name": f"c{number:05d}"}, "data": {"a": "x" * 500}}
        server.objects.create(resource, "default", body, Options())
    seen, token = 0, ""
    while True:
        _, page = await call("GET", SPACE, limit="500", **({"continue": token} if token else {}))
        seen += len(page["items"])
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert seen >= 3000


def start(folder: Path, *more: str) -> tuple[subprocess.Popen[str], Any]:
    command = [sys.executable, "-m", "muster_lab.kube", "--port", "0", "--dir", str(folder), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(10)
    if process.stdout is not None:
        process.stdout.close()
    return code


def test_the_program_is_light_and_stops_cleanly(tmp_path: Path) -> None:
    process, line = start(tmp_path)
    try:
        assert line["url"].startswith("https://127.0.0.1:")
        assert Path(line["kubeconfig"]) == tmp_path / "kubeconfig"
        assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            resident = next(text for text in status.read_text().splitlines() if text.startswith("VmRSS"))
            assert int(resident.split()[1]) < 60 * 1024, resident
    finally:
        assert stop(process) == 0


def test_state_survives_a_clean_stop(tmp_path: Path) -> None:
    state, uids = tmp_path / "state.json", []
    for _ in range(2):
        process, line = start(tmp_path / "kube", "--state-file", str(state), "--token", "t")
        try:
            context = ssl.create_default_context(cafile=str(tmp_path / "kube" / "ca.crt"))
            request = urllib.request.Request(  # noqa: S310 - https, to loopback
                line["url"] + "/api/v1/namespaces/kube-system", headers={"Authorization": "Bearer t"}
            )
            with urllib.request.urlopen(request, context=context) as response:  # noqa: S310
                uids.append(json.load(response)["metadata"]["uid"])
        finally:
            assert stop(process) == 0
    assert uids[0] == uids[1]
