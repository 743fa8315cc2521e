"""The prompts behind a red claim: the worst rows of what was measured, base beside the candidate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_mechanism.claims.circuits import CIRCUIT
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.runner.evidence import evidence
from pytest_mechanism.tasks.base import Prompt, Row
from pytest_mechanism.types import Evidence, Observations

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


def found(asked: list[Request], known: Known, role: str = "ft") -> Evidence | None:
    measurements = [Measurement(request, role, "task") for request in asked]
    return evidence(
        measurements, role, "base", lambda m: known.get((type(m.request), m.on)), lambda _: ROWS
    )


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
