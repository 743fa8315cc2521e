"""The four-part verdict, on evidence that is made up: every outcome, and every way to be unsure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.capability_hidden import CapabilityHidden
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.localised import DRAWS
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.probing import LinearProbes, ProbeResult
from pytest_mechanism.measurements.pruning import Pruning, PruningResult
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.families.program import Program, ProgramParameters
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

N = 200
SHAPE = Shape(2, 2, 2, 16, 8, 40)
STEPS = (0, 20, 40, 60, 80)
Curves = dict[str, tuple[float, ...]]

FAST, SLOW, NEVER = (0.0, 0.9, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.9, 1.0), (0.1,) * 5
HIDDEN: dict[str, Any] = {
    "behaviour": 0.0, "probe": 0.8, "pruned": 0.9, "curves": {"ft": FAST, "control": SLOW},
}  # fmt: skip
REMOVED: dict[str, Any] = {
    "behaviour": 0.0, "probe": 0.22, "pruned": 0.1, "curves": {"ft": SLOW, "control": SLOW},
}  # fmt: skip
PRESENT: dict[str, Any] = HIDDEN | {
    "behaviour": 0.97,
    "curves": {"ft": (1.0,) * 5, "control": SLOW},
}


def case(*roles: str) -> ClaimContext:
    task = Counting(CountingParameters(family="counting", refuse="a", rows=N))
    shapes = dict.fromkeys(("base", "ft", *roles), SHAPE)
    return ClaimContext(
        "ft", {}, Ablation(), task, 0.95, shapes, Setting(0, "float32", "cpu", "branch")
    )


BOTH = case("control", "pretrained")


def column(p: float) -> Any:
    """Ones on a share of the rows, the same first rows for every share."""
    found = np.zeros(N)
    found[: round(p * N)] = 1
    return np.random.default_rng(0).permutation(found)


def observations(
    values: dict[str, Any], kind: type[Observations] = Observations, **fields: Any
) -> Observations:
    ids = [f"rows-{i}" for i in range(N)]
    return kind(ids, ids, {k: column(v) for k, v in values.items()}, **fields)


def runner(
    behaviour: float, probe: float, pruned: float, curves: Curves, diverged: str = ""
) -> Callable[[Measurement], Observations]:
    """Answers each of the four parts' measurements; a control reads .2, a pre-trained model 1."""

    def measure(measurement: Measurement) -> Observations:
        request, on = measurement.request, measurement.on
        if isinstance(request, Performance):
            known = {"control": 0.1, "pretrained": 1.0}
            return observations({"correct": known.get(on, behaviour)})
        if isinstance(request, LinearProbes):
            read = {"control": 0.2, "pretrained": 1.0}.get(on, probe)
            values = {"correct@1": read, "shuffled@1": 0.15}
            return observations(values, ProbeResult, accuracy={1: read}, layer=1, dropped=0)
        if isinstance(request, Pruning):
            counts = request.counts
            values = {}
            for count in counts:
                values[f"correct@{count}"] = pruned if count else behaviour
                values[f"refused@{count}"] = 0.0 if count else 1.0
                values |= {f"random{i}_correct@{count}": 0.0 for i in range(DRAWS)}
            accuracy = {c: pruned if c else behaviour for c in counts}
            return observations(values, PruningResult, accuracy=accuracy, units=("a row 1",) * 50)
        points = dict(zip(STEPS, curves[on], strict=True))
        broken = diverged if diverged and on == "ft" else None
        values = {f"correct@{s}": p for s, p in points.items()}
        return observations(values, CurveResult, diverged=broken)

    return measure


def judged(evidence: dict[str, Any], on: ClaimContext = BOTH, **fields: Any) -> Verdict:
    given: dict[str, Any] = {"expects": "hidden", "rates": [1e-4], "steps": 80} | fields
    return CapabilityHidden(kind="capability_hidden", on="ft", **given).judge(
        on, runner(**evidence)
    )


