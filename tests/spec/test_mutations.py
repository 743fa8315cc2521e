"""Whatever a spec file holds: a valid spec, or one line with file and line. Never anything else."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.load import Problems, Spec, load

TEXT = """\
mechanism: 1
circuit: demo
applies_to: {labels: [base], shape: {n_heads: 4}}
task:
  family: entity_tracking
  rows: 100
groups:
  a: {heads: {3: [1, 0]}, at: last}
  b:
    heads: {0: [3]}
    at: query_label
    into: {group: a, via: v}
ablation: {value: mean, prompts: 60}
confidence: 0.9
claims:
  solves: {kind: accuracy, on: ft, at_least: 0.6, not_worse_than: base, margin: 0.1}
  enough: {kind: faithfulness, between: [0.9, 1.1]}
  holds: {kind: encodes, group: b, variable: position, at_least: 0.5}
  moves: {kind: cmap, group: [a, b], donor: ft, recipient: base, recovers_at_least: 0.1}
  same: {kind: transfer, from: base, to: ft, beats: {model: base}}
"""
TREE = {
    "mechanism": 1,
    "circuit": "demo",
    "extends": "other.yaml",
    "applies_to": {"labels": ["base"], "shape": {"n_heads": 4}},
    "task": {"family": "entity_tracking", "rows": 100, "boxes": 4, "seed": 1, "fillers": 0},
    "groups": {
        "a": {"heads": {"3": [1, 0]}, "at": "last"},
        "b": {"heads": {"0": [3]}, "at": "query_label", "into": {"group": "a", "via": "v"}},
    },
    "found_on": "base",
    "ablation": {"value": "mean", "prompts": 60},
    "confidence": 0.9,
    "claims": {
        "solves": {"kind": "accuracy", "on": "ft", "at_least": 0.6, "drift": 0.1, "atol": 0.01},
        "enough": {"kind": "faithfulness", "between": [0.9, 1.1], "random": 3, "of": "accuracy"},
        "holds": {"kind": "encodes", "group": "b", "variable": "position", "at_least": 0.5},
        "moves": {
            "kind": "cmap",
            "group": ["a", "b"],
            "donor": "ft",
            "recipient": "base",
            "recovers_at_least": 0.1,
        },
        "same": {"kind": "transfer", "from": "base", "to": "ft", "beats": {"model": "base"}},
    },
}

LINE = re.compile(r"(spec|other)\.yaml:(\d+): \S.*")


def outcome(raw: bytes, folder: Path) -> Spec | list[str]:
    """The spec, or every complaint about it."""
    path = folder / "spec.yaml"
    path.write_bytes(raw)
    try:
        return load(path, Path("spec.yaml"))
    except MechanismError as problem:
        return [str(p) for p in (problem.found if isinstance(problem, Problems) else [problem])]


def unheard_of(raw: bytes, folder: Path) -> list[str]:
    """Complaints that are not one line that names a line of the file."""
    found = outcome(raw, folder)
    if isinstance(found, Spec):
        return [] if found.claims and found.task else ["a spec without claims or task"]
    lines = 1 + len(re.findall(rb"\r\n?|\n", raw)) + raw.count("\u2028".encode())
    lines = max(lines, len(TEXT.splitlines()))
    wrong = []
    for each in found:
        parsed = LINE.fullmatch(each)
        if parsed is None or not each.isprintable() or not 1 <= int(parsed[2]) <= lines:
            wrong.append(each)
    return wrong if found else ["no complaint and no spec"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mutations")
    (found / "other.yaml").write_text(TEXT)
    return found


@pytest.mark.parametrize("text", [TEXT, json.dumps(TREE)], ids=["block", "flow"])
def test_the_specs_that_are_mutated_are_valid(folder: Path, text: str) -> None:
    """Both starting points have nothing wrong with them."""
    spec = outcome(text.encode(), folder)
    assert isinstance(spec, Spec)
    assert list(spec.claims) == ["solves", "enough", "holds", "moves", "same"]


NASTY_VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 10**17, 0.5, 3.0, -0.0, 1e308, 1e-308]),
    st.sampled_from(["", " ", "a", "last", "base", "x" * 3000, "discovered", "../x", "nan"]),
    st.sampled_from(["\u2028", "\ufeff", "é", "👩‍🔬", "${HOME}", "{0}", "%s"]),
    st.sampled_from([[], [[]], [{}], [None], ["base", "base"], ["a"] * 50]),
    st.sampled_from([{}, {"a": {}}, {"a": "a"}, {"kind": "accuracy"}, {"-1": [0]}]),
    st.sampled_from([{"3": [0], "03": [1]}, {"0": [0], "0.0": [1]}]),
    st.text(max_size=5),
).map(deepcopy)

NASTY_KEYS = st.sampled_from(
    [
        "",
        "kind",
        "extends",
        "claims",
        "<<",
        "1",
        "[key]",
        "group",
        "at_leest",
        "from",
        "model",
        "\x85",
    ]
)


def containers(value: object) -> list:
    """Every dict and list of a tree."""
    inside = value.values() if isinstance(value, dict) else value
    return [value, *(c for v in inside if isinstance(v, dict | list) for c in containers(v))]


@st.composite
def mutated_trees(draw: st.DrawFn) -> object:
    tree = deepcopy(TREE)
    for _ in range(draw(st.integers(1, 3))):
        target = draw(st.sampled_from(containers(tree)))
        places = list(target) if isinstance(target, dict) else list(range(len(target)))
        action = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if action == "add" or not places:
            if isinstance(target, dict):
                target[draw(NASTY_KEYS)] = draw(NASTY_VALUES)
            else:
                target.append(draw(NASTY_VALUES))
            continue
        place = draw(st.sampled_from(places))
        if action == "replace":
            target[place] = draw(NASTY_VALUES)
        else:
            value = target.pop(place)
            if action == "rename" and isinstance(target, dict):
                target[draw(NASTY_KEYS)] = value
    return tree


@settings(max_examples=250, deadline=None)
@given(mutated_trees())
def test_nearly_valid_data_gives_a_spec_or_one_line_each(folder: Path, tree: object) -> None:
    """Missing, renamed, added and replaced values are complained about in one line each."""
    assert unheard_of(json.dumps(tree).encode(), folder) == []


PIECES = st.one_of(
    st.sampled_from(list(":-{}[]#?|>'\"%@`,\\0\r\n\t\x00\x85\u2028\ufeff\u202eé")),
    st.sampled_from(
        ["  ", "&a ", "*a", "!!x ", "? ", "---\n", "...\n", "<<: ", "null", "\x1b[31m"]
    ),
    st.sampled_from(["1e999", "9" * 50, "extends: spec.yaml\n"]),
)


@st.composite
def mutated_texts(draw: st.DrawFn) -> bytes:
    text = TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(PIECES | st.text(max_size=2)) + text[stop:]
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None)
@given(mutated_texts())
def test_nearly_valid_text_gives_a_spec_or_one_line_each(folder: Path, raw: bytes) -> None:
    """A slip of the keyboard anywhere in the file is complained about in one line."""
    assert unheard_of(raw, folder) == []


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60).map(b"mechanism: 1\n".__add__) | st.binary(max_size=60))
def test_any_bytes_give_one_line_each(folder: Path, raw: bytes) -> None:
    """A file that is no text at all is complained about in one line."""
    assert unheard_of(raw, folder) == []


HEAD = b"mechanism: 1\ncircuit: x\ntask: {family: entity_tracking}\n"
CLAIMS = b"claims: {a: {kind: accuracy, at_least: 0.5}}\n"
BOMB = b"".join(
    b"l%d: &l%d [%s]\n" % (i, i, b", ".join([b"*l%d" % (i - 1)] * 9) if i else b"x")
    for i in range(9)
)
NASTY_FILES = {
    "alias bomb": BOMB + HEAD,
    "alias bomb in a claim": HEAD + b"claims: {a: &a [*a, *a]}\n",
    "deep lists": HEAD + b"groups: " + b"[" * 200_000,
    "deep mappings": HEAD + b"groups: " + b"{a: " * 100_000,
    "deep block": HEAD + b"groups:\n" + b"".join(b" " * i + b"a:\n" for i in range(300)),
    "huge integer": HEAD + b"confidence: " + b"9" * 100_000 + b"\n",
    "huge float": HEAD + b"confidence: " + b"9" * 100_000 + b".5\n",
    "huge exponent": HEAD + b"confidence: 1e" + b"9" * 10_000 + b"\n",
    "huge key": HEAD + b"? " + b"k" * 100_000 + b"\n: 1\n",
    "huge layer": HEAD + b"groups: {g: {heads: {999999999999999999: [0]}, at: last}}\n" + CLAIMS,
    "NUL": HEAD + b"found_on: a\x00b\n",
    "NUL escaped": HEAD + b'found_on: "a\\0b"\nextends: "a\\0b"\n',
    "escape sequence": HEAD + b'"\\e[31mred": 1\n' + CLAIMS,
    "carriage return": HEAD + b'"a\\rb\\nc": 1\n' + CLAIMS,
    "lone surrogate": HEAD + b'"\\ud800": "\\udfff"\nclaims: {"\\ud800": {kind: "\\ud800"}}\n',
    "beyond unicode": HEAD + b'found_on: "\\UFFFFFFFF"\n',
    "UTF-16": HEAD.decode().encode("utf-16"),
    "UTF-32": HEAD.decode().encode("utf-32"),
    "latin-1": HEAD + "circuit: café\n".encode("latin-1"),
    "EBCDIC": HEAD.decode().encode("cp500"),
    "python object": HEAD + b"claims: !!python/object/apply:os.system [exit 1]\n",
    "binary": HEAD + b"found_on: !!binary aGFsbG8=\n",
    "set": HEAD + b"claims: !!set {a, b}\n",
    "own tag": b"!spec\n" + HEAD + CLAIMS,
    "tag directive": b"%TAG ! tag:example.com,2000:\n---\n" + HEAD + b"found_on: !x y\n",
    "2 MB of spaces": b" " * 2_000_000,
    "2 MB of spaces after a spec": HEAD + CLAIMS + b" " * 2_000_000,
    "100 kB of spaces": HEAD + b" " * 100_000 + b"x",
    "20,001 items": HEAD + b"found_on: [" + b"1," * 20_001 + b"]\n",
    "a number": b"1",
    "a text": b"mechanism",
    "only a comment": b"# mechanism: 1\n",
    "nothing": b"",
    "JSON with a list key": b"{[1]: 2}",
    "unfinished text": HEAD + b'found_on: "abc',
    "version of 5000 digits": b"%YAML 1." + b"1" * 5000 + b"\n---\n" + HEAD,
    "groups a number": HEAD + b"groups: 5\n" + CLAIMS,
    "claims a text": HEAD + b"claims: abc\n",
    "task a list": b"mechanism: 1\ncircuit: x\ntask: [1]\n" + CLAIMS,
}


@pytest.mark.parametrize("raw", NASTY_FILES.values(), ids=NASTY_FILES)
def test_a_nasty_file_is_refused_in_one_line_each(folder: Path, raw: bytes) -> None:
    """None of these is a spec, and each says so in one line with file and line."""
    found = outcome(raw, folder)
    assert (list, []) == (type(found), unheard_of(raw, folder))
