"""From a score to a verdict, on the interval's bound."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Sampling, difference, normalised, proportion
from pytest_mechanism.types import Judged, Score, Verdict

INF = math.inf


def score(value: float, low: float, high: float, n: int = 500, name: str = "accuracy") -> Score:
    return Score(name, value, (low, high), 0.95, n, n, 0.01, "a test's", "higher")


@pytest.mark.parametrize(
    ("interval", "bounds", "status"),
    [
        ((0.6, 0.8), (0.6, INF), "pass"),
        ((0.61, 0.8), (0.6, INF), "pass"),
        ((0.599, 0.8), (0.6, INF), "inconclusive"),
        ((0.4, 0.6), (0.6, INF), "inconclusive"),
        ((0.4, 0.599), (0.6, INF), "fail"),
        ((0.4, 0.6), (-INF, 0.6), "pass"),
        ((0.4, 0.601), (-INF, 0.6), "inconclusive"),
        ((0.61, 0.7), (-INF, 0.6), "fail"),
        ((0.9, 1.1), (0.9, 1.1), "pass"),
        ((0.89, 1.1), (0.9, 1.1), "inconclusive"),
        ((0.9, 1.11), (0.9, 1.1), "inconclusive"),
        ((0.8, 1.2), (0.9, 1.1), "inconclusive"),
        ((0.5, 0.89), (0.9, 1.1), "fail"),
        ((1.11, 1.3), (0.9, 1.1), "fail"),
    ],
)
def test_a_verdict_is_taken_on_the_intervals_bound(
    interval: tuple[float, float], bounds: tuple[float, float], status: str
) -> None:
    """Pass if all of the interval is inside, fail if none is, inconclusive in between."""
    judged = score(sum(interval) / 2, *interval)
    assert status == verdicts.within(judged, *bounds).status


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.floats(-2, 2)] * 5))
def test_a_value_outside_its_bounds_never_passes(numbers: tuple[float, ...]) -> None:
    """A pass implies that the value itself is inside; a fail that it is outside."""
    low, value, high = sorted(numbers[:3])
    bounds = sorted(numbers[3:])
    result = verdicts.within(score(value, low, high), *bounds).status
    inside = bounds[0] <= value <= bounds[1]
    assert (result != "pass" or inside, result != "fail" or not inside) == (True, True)


def test_a_verdict_says_what_was_claimed_and_keeps_the_score() -> None:
    """The verdict contains reason, threshold and judged bounds."""
    own = score(0.7, 0.65, 0.75)
    assert Verdict(
        "pass",
        "accuracy 0.700 [0.650, 0.750]; claimed: at least 0.6",
        "at least 0.6",
        (own,),
        (Judged(own, 0.6, None),),
    ) == verdicts.at_least(own, 0.6)


def test_an_inconclusive_verdict_says_how_many_rows_would_settle_it() -> None:
    """The reason names bound and rows: half the width takes four times the rows."""
    result = verdicts.at_least(score(0.65, 0.55, 0.75), 0.6)
    assert result.reason == (
        "accuracy 0.650 [0.550, 0.750] does not show whether it is at least 0.6; "
        "about 2,000 rows in all would decide (rows: in the spec, now 500)"
    )
    result = verdicts.within(score(-0.2, -0.3, -0.1), -INF, -0.15, claimed="drops at least 0.15")
    assert result.threshold == "drops at least 0.15"
    assert "] does not show whether it drops at least 0.15; about " in result.reason


@pytest.mark.parametrize(
    ("value", "low", "high", "bounds"),
    [
        (0.6, 0.5, 0.7, (0.6, INF)),
        (0.6, 0.5, 0.7, (-INF, 0.6)),
        (0.9, 0.8, 1.2, (0.9, 1.1)),
        (0.600001, 0.5, 0.7, (0.6, INF)),
    ],
)
def test_a_score_on_its_threshold_is_settled_by_no_number_of_rows(
    value: float, low: float, high: float, bounds: tuple[float, float]
) -> None:
    """The verdict says so instead of naming more than a million rows."""
    assert verdicts.settle(score(value, low, high), *bounds) == (
        "no number of rows would decide, because the score lies on the threshold"
    )


@settings(max_examples=150, deadline=None)
@given(
    st.floats(-1, 1),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(-1.5, 1.5),
    st.one_of(st.none(), st.floats(0.05, 2)),
    st.integers(20, 5000),
)
def test_the_rows_that_it_names_do_settle_it(
    value: float, below: float, above: float, low: float, width: float | None, n: int
) -> None:
    """With that many rows, and intervals that shrink with their root, it passes or fails."""
    high = INF if width is None else low + width
    result = verdicts.within(score(value, value - below, value + above, n), low, high)
    assume(result.status == "inconclusive" and "about" in result.reason)
    rows = int(re.search(r"about ([\d,]+) rows", result.reason)[1].replace(",", ""))
    shrink = math.sqrt(n / rows) * (1 - 1e-9)
    later = score(value, value - below * shrink, value + above * shrink, rows)
    assert (
        rows > n,
        verdicts.within(later, low, high).status in ("pass", "fail"),
    ) == (True, True)


@pytest.mark.parametrize(
    ("rows", "rounded"),
    [(5, 5), (10, 10), (11, 11), (99.2, 100), (101, 110), (1999, 2000), (2001, 2100), (2000, 2000)],
)
def test_rows_are_rounded_up_to_two_figures(rows: float, rounded: int) -> None:
    """An estimate of rows does not look exact, and is never too few."""
    assert rounded == verdicts.round_up(rows)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.6, INF, "at least 0.6"),
        (-INF, 0.25, "at most 0.25"),
        (0.9, 1.1, "between 0.9 and 1.1"),
        (-0.02, INF, "at least -0.02"),
    ],
)
def test_bounds_are_spelled_out(low: float, high: float, words: str) -> None:
    """A threshold is written in words."""
    assert words == verdicts.spell(low, high)


@pytest.mark.parametrize(
    ("thresholds", "bounds"),
    [
        ((0.5, None), (0.5, INF)),
        ((None, 0.5), (-INF, 0.5)),
        ((0.2, 0.5), (0.2, 0.5)),
        ((0.0, None), (0.0, INF)),
    ],
)
def test_a_missing_threshold_bounds_nothing(thresholds: tuple, bounds: tuple) -> None:
    """YAML's optional thresholds become an interval; 0 is a threshold."""
    assert bounds == verdicts.bounds(*thresholds)


