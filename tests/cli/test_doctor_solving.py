"""``doctor`` says where a model is at chance, and which easier settings it tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from constant_model import TWO, save_constant_model, split_numbers
from evaluators import open_evaluator

from pytest_mechanism.cli import main
from pytest_mechanism.commands import solving
from pytest_mechanism.commands.solving import is_about_answers, solving_lines
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import AnyWord

HARD = "{family: counting, shortest: 60, longest: 80, rows: 100}"
SOLVES = "solves: {kind: accuracy, on: base, at_least: 0.9}"


def lines(folder: Path, model: str, task: str, claim: str = SOLVES) -> list[str]:
    """What ``doctor`` says about a task on a model."""
    spec = folder / "x.yaml"
    spec.write_text(f"mechanism: 1\ncircuit: x\ntask: {task}\nclaims:\n  {claim}\n")
    evaluator = open_evaluator("--model", model, "--store", folder / "store")
    return list(solving_lines(evaluator, "base", [load(spec)]))


@pytest.fixture(scope="module")
def says_99(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that always says 99."""
    folder = tmp_path_factory.mktemp("says_99")
    return str(save_constant_model(folder, split_numbers(TWO), "99"))


def test_a_model_that_does_the_task_is_one_line(tmp_path: Path) -> None:
    """With its accuracy, the interval, the rows and chance; nothing else is tried."""
    (line,) = lines(tmp_path, "zoo:wrapper_base", "{family: counting, rows: 100}")
    assert line.startswith("  task counting: accuracy 1.000 [")
    assert "] on 48 rows (chance 0." in line
    assert "at chance" not in line


@pytest.mark.parametrize(
    ("claim", "models", "tried"),
    [
        ("same: {kind: equivalent, margin: 0.05}", ["--model-pair", "a=zoo:ft,b=zoo:ft"], True),
        ("same: {kind: equivalent, margin: 0.05}", ["--model", "zoo:ft"], False),
        ("words: {kind: coverage, on: base, at_least: 0.5}", ["--model", "zoo:ft"], True),
        ("text: {kind: same_text, text: a.txt, at_most: 0.1}", ["--model", "zoo:ft"], False),
    ],
)
def test_claims_about_answers_are_tried_without_groups(
    tmp_path: Path, claim: str, models: list[str], tried: bool
) -> None:
    """Not those of other kinds, nor those that lack a model, whose own line says so."""
    spec = tmp_path / "x.yaml"
    (tmp_path / "a.txt").write_text("".join(f"the box has {i} apples\n" for i in range(99)))
    task = "{family: entity_tracking, rows: 100}"
    spec.write_text(f"mechanism: 1\ncircuit: x\ntask: {task}\nclaims:\n  {claim}\n")
    evaluator = open_evaluator(*models, "--store", tmp_path / "store")
    assert is_about_answers(evaluator, load(spec), "base") == tried


@pytest.mark.parametrize(("family", "tried"), [("induction", 2), ("ioi", 1), ("greater_than", 1)])
def test_a_model_that_never_reads_is_at_chance_everywhere(
    tmp_path: Path, says_99: str, family: str, tried: int
) -> None:
    """No easier setting helps, though 99 is a right answer of every row of one family."""
    first, *attempts, last = lines(tmp_path, says_99, f"{{family: {family}, rows: 100}}")
    assert "the model is at chance on this task" in first
    assert len(attempts) == tried
    assert all(line.endswith(", at chance") for line in attempts)
    assert last.startswith("    no easier setting helped (tried in ")


