"""Proves the attacks' tests: each check is taken out of a copy of the programs, and the attack's test must then fail.

    python tests/attack/mutants.py            all, one after the other
    python tests/attack/mutants.py NAME ...   some of them
    python tests/attack/mutants.py --list

Owns the copy, the removal (one exact text of one file, which must be there once) and the verdict. It never touches the
checkout. A mutant whose test cannot even start proves nothing: the untouched copy must pass the same tests first. A
mutant that is found is listed with how its test failed, so that a test which only ran out of time can be told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "proto", "agent", "coordinator", "lab")
LISTS = ("mutants_hub", "mutants_git")
DEADLINE = 300


class Mutant(NamedTuple):
    """``old`` stands in ``file`` exactly once and becomes ``new``; ``test`` (a pytest id below tests/attack) must fail.

    ``also`` has more such (file, old, new): where two checks stand behind each other, both must be gone.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str, str], ...]:
        return ((self.file, self.old, self.new), *self.also)


def all_mutants() -> list[Mutant]:
    """Of both lists; one that is not written yet is an empty one."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    found: list[Mutant] = []
    for name in LISTS:
        if (Path(__file__).parent / f"{name}.py").exists():
            found += [Mutant(*entry) for entry in import_module(f"attack.{name}").MUTANTS]
    return found


def copy(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "results", ".hypothesis", "*.pyc")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)


def environment(folder: Path) -> dict[str, str]:
    """The copy stands before what is installed, for the test and every program that it starts."""
    path = os.pathsep.join(str(folder / name) for name in PACKAGES)
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MUSTER_LONG": "1"}


def runs_the_copy(folder: Path) -> bool:
    programs = (
        "muster_core",
        "muster_host",
        "muster_proto",
        "muster_agent",
        "muster_coordinator",
        "muster_cli",
        "muster_lab",
    )
    look = "; ".join(f"import {name}; print({name}.__path__[0])" for name in programs)
    said = subprocess.run(
        [sys.executable, "-c", look],
        cwd=folder,
        env=environment(folder),
        check=True,
        capture_output=True,
        text=True,
    )
    return all(Path(line).is_relative_to(folder) for line in said.stdout.split())


def failure(folder: Path, tests: Sequence[str], deadline: float = DEADLINE) -> str:
    """How the first of these tests fails there, in its own words; nothing when all pass.

    A usage error or a test that is not there is an error of the list.
    """
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(f"tests/attack/{test}" for test in tests)],
        cwd=folder,
        env=environment(folder),
        check=False,
        capture_output=True,
        text=True,
        timeout=deadline,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"{tests}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    said = [line[2:].strip() for line in done.stdout.splitlines() if line.startswith("E  ")]
    return "" if done.returncode == 0 else next(iter(said), "it failed")[:100]


def broken(folder: Path, tests: Sequence[str]) -> dict[str, str]:
    """The tests that fail without any removal: all in one run, and only when that fails each by itself."""
    if not failure(folder, tests, DEADLINE * 10):
        return {}
    return {test: why for test in tests if (why := failure(folder, [test]))}


def found(folder: Path, mutant: Mutant) -> str:
    """How the test fails with the check taken out, nothing when it passes; the files are whole again afterwards."""
    whole = {folder / file: (folder / file).read_text() for file, _, _ in mutant.edits}
    try:
        for file, old, new in mutant.edits:
            text = (folder / file).read_text()
            if text.count(old) != 1:
                raise SystemExit(f"{mutant.name}: the text stands {text.count(old)} times in {file}")
            (folder / file).write_text(text.replace(old, new))
        return failure(folder, [mutant.test])
    finally:
        for path, text in whole.items():
            path.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Takes one check out at a time; the attack's test must then fail."
    )
    parser.add_argument("names", nargs="*", help="only these mutants")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument(
        "--no-baseline", action="store_true", help="trust that the tests pass without a removal"
    )
    options = parser.parse_args(arguments)
    chosen = [m for m in all_mutants() if not options.names or m.name in options.names]
    if unknown := set(options.names) - {m.name for m in chosen}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    if options.list:
        sys.stdout.writelines(f"{m.name:44} {m.file}  {m.test}\n" for m in chosen)
        return 0
    failures = 0
    with tempfile.TemporaryDirectory(prefix="muster-mutants-") as name:
        folder = Path(name).resolve()
        copy(folder)
        if not runs_the_copy(folder):
            raise SystemExit("the copy is not what runs: check the installation")
        if not options.no_baseline:
            for test, why in broken(folder, list(dict.fromkeys(m.test for m in chosen))).items():
                sys.stdout.write(f"BROKEN    {test} fails without any removal: {why}\n")
                failures += 1
        for mutant in chosen:
            how = found(folder, mutant)
            failures += not how
            sys.stdout.write(f"found     {mutant.name}: {how}\n" if how else f"SURVIVED  {mutant.name}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} mutants, {failures} failures\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
