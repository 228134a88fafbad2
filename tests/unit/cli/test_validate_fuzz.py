"""Whatever is written into a fleet repository, ``validate`` answers with file and line, and never with a traceback."""

from __future__ import annotations

import copy
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from muster_cli.commands.start import validate
from muster_lab.demo import shop

CASES = 20_000 if os.environ.get("MUSTER_LONG") else 150
ANSWER = re.compile(r"^[^:\n]+:\d+: \S")
VALUES: list[Any] = [
    None, True, -1, 2**64, 10**30, 1.5, "", "\x00", "\U0001f600", "a" * 10_000, "..", "/etc/passwd", "${X}", "${",
    "101%", "99999999999999999999h", [], {}, [[]], [None], {"": ""}, {"x": {"y": 1}}, "*", "<5", "10-20", "(x)",
    "{{request.object}}", "a\nb", "*/*", "List", "v1", "a/b/c",
]  # fmt: skip
TOKENS = [
    b"{", b"]", b":", b"- ", b"&a", b"*a", b"<<: ", b"!!python/object:os.system", b"!!binary ", b"!!set ", b"? ", b"| ",
    b"---\n", b"\t", b"\x00", b"\xff", b"%YAML 9.9\n", b"'", b"\r", b".nan", b"0o9", b"08", b"!!int x", b"!x",
]  # fmt: skip


def files() -> dict[str, str]:
    return {
        **shop.files("1"),
        "fleet.yaml": shop.FLEET % {"fleet_id": "0123456789abcdef0123456789abcdef"},
        "plans/rings.yaml": shop.PLAN,
        "policies/labels.yaml": shop.POLICY,
        "bundles/shop/bundle.yaml": shop.bundle(secret=False),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def other_values(text: str, luck: random.Random) -> bytes:
    value = yaml.safe_load(text)
    path = luck.choice([path for path in places(value) if path])
    at = value
    for step in path[:-1]:
        at = at[step]
    if luck.random() < 0.2:
        del at[path[-1]]
    else:
        at[path[-1]] = copy.deepcopy(luck.choice(VALUES))
    return yaml.safe_dump(value).encode()


def other_bytes(text: str, luck: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(luck.choice([1, 1, 3])):
        where = luck.randrange(len(data) + 1)
        if luck.random() < 0.6:
            data[where:where] = luck.choice(TOKENS)
        else:
            del data[where : where + luck.randrange(1, 20)]
    return bytes(data)


@pytest.mark.parametrize("change", [other_values, other_bytes])
def test_no_file_is_answered_with_a_traceback(tmp_path: Path, change: Any) -> None:
    seed = random.randrange(1 << 32)
    luck, whole = random.Random(seed), files()
    for path, text in whole.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert CliRunner().invoke(validate, [str(tmp_path)]).exit_code == 0
    refused = 0
    for number in range(CASES):
        path = luck.choice(sorted(whole))
        (tmp_path / path).write_bytes(change(whole[path], luck))
        answer = CliRunner().invoke(validate, [str(tmp_path)])
        told = (
            f"seed {seed}, case {number}, {path}:\n{(tmp_path / path).read_bytes()[:2000]!r}\n{answer.output}"
        )
        assert answer.exception is None or isinstance(answer.exception, SystemExit), told
        assert answer.exit_code in (0, 1), told
        lines = [line for line in answer.stdout.splitlines() if line.strip()]
        assert (answer.exit_code == 1) == bool(lines), told
        if lines:
            refused += 1
            assert ANSWER.match(lines[0]), told
        (tmp_path / path).write_text(whole[path])
    assert refused > CASES // 4
