"""Rendering: plain files, the real kustomize, and everything that would reach out of the tree."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from muster_agent.render import sandbox
from muster_agent.render.renderer import Renderer
from muster_core.errors import MusterError, ValidationError
from muster_core.fleet import read_fleet
from muster_core.manifest.objects import Manifest
from muster_core.tree import MemoryTree
from tools import build
from unit.agent.stage import bundle, config_map, fleet

OVERLAY = "bundles/shop/overlays/prod/kustomization.yaml"
KUSTOMIZED = {
    "bundles/shop/bundle.yaml": bundle(
        ", source: {path: ., include: [../../bases/web]}, render: {kustomize: {path: overlays/prod}}"
    ),
    "bases/web/kustomization.yaml": "resources: [map.yaml]\n",
    "bases/web/map.yaml": config_map("web", "base"),
    OVERLAY: "namePrefix: prod-\nresources: [../../../../bases/web]\n",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def kustomize() -> str:
    tool = next(tool for tool in build.TOOLS if tool.binary == "kustomize")
    cached = build.cached(tool)
    found = str(cached) if cached.exists() else shutil.which("kustomize")
    if not found:
        pytest.skip("kustomize is not built (make tools)")
    return found


async def rendered(
    files: Mapping[str, str], values: Mapping[str, str | int] | None = None, kustomize: str | None = None
) -> list[Manifest]:
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    contents = read_fleet(tree)
    assert contents.problems == []
    return await Renderer(kustomize).render(tree, contents.bundles["shop"], values or {})


async def test_plain_files_come_in_order_and_lists_are_their_items() -> None:
    objects = await rendered(
        fleet(
            **{
                "bundles/shop/list.yaml": "apiVersion: v1\nkind: List\nitems:\n- "
                + config_map("x", "1").strip().replace("\n", "\n  ")
            }
        )
    )
    assert [obj["metadata"]["name"] for obj in objects] == ["x", "web", "shop"]


async def test_values_are_filled_in_only_where_substitute_is_asked_for() -> None:
    text = config_map("web", "${region}")
    plain = await rendered(fleet(**{"bundles/shop/map.yaml": text}), {"region": "eu"})
    assert plain[0]["data"]["a"] == "${region}"
    spec = ', render: {substitute: {R: "${cluster.name}"}}'
    files = fleet(**{"bundles/shop/map.yaml": text, "bundles/shop/bundle.yaml": bundle(spec)})
    assert (await rendered(files, {"region": "eu"}))[0]["data"]["a"] == "eu"
    with pytest.raises(ValidationError, match="region"):
        await rendered(files, {"R": "x"})


async def test_substituting_does_not_change_what_was_parsed_once() -> None:
    spec = ', render: {substitute: {R: "${cluster.name}"}}'
    files = fleet(
        **{
            "bundles/shop/map.yaml": config_map("web", "${region}"),
            "bundles/shop/bundle.yaml": bundle(spec),
        }
    )
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    at = read_fleet(tree).bundles["shop"]
    renderer = Renderer(None)
    first = await renderer.render(tree, at, {"region": "eu"})
    second = await renderer.render(tree, at, {"region": "us"})
    assert (first[0]["data"]["a"], second[0]["data"]["a"]) == ("eu", "us")


async def test_an_overlay_is_built_by_the_real_kustomize(kustomize: str) -> None:
    objects = await rendered(fleet(**KUSTOMIZED), kustomize=kustomize)
    assert [obj["metadata"]["name"] for obj in objects] == ["prod-web"]


async def test_without_kustomize_the_bundle_says_what_to_install() -> None:
    with pytest.raises(ValidationError, match=r"MUSTER-V043 .*--kustomize"):
        await rendered(fleet(**KUSTOMIZED))


@pytest.mark.parametrize(
    ("overlay", "code"),
    [
        ("resources: [https://example.com/x.yaml]\n", "V045"),
        ("resources: [github.com/example/x]\n", "V045"),
        ("resources: ['git@example.com:x.git']\n", "V045"),
        ("components: ['https://example.com/x?ref=main']\n", "V045"),
        ("resources: [/etc/passwd]\n", "V022"),
        ("resources: [../../../../../secrets]\n", "V022"),
        ("helmCharts: [{name: x}]\n", "V044"),
    ],
)
async def test_what_reaches_out_is_refused_before_the_tool_runs(overlay: str, code: str) -> None:
    with pytest.raises(MusterError) as caught:
        await rendered(fleet(**{**KUSTOMIZED, OVERLAY: overlay}), kustomize=sys.executable)
    assert caught.value.code == code


@pytest.mark.parametrize("field", ["files", "envs"])
async def test_a_generator_reads_no_file_of_this_machine(kustomize: str, field: str, tmp_path: Path) -> None:
    key = tmp_path / "identity.json"
    key.write_text("seed=secret\n")
    overlay = f"configMapGenerator: [{{name: x, {field}: ['{key}']}}]\n"
    with pytest.raises(ValidationError, match="MUSTER-V040"):
        await rendered(fleet(**{**KUSTOMIZED, OVERLAY: overlay}), kustomize=kustomize)


async def test_the_child_has_no_environment_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "secret")
    out = await sandbox.run([sys.executable, "-c", "import os; print(dict(os.environ))"], tmp_path, "x")
    assert b"secret" not in out
    assert str(tmp_path).encode() in out


async def test_a_child_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "DEADLINE", 1.0)
    with pytest.raises(ValidationError, match="did not end"):
        await sandbox.run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, "x")


async def test_the_tail_of_what_went_wrong_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="boom"):
        await sandbox.run([sys.executable, "-c", "raise SystemExit('boom')"], tmp_path, "x")
