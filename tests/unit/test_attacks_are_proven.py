"""Every attack has a test that is proven: a mutant takes its check out, or a reason says why there is none to take out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from attack.mutants import ROOT, Mutant, all_mutants
from attack.unremovable import OPERATORS, UNREMOVABLE

ATTACKS = ROOT / "tests" / "attack"
MUTANTS = all_mutants()


def names_in(file: Path) -> set[str]:
    """Names as pytest gives them, without parameters."""
    found = ast.walk(ast.parse(file.read_text()))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {f"{file.name}::{n.name}" for n in found if isinstance(n, kinds) and n.name.startswith("test_")}


def attacks() -> set[str]:
    return set().union(*(names_in(file) for file in ATTACKS.glob("test_*.py")))


def test_every_attack_is_named_by_a_mutant_or_by_a_reason() -> None:
    proven = {mutant.test.partition("[")[0] for mutant in MUTANTS}
    assert sorted(attacks() - proven - UNREMOVABLE.keys()) == []
    assert sorted((proven | UNREMOVABLE.keys()) - attacks()) == [], "no such tests"
    assert sorted(proven & UNREMOVABLE.keys()) == [], "these have a mutant"


def test_what_operators_sign_is_proven_too() -> None:
    proven = {mutant.test.partition("[")[0] for mutant in MUTANTS}
    assert sorted(set(OPERATORS.values()) - proven) == []


def test_mutants_have_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_takes_out_stands_there_once(mutant: Mutant) -> None:
    for file, old, new in mutant.edits:
        assert (ROOT / file).read_text().count(old) == 1
        assert old != new
