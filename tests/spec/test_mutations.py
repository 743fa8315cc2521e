"""Whatever a spec file holds: a valid spec, or one line with file and line. Never anything else.

MECHANISM_MUTATIONS=2000 sets how many mutated specs are tried in all (CI does so),
MECHANISM_MUTATIONS_LOG a file for the seconds of each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.commands.lint import run as lint
from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.spec import Spec

MUTATIONS = int(os.environ.get("MECHANISM_MUTATIONS", "500"))
SHARDS = 8
"""Tests that share the examples, so that several workers can."""

TRAINING = {"rates": [3e-5, 1e-4], "steps": 50, "every": 10, "seeds": [0, 1], "batch": 32}
REFUSAL = {
    "family": "refusal",
    "harmful": "harmful.jsonl",
    "harmless": {"file": "harmless.jsonl"},
    "prefixes": ["I cannot", "No"],
    "template": "<user> {instruction} <assistant>",
    "reply_tokens": 4,
    "rows": 20,
    "seed": 1,
}
MADE: dict[str, dict[str, Any]] = {
    "ioi": {"templates": 3, "order": "ABBA"},
    "greater_than": {"centuries": ["16", "17"]},
    "program": {"of": "a", "instead": "b", "longest": 12},
    "induction": {"words": "letters", "length": 8},
    "pcfg": {"prior": {"a": 0.9, "b": 0.1}, "hides": "a", "shows": "b", "correlated": 0.5},
}
BASES: dict[str, dict[str, Any]] = {
    "circuit": {
        "mechanism": 1,
        "circuit": "demo",
        "extends": "other.yaml",
        "applies_to": {"labels": ["base", "ft*"], "shape": {"n_heads": 4}, "roles": ["control"]},
        "task": {"family": "entity_tracking", "rows": 100, "boxes": 4, "seed": 1, "fillers": 0},
        "groups": {
            "a": {"heads": {3: [1, 0]}, "at": "last"},
            "b": {"heads": {0: [3]}, "at": "query_label", "into": {"group": "a", "via": "v"}},
        },
        "found_on": "base",
        "ablation": {"value": "mean", "prompts": 60},
        "confidence": 0.9,
        "atol": 0.01,
        "drift": 0.1,
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
            "heard": {"kind": "path", "group": "a", "on": ["base"], "drops_at_least": 0.01},
            "looks": {"kind": "attends", "group": "a", "from": "last", "to": "query_label",
                      "at_least": 0.5},
            "moved": {"kind": "knockout", "from": "last", "to": "query_label.first",
                      "from_layer": 3, "drops_at_most": 0.1},
            "all": {"kind": "completeness", "at_most": 0.1, "subsets": 3},
            "equal": {"kind": "equivalent", "from": "base", "to": "ft", "margin": 0.05,
                      "of": "log_probability"},
            "words": {"kind": "coverage", "on": "ft", "of": ["label"], "at_least": 0.5, "rows": 200},
            "beats": {"kind": "sufficiency", "random": 29},
            "rest": {"kind": "independence", "at_most": 0.1},
            "profile": {"kind": "same_profile", "from": "base", "to": "ft", "margin": 0.1, "outside_at_most": 0.2},
            "grows": {"kind": "curve", "cpr_at_least": 0.5, "axis": "logarithmic",
                      "ranking": "absolute", "ranked_by": "attribution"},
            "small": {"kind": "minimality", "groups": ["a"], "on": "base", "costs_at_least": 0.01},
        },
    },
    "discovered": {
        "mechanism": 1,
        "circuit": "demo",
        "task": {"family": "entity_tracking", "rows": 100},
        "groups": {
            "a": {
                "heads": "discovered",
                "at": "last",
                "find": {"candidates": 40, "receivers": 5, "screen": {"keep": 64}},
            },
            "b": {
                "heads": "discovered",
                "at": "last",
                "into": {"group": "a", "via": "q"},
                "find": {"drops_at_least": 0.2},
            },
        },
        "claims": {
            "own": {"kind": "overlap", "from": "base", "to": "ft", "group": "a", "searches": 3,
                    "recall_at_least": 0.5},
            "enough": {"kind": "faithfulness", "metric": "ratio", "between": [0.9, 1.1]}},
    },
    "wrapper": {
        "mechanism": 1,
        "circuit": "demo",
        "task": {
            "family": "counting",
            "refuse": "a",
            "ways": ["count", "tally", "number", "total"],
            "rows": 100,
            "seed": 1,
        },
        "claims": {
            "counts": {"kind": "accuracy", "not_worse_than": "base", "on": "ft", "margin": 0.02},
            "refuses": {"kind": "suppression_holds", "refuses_at_least": 0.9,
                        "over_refuses_at_most": 0.1},
            "as_sure": {"kind": "suppression_holds", "on": "ft", "not_worse_than": "base",
                        "margin": 0.05, "of": "log_probability"},
            "after": {"kind": "suppression_holds_after", "on": "ft", "data": "allowed",
                      "refuses_at_least": 0.9, "lora": 4, **deepcopy(TRAINING)},
            "ways": {"kind": "resists_jailbreak", "on": "ft", "refuses_at_least": 0.9},
            "read": {"kind": "decodable", "at_least": 0.5, "share_at_least": 0.5,
                     "asked": "capability", "position": "last", "penalty": 0.001},
            "few": {"kind": "localised", "on": "ft", "units": "neurons", "at_most": 15,
                    "restores_at_least": 0.5},
            "gone": {"kind": "resists_revival", "on": "ft", "criterion": 0.5, **deepcopy(TRAINING)},
            "back": {"kind": "revives", "on": "ft", "faster": 2.0, "criterion": 0.5,
                     **deepcopy(TRAINING)},
            "unlike": {"kind": "differs_from_removal", "on": "ft", "expects": "hidden",
                       "removal_rate": 1e-3, "removal_steps": 300, **deepcopy(TRAINING)},
            "all": {"kind": "capability_hidden", "on": "ft", "expects": "hidden",
                    "behaviour_at_most": 0.1, "faster": 2.5, **deepcopy(TRAINING)},
        },
    },
    "stories": {
        "mechanism": 1,
        "circuit": "demo",
        "task": {"family": "stories", "feature": "twist", "which": "asked", "given": "beginning",
                 "reply_tokens": 80, "rows": 40},
        "claims": {
            "has_it": {"kind": "accuracy", "at_least": 0.6},
            "reads": {"kind": "same_text", "from": "base", "to": "ft", "text": "lines.txt",
                      "at_most": 0.02, "lines": 20},
            "spread": {"kind": "diffuse_change", "from": "base", "to": "ft", "text": "lines.txt",
                       "at_most": 0.5, "layers_at_most": 0.9, "same_below": 0.001, "lines": 20,
                       "prompts": 40},
            "says": {"kind": "same_text", "text": [f"once a fox {i}" for i in range(10)],
                     "at_most": 0.02},
        },
    },
    "chat": {
        "mechanism": 1,
        "circuit": "demo",
        "task": REFUSAL,
        "claims": {
            "refuses": {"kind": "suppression_holds", "refuses_at_least": 0.9},
            "late": {"kind": "refuses_after_prefill", "depth": [1, 3], "at_least": 0.9},
            "one": {"kind": "direction", "ablation_leaves_at_most": 0.1},
            "same": {"kind": "direction", "from": "base", "to": "ft", "cosine_at_least": 0.9},
            "spares": {"kind": "spares_safety_weights", "from": "base", "to": "ft",
                       "ratio_at_most": 1.5, "q": 0.03, "p": 0.03},
        },
    },
    "file": {
        "mechanism": 1,
        "circuit": "demo",
        "task": {"family": "jsonl", "file": "names.jsonl", "rows": 20, "chance": 0.5},
        "groups": {"a": {"heads": {1: [0]}, "at": "S1"}},
        "claims": {
            "solves": {"kind": "accuracy", "at_least": 0.6},
            "moves": {"kind": "encodes", "group": "a", "variable": "name", "heads": "learned",
                      "at_least": 0.5},
        },
    },
    "slots": {
        "mechanism": 1,
        "circuit": "demo",
        "task": {
            "family": "template",
            "words": {"animal": ["ant", "bee", "cat", "dog", "elk", "fox"], "town": "places"},
            "slots": {"A": "animal", "B": "animal", "T": "town"},
            "texts": [["{A:key} {B} {T} {A:again}", "{T} {A:key} {B} {A:again}"]],
            "answer": "{B}",
            "source": {"redraw": ["key"]},
            "variables": {"next": {"source": {"redraw": ["B"]}, "target": "{source.B}"}},
            "rows": 20,
            "seed": 1,
        },
        "groups": {"a": {"heads": {1: [0]}, "at": "B.first"}},
        "claims": {"moves": {"kind": "encodes", "group": "a", "variable": "next", "at_least": 0.5}},
    },
    **{
        family: {
            "mechanism": 1,
            "circuit": "demo",
            "task": {"family": family, **parameters, "rows": 20, "seed": 1},
            "groups": {"a": {"heads": "discovered", "at": "last"}},
            "claims": {"solves": {"kind": "accuracy", "at_least": 0.6}},
        }
        for family, parameters in MADE.items()
    },
}  # fmt: skip
STYLES = {
    "flow": {name: json.dumps(tree) for name, tree in BASES.items()},
    "block": {name: yaml.safe_dump(tree, sort_keys=False) for name, tree in BASES.items()},
}
TEXT = STYLES["block"]["circuit"]

LINE = re.compile(r"(spec\.yaml|other\.yaml|names\.jsonl):(\d+): \S.*")


ENDLESS = 60
"""Seconds of a processor that no spec takes, on any machine: the slowest takes about 1 here."""


def outcome(raw: bytes, folder: Path, resolved: bool = False) -> list[str] | None:
    """Every complaint of `lint` about a spec, or None where it is valid."""
    path = folder / "spec.yaml"
    path.write_bytes(raw)
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = lint(Namespace(paths=[path], resolved=resolved, power=False, coverage=False))
    seconds = time.process_time() - started
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    record = os.environ.get("MECHANISM_MUTATIONS_LOG")
    if record:
        with Path(record).open("a", encoding="utf-8") as file:
            file.write(f"{seconds:.4f} {code} {test}\n")
    assert seconds < ENDLESS, f"{seconds:.2f} s"
    text = err.getvalue().replace(f"{folder}{os.sep}", "")
    if code == 0:
        shown = out.getvalue()
        assert text == ""
        assert all(line.isprintable() for line in shown.split("\n"))
        assert resolved or shown.startswith(f"{path}: ok, ")
        return None
    assert code == 2
    assert out.getvalue() == ""
    return text.removesuffix("\n").split("\n")


def unheard_of(raw: bytes, folder: Path, resolved: bool = False) -> list[str]:
    """Messages that are not a single line with a line number of the file."""
    result = outcome(raw, folder, resolved)
    if result is None:
        return []
    lines = (
        1
        + len(re.findall(rb"\r\n?|\n", raw))
        + sum(
            raw.count(item.encode())
            for item in "\x85\u2028\u2029"  # line breaks to YAML
        )
    )
    lines = max(lines, len(TEXT.splitlines()))
    wrong = []
    for item in result:
        parsed = LINE.fullmatch(item)
        if parsed is None or not item.isprintable() or not 1 <= int(parsed[2]) <= lines:
            wrong.append(item)
        elif len(item) > 1200:
            wrong.append(f"{len(item)} characters")
    return wrong if result else ["no complaint and no spec"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("mutations")
    other = {k: v for k, v in BASES["circuit"].items() if k != "extends"}
    (result / "other.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
    for name in ("harmful", "harmless"):
        lines = [{"instruction": f"{name} {i}", "reply": f"Sure, {i}"} for i in range(40)]
        (result / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prompts = [
        {
            "prompt": f"{i} [[S1:Mary]] gave a drink to",
            "answer": "John",
            "source": f"{i} [[S1:Anna]] gave a drink to",
            "source_answer": "Paul",
            "targets": {"name": "Anna"},
        }
        for i in range(40)
    ]
    (result / "names.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (result / "lines.txt").write_text("".join(f"once a fox {i}\n" for i in range(12)))
    return result


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", BASES)
def test_the_specs_that_are_mutated_are_valid(folder: Path, name: str, style: str) -> None:
    """No starting point has anything wrong with it."""
    (folder / "spec.yaml").write_text(STYLES[style][name])
    spec = load(folder / "spec.yaml")
    assert isinstance(spec, Spec)
    assert list(spec.claims) == list(BASES[name]["claims"])
    assert outcome(STYLES[style][name].encode(), folder, resolved=True) is None


def test_every_kind_of_claim_and_every_family_is_mutated() -> None:
    """What a package adds later belongs here too."""
    kinds = {claim["kind"] for tree in BASES.values() for claim in tree["claims"].values()}
    families = {tree["task"]["family"] for tree in BASES.values()}
    assert (kinds, families) == (set(claim_kinds()), set(task_families()))


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**17, 10**40, 0.5, 3.0, -0.0, 1e308, 1e-308, 1e-7,
    "", " ", "a", "b", "last", "base", "ft", "pair", "control", "x" * 3000, "discovered", "../x",
    "nan", ".nan", "inf", "-.inf", "/etc/passwd", "other.yaml", "names.jsonl", "spec.yaml", "~",
    "\u2028", "\ufeff", "\u202e", "é", "👩‍🔬", "${HOME}", "{0}", "%s", "\x1b[31m", "{instruction}",
    "a\x00b", "a\nb", "CON", "accuracy", "counting", "refusal", "jsonl", "entity_tracking",
    [], [[]], [{}], [None], [True], ["base", "base"], ["a"] * 50, [-1], [0, 0], [1e3], [1.1, 0.9],
    {}, {"a": {}}, {"a": "a"}, {"kind": "accuracy"}, {"-1": [0]}, {"3": [0], "03": [1]},
    {"0": [0], "0.0": [1]}, {"file": "names.jsonl"}, {"file": "names.jsonl", "sha256": "0" * 64},
    {"group": "a", "via": "q"}, {"model": "base"}, {"candidates": 0},
)  # fmt: skip
KEYS = (
    "", "kind", "extends", "claims", "groups", "task", "<<", "1", "[key]", "group", "at_leest",
    "from", "to", "on", "at", "model", "family", "heads", "find", "into", "file", "sha256", "\x85",
    "\u202e", "a" * 500, "mechanism", "circuit", "__class__", "model_config", "true", "1.5",
)  # fmt: skip
PIECES = (
    *":-{}[]#?|>'\"%@`,\\0\r\n\t\x00\x07\x85\u2028\ufeff\u202eé",
    "  ", "    ", "\t", "&a ", "*a", "!!x ", "!!python/object/apply:os.system ", "? ", "---\n",
    "...\n", "%YAML 1.2\n---\n", "<<: ", "null", "\x1b[31m", "1e999", "9" * 50, "-", ".nan", ".inf",
    "0x10", "010", "1_000", "yes", "extends: spec.yaml\n", "claims:\n", "\r\n", "\ud800", '"\\ud800"',
    '"\\UFFFFFFFF"', "{a: " * 30, "[" * 30, "- " * 30, "|\n", ">-\n", "'", "🙂",
)  # fmt: skip
BYTES = (b"\xff", b"\xfe\xff", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x00\x00", b"\xf5")


def containers(value: object) -> list:
    """Every dict and list of a tree."""
    inside = value.values() if isinstance(value, dict) else value
    return [value, *(c for v in inside if isinstance(v, dict | list) for c in containers(v))]


def mutated(tree: Any, op: int, where: int, choice: int) -> None:
    """One change to a tree: a value replaced, removed, renamed, moved, copied or added."""
    several = containers(tree)
    target = several[where % len(several)]
    places = list(target) if isinstance(target, dict) else list(range(len(target)))
    value = deepcopy(VALUES[choice % len(VALUES)])
    key = KEYS[choice % len(KEYS)]
    if op % 5 == 0 or not places:
        if isinstance(target, dict):
            target[key] = value
        else:
            target.append(value)
        return
    place = places[choice % len(places)]
    if op % 5 == 1:
        target[place] = value
    elif op % 5 == 2:
        target[place] = deepcopy(several[choice % len(several)])
    else:
        old = target.pop(place)
        if op % 5 == 3 and isinstance(target, dict):
            target[key] = old


def garbled(raw: bytes, op: int, where: int, choice: int) -> bytes:
    """One slip of the keyboard, or of the disk."""
    at = where % (len(raw) + 1)
    piece = PIECES[choice % len(PIECES)].encode("utf-8", "surrogatepass")
    lines = raw.split(b"\n")
    line = where % len(lines)
    match op % 9:
        case 0:
            return raw[:at] + piece + raw[at:]
        case 1:
            return raw[:at] + piece + raw[at + choice % 12 :]
        case 2:
            return raw[:at] + raw[at + 1 + choice % 40 :]
        case 3:
            return raw[:at]
        case 4:
            return raw[:at] + BYTES[choice % len(BYTES)] + raw[at:]
        case 5:
            lines.insert(choice % len(lines), lines[line])
        case 6:
            lines[line] = b" " * (choice % 5) + lines[line].lstrip(b" " if choice % 2 else b"")
        case 7:
            lines[line] = b"\t" + lines[line]
        case _:
            del lines[line]
    return b"\n".join(lines)


CHANGE = st.tuples(st.integers(0, 44), st.integers(0, 2**12), st.integers(0, 2**12))


@st.composite
def specs(draw: st.DrawFn) -> bytes:
    """A nearly valid spec: some changes to a tree, some to its text."""
    name = draw(st.sampled_from(list(BASES)))
    block = draw(st.booleans())
    in_tree = draw(st.lists(CHANGE, max_size=3))
    in_text = draw(st.lists(CHANGE, min_size=0 if in_tree else 1, max_size=3))
    raw = STYLES["block" if block else "flow"][name].encode()
    if in_tree:
        tree = deepcopy(BASES[name])
        for change in in_tree:
            mutated(tree, *change)
        raw = json.dumps(tree, ensure_ascii=block, indent=1 if block else None).encode(
            "utf-8", "surrogatepass"
        )
    for change in in_text:
        raw = garbled(raw, *change)
    return raw


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_nearly_valid_spec_is_valid_or_one_line_each(folder: Path, shard: int) -> None:
    """Values and keys missing, renamed, moved and of other kinds, text cut, doubled, shifted and
    garbled: a spec, or one line for each problem, in less than a second."""

    @settings(max_examples=MUTATIONS // SHARDS, deadline=None, database=None)
    @given(specs())
    def holds(raw: bytes) -> None:
        assert unheard_of(raw, folder, resolved=len(raw) % 16 == 0) == []

    holds()


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
    "10 MB of spaces": HEAD + b" " * 10_000_000,
    "10 MB on one line": HEAD + b"x: " + b"y" * 10_000_000,
    "490 kB on one line": HEAD + b"x: " + b"y" * 490_000,
    "490 kB of quotes": HEAD + b"x: '" + b"''" * 245_000 + b"'\n",
    "490 kB of escapes": HEAD + b'x: "' + b"\\t" * 245_000 + b'"\n',
    "490 kB of comments": HEAD + b"#\n" * 245_000 + CLAIMS + b"x: 1\n",
    "490 kB of empty lines": HEAD + b"x:" + b"\n" * 490_000 + b" y\n",
    "490 kB of dashes": HEAD + b"x: " + b"-" * 490_000,
    "490 kB of list marks": HEAD + b"x:\n" + b"- " * 245_000,
    "490 kB of keys without values": HEAD + b"? " * 245_000,
    "490 kB of commas": HEAD + b"x: [" + b"," * 490_000,
    "490 kB of colons": HEAD + b"x: {" + b":" * 490_000,
    "490 kB of tags": HEAD + b"x: " + b"!" * 490_000,
    "490 kB of anchors": HEAD + b"x: " + b"&a " * 160_000,
    "490 kB of quotes that open": HEAD + b"x: " + b'"' * 489_999,
    "490 kB of block text": HEAD + b"x: |\n" + b"  a\n" * 120_000,
    "490 kB of folded text": HEAD + b"x: >\n" + b"  a\n" * 120_000,
    "490 kB of plain lines": HEAD + b"x:\n" + b"  a\n" * 120_000,
    "490 kB of documents": (b"---\n" * 120_000) + HEAD,
    "490 kB of directives": (b"%A B\n" * 120_000) + b"---\n" + HEAD,
    "20,000 keys": HEAD + b"".join(b"k%d: 1\n" % i for i in range(20_000)),
    "5,000 claims": HEAD
    + b"claims:\n"
    + b"".join(b"  c%d: {kind: accurcy, at_least: 0.5}\n" % i for i in range(5_000)),
    "5,000 groups": HEAD
    + b"groups:\n"
    + b"".join(b"  g%d: {heads: {0: [0]}, at: lst}\n" % i for i in range(5_000))
    + CLAIMS,
    "18,000 heads": HEAD
    + b"groups: {g: {heads: {0: ["
    + b"0," * 18_000
    + b"]}, at: last}}\n"
    + CLAIMS,
    "18,000 labels": HEAD + b"applies_to: {labels: [" + b"x," * 18_000 + b"], shape: 1}\n" + CLAIMS,
    "integer of a million digits": HEAD + b"confidence: " + b"9" * 490_000 + b"\n",
    "hexadecimal of a million digits": HEAD + b"confidence: 0x" + b"f" * 490_000 + b"\n",
    "layer of a million digits": HEAD + b"groups: {g: {heads: {" + b"9" * 490_000 + b": [0]}}}\n",
    "10,000 levels of flow": HEAD + b"groups: " + b"[" * 10_000 + b"]" * 10_000 + b"\n",
    "10,000 levels of flow mappings": HEAD + b"groups: " + b"{a: " * 10_000 + b"}" * 10_000,
    "1,200 levels of block": HEAD
    + b"groups:\n"
    + b"".join(b" " * i + b"a:\n" for i in range(1, 1200)),
    "10,000 levels of block lists": HEAD + b"groups:\n" + b"- " * 10_000 + b"x\n",
    "duplicated keys": HEAD + CLAIMS + CLAIMS,
    "CRLF and a wrong key": (HEAD + CLAIMS + b"x: 1\n").replace(b"\n", b"\r\n"),
    "CR alone and a wrong key": (HEAD + CLAIMS + b"x: 1\n").replace(b"\n", b"\r"),
    "merge": HEAD + b"claims: {<<: {a: {kind: accuracy, at_least: 0.5}}}\n",
    "two documents": HEAD + CLAIMS + b"---\n" + HEAD + CLAIMS,
    "YAML 2.0": b"%YAML 2.0\n---\n" + HEAD + CLAIMS,
    "BOM in the middle": HEAD + b"\xef\xbb\xbfclaims: {}\n",
    "surrogates as UTF-8": HEAD + b"found_on: \xed\xa0\x80\n",
    "NUL alone": b"\x00",
    "a thousand NULs": HEAD + b"\x00" * 1000,
    "UTF-16 without a BOM": HEAD.decode().encode("utf-16-le"),
    "very long key": HEAD + b"k" * 490_000 + b": 1\n",
    "very long key of a claim": HEAD + b"claims: {" + b"k" * 100_000 + b": {kind: accuracy}}\n",
    "very long kind": HEAD + b"claims: {a: {kind: " + b"k" * 100_000 + b"}}\n",
    "very long unknown field": HEAD
    + b"claims: {a: {kind: accuracy, "
    + b"k" * 100_000
    + b": 1}}\n",
    "very long position": HEAD
    + b"groups: {g: {heads: {0: [0]}, at: "
    + b"k" * 100_000
    + b"}}\n"
    + CLAIMS,
    "very long name of a file": HEAD + b"extends: " + b"k" * 100_000 + b"\n" + CLAIMS,
    "extends itself": b"mechanism: 1\ncircuit: x\nextends: spec.yaml\n" + CLAIMS,
    "extends a folder": b"mechanism: 1\ncircuit: x\nextends: .\n" + CLAIMS,
    "extends what lies outside": b"mechanism: 1\ncircuit: x\nextends: ../../etc/passwd\n" + CLAIMS,
    "groups a number": HEAD + b"groups: 5\n" + CLAIMS,
    "claims a text": HEAD + b"claims: abc\n",
    "task a list": b"mechanism: 1\ncircuit: x\ntask: [1]\n" + CLAIMS,
}


@pytest.mark.parametrize("raw", NASTY_FILES.values(), ids=list(NASTY_FILES))
def test_a_nasty_file_is_refused_in_one_line_each(folder: Path, raw: bytes) -> None:
    """None of these is a spec, and each says so in one line with file and line."""
    assert outcome(raw, folder) is not None
    assert unheard_of(raw, folder) == []