A = verdicts.at_least(score(0.9, 0.85, 0.95, name="a"), 0.6)
B = verdicts.at_least(score(0.7, 0.5, 0.9, name="b"), 0.6)
C = verdicts.at_least(score(0.3, 0.2, 0.4, name="c"), 0.5)
D = verdicts.inconclusive("nothing can be said", "at least 0.6")


@pytest.mark.parametrize(
    ("parts", "status", "names"),
    [
        ((A,), "pass", ["a"]),
        ((A, A), "pass", ["a"]),
        ((A, B), "inconclusive", ["a", "b"]),
        ((A, B, C), "fail", ["a", "b", "c"]),
        ((C, B), "fail", ["c", "b"]),
        ((D, A), "inconclusive", ["a"]),
        ((Verdict("error", "broken", "x"), C), "error", ["c"]),
        ((Verdict("skipped", "elsewhere", "x"), A), "pass", ["a"]),
    ],
)
def test_all_must_pass_and_the_worst_is_the_reason(
    parts: tuple[Verdict, ...], status: str, names: list[str]
) -> None:
    """The worst verdict gives status and reason; scores keep their order, each once."""
    result = verdicts.together(parts)
    worst = next(v for v in parts if v.status == status)
    assert (status, worst.reason, names, sum(len(v.judged) for v in parts)) == (
        result.status,
        result.reason,
        [s.name for s in result.scores],
        len(result.judged),
    )


def test_thresholds_of_several_verdicts_are_joined_without_repeats() -> None:
    """The threshold of a joint verdict names each bound once, in order."""
    assert verdicts.together((A, B, C)).threshold == "at least 0.6 and at least 0.5"


@pytest.mark.parametrize(
    ("status", "red"),
    [("pass", False), ("skipped", False), ("fail", True), ("inconclusive", True), ("error", True)],
)
def test_only_pass_and_skipped_are_not_red(status: str, red: bool) -> None:
    """An inconclusive claim is as red as a failed one."""
    assert red == Verdict(status, "", "").red


