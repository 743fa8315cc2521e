"""Limits of specs: sizes, files within the spec's folder, claims that the task supports; and one line for
each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.choice import MOST
from pytest_mechanism.spec.load import MOST_PROBLEMS, SpecErrors, load
from pytest_mechanism.spec.yaml import MAX_BYTES

HEAD = "mechanism: 1\ncircuit: x\n"
BOXES = "task: {family: entity_tracking}\n"
CLAIMS = "claims: {a: {kind: accuracy, at_least: 0.5}}\n"
REFUSAL = "task: {family: refusal, harmful: bad.jsonl, harmless: good.jsonl, rows: 20}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec's folder with files for its task, in a folder with something that it must not read."""
    home = tmp_path / "specs"
    home.mkdir()
    for name in ("bad", "good"):
        lines = [json.dumps({"instruction": f"{name} {i}", "reply": "Sure"}) for i in range(40)]
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "secret.jsonl").write_text((home / "bad.jsonl").read_text())
    (tmp_path / "other.yaml").write_text(HEAD + BOXES + CLAIMS)
    return home


def complaints(folder: Path, text: str) -> list[str]:
    (folder / "x.yaml").write_text(text)
    try:
        load(folder / "x.yaml", Path("x.yaml"))
    except MechanismError as problem:
        return [
            str(p) for p in (problem.problems if isinstance(problem, SpecErrors) else [problem])
        ]
    return []


# -- sizes


