"""The chance that an unchanged model passes, against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_mechanism.statistics.estimates import Sampling, proportion
from pytest_mechanism.statistics.power import NORMAL, PAIRS, WANTED, Power, misses, of_spec, power


def judged(
    value: float, n: int, low: float | None = None, high: float | None = None, effect: float = 1.0
) -> dict:
    error = math.sqrt(value * (1 - value) / n * effect)
    return {"value": value, "standard_error": error, "n": n, "low": low, "high": high}


def simulated(p: float, n: int, low: float, high: float) -> float:
    """How often a model passes on n independent rows whose accuracy on n others was p."""
    rng = np.random.default_rng(n)
    how = Sampling([str(i) for i in range(n)], 0.95, 0)
    passed = 0
    for _ in range(500):
        true = rng.normal(p, math.sqrt(p * (1 - p) / n))
        result = proportion((rng.random(n) < true).astype(float), how).interval
        passed += low <= result[0] and result[1] <= high
    return passed / 500


@pytest.mark.parametrize(
    ("p", "n", "low", "high"),
    [
        (0.7, 300, 0.65, 1.0),
        (0.7, 500, 0.65, 1.0),
        (0.7, 500, 0.6, 1.0),
        (0.5, 200, 0.0, 0.6),
        (0.8, 400, 0.74, 0.86),
    ],
)
def test_the_stated_chance_is_that_of_a_simulation(
    p: float, n: int, low: float, high: float
) -> None:
    """Power agrees with 500 simulated runs to 0.07: of a model of which the accepted score alone is
    known, not of one whose accuracy is the accepted one."""
    bounds = {"low": low if low > 0 else None, "high": high if high < 1 else None}
    assert simulated(p, n, low, high) == pytest.approx(
        power([judged(p, n, **bounds)], 0.95).passes, abs=0.07
    )


@pytest.mark.parametrize(("p", "low"), [(0.7, 0.65), (0.84, 0.8), (0.6, 0.5)])
def test_the_rows_that_it_names_give_the_wanted_chance(p: float, low: float) -> None:
    """Taking that many rows makes the stated chance 0.9, and the simulated one at least 0.85."""
    rows = power([judged(p, 100, low=low)], 0.95).rows
    assert (pytest.approx(WANTED, abs=0.005), True) == (
        power([judged(p, rows, low=low)], 0.95).passes,
        simulated(p, rows, low, 1.0) >= 0.85,
    )


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_a_model_at_its_threshold_passes_as_often_as_one_tail(confidence: float) -> None:
    """The false-pass rate is one tail of the interval. A score accepted there may be of a better
    model, so that its chance is higher, and no number of rows makes it a good one."""
    result = power([judged(0.6, 500, low=0.6)], confidence)
    assert result.false_pass == pytest.approx((1 - confidence) / 2)
    z = NORMAL.inv_cdf(0.5 + confidence / 2)
    wanted = pytest.approx(
        NORMAL.cdf(-z / math.sqrt(2)), abs=1e-3
    )  # 500 rows: the width hardly varies
    assert (result.passes, result.rows) == (wanted, None)


def test_all_bounds_must_hold() -> None:
    """The chance of several claims is at most that of each, and never below zero."""
    first, second = judged(0.7, 500, low=0.65), judged(0.5, 500, low=0.45)
    alone = [power([bound], 0.95).passes for bound in (first, second)]
    assert pytest.approx(sum(alone) - 1) == power([first, second], 0.95).passes
    assert power([judged(0.5, 500, low=0.6)] * 3, 0.95).passes == 0.0


def test_rows_are_those_with_which_all_bounds_hold_together() -> None:
    """Two bounds that each hold with 0.9 hold together with 0.8: more rows are named, and the largest
    number of rows now is stated."""
    first, second = judged(0.7, 500, low=0.65), judged(0.5, 300, low=0.45)
    alone = max(power([bound], 0.95).rows for bound in (first, second))
    together = power([first, second], 0.95)
    planned = [judged(0.7, together.rows, low=0.65), judged(0.5, together.rows, low=0.45)]
    assert (together.rows > alone, together.now) == (True, 500)
    assert power(planned, 0.95).passes == pytest.approx(WANTED, abs=0.001)


@pytest.mark.parametrize(
    ("bounds", "passes", "rows"),
    [
        ({"low": 0.9}, 1.0, 36),
        ({"low": 0.99}, 1.0, 368),
        ({"low": 0.999}, 0.0, 3688),
        ({"low": 1.0}, 0.0, None),
        ({"high": 0.5}, 0.0, None),
        ({"low": 0.9, "high": 1.1}, 1.0, 36),
    ],
)
def test_a_score_without_spread_is_judged_by_its_exact_interval(
    bounds: dict, passes: float, rows: int | None
) -> None:
    """500 of 500 right leave [0.9927, 1]: a threshold in there does not pass, however surely."""
    result = power([judged(1.0, 500, **bounds)], 0.95)
    assert (passes, rows) == (result.passes, result.rows)


@pytest.mark.parametrize("low", [0.9, 0.99])
def test_the_rows_of_a_score_without_spread_are_as_few_as_can_be(low: float) -> None:
    """With that many rows all right the exact lower bound reaches the threshold, not with fewer."""
    rows = power([judged(1.0, 500, low=low)], 0.95).rows
    reached = [
        proportion([1.0] * n, Sampling([str(i) for i in range(n)], 0.95, 0)).interval[0] >= low
        for n in (rows - 1, rows)
    ]
    assert reached == [False, True]


def test_a_spec_passes_as_often_as_claims_that_share_no_luck_at_least() -> None:
    """Chances of failing are added: right where no two claims fail on the same rows, and a lower
    bound where they do."""
    several = [Power(p, 0.025, 100, 100) for p in (0.98, 0.97, 1.0)]
    assert of_spec(several) == pytest.approx(0.95)
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=4000), rng.normal(size=(3, 4000))
    z = np.array([[NORMAL.inv_cdf(claim.passes - 1e-9)] for claim in several])
    for together in (0.0, 0.5, 0.95):
        passed = math.sqrt(together) * shared + math.sqrt(1 - together) * own <= z
        assert passed.all(axis=0).mean() >= of_spec(several) - 0.01
    assert of_spec([Power(0.3, 0.025, 100, 100)] * 2) == 0.0


def test_nothing_judged_always_passes() -> None:
    """No bound, no chance to miss it."""
    assert Power(1.0, pytest.approx(0.025), 1, 0) == power([], 0.95)


def test_few_contexts_make_the_width_of_an_interval_a_matter_of_luck() -> None:
    """The stated chance is that of a run whose score and standard error both come from 8 contexts, as the
    baseline's do; with the contexts left out it is 0.03 too high."""
    contexts, draws, z = 8, 20_000, NORMAL.inv_cdf(0.975)
    entry = {"value": 0.38, "standard_error": 0.1, "n": 56, "low": 0.0, "high": None}
    rng = np.random.default_rng(0)
    spread = 0.1 * (1 + rng.normal(size=(2, draws)) / math.sqrt(2 * (contexts - 1)))
    value = rng.normal(0.38, 0.1 * math.sqrt(2), draws)
    # the accepted score's own standard error is one of the two draws
    passed = float(np.mean(value - z * (0.1 + spread[0] - spread[1]) >= 0))
    stated = power([entry | {"clusters": contexts}], 0.95).passes
    assert stated == pytest.approx(passed, abs=0.01)
    assert power([entry], 0.95).passes - passed > 0.02


