"""How a benchmark tells what it found: one line a figure, and every raw value in ``results/``.

Owns the machine's name, the form of a line and the form of a file: a list of plain values is one line, so that ten thousand
figures are raw and a change of them is still read. It measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def tell(label: str, values: Sequence[float], unit: str, goal: str = "") -> None:
    """One line: median and spread."""
    middle, low, high = (_number(value) for value in (statistics.median(values), min(values), max(values)))
    print(f"  {label:44} median {middle:>10} {unit}   {low} to {high}" + (f"   goal {goal}" if goal else ""))


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Raw JSON in ``results/``."""
    RESULTS.mkdir(exist_ok=True)
    raw = {"benchmark": name, "machine": machine(), "load average": os.getloadavg(), **result}
    (RESULTS / f"{name}.json").write_text(written(raw) + "\n")


def written(value: Any, margin: str = "") -> str:
    """JSON with one member a line, but a list of plain values on one."""
    deeper = margin + " "
    if isinstance(value, Mapping) and value:
        members = [f"{deeper}{json.dumps(key)}: {written(each, deeper)}" for key, each in value.items()]
        return "{\n" + ",\n".join(members) + f"\n{margin}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(each, (Mapping, list, tuple)) for each in value):
        members = [deeper + written(each, deeper) for each in value]
        return "[\n" + ",\n".join(members) + f"\n{margin}]"
    return json.dumps(value)


def _number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3f}"