def test_a_file_is_measured_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that another extends."""
    large = folder / "large.yaml"
    large.write_text(HEAD + BOXES + CLAIMS + " " * MAX_BYTES)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(MechanismError, match="is larger than 500,000 bytes"):
        load(large)
    monkeypatch.undo()
    assert complaints(folder, HEAD + "extends: large.yaml\n" + CLAIMS) == [
        "large.yaml:1: is larger than 500,000 bytes, which no spec needs"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            BOXES + "claims:\n" + "".join(
                f"  c{i}: {{kind: accuracy, at_least: 0.5}}\n" for i in range(MOST + 1)
            ),
            "x.yaml:4: claims: 501 claims, a spec has at most 500",
        ),
        (
            BOXES + "groups:\n" + "".join(
                f"  g{i}: {{heads: {{0: [0]}}, at: last}}\n" for i in range(MOST + 1)
            ) + CLAIMS,
            "x.yaml:4: groups: 501 groups, a spec has at most 500",
        ),
        (
            BOXES + "claims: {" + "a" * 101 + ": {kind: accuracy, at_least: 0.5}}\n",
            f"x.yaml:4: claim name {repr('a' * 101)[:57]}...: use letters, digits and '_', 100 characters at most",
        ),
        (
            BOXES + CLAIMS + "applies_to: {labels: [" + "x," * 101 + "]}\n",
            "x.yaml:5: labels: must have at most 100 items, got "
            + repr(["x"] * 101)[:57] + "...",
        ),
    ],
    ids=["claims", "groups", "a name", "labels"],
)  # fmt: skip
def test_counts_and_names_have_limits(folder: Path, text: str, message: str) -> None:
    assert complaints(folder, HEAD + text) == [message]


def test_a_file_with_hundreds_of_problems_names_the_first(folder: Path) -> None:
    """In the order of lines, and no more than somebody reads."""
    claims = "".join(f"  c{i}: {{kind: wrong}}\n" for i in range(400))
    result = complaints(folder, HEAD + BOXES + "claims:\n" + claims)
    assert len(result) == MOST_PROBLEMS
    assert [line.split(":")[1] for line in result] == [str(i) for i in range(5, 5 + MOST_PROBLEMS)]


@pytest.mark.parametrize("key", ["instruction", "reply"])
def test_an_instruction_has_a_length_that_can_be_meant(folder: Path, key: str) -> None:
    line = {"instruction": "x", "reply": "y", key: "z" * 20_001}
    (folder / "bad.jsonl").write_text(json.dumps(line))
    assert complaints(folder, HEAD + REFUSAL + CLAIMS) == [
        f"x.yaml:3: task: bad.jsonl:1: {key} has 20,001 characters; at most 20,000"
    ]


@pytest.mark.parametrize("text", ['{"instruction": "\\ud800"}', '{"\\udc00": 1}'])
def test_half_a_character_is_no_text(folder: Path, text: str) -> None:
    """JSON can name halves of characters that no file and no tokenizer can hold."""
    (folder / "bad.jsonl").write_text(text)
    says = [
        "x.yaml:3: task: bad.jsonl:1: holds half a character (a lone surrogate), which is not text"
    ]
    assert complaints(folder, HEAD + REFUSAL + CLAIMS) == says
    (folder / "p.jsonl").write_text(text.replace("instruction", "prompt"))
    task = "task: {family: jsonl, file: p.jsonl, rows: 20}\n"
    assert complaints(folder, HEAD + task + CLAIMS) == [
        line.replace("bad.jsonl", "p.jsonl") for line in says
    ]


# -- files


@pytest.mark.parametrize(
    "name",
    ["../secret.jsonl", "ABSOLUTE", "link.jsonl", "sub/../../secret.jsonl", "folder/secret.jsonl"],
)
def test_no_path_of_a_spec_leaves_its_folder(folder: Path, name: str) -> None:
    """Neither by dots nor by links nor by a full path, for files of tasks and for `extends`."""
    outside = folder.parent
    (folder / "link.jsonl").symlink_to(outside / "secret.jsonl")
    (folder / "folder").symlink_to(outside, target_is_directory=True)
    path = str(outside / "secret.jsonl") if name == "ABSOLUTE" else name
    result = complaints(folder, HEAD + REFUSAL.replace("bad.jsonl", path) + CLAIMS)
    assert result == [f"x.yaml:3: task.harmful: {path} lies outside the spec's folder"]
    other = path.replace("secret.jsonl", "other.yaml").replace("link.jsonl", "link.yaml")
    (folder / "link.yaml").symlink_to(outside / "other.yaml")
    result = complaints(folder, HEAD + f"extends: {other}\n" + CLAIMS)
    assert result == [f"x.yaml:3: extends: {other} lies outside this spec's folder"]


def test_a_task_that_is_extended_keeps_to_its_own_folder(folder: Path) -> None:
    """Its files are below the folder of the spec that names them."""
    (folder / "sub").mkdir()
    (folder / "sub" / "good.jsonl").write_text((folder / "good.jsonl").read_text())
    (folder / "sub" / "task.yaml").write_text(HEAD + REFUSAL.replace("bad", "../bad") + CLAIMS)
    result = complaints(folder, HEAD + "extends: sub/task.yaml\n" + CLAIMS)
    assert result == ["x.yaml:3: task.harmful: ../bad.jsonl lies outside the spec's folder"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(folder: Path, kind: str) -> None:
    import os

    path = folder / "odd.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    result = complaints(folder, HEAD + REFUSAL.replace("bad.jsonl", "odd.jsonl") + CLAIMS)
    assert len(result) == 1
    assert "no file odd.jsonl" in result[0] or "lies outside" in result[0]


# -- one line for a mistake


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("depth: 0", "late.depth: must be greater than or equal to 1, got 0"),
        ("depth: [1, 0]", "late.depth.1: must be greater than or equal to 1, got 0"),
        ("depth: []", "late.depth: must have at least 1 item, got []"),
        ("depth: x", "late.depth: must be a valid integer or must be a valid list, got 'x'"),
        ("depth: [x]", "late.depth.0: must be a valid integer, got 'x'"),
        ("depth: 1.5", "late.depth: must be a valid integer or must be a valid list, got 1.5"),
        ("depth: 1, on: 3", "late.on: must be a valid list or must be a valid string, got 3"),
        ("depth: 1, on: []", "late.on: must have at least 1 item, got []"),
        ("depth: 1, on: [1]", "late.on.0: must be a valid string, got 1"),
    ],
)
def test_a_value_that_may_be_of_two_kinds_is_complained_about_once(
    folder: Path, claim: str, message: str
) -> None:
    """In the words of the kind that was given."""
    text = (
        HEAD
        + REFUSAL
        + f"claims: {{late: {{kind: refuses_after_prefill, at_least: 0.9, {claim}}}}}"
    )
    assert complaints(folder, text) == [f"x.yaml:4: {message}"]


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ("['']", "prefixes.0: must have at least 1 character, got ''"),
        ("['a', ' ']", "prefixes.1: must have at least 1 character, got ' '"),
        ("[]", "prefixes: must have at least 1 item, got []"),
    ],
)
def test_a_prefix_has_letters(folder: Path, prefixes: str, message: str) -> None:
    """Every reply begins with an empty one."""
    text = HEAD + REFUSAL.replace("rows", f"prefixes: {prefixes}, rows") + CLAIMS
    assert complaints(folder, text) == [f"x.yaml:3: {message}"]


# -- claims and tasks


def claims(text: str) -> str:
    return f"claims: {{a: {{{text}}}}}\n"


COUNTING = "task: {family: counting, refuse: a}\n"
FREE = "the replies of task refusal are free text"
NO_ANSWER = "has no answer to what must be refused with these settings"
HIDDEN = "kind: capability_hidden, expects: hidden, rates: [3e-5], steps: 10"


@pytest.mark.parametrize(
    ("task", "claim", "says"),
    [
        (REFUSAL, "kind: decodable, at_least: 0.5", FREE),
        (REFUSAL, "kind: decodable, at_least: 0.5, asked: rows", FREE),
        (REFUSAL, "kind: localised, at_most: 5, restores_at_least: 0.5", FREE),
        (REFUSAL, HIDDEN, FREE),
        (BOXES, "kind: decodable, at_least: 0.5", NO_ANSWER),
        (BOXES, "kind: localised, at_most: 5, restores_at_least: 0.5", NO_ANSWER),
        (BOXES, HIDDEN, NO_ANSWER),
        (COUNTING.replace(", refuse: a", ""), "kind: decodable, at_least: 0.5", NO_ANSWER),
        (COUNTING, "kind: decodable, at_least: 0.5, position: lst",
         "unknown position 'lst'; did you mean 'last'? valid: "),
        (BOXES, "kind: decodable, at_least: 0.5, asked: rows", None),
        (COUNTING, "kind: decodable, at_least: 0.5, position: letters", None),
        (COUNTING, "kind: localised, at_most: 5, restores_at_least: 0.5", None),
        (COUNTING, HIDDEN, None),
    ],
)  # fmt: skip
def test_a_claim_that_its_task_cannot_bear_is_said_at_its_line(
    folder: Path, task: str, claim: str, says: str | None
) -> None:
    """Before any model is loaded."""
    result = complaints(folder, HEAD + task + claims(claim))
    if says is None:
        assert result == []
    else:
        assert len(result) == 1
        assert result[0].startswith("x.yaml:4: claim a: ")
        assert says in result[0]