@pytest.mark.parametrize(("side", "reach"), [("low", 0.3), ("high", 0.1)])
def test_an_interval_reaches_as_far_as_the_baselines_does_on_that_side(
    side: str, reach: float
) -> None:
    """A bootstrap of a ratio gives [0.2, 0.6] around 0.5. At the distance of the half-width every second run
    passes."""
    entry = {"value": 0.5, "standard_error": 0.1, "n": 300, "low": None, "high": None}
    bound = 0.5 + (reach if side == "high" else -reach)
    entry |= {"interval": [0.2, 0.6], side: bound}
    assert power([entry], 0.95).passes == pytest.approx(0.5)


def test_the_dependence_of_independent_scores_is_planned_from_rows_and_not_from_their_root() -> (
    None
):
    """A quarter of the rows makes its interval four times as wide, where that of a mean is twice as wide; four
    times the rows make either half as wide."""
    entry = {"value": 0.0, "standard_error": 0.01, "n": 400, "low": None}
    for rows, method, width in (
        (100, PAIRS, 4.0),
        (100, "cluster bootstrap", 2.0),
        (1600, PAIRS, 0.5),
    ):
        reached = entry | {"high": 0.02 * width, "interval": [-0.02, 0.02], "method": method}
        assert misses([reached], 0.95, rows) == pytest.approx(0.5)
