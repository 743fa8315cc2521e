"""``revives``, judged on curves that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.curves import Curve
from pytest_mechanism.claims.revival import Criterion
from pytest_mechanism.claims.revives import MOST, Race, Revives
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.curve import CurveResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.types import Observations, Setting, Verdict

N = 200
SHAPE = Shape(2, 2, 2, 16, 8, 40)
QUICK = (0.0, 0.9, 1.0, 1.0, 1.0, 1.0)
SLOW = (0.0, 0.0, 0.1, 0.2, 0.9, 1.0)
NEVER = (0.0,) * 6
Points = tuple[float, ...]


def case(*roles: str) -> ClaimContext:
    task = Counting(CountingParameters(family="counting", refuse="a", rows=N))
    shapes = dict.fromkeys(("base", "ft", *roles), SHAPE)
    setting = Setting(0, "float32", "cpu", "branch")
    return ClaimContext("ft", {}, Ablation(), task, 0.95, shapes, setting)


def curve(points: Points, **more: Any) -> CurveResult:
    """Evaluated every ten steps."""
    ids = [f"rows-{i}" for i in range(N)]
    ones = [np.arange(N) < round(p * N) for p in points]
    return CurveResult(ids, ids, {f"correct@{10 * i}": o for i, o in enumerate(ones)}, **more)


def verdict(own: Points, control: Points, faster: float = 1.5, **more: Any) -> Verdict:
    """With a model that never had it and one that always has."""
    claim = Revives(
        kind="revives",
        rates=[1e-4],
        steps=50,
        every=10,
        faster=faster,
        seeds=more.pop("seeds", [0]),
    )

    def measure(measurement: Measurement) -> Observations:
        if isinstance(measurement.request, Performance):
            right = float(measurement.on == "pretrained") * np.ones(N)
            return Observations([f"rows-{i}" for i in range(N)], range(N), {"correct": right})
        seed = measurement.request.recipe.seed
        points = more.get(f"seed_{seed}", own) if measurement.on == "ft" else control
        extra = more.get("of_control", {}) if measurement.on == "control" else {}
        return curve(points, **extra)

    return claim.judge(case("control", "pretrained"), measure)


def test_a_model_that_is_back_sooner_passes() -> None:
    """Back at step 10, the control surely not before 30: at least 3 times, by the evaluations 4 times."""
    result = verdict(QUICK, SLOW)
    ratio, own, other = result.scores
    assert (result.status, ratio.value, ratio.interval) == ("pass", 4.0, (3.0, MOST))
    assert (own.value, own.interval) == (10, (0, 10))
    assert (other.value, other.interval) == (40, (30, 40))
    assert result.control is not None


def test_a_model_that_takes_as_long_as_the_control_does_not_pass() -> None:
    result = verdict(SLOW, SLOW)
    assert (result.status, result.scores[0].value) == ("fail", 1.0)
    assert result.scores[0].interval == pytest.approx((0.75, 4 / 3))


def test_a_slower_model_fails() -> None:
    assert verdict(SLOW, (0.0, 0.0, 0.9, 1.0, 1.0, 1.0)).status == "fail"


def test_an_evaluation_that_may_be_above_the_criterion_counts_against_the_claim() -> None:
    """.47 [.40, .54] of the control may be above .5: it may have been back at step 20."""
    unsure = (0.0, 0.0, 0.47, 0.3, 0.9, 1.0)
    assert verdict(QUICK, unsure).scores[0].interval[0] == 1.0


def test_every_seed_counts() -> None:
    """One slow seed of three makes the claim inconclusive; each training has its steps."""
    result = verdict(QUICK, SLOW, seeds=[0, 1, 2], seed_2=SLOW)
    assert (result.status, len(result.scores)) == ("inconclusive", 7)
    assert result.scores[0].interval == pytest.approx((0.75, MOST))
    assert verdict(QUICK, SLOW, seeds=[0, 1, 2]).status == "pass"


def test_a_control_that_never_gets_there_counts_with_the_last_step() -> None:
    result = verdict(QUICK, NEVER)
    assert (result.status, result.scores[0].interval[0]) == ("pass", 5.0)
    assert "not surely by step 50" in result.scores[2].metric


def test_if_neither_gets_there_nothing_is_known() -> None:
    result = verdict(NEVER, NEVER)
    assert (result.status, result.cause) == ("inconclusive", "undecided")
    assert "raise steps" in result.reason


def test_what_was_never_gone_cannot_come_back() -> None:
    """The model may be above the criterion before any step."""
    result = verdict((0.45, 1.0, 1.0, 1.0, 1.0, 1.0), SLOW)
    assert (result.status, result.cause) == ("inconclusive", "no_difference")


def test_a_control_that_has_it_is_no_control() -> None:
    """Roles that were swapped: the control is above the criterion before any step."""
    result = verdict(QUICK, (1.0,) * 6)
    assert (result.status, result.cause) == ("inconclusive", "no_control")
    assert "it is no model that never had it" in result.reason
    assert result.scores[0].value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("losses", "status"),
    [((2.0, 1.0, 0.5), "pass"), ((2.0, 3.0, 2.0), "inconclusive"), ((), "pass")],
)
def test_a_control_that_is_never_back_must_learn(losses: Points, status: str) -> None:
    """One whose loss does not fall is slow because its training does not work."""
    result = verdict(QUICK, NEVER, of_control={"losses": losses})
    assert (result.status, result.cause) == (
        (status, "model_broken") if status == "inconclusive" else (status, None)
    )


def test_a_training_that_diverges_shows_nothing() -> None:
    result = verdict(QUICK, NEVER, of_control={"diverged": "the loss is nan at step 11"})
    assert (result.status, result.cause) == ("inconclusive", "model_broken")


def test_without_the_other_models_nothing_passes() -> None:
    claim = Revives(kind="revives", rates=[1e-4], steps=50, faster=2.0)
    result = claim.judge(case("control"), lambda _: pytest.fail("measured"))
    assert (result.status, result.cause) == ("inconclusive", "model_missing")
    assert "--mechanism-model pretrained=" in result.reason


def test_one_evaluation_above_the_criterion_is_not_enough() -> None:
    """Two in a row must be."""
    once = Curve(case(), "rate 1", curve((0.0, 0.9, 0.0, 0.0, 0.9, 0.9)))
    race = Race(case(), once, once, Criterion(0.5, "given", known=True), "control")
    assert race.own_steps == (0, 40, 40)


@pytest.mark.parametrize(
    "fields", [{"on": "control"}, {"control": "x", "pretrained": "x"}, {"faster": 1.0}]
)
def test_a_comparison_with_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Revives(kind="revives", rates=[1e-4], steps=50, **({"faster": 2.0} | fields))
