"""Builds the real components that the tests run against, from the Go modules pinned beside this file.

Why it exists: an API server that is written for tests proves little about the one that users have.
Distributions carry no kube-apiserver, but the Go modules of Kubernetes, etcd and kustomize build into
programs with one command each.

It owns: the pinned versions (read from the go.mod files, which stay the only place that names them), the
build commands, and the cache (``$XDG_CACHE_HOME/muster-tools/<name>-<version>/<binary>``, else under
``~/.cache``). ``KUBEBUILDER_ASSETS`` comes first: a folder there that holds kube-apiserver and etcd is used.

It never installs Go, never changes a pinned version, and never writes outside the cache (Go keeps its own).

    python tests/tools/build.py              build what is missing (exit 3: Go is needed and not there)
    python tests/tools/build.py --check      say what is there, build nothing (exit 1: something is missing)
    python tests/tools/build.py --print-dir  print the cache folder
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
GO_MISSING = 3


@dataclass(frozen=True, slots=True)
class Tool:
    binary: str
    group: str  # the folder with the go.mod
    package: str  # what `go build` is given
    module: str  # the module whose version is this tool's version


TOOLS = (
    Tool("etcd", "etcd", ".", "go.etcd.io/etcd/server/v3"),
    Tool(
        "kustomize", "kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "sigs.k8s.io/kustomize/kustomize/v5"
    ),
    Tool("kube-apiserver", "kubernetes", "./kube-apiserver", "k8s.io/kubernetes"),
    Tool("kube-controller-manager", "kubernetes", "./kube-controller-manager", "k8s.io/kubernetes"),
)


def pinned(tool: Tool) -> str:
    text = (HERE / tool.group / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s+{re.escape(tool.module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise LookupError(f"{tool.group}/go.mod does not require {tool.module}")
    return found[1]


#: Binary name to the version that go.mod pins.
VERSIONS = MappingProxyType({tool.binary: pinned(tool) for tool in TOOLS})


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "muster-tools"


def cached(tool: Tool) -> Path:
    return cache_dir() / f"{tool.group}-{VERSIONS[tool.binary]}" / tool.binary


def assets() -> Path | None:
    """``KUBEBUILDER_ASSETS``, if it holds the pair that belongs together."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and all(runnable(Path(given) / name) for name in ("kube-apiserver", "etcd")):
        return Path(given)
    return None


def find(name: str) -> Path | None:
    """Where the tool is, or None. It never builds."""
    tool = next((tool for tool in TOOLS if tool.binary == name), None)
    if tool is None:
        raise ValueError(f"{name} is not one of {', '.join(VERSIONS)}")
    given = assets()
    if given is not None and runnable(given / name):
        return given / name
    return cached(tool) if runnable(cached(tool)) else None


def runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def find_go() -> str | None:
    """``go`` on PATH, else where Go's own archive is unpacked by its instructions."""
    root = os.environ.get("GOROOT")
    places = [Path(root) / "bin"] if root else []
    places.append(Path("/usr/local/go/bin"))
    return shutil.which("go") or shutil.which("go", path=os.pathsep.join(map(str, places)))


def stamp(tool: Tool) -> str:
    """Linker flags: a module build knows no release number and would call itself v0.0.0-master."""
    version = VERSIONS[tool.binary]
    flags = ["-s", "-w"]
    if tool.group == "kubernetes":
        major, minor, _ = version.removeprefix("v").split(".", 2)
        values = {
            "gitVersion": version,
            "gitMajor": major,
            "gitMinor": minor,
            "gitCommit": "unknown",
            "gitTreeState": "archive",
        }
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [f"-X {package}.{key}={value}" for key, value in values.items()]
    elif tool.group == "kustomize":
        flags.append(f"-X sigs.k8s.io/kustomize/api/provenance.version={version}")
    return " ".join(flags)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two builds beside each other would double the work and the memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(tool: Tool, go: str) -> bool:
    target = cached(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    command = [go, "build", "-p", "2", "-trimpath", "-buildvcs=false", "-mod=readonly"]
    command += ["-ldflags", stamp(tool), "-o", str(part), tool.package]
    nice = shutil.which("nice")
    if nice:
        command = [nice, "-n", "10", *command]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    done = subprocess.run(command, cwd=HERE / tool.group, env=environment, check=False)
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        return False
    part.replace(target)
    return True


def build_missing() -> int:
    with only_one(cache_dir()):
        for tool in TOOLS:
            label = f"{tool.binary} {VERSIONS[tool.binary]}"
            there = find(tool.binary)
            if there is not None:
                print(f"{label}: {describe(there)}")
                continue
            go = find_go()
            if go is None:
                print(how_to_get(tool.binary), file=sys.stderr)
                return GO_MISSING
            print(
                f"{label}: building (minutes, the first time; it can be interrupted) ...",
                flush=True,
            )
            began = time.monotonic()
            if not build(tool, go):
                print(f"{label}: go build failed, see above; run it again to resume", file=sys.stderr)
                return 1
            print(f"{label}: built in {time.monotonic() - began:.0f} s, {describe(cached(tool))}", flush=True)
    return 0


def how_to_get(name: str) -> str:
    return (
        f"{name} {VERSIONS[name]} is not here, and Go, which builds it, is not installed.\n"
        f"Either install Go {needed_go()} or newer (your system's package, or the Go project's archive)\n"
        "and run `make tools`, or set KUBEBUILDER_ASSETS to a folder that holds kube-apiserver and etcd\n"
        "(and kube-controller-manager and kustomize, where a test needs them)."
    )


def needed_go() -> str:
    lines = [line for tool in TOOLS for line in (HERE / tool.group / "go.mod").read_text().splitlines()]
    versions = {line.removeprefix("go ") for line in lines if line.startswith("go ")}
    return max(versions, key=lambda text: [int(part) for part in text.split(".")])


def describe(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB, {path}"


def check() -> int:
    missing = 0
    for name, version in VERSIONS.items():
        there = find(name)
        print(f"{name} {version}: {describe(there) if there else 'missing: run `make tools`'}")
        missing += there is None
    return 1 if missing else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds the real components that the tests run against.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="say what is there; build nothing")
    choice.add_argument("--print-dir", action="store_true", help="print the cache folder")
    chosen = parser.parse_args(arguments)
    if chosen.print_dir:
        print(cache_dir())
        return 0
    if chosen.check:
        return check()
    try:
        return build_missing()
    except KeyboardInterrupt:
        print("stopped; run it again to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
