"""What a measurement says about a gate: passed, or not and why.

Owns the judgement of one answer; consecutive counts and what follows are the rollout machine's. Pure: an answer in, a verdict
out. Anything that is not plainly a pass is none: an answer cut short, no data, no number, several series.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from muster_coordinator.outgoing import Answer

MAX_SAID = 200


class Verdict(NamedTuple):
    """``detail`` is one line for people, with what was measured."""

    passed: bool
    detail: str


class _Data(msgspec.Struct):
    result_type: str = msgspec.field(name="resultType")
    result: Any


class _Reply(msgspec.Struct):
    """Of ``/api/v1/query``; what is not named here is not looked at."""

    status: str
    data: _Data | None = None
    error: str = ""
    warnings: list[str] = []


def judge_http(answer: Answer, expect: int, contains: str) -> Verdict:
    """A check's answer. The text that is looked for must be in the part that was read."""
    if answer.status != expect:
        return Verdict(False, f"it answered {answer.status}, and {expect} is expected")
    if contains and contains.encode() not in answer.body:
        part = "" if answer.whole else f" in its first {len(answer.body)} bytes"
        return Verdict(False, f"it answered {expect} without the text {_said(contains)!r}{part}")
    return Verdict(True, f"it answered {expect}" + (f" with {_said(contains)!r}" if contains else ""))


def judge_query(answer: Answer, below: float | None, above: float | None) -> Verdict:
    """A Prometheus server's answer against the one threshold that is given; equal to it is neither below nor above."""
    if not answer.whole:
        return Verdict(False, f"the answer is larger than {len(answer.body)} bytes")
    try:
        reply = msgspec.json.decode(answer.body, type=_Reply)
    except msgspec.MsgspecError:
        return Verdict(False, f"it answered {answer.status}, and not as a Prometheus server does")
    if reply.status != "success":
        return Verdict(
            False, f"the query failed ({answer.status}): {_said(reply.error) or 'it does not say why'}"
        )
    if answer.status != 200:
        return Verdict(False, f"it answered {answer.status}")
    if reply.warnings:
        return Verdict(False, f"the answer may be wrong, the server warns: {_said(reply.warnings[0])}")
    value = _value(reply.data)
    if isinstance(value, str):
        return Verdict(False, value)
    if not math.isfinite(value):
        return Verdict(False, f"the query gives {value}, which is no measurement")
    if below is not None:
        return Verdict(value < below, f"{value:g} is {'below' if value < below else 'not below'} {below:g}")
    if above is not None:
        return Verdict(value > above, f"{value:g} is {'above' if value > above else 'not above'} {above:g}")
    return Verdict(False, "the gate has no threshold")


def _value(data: _Data | None) -> float | str:
    """The one number of an answer, or why there is not one."""
    kind = data.result_type if data else "nothing"
    if data is None or kind not in ("scalar", "vector"):
        return f"the query gives a {kind}, and one number is needed"
    sample = data.result
    if kind == "vector":
        series = sample if isinstance(sample, list) else []
        if not series:
            return "the query gives no data"
        if len(series) > 1:
            return f"the query gives {len(series)} series, and one is needed: aggregate it, as with sum(…)"
        if not isinstance(series[0], dict) or "value" not in series[0]:
            return "the query gives a histogram, and one number is needed"
        sample = series[0]["value"]
    if not isinstance(sample, list) or len(sample) != 2 or not isinstance(sample[1], str):
        return "the query gives no number"
    try:
        return float(sample[1])
    except ValueError:
        return "the query gives no number"


def _said(text: str) -> str:
    """What somebody else wrote, as one short line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_SAID]).split())
    return line if len(line) <= MAX_SAID else line[: MAX_SAID - 1] + "…"
