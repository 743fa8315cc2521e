"""``pytest-mechanism new``: a first spec that lints and runs, or one line."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.load import load

TEMPLATE = [
    "--task=template",
    "--set=words={word: [ant, bee, cat, dog, elk, fox, gnu, hen, jay, kid]}",
    "--set=slots={A: word, B: word, C: word, D: word}",
    '--set=texts=[["{A:key} {B} {C} {D} {A:again}", "{C} {D} {A:key} {B} {A:again}"]]',
    "--set=answer={B}",
    "--set=source={redraw: [key]}",
]
GIVEN = {
    "template": TEMPLATE[1:],
    "jsonl": ["--set=file=prompts.jsonl", "--set=rows=20"],
    "refusal": ["--set=harmful=bad.jsonl", "--set=harmless=good.jsonl", "--set=rows=20"],
}
"""What a family cannot do without."""


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in a folder that has files to name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    lines = [
        f'{{"prompt": "The code of town {i} is", "answer": "{i}", "source": "The code of a is"}}\n'
        for i in range(60)
    ]
    Path("prompts.jsonl").write_text("".join(lines))
    for name in ("good", "bad"):
        Path(f"{name}.jsonl").write_text(
            "".join(f'{{"instruction": "Do the {name} thing {i}"}}\n' for i in range(200))
        )
    return lambda *options: main(["new", *options])


@pytest.mark.parametrize("family", [f for f in task_families() if f != "counting"])
def test_a_spec_of_every_family_lints(
    new: Callable[..., int], family: str, capsys: pytest.CaptureFixture
) -> None:
    """With only the arguments that the family requires; the command writes the named file and no other."""
    assert new("mine.yaml", f"--task={family}", *GIVEN.get(family, [])) == 0
    text = capsys.readouterr().out
    assert main(["lint", "mine.yaml"]) == 0
    spec = load(Path("mine.yaml"))
    assert spec.task.family == family
    assert spec.claims
    assert spec.discovers_heads == (family not in ("refusal", "stories"))
    # where one constant answer is always right, accuracy alone would be green on it
    encoded = [c.variable for c in spec.claims.values() if c.kind == "encodes"]
    assert encoded == (["year"] if family == "greater_than" else [])
    assert "pytest-mechanism doctor mine.yaml" in text
    assert [p.name for p in Path.cwd().glob("*mine*")] == ["mine.yaml"]


def test_what_must_be_refused_is_claimed_where_something_must_be(new: Callable[..., int]) -> None:
    """If ``counting`` has a letter to refuse, the claims are about the refusal."""
    assert new("plain.yaml", "--task=counting") == 0
    assert new("safe.yaml", "--task=counting", "--set=refuse=a") == 0
    kinds = [{c.kind for c in load(Path(n)).claims.values()} for n in ("plain.yaml", "safe.yaml")]
    assert "accuracy" in kinds[0]
    assert "suppression_holds" not in kinds[0]
    assert kinds[1] == {"suppression_holds"}


def test_values_are_text_where_the_task_wants_text_and_yaml_elsewhere(
    new: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    """``{B}`` is an answer and not a mapping, rows are a number, and groups are written as given."""
    options = ["--group=copies=last", "--group=previous=B:copies.k", "--set=rows=40"]
    assert new("deep/down/mine.yaml", *TEMPLATE, *options) == 0
    spec = load(Path("deep/down/mine.yaml"))
    assert spec.task.settings.answer == "{B}"
    assert spec.task.settings.rows == 40
    assert spec.groups["copies"].at == "last"
    assert spec.groups["previous"].at == "B"
    assert spec.groups["previous"].into.model_dump() == {"group": "copies", "via": "k"}
    assert "first prompt: " in capsys.readouterr().out


def test_on_a_terminal_what_is_missing_is_asked_for(
    new: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The family, then settings that have no default."""
    answers = iter(["jsonl", "prompts.jsonl"])
    questions = []

    def answer(question: str) -> str:
        questions.append(question)
        return next(answers)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    assert new("mine.yaml", "--set=rows=20") == 0
    assert [q.split()[0] for q in questions] == ["task", "file"]
    assert load(Path("mine.yaml")).task.settings.file.file == "prompts.jsonl"