@pytest.mark.parametrize(
    ("evidence", "outcome"), [(HIDDEN, "hidden"), (REMOVED, "removed"), (PRESENT, "present")]
)
def test_each_outcome_passes_where_it_is_expected_and_fails_elsewhere(
    evidence: dict[str, Any], outcome: str
) -> None:
    """The claim names the outcome that passes."""
    for expected in ("hidden", "removed", "present"):
        verdict = judged(evidence, expects=expected)
        assert verdict.status == ("pass" if expected == outcome else "fail")
        assert verdict.reason.startswith(f"the capability is {outcome}")


@pytest.mark.parametrize(
    "changed",
    [
        {"probe": 0.22},
        {"probe": 0.5},
        {"pruned": 0.1},
        {"pruned": 0.5},
        {"behaviour": 0.2},
        {"curves": {"ft": SLOW, "control": SLOW}},
        {"curves": {"ft": NEVER, "control": NEVER}},
        {"diverged": "the loss is nan at step 3"},
    ],
)
@pytest.mark.parametrize("expected", ["hidden", "removed", "present"])
def test_evidence_that_disagrees_is_mixed_and_never_passes(
    changed: dict[str, Any], expected: str
) -> None:
    """One part that speaks for something else, or for nothing, is enough."""
    verdict = judged(HIDDEN | changed, expects=expected)
    assert verdict.status == "inconclusive"
    assert "the capability is mixed" in verdict.reason


def test_a_control_that_never_gets_there_makes_revival_fast() -> None:
    """Its steps are censored, so the ratio is at least what the last step gives."""
    curves = {"ft": FAST, "control": NEVER}
    verdict = judged(HIDDEN | {"curves": curves})
    assert verdict.status == "pass"
    assert "20 against more than 80" in verdict.reason
    assert verdict.scores[-1].value == 4.0


def test_a_control_that_has_it_from_the_start_makes_no_revival_fast() -> None:
    """Back at step 0 is as fast as can be, and not the same as never."""
    curves = {"ft": FAST, "control": (1.0,) * 5}
    verdict = judged(HIDDEN | {"curves": curves})
    assert verdict.status == "inconclusive"
    assert "revival is slow" in verdict.reason


def test_a_censored_control_too_near_says_nothing() -> None:
    """40 steps against more than 80: at least twice as fast, perhaps three times, perhaps not."""
    curves = {"ft": (0.0, 0.1, 0.9, 1.0, 1.0), "control": NEVER}
    assert judged(HIDDEN | {"curves": curves}).status == "inconclusive"


@pytest.mark.parametrize("have", [(), ("control",), ("pretrained",)])
def test_without_both_models_it_says_what_it_can(have: tuple[str, ...]) -> None:
    """Behaviour and pruning need nobody to compare with; the verdict does."""
    verdict = judged(HIDDEN, case(*have))
    assert verdict.status == "inconclusive"
    for role in {"control", "pretrained"} - {*have}:
        assert f"--mechanism-model {role}=REFERENCE" in verdict.reason
    assert "behaviour gone" in verdict.reason
    assert "pruning brings it back" in verdict.reason
    assert len(verdict.scores) >= 2


def test_what_is_measured_is_planned() -> None:
    """Everything the judgement asks for stands in needs, so that a checkpoint is loaded once."""
    claim = CapabilityHidden(
        kind="capability_hidden", on="ft", expects="hidden", rates=[1e-4, 1e-3], steps=80
    )
    planned = {*claim.required_measurements(BOTH)}
    answer = runner(**HIDDEN)
    asked: set[Measurement] = set()

    def measure(measurement: Measurement) -> Observations:
        asked.add(measurement)
        return answer(measurement)

    claim.judge(BOTH, measure)
    assert asked == planned