def test_a_lucky_first_try_of_easier_settings_is_repeated(
    tmp_path: Path, says_99: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On more rows, as for the task itself; only what holds there is advised."""

    def lucky(*given: Any) -> solving.Trial:
        few = len(given) == 4
        return solving.Trial("48 rows" if few else "200 rows", solved=few, sure=False)

    monkeypatch.setattr(solving, "attempt", lucky)
    found = lines(tmp_path, says_99, "{family: ioi, rows: 100}")
    assert "200 rows: the model is at chance on this task" in found[0]
    assert found[1].endswith(": 200 rows, at chance")
    assert "no easier setting helped" in found[2]


def test_a_task_without_easier_settings_says_what_to_write(tmp_path: Path, says_99: str) -> None:
    """doctor cannot change the author's own template, so it gives advice."""
    text = "{a} and {b} and {a:again}"
    slots = "words: {w: names}, slots: {a: w, b: w}"
    task = f"{{family: template, {slots}, text: '{text}', answer: '{{b}}', rows: 100}}"
    output = lines(tmp_path, says_99, task)
    assert len(output) == 2
    assert output[1] == (
        "    write prompts that are easier: fewer choices, examples before the question"
    )


def test_what_needs_no_answers_is_not_tried(tmp_path: Path) -> None:
    """doctor tries no easier settings for a task whose claims need no correct answers: the model must refuse,
    or a claim bounds accuracy from above."""
    task = "{family: counting, refuse: a, rows: 100}"
    assert lines(tmp_path, "zoo:wrapper_safe", task) == []
    gone = "gone: {kind: accuracy, on: base, at_most: 0.5}"
    assert lines(tmp_path, "zoo:wrapper_base", HARD, gone) == []


def test_easier_settings_that_help_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A model that counts in strings of 24 letters is at chance in strings of 80. doctor prints its accuracy
    with shorter strings and the settings to write. A claim that cannot pass still runs, so the exit code
    is 0."""
    (tmp_path / "x.yaml").write_text(
        f"mechanism: 1\ncircuit: x\ntask: {HARD}\nclaims:\n  {SOLVES}\n"
    )
    pair = ["--model-pair", "a=zoo:wrapper_base,b=zoo:wrapper_base"]
    assert main(["doctor", str(tmp_path / "x.yaml"), *pair, "--store", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out.splitlines()
    (at,) = [i for i, line in enumerate(out) if line.startswith("  task counting")]
    first, longer, shorter, advice = out[at : at + 4]
    assert "on 200 rows" in first
    assert "the model is at chance on this task: no claim about a circuit can pass" in first
    assert longer.startswith("    with {shortest: 8, longest: 10}: accuracy 0.")
    assert not longer.endswith("at chance")
    assert shorter.startswith("    with {shortest: 4, longest: 6}: accuracy 0.")
    assert advice.startswith(
        "    easier settings help: put {shortest: 8, longest: 10} into task (tried in "
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("counting", {}),
        ("counting", {"shortest": 100, "longest": 200, "letters": "abcdefghijklmnopqrst"}),
        ("entity_tracking", {"boxes": 13, "fillers": 2}),
        ("entity_tracking", {"boxes": 2, "fillers": 1}),
        ("greater_than", {}),
        ("induction", {"length": 60, "repeats": 2}),
        ("ioi", {}),
        ("pcfg", {}),
        (
            "pcfg",
            {"subtask": "token_at", "depth": 5, "shortest": 60, "longest": 243, "position": 40},
        ),
    ],
)
def test_easier_settings_are_valid_and_the_task_writes_rows(
    family: str, settings: dict[str, object]
) -> None:
    """Each easier setting is valid in a spec, and differs from the task's settings."""
    kind = task_families()[family]
    parameters = {"family": family, "rows": 60, **settings}
    task = kind(kind.parameters.model_validate(parameters))
    assert task.easier
    for changes in task.easier:
        easier = kind.parameters.model_validate({**parameters, **changes})
        assert easier != task.settings
        assert len(kind(easier).rows(AnyWord(), 60)) == 60


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("counting", {"shortest": 4, "longest": 6}),
        ("entity_tracking", {"boxes": 2}),
        ("greater_than", {"centuries": ["17"]}),
        ("induction", {"length": 5, "repeats": 5}),
        ("pcfg", {"depth": 2, "shortest": 4, "longest": 9}),
        ("ioi", {"templates": 1}),
    ],
)
def test_the_easiest_settings_have_none_easier(family: str, settings: dict[str, object]) -> None:
    """So ``doctor`` tries no setting twice."""
    kind = task_families()[family]
    assert list(kind(kind.parameters.model_validate({"family": family, **settings})).easier) == []


def test_a_few_rows_that_are_only_just_above_chance_are_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One guessing model in forty looks better than chance on few rows, so the largest number of rows
    decides."""
    sizes_tried: list[tuple[int, ...]] = []

    def attempt(*arguments: object) -> solving.Trial:
        sizes = arguments[4:] or (solving.SIZES,)
        sizes_tried.append(tuple(sizes[0]))
        return solving.Trial("x", solved=len(sizes_tried) == 1, sure=False)

    monkeypatch.setattr(solving, "attempt", attempt)
    output = lines(tmp_path, "zoo:wrapper_base", HARD)
    assert sizes_tried[:2] == [solving.SIZES, solving.SIZES[-1:]]
    assert "at chance" in output[0]