def test_a_wrong_answer_is_explained_and_the_question_comes_again(
    new: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """An unknown family, an empty value and a file that is missing; the list of families explains each."""
    answers = iter(["joson", "6", "", "gone.jsonl", "prompts.jsonl"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert new("mine.yaml", "--set=rows=20") == 0
    text = capsys.readouterr().out
    assert "6  jsonl            Prompts of your own, from a JSONL file beside the spec." in text
    assert "file: JSONL file of prompts, relative to the spec." in text
    assert "there is no task 'joson'; did you mean 'jsonl'?" in text
    assert "file needs a value" in text
    assert "that makes no task: task.file: no file gone.jsonl" in text


@pytest.mark.parametrize("left", [EOFError, KeyboardInterrupt])
def test_who_leaves_without_an_answer_gets_a_line(
    new: Callable[..., int], monkeypatch: pytest.MonkeyPatch, left: type[BaseException], capsys
) -> None:
    """Ctrl-D and Ctrl-C at a question; nothing is written."""

    def leave(question: str) -> str:
        raise left

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", leave)
    assert new("mine.yaml") == 2
    assert "no answer, so nothing was written" in capsys.readouterr().err
    assert not Path("mine.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the task family with --task FAMILY; valid: counting, entity_tracking"),
        (["--task=entity"], "no family 'entity'; valid: counting, entity_tracking"),
        (["--task=jsonl"], "task jsonl needs a value for 'file': --set file=VALUE"),
        (
            ["--task=jsonl", "--set=file=gone.jsonl"],
            "mine.yaml is not written: task.file: no file gone.jsonl",
        ),
        (["--task=ioi", "--set=row=5"], "has no setting 'row'; did you mean 'rows'?"),
        (
            ["--task=ioi", "--set=rows"],
            "--set rows: write KEY=VALUE",
        ),
        (
            ["--task=ioi", "--set=rows=many"],
            "mine.yaml is not written: rows: must be a valid integer, got 'many'",
        ),
        (["--task=ioi", "--set=rows=50", "--set=rows=60"], "--set rows is given twice"),
        (["--task=ioi", "--group=movers"], "write NAME=POSITION"),
        (["--task=ioi", "--group=movers=last:x"], "write NAME=POSITION"),
        (["--task=ioi", "--group=movers=lost"], "position"),
        (["--task=ioi", "--at-least=7"], "at_least"),
        (["--task=ioi", "--group=a=last", "--group=a=S2"], "--group a is given twice"),
        (["--task=ioi", f"--set=rows={'[' * 3000}"], "rows"),
    ],
)
def test_what_makes_no_spec_is_one_line_and_leaves_no_file(
    new: Callable[..., int], capsys: pytest.CaptureFixture, options: list[str], message: str
) -> None:
    """Exit code 2; the message says what is wrong and names the file."""
    before = sorted(Path.cwd().iterdir())
    assert new("mine.yaml", *options) == 2
    assert message in capsys.readouterr().err
    assert new("deep/down/mine.yaml", *options) == 2
    err = capsys.readouterr().err.strip().replace("deep/down/", "")
    assert message in err
    assert "\n" not in err
    assert sorted(Path.cwd().iterdir()) == before


def test_a_file_is_not_overwritten_unless_asked(new: Callable[..., int], capsys) -> None:
    """And a spec's name ends as specs do."""
    Path("mine.yaml").write_text("mine")
    assert new("mine.yaml", "--task=ioi") == 2
    assert Path("mine.yaml").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert new("mine.yaml", "--task=ioi", "--force") == 0
    assert load(Path("mine.yaml")).task.family == "ioi"
    assert new("mine.txt", "--task=ioi") == 2
