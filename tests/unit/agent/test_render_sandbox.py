"""Rendering reaches nothing outside: no network, no remote name anywhere; and the same input is rendered once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from muster_agent.render import sandbox
from muster_agent.render.outputs import Outputs
from muster_agent.render.renderer import Renderer
from muster_core.errors import MusterError, ValidationError
from muster_core.fleet import read_fleet
from muster_core.manifest.objects import Manifest
from muster_core.tree import MemoryTree
from unit.agent.stage import config_map, fleet
from unit.agent.test_render import KUSTOMIZED, OVERLAY, anyio_backend, kustomize  # noqa: F401 - fixtures

# ruff: noqa: F811 - a fixture has the name that tests ask for
CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2); print('reached')"


async def render(renderer: Renderer, files: Mapping[str, str]) -> list[Manifest]:
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    return await renderer.render(tree, read_fleet(tree).bundles["shop"], {})


def namespaces_are_possible() -> bool:
    """Found out apart from the code under test."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return subprocess.run([unshare, "--user", "--net", "true"], capture_output=True).returncode == 0


async def test_a_child_reaches_not_even_this_machine(tmp_path: Path) -> None:
    if not namespaces_are_possible():
        pytest.skip("this kernel gives ordinary users no network namespaces, or util-linux is missing")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(ValidationError, match="unreachable"):
            await sandbox.run([sys.executable, "-c", CALL, port], tmp_path, "x")


async def test_where_namespaces_are_not_allowed_the_tool_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.off_the_network.cache_clear()
    try:
        assert sandbox.off_the_network() == ()
        assert await sandbox.run([sys.executable, "-c", "print(1)"], tmp_path, "x") == b"1\n"
        refusing.unlink()
        sandbox.off_the_network.cache_clear()
        assert sandbox.off_the_network() == ()
    finally:
        sandbox.off_the_network.cache_clear()


@pytest.mark.parametrize(
    ("overlay", "code", "line"),
    [
        ("resources:\n- ../../../../bases/web\n- ssh://git.example.com/x\n", "V045", 3),
        ("resources: ['git::https://example.com/x.git']\n", "V045", 1),
        ("patches:\n- path: https://example.com/patch.yaml\n", "V045", 2),
        ("patchesStrategicMerge: ['http://127.0.0.1:8080/x']\n", "V045", 1),
        ("configMapGenerator:\n- name: x\n  files:\n  - key=https://example.com/x\n", "V045", 4),
        ("secretGenerator:\n- name: x\n  envs: ['http://169.254.169.254/latest']\n", "V045", 3),
        ("replacements: [{path: 'https://example.com/r.yaml'}]\n", "V045", 1),
        ("generators: [gen.yaml]\n", "V045", 4),
        ("generators:\n- |\n  kind: HelmChartInflationGenerator\n  apiVersion: builtin\n", "V044", 1),
        ("resources: [nowhere.yaml]\n", "V047", 1),
    ],
)
async def test_nothing_remote_is_named_anywhere_when_the_tool_runs(
    overlay: str, code: str, line: int, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\n: > {ran}\n")
    tool.chmod(0o755)
    generator = "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: x}\nfiles: ['https://example.com/x']\n"
    files = fleet(**{**KUSTOMIZED, OVERLAY: overlay, "bundles/shop/overlays/prod/gen.yaml": generator})
    with pytest.raises(MusterError) as caught:
        await render(Renderer(str(tool)), files)
    assert caught.value.code == code
    assert f".yaml:{line}:" in str(caught.value)
    assert not ran.exists()


async def test_the_same_input_starts_no_second_child(kustomize: str, tmp_path: Path) -> None:
    count, tool = tmp_path / "count", tmp_path / "kustomize"
    tool.write_text(f'#!/bin/sh\necho >> {count}\nexec {kustomize} "$@"\n')
    tool.chmod(0o755)
    renderer = Renderer(str(tool))
    first = await render(renderer, fleet(**KUSTOMIZED))
    again = await render(renderer, fleet(**KUSTOMIZED))
    assert first == again
    first[0]["data"]["a"] = "changed by whoever got it"
    assert await render(renderer, fleet(**KUSTOMIZED)) == again
    assert len(count.read_text()) == 1
    other = {**KUSTOMIZED, "bases/web/map.yaml": config_map("web", "other")}
    assert (await render(renderer, fleet(**other)))[0]["data"]["a"] == "other"
    assert len(count.read_text()) == 2


def test_what_is_kept_is_bounded() -> None:

    outputs = Outputs(max_bytes=10_000)
    for number in range(100):
        outputs.put(bytes([number]), os.urandom(1_000))
    assert outputs.bytes <= 10_000
    assert outputs.get(b"\x00") is None
    assert outputs.get(bytes([99])) is not None
    outputs.put(b"large", os.urandom(5_000))
    assert outputs.get(b"large") is None


async def test_a_child_that_writes_without_end_is_stopped_at_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MAX_OUTPUT", 1 << 20)
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(ValidationError, match="V041"):
        await sandbox.run([sys.executable, "-c", code], tmp_path, "x")
    with pytest.raises(ValidationError, match="V040"):
        await sandbox.run([sys.executable, "-c", code.replace("stdout", "stderr")], tmp_path, "x")
