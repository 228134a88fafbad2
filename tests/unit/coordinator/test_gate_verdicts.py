"""What an answer says about a gate. Recorded answers of Prometheus servers; the real one is in test_gate_prometheus.py."""

from __future__ import annotations

import json

import pytest
from muster_coordinator.gates.verdicts import Verdict, judge_http, judge_query
from muster_coordinator.outgoing import Answer


def vector(*values: str) -> dict[str, object]:
    result = [{"metric": {"job": str(i)}, "value": [1.7e9, value]} for i, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def scalar(value: str) -> dict[str, object]:
    return {"status": "success", "data": {"resultType": "scalar", "result": [1.7e9, value]}}


def query(
    reply: object,
    status: int = 200,
    below: float | None = None,
    above: float | None = None,
    whole: bool = True,
) -> Verdict:
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return judge_query(Answer(status, body, whole), below, above)


@pytest.mark.parametrize("shape", [scalar, vector])
def test_one_number_is_judged_by_its_threshold(shape: object) -> None:
    assert callable(shape)
    assert query(shape("0.009"), below=0.01) == (True, "0.009 is below 0.01")
    assert query(shape("0.01"), below=0.01) == (False, "0.01 is not below 0.01")
    assert query(shape("99.5"), above=99) == (True, "99.5 is above 99")
    assert query(shape("99"), above=99) == (False, "99 is not above 99")
    assert query(shape("-1e3"), above=-2000).passed


@pytest.mark.parametrize(
    ("reply", "status", "why"),
    [
        (scalar("NaN"), 200, "no measurement"),
        (vector("+Inf"), 200, "no measurement"),
        (vector("-Inf"), 200, "no measurement"),
        (vector(), 200, "no data"),
        (vector("1", "2"), 200, "2 series"),
        (vector("one"), 200, "no number"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, 200, "a matrix"),
        ({"status": "success", "data": {"resultType": "string", "result": [1, "x"]}}, 200, "a string"),
        (
            {
                "status": "success",
                "data": {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]},
            },
            200,
            "a histogram",
        ),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.0, 0]}}, 200, "no number"),
        ({"status": "success", "data": {"resultType": "vector", "result": {}}}, 200, "no data"),
        ({"status": "success"}, 200, "gives a nothing"),
        (
            {"status": "error", "errorType": "bad_data", "error": "parse error\x1b[31m at char 3"},
            400,
            "parse error [31m at char 3",
        ),
        ({"status": "error", "errorType": "timeout", "error": "query timed out"}, 503, "query timed out"),
        ({"status": "error"}, 422, "does not say why"),
        (vector("0") | {"warnings": ["1 store is away"]}, 200, "1 store is away"),
        (vector("0"), 500, "answered 500"),
        (b"<html>sign in</html>", 200, "not as a Prometheus server does"),
        (b"", 502, "answered 502"),
        ([1, 2], 200, "not as a Prometheus server does"),
        ({"status": 7}, 200, "not as a Prometheus server does"),
    ],
)
def test_whatever_is_not_one_number_is_no_pass_and_says_why(reply: object, status: int, why: str) -> None:
    for threshold in ({"below": 1e9}, {"above": -1e9}):
        verdict = query(reply, status, **threshold)
        assert not verdict.passed
        assert why in verdict.detail


def test_an_answer_that_was_cut_is_no_pass() -> None:
    assert not query(vector("0"), below=1, whole=False).passed


def test_infos_of_newer_servers_are_no_warnings() -> None:
    assert query(vector("0") | {"infos": ["metric might not be a counter"]}, below=1).passed


def test_what_a_server_says_is_one_short_line() -> None:
    detail = query({"status": "error", "error": "x\n" * 5000}, 400, below=1).detail
    assert len(detail) < 300
    assert "\n" not in detail


def test_a_check_needs_its_status_and_its_text() -> None:
    assert judge_http(Answer(200, b"all is ok here", True), 200, "ok") == (True, "it answered 200 with 'ok'")
    assert judge_http(Answer(204, b"", True), 204, "").passed
    assert judge_http(Answer(302, b"ok", True), 200, "ok") == (False, "it answered 302, and 200 is expected")
    assert not judge_http(Answer(200, b"down", True), 200, "ok").passed
    cut = judge_http(Answer(200, b"xxxx", False), 200, "ok")
    assert cut == (False, "it answered 200 without the text 'ok' in its first 4 bytes")


def test_a_text_is_looked_for_as_utf_8_in_bytes_that_may_be_none() -> None:
    assert judge_http(Answer(200, "größe".encode(), True), 200, "größe").passed
    assert not judge_http(Answer(200, b"\xff\xfe\x00", True), 200, "größe").passed
