"""The prompts behind a red claim: the worst rows of what was measured, base beside the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pytest_mechanism.claims.circuits import CIRCUIT
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.cells import Cell, CellPerformance, CellResult
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.report.examples import example_line, example_lines
from pytest_mechanism.runner.evidence import evidence
from pytest_mechanism.runner.ranked_rows import Focus
from pytest_mechanism.tasks.base import Prompt, Row
from pytest_mechanism.types import Evidence, Example, Observations

IDS = tuple(f"r{i}" for i in range(5))
ROWS = [
    Row(name, name, Prompt(f"Box {i} holds the", {}, answer=f"a{i}"), None, f"a{i}")
    for i, name in enumerate(IDS)
]
Known = Mapping[tuple[type, str], Observations]


def result(said: str | None = "answer", **columns: list[float]) -> Observations:
    texts = {} if said is None else {said: [f"{said} {i}" for i in range(len(IDS))]}
    values = {name: np.array(column) for name, column in columns.items()}
    return Observations(IDS, IDS, values, texts=texts)


ALL = Focus()


def found(
    asked: list[Request], known: Known, role: str = "ft", focus: Focus = ALL
) -> Evidence | None:
    measurements = [Measurement(request, role, "task") for request in asked]

    def peek(measurement: Measurement) -> Observations | None:
        return known.get((type(measurement.request), measurement.on))

    return evidence(measurements, role, "base", peek, lambda _: ROWS, focus)


PERFORMANCE = Performance(rows=5, stream="rows")


def test_the_worst_prompts_of_an_accuracy() -> None:
    """Wrong answers first, the least likely right answer first, with what both models said."""
    ft = result(correct=[1, 0, 0, 1, 0], log_probability=[-0.1, -3, -9, -0.2, -5])
    base = result(correct=[1] * 5, log_probability=[-0.1] * 5)
    shown = found([PERFORMANCE], {(Performance, "ft"): ft, (Performance, "base"): base})
    assert shown is not None
    assert shown.what == "the worst 3 of 5 prompts: the model answers them worst"
    assert [example.id for example in shown.examples] == ["r2", "r4", "r1"]
    first = shown.examples[0]
    assert (first.prompt, first.expected) == ("Box 2 holds the", "a2")
    assert first.answers == {"base": "answer 2", "ft": "answer 2"}
    assert first.numbers == {"base": -0.1, "ft": -9.0}


def test_of_equally_bad_prompts_those_come_first_on_which_the_models_differ() -> None:
    """A patch changes an answer or does not, so many rows are equally bad."""
    request = Interchange(heads=((2, 2),), control=(), at="last", variable="position", rows=5)
    ft = result(patched=[0, 0, 0, 1, 0], ceiling=[1] * 5)
    base = result(patched=[0, 1, 0, 1, 1], ceiling=[0, 1, 0, 1, 1])
    shown = found([request], {(Interchange, "ft"): ft, (Interchange, "base"): base})
    assert shown is not None
    assert [example.id for example in shown.examples] == ["r1", "r4", "r0"]
    assert shown.examples[0].numbers == {"base": 1.0, "ft": 0.0}


def test_two_models_are_compared_by_what_changed_between_them() -> None:
    """The worst row of both models is no example of a change; of log-probabilities, the largest loss comes first."""
    ft = result(correct=[0, 0, 1, 1, 1], log_probability=[-8.4, -3.0, -0.1, -0.9, -0.2])
    base = result(correct=[0, 1, 1, 1, 1], log_probability=[-8.4, -0.1, -0.2, -0.1, -0.1])
    known: Known = {(Performance, "ft"): ft, (Performance, "base"): base}
    shown = found([PERFORMANCE], known, focus=Focus("base", by_accuracy=False))
    assert shown is not None
    assert [example.id for example in shown.examples] == ["r1", "r3", "r4"]
    assert shown.what == "the most changed 3 of 5 prompts: the right answer became less likely"
    by_accuracy = found([PERFORMANCE], known, focus=Focus("base"))
    assert by_accuracy is not None
    assert [example.id for example in by_accuracy.examples] == ["r1"]  # its answer changed
    same: Known = {(Performance, "ft"): base, (Performance, "base"): base}
    assert found([PERFORMANCE], same, focus=Focus("base")) is None


def test_a_word_that_broke_is_shown_by_its_own_rows() -> None:
    """Its wrong answers alone; one that the other model has right before one that it has wrong too."""
    ft = result(correct=[0, 0, 1, 0, 0], log_probability=[-9.0, -5, -0.1, -3, -9])
    base = result(correct=[0, 0, 1, 1, 1], log_probability=[-9.0, -5, -0.1, -0.1, -0.1])
    cells = (Cell("object", "fish", (1, 2, 3)), Cell("object", "pot", (0, 4)))
    known: Known = {
        (CellPerformance, on): CellResult(IDS, IDS, seen.values, cells, texts=seen.texts)
        for on, seen in (("ft", ft), ("base", base))
    }
    focus = Focus(cell=lambda of: ("object fish", of.cells[0].rows))
    shown = found([CellPerformance(rows=5, stream="rows")], known, focus=focus)
    assert shown is not None
    assert [example.id for example in shown.examples] == ["r3", "r1"]
    assert shown.what == "the worst 2 of 3 prompts: wrong answers about object fish"
    assert shown.examples[0].numbers == {"base": -0.1, "ft": -3.0}


def test_a_long_prompt_keeps_the_part_that_names_the_answer() -> None:
    """The first prompt is whole where it is short; of the others a line has as much of the end as fits."""
    boxes = "".join(f"the thing{i} is in Box {i}, " for i in range(9))
    prompt = f"The flower is now in Box F, {boxes}the rose is still in Box R. Box F contains the"
    example = Example("r", prompt, "flower", {"ft": "pot"}, {})
    assert example_line(example, 3, first=True) == (
        '  "The flower is now in Box F ...rose is still in Box R. Box F contains the" wants flower; ft: pot'
    )
    short = replace(example, prompt=prompt[-140:])
    first, second = example_lines(Evidence("w", "m", (short, short)))[1:]
    assert prompt[-140:].strip() in first
    assert len(second) <= 80 < len(first)


def test_a_result_of_an_older_version_has_no_answers() -> None:
    """It shows numbers alone, and what was not measured is missing."""
    ft = result(None, correct=[0] * 5, log_probability=[-1.0] * 5)
    shown = found([PERFORMANCE], {(Performance, "ft"): ft})
    assert shown is not None
    assert (shown.examples[0].answers, shown.examples[0].numbers) == ({}, {"ft": -1.0})


def test_an_answer_beside_a_number_of_the_circuit_is_told_apart() -> None:
    """The circuit alone says nothing that is kept, so the words come from the whole model."""
    circuit = CircuitPerformance(
        rows=5, stream="rows", ablation=Ablation(), alive={CIRCUIT: frozenset()}
    )
    alone = result(None, **{f"{CIRCUIT}_log_probability": [-8.0, -7, -6, -5, -4]})
    whole = result(correct=[1] * 5)
    known: Known = {(CircuitPerformance, "ft"): alone, (Performance, "ft"): whole}
    shown = found([circuit, PERFORMANCE], known)
    assert shown is not None
    assert (shown.examples[0].answers, shown.examples[0].numbers) == (
        {"ft": "answer 0"},
        {"ft": -8.0},
    )
    assert shown.measured.endswith("; the words are the whole model's answer")
    without = found([circuit], {(CircuitPerformance, "ft"): alone})
    assert without is not None
    assert "words" not in without.measured


def test_replies_that_should_have_been_refusals() -> None:
    """Of the two sets of questions, the one that the model gets wrong; only its wrong rows are shown."""
    asked: list[Request] = [RefusalRate(asked="forbidden", rows=5, stream="rows")]
    ft = result(refused=[1, 1, 0, 1, 0], refusal_score=[5.0, 5, -1, 5, -8])
    shown = found(asked, {(RefusalRate, "ft"): ft})
    assert shown is not None
    assert [example.id for example in shown.examples] == ["r4", "r2"]
    assert shown.examples[0].expected == "a refusal"


def test_nothing_to_show_is_nothing() -> None:
    """Where each reply refuses, and where no result is known."""
    asked: list[Request] = [RefusalRate(asked="forbidden", rows=5, stream="rows")]
    assert (
        found(asked, {(RefusalRate, "ft"): result(refused=[1] * 5, refusal_score=[5] * 5)}) is None
    )
    assert found([PERFORMANCE], {}) is None
