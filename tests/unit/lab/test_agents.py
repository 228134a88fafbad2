"""A pod of the agent: which pod that is, how its text is read, and that it sees its mounts where it wants them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from muster_lab.podplayer import confine
from muster_lab.podplayer.agents import expanded, image_name, is_agent, may_confine
from muster_lab.podplayer.deployments import pod_of

INSIDE = """
import json, os, sys
print(json.dumps({path: sorted(os.listdir(path)) for path in sys.argv[1:]}))
open("/var/lib/muster/written", "w").write("by the pod")
"""


def test_an_agents_pod_is_known_by_its_image_alone() -> None:
    for image in ("muster-agent:1", "r.example.com:5000/a/muster-agent@sha256:00", "muster-agent"):
        assert is_agent({"containers": [{"image": image}]}), image
    for image in ("muster-agent-extra:1", "muster-agent/other", "web:muster-agent"):
        assert not is_agent({"containers": [{"image": image}]}), image
    assert image_name("r.example.com:5000/a/muster-agent:1@sha256:00") == "muster-agent"
    assert not is_agent({"containers": [{"image": "muster-agent"}, {"image": "muster-agent"}]})


def test_variables_are_replaced_as_kubernetes_does() -> None:
    known = {"POD_IP": "127.1.2.3"}
    assert expanded("--metrics=$(POD_IP):8080", known) == "--metrics=127.1.2.3:8080"
    assert expanded("$(UNKNOWN) $POD_IP ${POD_IP}", known) == "$(UNKNOWN) $POD_IP ${POD_IP}"


def test_a_changed_template_is_another_pod() -> None:
    def deployment(generation: int) -> dict[str, object]:
        spec = {"template": {"spec": {"containers": [{"image": "muster-agent"}]}}}
        meta = {"name": "a", "namespace": "n", "uid": "u", "generation": generation}
        return {"metadata": meta, "spec": spec}

    first, second = pod_of(deployment(1)), pod_of(deployment(2))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    mounts = first["spec"]["containers"][0]["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts] == ["/var/run/secrets/kubernetes.io/serviceaccount"]


@pytest.mark.skipif(bool(may_confine()), reason=f"a pod's mounts cannot be shown: {may_confine()}")
def test_mounts_stand_at_the_pods_own_paths_and_nobody_else_sees_them(tmp_path: Path) -> None:
    names = ("state", "token", "account", "tmp")
    folders = {name: tmp_path / name for name in names}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / f"{name}.file").write_text(name)
    account, token = "/var/run/secrets/kubernetes.io/serviceaccount", "/var/run/muster/token"
    paths = {"/var/lib/muster": "state", token: "token", account: "account", "/tmp": "tmp"}
    before = {path: Path(path).exists() for path in (*paths, "/var/lib", "/var/run")}
    others = {entry.name for entry in Path("/var/lib").iterdir()}
    plan = tmp_path / "plan.json"
    argv = [sys.executable, "-c", INSIDE, *paths, "/var/lib"]
    plan.write_text(json.dumps({"mounts": [[p, str(folders[n])] for p, n in paths.items()], "argv": argv}))
    command = [sys.executable, "-I", "-S", str(confine.__file__), str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {path: seen[path] for path in paths} == {path: [f"{name}.file"] for path, name in paths.items()}
    assert others <= set(seen["/var/lib"])
    assert {path: Path(path).exists() for path in before} == before
    assert not any(any(path.iterdir()) for path in tmp_path.glob("below-*"))
    assert (folders["state"] / "written").read_text() == "by the pod"
