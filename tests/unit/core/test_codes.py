"""Every error code that a program can show is explained, once, and nothing is explained that no program shows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from muster_core.codes import CODES, LETTERS, page

ROOT = Path(__file__).parents[3]
LAYERS = ("core", "agent", "coordinator", "lab", "deploy")
_WHOLE = re.compile(r"[A-Z]\d{3}")
_SHOWN = re.compile(r"MUSTER-([A-Z]\d{3})")


def codes_in(text: str) -> set[str]:
    """Codes that a module's code uses: a whole text like ``T012``, or ``MUSTER-T012`` inside one; not docstrings."""
    tree = ast.parse(text)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]
    found = {code for value in texts for code in _SHOWN.findall(value)}
    return found | {value for value in texts if _WHOLE.fullmatch(value) and value[0] in LETTERS}


@cache
def used() -> dict[str, str]:
    """Code to one module that uses it."""
    found: dict[str, str] = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            if "_pb2" in path.name or path.name == "codes.py":
                continue
            for code in codes_in(path.read_text()):
                found.setdefault(code, str(path.relative_to(ROOT)))
    return found


def test_every_code_that_is_used_is_explained() -> None:
    missing = {code: where for code, where in used().items() if code not in CODES}
    lines = [
        f"{code} | What it means. | What to do.      (used in {where})"
        for code, where in sorted(missing.items())
    ]
    assert not missing, (
        "add these lines to _TABLE in core/muster_core/codes.py, then run\n"
        "  .venv/bin/python -m muster_core.codes > docs/errors.md\n" + "\n".join(lines)
    )


def test_nothing_is_explained_that_no_program_shows() -> None:
    idle = sorted(CODES.keys() - used().keys())
    assert not idle, (
        f"no module uses these; remove their lines from core/muster_core/codes.py: {' '.join(idle)}"
    )


def test_the_page_is_the_registry() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "muster_core.codes"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == page()
    assert (ROOT / "docs/errors.md").read_text() == printed.stdout, (
        "run: .venv/bin/python -m muster_core.codes > docs/errors.md"
    )


def test_explanations_are_sentences_in_the_order_of_their_codes() -> None:
    order = [(list(LETTERS).index(code[0]), code) for code in CODES]
    assert order == sorted(order)
    for code, told in CODES.items():
        assert told.meaning.endswith("."), code
        assert told.remedy.endswith((".", "`")), code
        assert "|" not in told.meaning + told.remedy, code


def test_a_code_in_an_error_is_found_and_one_in_a_docstring_is_not() -> None:
    module = '"""About ``MUSTER-Z111``."""\nraise TrustError("T999", "x")\nprint(f"MUSTER-V998 {x}.")\nname = "ZZZ"\n'
    assert codes_in(module) == {"T999", "V998"}
