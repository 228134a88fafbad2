"""Documents from outside: their meaning, and what happens to hostile ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from muster_core.errors import ValidationError
from muster_core.manifest.dump import dump_yaml
from muster_core.manifest.load import DocumentError, Limits, load_documents
from muster_core.manifest.objects import ObjectRef, canonical_json, digest, ref_of

VECTORS = Path(__file__).parents[2] / "vectors"
SCALARS = json.loads((VECTORS / "yaml-scalars.json").read_text())["scalars"]


def only(text: str) -> object:
    (document,) = load_documents(text.encode(), "a.yaml")
    return document.value


@pytest.mark.parametrize("case", SCALARS, ids=[case["yaml"] for case in SCALARS])
def test_scalars_mean_what_they_mean_to_kubectl(case: dict[str, object]) -> None:
    value = only(f"v: {case['yaml']}")
    assert value == {"v": case["value"]}
    assert type(value["v"]) is type(case["value"])  # type: ignore[index]


def test_keys_are_text_as_written() -> None:
    assert only("1: a\non: b\n0o7: c\n") == {"1": "a", "on": "b", "0o7": "c"}


def test_merge_keys_give_way_to_own_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\n"
    assert only(text)["c"] == {"x": 9, "y": 2, "z": 4}  # type: ignore[index]


def test_lines_are_those_of_the_file() -> None:
    first, second = load_documents(b"# c\n---\na: 1\n---\n\nb:\n- c: 2\n  d:\n    e: 3\n---\n", "a.yaml")
    assert (first.line, first.line_of(("a",))) == (3, 3)
    assert second.line_of(("b", 0, "d", "e")) == 9
    assert second.line_of(("b", 0, "missing")) == 7


def test_empty_files_hold_no_documents() -> None:
    for text in (b"", b"---\n", b"# only a comment\n", b"\xef\xbb\xbf"):
        assert load_documents(text, "a.yaml") == ()


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, "twice"),
        (b"x:\n  a: 1\n  a: 1\n", 3, "twice"),
        (b"a: [1\nb: 2\n", 2, "expected"),
        (b"a:\n" + b"- " * 5000 + b"x\n", 2, "deep"),
        (b"a: " + b"{b: " * 101 + b"1" + b"}" * 101, 1, "deep"),
        (b"a: &a [1]\nb: [" + b"*a, " * 101 + b"]\n", 2, "aliases"),
        (b"a: &a\n- *a\n", 1, "aliases nest"),
        (b"a: &a\n  <<: *a\n", 1, "aliases nest"),
        (b"a: \xff\n", 1, "UTF-8"),
        (b"ok: 1\nb: \xff\n", 2, "UTF-8"),
        (b"a: \x07\n", 1, "character"),
        (b"a: !!python/object:os.system x\n", 1, "tag"),
        (b"a: !!int abc\n", 1, "is no int"),
        (b"a: !!bool maybe\n", 1, "is no bool"),
        (b"a: .inf\n", 1, "is no float"),
        (b"a: 1e999\n", 1, "is no float"),
        (b"a: " + b"9" * 5000 + b"\n", 1, "is no int"),
        (b"? [a, b]\n: c\n", 1, "key must be text"),
        (b"a:\n  <<: 3\n", 2, "merged"),
        (b"a: *nowhere\n", 1, "undefined alias"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_hostile_documents_are_refused_with_file_and_line(data: bytes, line: int, what: str) -> None:
    with pytest.raises(DocumentError, match=what) as caught:
        load_documents(data, "dir/a.yaml")
    assert (caught.value.file, caught.value.line, caught.value.code) == ("dir/a.yaml", line, "V001")
    assert f"dir/a.yaml:{line}: " in str(caught.value)
    assert load_documents(b"still: alive", "b.yaml")[0].value == {"still": "alive"}


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [" + ", ".join([f"*l{n - 1}"] * 9) + "]" for n in range(1, 9)]
    with pytest.raises(DocumentError, match="aliases"):
        load_documents("\n".join(levels).encode(), "bomb.yaml")
    with pytest.raises(DocumentError, match="expand to more than"):
        load_documents("\n".join(levels).encode(), "bomb.yaml", Limits(aliases=1000))


def test_fifty_megabytes_are_refused_unread() -> None:
    with pytest.raises(DocumentError) as caught:
        load_documents(b"a" * (50 << 20), "big.yaml")
    assert str(caught.value).startswith("MUSTER-V001 big.yaml:1: larger than 8 MiB")


def test_what_aliases_add_is_bounded_by_what_a_file_may_be_worth() -> None:
    text = "a: &a {" + ", ".join(f"k{n}: v" for n in range(1000)) + "}\n"
    few = text + "".join(f"b{n}: {{<<: *a}}\n" for n in range(10))
    assert len(load_documents(few.encode(), "a.yaml")[0].value["b9"]) == 1000
    with pytest.raises(DocumentError, match="expand to more than 50,000 values"):
        load_documents((text + "".join(f"b{n}: *a\n" for n in range(60))).encode(), "a.yaml")


def test_many_documents_and_many_values_are_refused() -> None:
    with pytest.raises(DocumentError, match="documents"):
        load_documents(b"---\na: 1\n" * 11, "a.yaml", Limits(documents=10))
    with pytest.raises(DocumentError, match="values"):
        load_documents(b"- 1\n" * 20, "a.yaml", Limits(nodes=10))


def test_numbers_past_64_bits_are_floats() -> None:
    assert only("v: 18446744073709551615") == {"v": 18446744073709551615}
    assert only("v: 18446744073709551616") == {"v": 18446744073709551616.0}


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "yes", "y", "0777", "12e45678", "2024-01-01", "null", "", "a: b", "1:30"]
)
def test_what_is_written_is_text_for_every_reader(text: str) -> None:
    written = dump_yaml({"v": text, "w": [text]})
    assert only(written) == {"v": text, "w": [text]}
    assert yaml.safe_load(written) == {"v": text, "w": [text]}


def test_objects_are_named_and_digested_by_meaning() -> None:
    value = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web", "namespace": "shop"}}
    ref = ref_of(value)
    assert ref == ObjectRef("apps/v1", "Deployment", "shop", "web")
    assert str(ref) == "apps/v1/Deployment shop/web"
    assert str(ref_of({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})) == "v1/Node n"
    assert canonical_json({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "A"},
        {"kind": "A", "apiVersion": "v1"},
        {"kind": "A", "apiVersion": "v1", "metadata": {"name": 3}},
    ],
)
def test_objects_without_a_name_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="without"):
        ref_of(value)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_loader(data: bytes) -> None:
    try:
        documents = load_documents(data, "a.yaml")
    except DocumentError as error:
        refused = error
    else:
        assert all(document.line >= 1 for document in documents)
        return
    assert refused.line >= 1


YAML_ISH = st.text(alphabet="ab:-?[]{}&*!<>|'\"#%@\n ,.0123456789_e~", max_size=60)


@given(YAML_ISH)
@example("&a\n<<: *a")
@example("? ? a")
@example("!!float x")
def test_no_yaml_crashes_the_loader_and_what_is_read_is_json(text: str) -> None:
    try:
        documents = load_documents(text.encode(), "a.yaml")
    except DocumentError:
        return
    for document in documents:
        assert canonical_json(document.value)
        written = dump_yaml(document.value).encode()
        assert [again.value for again in load_documents(written, "b.yaml")] == [document.value]