GROUPS, SIZE = 70, 7
HOW = Sampling([str(i // SIZE) for i in range(GROUPS * SIZE)], 0.95, 0)
SAMPLES = 300


def rows(rng: np.random.Generator, p: float) -> np.ndarray:
    """Rows of 0 and 1 whose contexts differ."""
    means = rng.beta(p * 4, (1 - p) * 4, GROUPS)
    return (rng.random((GROUPS, SIZE)) < means[:, None]).astype(float).ravel()


def accuracy_at_its_threshold(rng: np.random.Generator) -> tuple[estimates.Estimate, float, float]:
    return proportion(rows(rng, 0.6), HOW), 0.6, INF


def accuracy_at_its_highest(rng: np.random.Generator) -> tuple[estimates.Estimate, float, float]:
    return proportion(rows(rng, 0.1), HOW), -INF, 0.1


def worse_by_the_margin(rng: np.random.Generator) -> tuple[estimates.Estimate, float, float]:
    base = rows(rng, 0.8)
    ft = np.where(rng.random(base.size) < 0.05, 0.0, base)
    return difference(ft, base, HOW), -0.04, INF


def hardly_worse_by_the_margin(rng: np.random.Generator) -> tuple[estimates.Estimate, float, float]:
    base = rows(rng, 0.8)
    ft = np.where(rng.random(base.size) < 0.01, 0.0, base)
    return difference(ft, base, HOW), -0.008, INF


def normalised_at_its_threshold(
    rng: np.random.Generator,
) -> tuple[estimates.Estimate, float, float]:
    ceiling = rows(rng, 0.9)
    floor = (rng.random(ceiling.size) < 0.05).astype(float)
    part = np.where(rng.random(ceiling.size) < 0.8, ceiling, floor)
    return normalised(part, floor, ceiling, HOW), 0.8, INF


def too_faithful(rng: np.random.Generator) -> tuple[estimates.Estimate, float, float]:
    ceiling = rows(rng, 0.7)
    part = np.where(rng.random(ceiling.size) < 0.07 / 0.3, 1.0, ceiling)
    return normalised(part, np.zeros_like(part), ceiling, HOW), 0.9, 1.1


@pytest.mark.parametrize(
    "claim",
    [
        accuracy_at_its_threshold,
        accuracy_at_its_highest,
        worse_by_the_margin,
        hardly_worse_by_the_margin,
        normalised_at_its_threshold,
        too_faithful,
    ],
    ids=lambda claim: claim.__name__,
)
def test_a_model_exactly_at_the_margin_passes_in_at_most_one_run_of_twenty(
    claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The false-pass rate at the margin is at most 0.05, by simulation of clustered rows."""
    monkeypatch.setattr(estimates, "RESAMPLES", 499)
    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(SAMPLES):
        result, low, high = claim(rng)
        judged = score(result.value, *result.interval)
        passed += verdicts.within(judged, low, high).status == "pass"
    assert passed / SAMPLES <= 0.05


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((-0.025, -0.013), ": between 0.013 and 0.025 lower, and at most 0.02 is allowed; about "),
        ((0.013, 0.025), ": between 0.013 and 0.025 higher, and at most 0.02 is allowed; about "),
        ((-0.021, 0.003), ": between 0.021 lower and 0.003 higher, and at most 0.02 is allowed; "),
    ],
)
def test_an_open_difference_is_told_without_signs(interval: tuple[float, float], said: str) -> None:
    """Below zero, above it and around it; the threshold is of its size."""
    found = score(sum(interval) / 2, *interval, 100)
    claimed = "differs by at most 0.02"
    assert said in verdicts.within(found, -0.02, 0.02, claimed=claimed, difference=True).reason


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.9, 0.95), "0.923 [0.900, 0.950]"),
        ((0.9226, 0.95), "0.9230 [0.9226, 0.9500]"),  # three decimals make one end the estimate
        ((0.92299, 0.92301), "0.923 [0.923, 0.923]"),  # and so do four
        ((0.923, 0.95), "0.923 [0.923, 0.950]"),  # the end is the estimate
    ],
)
def test_an_interval_ends_beside_its_estimate(interval: tuple[float, float], said: str) -> None:
    """One more decimal, where that tells the estimate from the end."""
    assert verdicts.shown(0.923, interval) == said