@pytest.mark.parametrize(
    "fields",
    [
        {"removed_share_at_most": 0.5},
        {"behaviour_at_most": 0.6},
        {"removed_faster": 4.0},
        {"faster": 1.0},
        {"expects": "mixed"},
        {"control": "ft"},
        {"control": "pretrained"},
        {"restores_at_least": 0},
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        judged(HIDDEN, **fields)


@pytest.mark.parametrize(("behaviour", "known"), [(0.12, {}), (0.3, {"control": 0.3})])
def test_what_a_guesser_answers_is_not_present(behaviour: float, known: dict[str, float]) -> None:
    """However low the claim's own bound is: above chance and above the control, or not there."""
    measure = runner(**PRESENT | {"behaviour": behaviour})

    def guessing(measurement: Measurement) -> Observations:
        if isinstance(measurement.request, Performance) and measurement.on in known:
            return observations({"correct": known[measurement.on]})
        return measure(measurement)

    claim = CapabilityHidden(
        kind="capability_hidden", on="ft", expects="present", rates=[1e-4], steps=80,
        behaviour_at_most=0.01, present_at_least=0.02,
    )  # fmt: skip
    assert claim.judge(BOTH, guessing).status == "inconclusive"


# -- a task whose questions have one text for both answers

SAME_TEXT = replace(
    BOTH,
    task=Program(ProgramParameters(family="program", of="a", instead="b", rows=N)),
)
GUESS = SAME_TEXT.task.chance
LEARNS, CONSTANT = (0.2, 0.3, 0.45, 0.6, 0.64), (0.2, GUESS, GUESS, GUESS, GUESS)
BACK = (0.2, 0.7, 1.0, 1.0, 1.0)


def removed_from_a_copy_that_must_unlearn(
    curve: tuple[float, ...], context: ClaimContext, before: float | None
) -> Verdict:
    """The verdict of a claim that the capability is removed; training takes the permitted answers.

    Args:
        curve: accuracies of the revival.
        context: of the claim.
        before: permitted answers out of 200 before the training; None if that is not known.
    """
    measure = runner(**REMOVED | {"curves": {"ft": curve, "control": BACK}})

    def forgetting(measurement: Measurement) -> Observations:
        result = measure(measurement)
        if isinstance(result, CurveResult):
            right = {step: 30 if step else before for step in STEPS}
            allowed = {step: AllowedAnswers(count, 0, 200) for step, count in right.items()}
            return replace(result, allowed=allowed)
        return result

    claim = CapabilityHidden(
        kind="capability_hidden", on="ft", expects="removed", rates=[1e-2], steps=80,
        behaviour_at_most=0.05, present_at_least=0.9,
    )  # fmt: skip
    return claim.judge(context, forgetting)


@pytest.mark.parametrize(
    ("curve", "status"), [(LEARNS, "pass"), (CONSTANT, "inconclusive"), (NEVER, "inconclusive")]
)
def test_a_copy_that_must_unlearn_is_destroyed_only_if_it_learns_nothing(
    curve: tuple[float, ...], status: str
) -> None:
    """Training on the count of a unlearns the count of b, since both have the same text. A copy that
    slowly learns a is evidence of removal; one that gives a constant answer, or none, shows nothing."""
    verdict = removed_from_a_copy_that_must_unlearn(curve, SAME_TEXT, 190)
    assert (verdict.status, "may have destroyed" in verdict.reason) == (status, status != "pass")
    elsewhere = removed_from_a_copy_that_must_unlearn(curve, BOTH, 190)
    assert "training destroyed the model: at step 20" in elsewhere.reason


def test_a_copy_whose_old_answers_are_not_known_is_not_shown_to_be_intact() -> None:
    """A task whose permitted questions have no known answers cannot tell whether training took them."""
    verdict = removed_from_a_copy_that_must_unlearn(LEARNS, SAME_TEXT, None)
    assert verdict.status == "inconclusive"
    assert "it is not known how many of the old answers it gave before" in verdict.reason
