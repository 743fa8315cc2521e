"""Prompts from a file: marked positions, the split of lines, and one line for each error."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.jsonl import Jsonl, JsonlParameters
from pytest_mechanism.tasks.files import FOLDER
from pytest_mechanism.tasks.writing.prompt_lines import parse_line

NAMES = ("Mary", "John", "Anna", "Paul", "Rose", "Mark")
SPEC = """mechanism: 1
circuit: names
task: {family: jsonl, file: names.jsonl, rows: 20}
groups: {movers: {heads: {1: [0]}, at: S2}}
claims:
  solves: {kind: accuracy, at_least: 0.5}
  carries: {kind: encodes, group: movers, variable: name, at_least: 0.5}
"""


def written(i: int) -> dict[str, Any]:
    subject, giver, other = (NAMES[(i + k) % 6] for k in range(3))
    return {
        "prompt": f"Then {i} [[S1:{subject}]] and {giver} went out , {giver} gave a drink to",
        "answer": subject,
        "source": f"Then {i} [[S1:{other}]] and {giver} went out , {giver} gave a drink to",
        "source_answer": other,
        "positions": {"S2": f"{giver}#2"},
        "options": list(NAMES),
        "targets": {"name": other},
        "cluster": f"c{i // 2}",
    }


def task(folder: Path, many: int = 80, **settings: Any) -> Jsonl:
    text = "".join(json.dumps(written(i)) + "\n" for i in range(many))
    (folder / "names.jsonl").write_text(text)
    parameters = {"family": "jsonl", "file": "names.jsonl", "rows": 20} | settings
    return Jsonl(JsonlParameters.model_validate(parameters, context={FOLDER: folder}))


def test_marks_and_substrings_are_positions_of_the_text(tmp_path: Path) -> None:
    """A mark leaves its words in the text; ``#2`` is the second occurrence; ``last`` is the last
    letter."""
    for row in task(tmp_path).pairs(AnyWord(), 20):
        assert "[[" not in row.base.text
        for prompt in (row.base, row.source):
            assert prompt is not None
            words = {n: prompt.text[a:b] for n, ((a, b),) in prompt.spans.items()}
            assert words["S1"] == prompt.answer
            assert words["last"] == "o"
            ((start, _),) = prompt.spans["S2"]
            assert prompt.text[:start].count(words["S2"]) == 1
        assert row.target == row.base.answer


def test_evaluation_search_and_selection_share_no_line(tmp_path: Path) -> None:
    """Half of the lines are for evaluation, a quarter for search, a quarter for selection; lines of
    a training stream repeat."""
    jsonl = task(tmp_path)
    texts = {
        stream: {row.base.text for row in jsonl.rows(AnyWord(), 20, stream)}
        for stream in ("rows", "discover_rank", "discover_select")
    }
    assert all(len(distinct) == 20 for distinct in texts.values())
    assert not texts["rows"] & texts["discover_rank"]
    assert not texts["rows"] & texts["discover_select"]
    assert not texts["discover_rank"] & texts["discover_select"]
    assert len(jsonl.interchange(AnyWord(), "name", 500, "dcm_train")) == 500
    assert len(jsonl.backgrounds(AnyWord(), 500)) == 20
    with pytest.raises(
        MechanismError, match="41 lines are requested, but only 40 of 80 can be used here"
    ):
        jsonl.rows(AnyWord(), 41)


def test_lines_of_one_prompt_are_one_context_of_one_part(tmp_path: Path) -> None:
    """Three sources for a prompt are not three independent prompts, and no part has a prompt of another."""
    lines = [
        {"prompt": f"{i} says", "answer": "yes", "source": f"{source} asks", "source_answer": "no"}
        for i in range(30)
        for source in ("Ann", "Bob", "Cid")
    ]
    (tmp_path / "shared.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for seed in range(8):  # 45 lines end a prompt by chance
        parameters = {"family": "jsonl", "file": "shared.jsonl", "rows": 40, "seed": seed}
        jsonl = Jsonl(JsonlParameters.model_validate(parameters, context={FOLDER: tmp_path}))
        rows = jsonl.rows(AnyWord(), 40)
        assert len({row.cluster for row in rows}) == len({row.base.text for row in rows}) == 14
        parts = [
            {line.base.text for line in jsonl.lines_of(AnyWord(), stream)}
            for stream in ("rows", "discover_rank", "discover_select")
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 30


def test_the_split_does_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    """It depends on the seed."""
    first = [row.base.text for row in task(tmp_path).rows(AnyWord(), 20)]
    path = tmp_path / "names.jsonl"
    path.write_text("\n".join(reversed(path.read_text().strip().split("\n"))))
    again = JsonlParameters.model_validate(
        {"family": "jsonl", "file": "names.jsonl", "rows": 20}, context={FOLDER: tmp_path}
    )
    assert [row.base.text for row in Jsonl(again).rows(AnyWord(), 20)] == first
    other = [row.base.text for row in task(tmp_path, seed=1).rows(AnyWord(), 20)]
    assert other != first


def test_lines_with_a_split_answer_are_dropped(tmp_path: Path) -> None:
    """They are dropped for all checkpoints, and the error says how many."""

    class Fewer(AnyWord):
        def answers(self, prompt, words):
            return tuple(w for w in words if w != "Mary")

        def chat(self, message):
            raise AssertionError

    jsonl = task(tmp_path)
    rows = jsonl.rows(Fewer(), 20)
    assert all(row.base.answer != "Mary" for row in rows)
    with pytest.raises(MechanismError, match="are dropped: some tokenizer splits an answer"):
        jsonl.rows(Fewer(), 40)


def test_chance_is_that_of_guessing(tmp_path: Path) -> None:
    """Guessing among the options; without options, the most frequent answer; or the value in the
    spec."""
    most = Counter(line.base.answer for line in task(tmp_path).lines).most_common(1)[0][1]
    assert task(tmp_path).chance == max(1 / 6, most / len(task(tmp_path).lines))
    lines = [
        {"prompt": f"say {i}", "answer": "fox" if i % 8 else "elk", "options": ["elk", "fox"]}
        for i in range(80)
    ]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    parameters = {"family": "jsonl", "file": "plain.jsonl", "rows": 20}
    skewed = Jsonl(JsonlParameters.model_validate(parameters, context={FOLDER: tmp_path}))
    assert skewed.chance == 0.875  # and not one in two
    assert task(tmp_path, chance=0.25).chance == 0.25
    lines = [{"prompt": f"say {i}", "answer": "yes" if i % 4 else "no"} for i in range(80)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    parameters = {"family": "jsonl", "file": "plain.jsonl", "rows": 20}
    plain = Jsonl(JsonlParameters.model_validate(parameters, context={FOLDER: tmp_path}))
    assert plain.chance == 0.75
    assert plain.variables == ()
    with pytest.raises(MechanismError, match="has no source beside its prompts"):
        plain.pairs(AnyWord(), 20)


def test_a_spec_knows_the_file_s_positions_and_variables(tmp_path: Path) -> None:
    """Lint finds a misspelt name and lists the valid ones."""
    task(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    assert load(path).task.positions == ("last", "S1", "S2")
    path.write_text(SPEC.replace("at: S2", "at: S3"))
    with pytest.raises(SpecErrors, match="unknown position 'S3'; valid: S1, S2, last"):
        load(path)
    path.write_text(SPEC.replace("variable: name", "variable: nam"))
    with pytest.raises(SpecErrors, match="unknown variable 'nam'; did you mean 'name'"):
        load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "key 'prompt' is missing"),
        ('{"prompt": "a"}', "key 'answer' is missing"),
        ('{"prompt": "", "answer": "b"}', "prompt must be a text that is not empty"),
        ('{"prompt": "a", "answer": 3}', "answer must be a text"),
        ('{"prompt": "a", "answer": "b", "anser": "c"}', "unknown key 'anser'; did you mean"),
        ('{"prompt": "a", "answer": "b", "options": ["c"]}', "the answer 'b' is none of them"),
        ('{"prompt": "a", "answer": "b", "options": "b"}', "options must be a list"),
        ('{"prompt": "a", "answer": "b", "positions": {"x": "z"}}', "the prompt has no 'z'"),
        ('{"prompt": "a", "answer": "b", "positions": {"x y": "a"}}', "'x y' needs letters"),
        ('{"prompt": "[[x:a]] [[x:b]]", "answer": "b"}', "position 'x' is marked twice"),
        ('{"prompt": "[[x: ]] c", "answer": "b"}', "position 'x' marks nothing"),
        ('{"prompt": "[[last:a]] c", "answer": "b"}', "choose another name"),
        ('{"prompt": "[[x:a]]", "answer": "b", "source": "c"}', "source: has no position 'x'"),
        ('{"prompt": "a", "answer": "b", "targets": {"v": "c"}}', "targets need a source"),
        ('{"prompt": "a", "answer": "b", "positions": []}', "positions must be an object"),
    ],
)
def test_an_invalid_line_is_an_error_of_one_line(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as problem:
        parse_line(text)
    assert expected in str(problem.value)
    assert "\n" not in str(problem.value)


@given(st.text(max_size=80) | st.builds(json.dumps, st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["prompt", "answer", "source", "positions", "options", "targets"]) | st.text(max_size=3),
        inner, max_size=5),
    max_leaves=8,
)))  # fmt: skip
def test_any_text_is_a_line_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        line = parse_line(text)
        assert line.base.text
        assert "last" in line.base.spans


def test_lines_must_agree_and_are_named(tmp_path: Path) -> None:
    """The error has file and line of the first line that differs."""
    good = json.dumps({"prompt": "[[x:a]] b", "answer": "c"})
    other = json.dumps({"prompt": "a b", "answer": "c"})
    path = tmp_path / "names.jsonl"
    for second, says in ((other, "names.jsonl:3: has the positions last, other lines have last, x"),
                         ("{", "names.jsonl:3: is not JSON")):  # fmt: skip
        path.write_text(f"{good}\n\n{second}\n")
        parameters = {"family": "jsonl", "file": "names.jsonl", "rows": 20}
        with pytest.raises(ValueError, match=says):
            JsonlParameters.model_validate(parameters, context={FOLDER: tmp_path})


@pytest.mark.parametrize(
    ("many", "rows", "expected"),
    [
        (0, 20, "names.jsonl: has no lines"),
        (30, 20, "rows: 20, but names.jsonl has 30 lines and one half of them is for evaluation; add 10 lines"),
        (30, 100, "for evaluation; add 170 lines, or 10 and lower rows to 20"),
        (80, 100, "for evaluation; lower rows to 40 or add 120 lines"),
    ],
)  # fmt: skip
def test_too_short_a_file_is_an_error_with_advice(
    tmp_path: Path, many: int, rows: int, expected: str
) -> None:
    """The advice never names fewer rows than a task may have."""
    with pytest.raises(ValueError, match=expected):
        task(tmp_path, many, rows=rows)
