"""From rows to an estimate with its interval: known values, coverage, and degenerate rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import (
    Estimate,
    Sampling,
    UndefinedScoreError,
    by_cluster,
    difference,
    fraction,
    mean,
    normalised,
    of_means,
    proportion,
)

GROUPS, SIZE = 70, 7
CLUSTERS = [f"c{i // SIZE}" for i in range(GROUPS * SIZE)]
CLUSTERED = Sampling(CLUSTERS, 0.95, 0)


def alone(rows: int, confidence: float = 0.95) -> Sampling:
    """Every row is a cluster of its own."""
    return Sampling([str(i) for i in range(rows)], confidence, 0)


def share(ones: int, rows: int) -> list[float]:
    return [1.0] * ones + [0.0] * (rows - ones)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples where many intervals are taken."""
    monkeypatch.setattr(estimates, "RESAMPLES", 499)


@pytest.mark.parametrize(
    ("ones", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)],
)
def test_a_share_has_wilsons_interval(ones: int, rows: int, low: float, high: float) -> None:
    """The intervals are those of Newcombe 1998, table I, method 3."""
    result = proportion(share(ones, rows), alone(rows))
    assert (ones / rows, pytest.approx((low, high), abs=5e-5)) == (result.value, result.interval)


@pytest.mark.parametrize(
    ("ones", "rows", "interval"),
    [(0, 20, (0.0, 0.1684)), (20, 20, (0.8316, 1.0)), (1, 1, (0.025, 1.0)), (0, 1, (0.0, 0.975))],
)
def test_where_all_rows_agree_the_interval_is_exact(
    ones: int, rows: int, interval: tuple[float, float]
) -> None:
    """None or all right: Clopper and Pearson's interval (Newcombe 1998, method 5), never a point."""
    assert pytest.approx(interval, abs=5e-5) == proportion(share(ones, rows), alone(rows)).interval


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.data(), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_independent_rows_give_scipys_interval(
    rows: int, data: st.DataObject, confidence: float
) -> None:
    """Without clusters the interval is Wilson's, the standard error the binomial one."""
    ones = data.draw(st.integers(1, rows - 1))
    result = proportion(share(ones, rows), alone(rows, confidence))
    wanted = stats.binomtest(ones, rows).proportion_ci(confidence, method="wilson")
    assert (
        pytest.approx((wanted.low, wanted.high)),
        pytest.approx(math.sqrt(ones / rows * (1 - ones / rows) / rows)),
        rows,
        rows,
    ) == (result.interval, result.standard_error, result.n, result.clusters)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.floats(0.5, 0.999))
def test_rows_that_agree_give_scipys_interval(rows: int, confidence: float) -> None:
    """The exact interval of no success and of successes alone."""
    none, all_of = (
        stats.binomtest(k, rows).proportion_ci(confidence, method="exact") for k in (0, rows)
    )
    wanted = pytest.approx((all_of.low, none.high), abs=1e-10)
    assert wanted == estimates.exact_bounds(rows, confidence)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=60))
def test_an_interval_holds_its_share_and_stays_a_share(rows: list[tuple[str, bool]]) -> None:
    """0 <= low <= value <= high <= 1, however rows and clusters fall, and not all one point."""
    clusters, values = zip(*rows, strict=True)
    result = proportion([float(v) for v in values], Sampling(clusters, 0.95, 0))
    low, high = result.interval
    assert (0 <= low <= result.value <= high <= 1, low < high) == (True, True)


def test_rows_that_repeat_each_other_count_once() -> None:
    """Seven equal rows a context give the interval of about one row a context."""
    once = share(40, GROUPS)
    result = proportion([x for x in once for _ in range(SIZE)], CLUSTERED)
    assert (
        pytest.approx(proportion(once, alone(GROUPS)).interval, abs=0.03),
        GROUPS * SIZE,
        GROUPS,
    ) == (result.interval, result.n, result.clusters)


def test_a_shares_standard_error_is_that_of_its_clusters() -> None:
    """By hand: three contexts of two equal rows, two of them right, p = 2/3, error 1/3."""
    result = proportion([1, 1, 0, 0, 1, 1], Sampling("aabbcc", 0.95, 0))
    assert pytest.approx(1 / 3) == result.standard_error


def test_the_design_effect_is_never_below_one() -> None:
    """Contexts that agree better than chance do not make an interval narrower than Wilson's."""
    values = [float(i % SIZE < 4) for i in range(GROUPS * SIZE)]
    assert proportion(values, alone(len(values))).interval == proportion(values, CLUSTERED).interval


@pytest.mark.parametrize("values", [[], [0.5], [2.0, 0.0], [float("nan")]])
def test_a_share_is_of_zeros_and_ones(values: list[float]) -> None:
    """Anything else than 0 and 1 is no row of a share."""
    with pytest.raises(ValueError, match="rows of 0 and 1"):
        proportion(values, alone(len(values)))


def contexts(rng: np.random.Generator, p: float, correlation: float) -> np.ndarray:
    """Rows of 0 and 1 with mean p whose contexts differ (beta-binomial)."""
    means = rng.beta(p * (1 / correlation - 1), (1 - p) * (1 / correlation - 1), GROUPS)
    return (rng.random((GROUPS, SIZE)) < means[:, None]).astype(float).ravel()


def coverage(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


@pytest.mark.parametrize(("p", "correlation"), [(0.5, 0.01), (0.75, 0.3), (0.9, 0.2)])
def test_a_shares_interval_covers_the_truth_as_often_as_it_says(
    p: float, correlation: float
) -> None:
    """95 % intervals of clustered rows cover the true share in 92 to 98 % of 600 samples."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(600):
        low, high = proportion(contexts(rng, p, correlation), CLUSTERED).interval
        hits.append(low <= p <= high)
    assert 0.92 <= coverage(hits) <= 0.985


def test_without_clusters_a_shares_interval_would_cover_too_seldom() -> None:
    """The same rows taken as independent cover the truth in fewer than 90 % of samples."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(300):
        low, high = proportion(contexts(rng, 0.75, 0.3), alone(len(CLUSTERS))).interval
        hits.append(low <= 0.75 <= high)
    assert coverage(hits) < 0.9


@pytest.mark.usefixtures("quick")
def test_a_means_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of a clustered, skewed mean cover it in 90 to 98 % of 200 samples."""
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(200):
        rows = rng.exponential(1, (GROUPS, 1)) + rng.normal(0, 0.3, (GROUPS, SIZE))
        low, high = mean(rows.ravel(), CLUSTERED).interval
        hits.append(low <= 1 <= high)
    assert 0.9 <= coverage(hits) <= 0.985


@pytest.mark.usefixtures("quick")
def test_a_paired_differences_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of a paired difference of shares cover it in 91 to 99 % of 200 samples."""
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(200):
        a = contexts(rng, 0.7, 0.2)
        b = np.where(rng.random(a.size) < 0.1, 0.0, a)
        low, high = difference(b, a, CLUSTERED).interval
        hits.append(low <= -0.07 <= high)
    assert 0.91 <= coverage(hits) <= 0.99


@pytest.mark.usefixtures("quick")
def test_a_normalised_scores_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of (part - floor) / (ceiling - floor) cover it in 91 to 99 % of samples."""
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(200):
        ceiling = contexts(rng, 0.9, 0.2)
        floor = (rng.random(ceiling.size) < 0.1).astype(float)
        part = np.where(rng.random(ceiling.size) < 0.8, ceiling, floor)
        low, high = normalised(part, floor, ceiling, CLUSTERED).interval
        hits.append(low <= 0.8 <= high)
    assert 0.91 <= coverage(hits) <= 0.99


def test_pairing_takes_out_what_rows_have_in_common() -> None:
    """The difference on the same rows is surer than that of rows drawn apart."""
    rng = np.random.default_rng(5)
    a = contexts(rng, 0.6, 0.4)
    b = np.where(rng.random(a.size) < 0.05, 1 - a, a)
    apart = math.hypot(
        proportion(a, CLUSTERED).standard_error, proportion(b, CLUSTERED).standard_error
    )
    assert difference(a, b, CLUSTERED).standard_error < apart / 2


ONES, ZEROS = np.ones(490), np.zeros(490)
REACH = 1 - 0.025 ** (1 / 490)
HALF = np.asarray(share(245, 490))


@pytest.mark.parametrize(
    ("estimate", "value", "interval"),
    [
        (lambda: difference(HALF, HALF, CLUSTERED), 0.0, (-REACH, REACH)),
        (lambda: difference(ONES, ZEROS, CLUSTERED), 1.0, (1 - REACH, 1.0)),
        (lambda: difference(ZEROS, ONES, CLUSTERED), -1.0, (-1.0, REACH - 1)),
        (lambda: of_means([ONES], lambda m: m, CLUSTERED), 1.0, (1 - REACH, 1.0)),
        (lambda: of_means([ZEROS], lambda m: m, CLUSTERED), 0.0, (0.0, REACH)),
        (lambda: normalised(ONES, ZEROS, ONES, CLUSTERED), 1.0, None),
        (lambda: normalised(ZEROS, ZEROS, ONES, CLUSTERED), 0.0, None),
        (lambda: mean([0.3], alone(1)), 0.3, (0.3, 0.3)),
        (lambda: mean([-1.5] * 5, alone(5)), -1.5, (-1.5, -1.5)),
    ],
    ids=["same", "all gained", "all lost", "all", "none", "F=1", "F=0", "one row", "constant"],
)
def test_rows_that_all_agree_still_leave_doubt(
    estimate, value: float, interval: tuple[float, float] | None
) -> None:
    """Where resampling sees no spread, an exact bound on unseen rows is the interval."""
    result = estimate()
    if interval is None:
        low, high = result.interval
        assert (value, True, True) == (result.value, low <= value <= high, high - low > REACH)
    else:
        assert (value, pytest.approx(interval)) == (result.value, result.interval)


NOISE = -np.random.default_rng(8).normal(0, 1, 50)
UNDEFINED = {
    "ceiling surely nothing over floor": lambda: normalised(NOISE, NOISE * 0, NOISE, alone(50)),
    "ceiling is floor": lambda: normalised(HALF, HALF, HALF, CLUSTERED),
    "ceiling below floor": lambda: normalised(HALF, ONES, ZEROS, CLUSTERED),
    "ceiling near floor": lambda: normalised(HALF, share(240, 490), share(244, 490), CLUSTERED),
    "zero denominator": lambda: of_means([HALF, ZEROS], lambda a, b: a / b, CLUSTERED),
    "0 / 0": lambda: of_means([ZEROS, ZEROS], lambda a, b: a / b, CLUSTERED),
    "zero on resamples": lambda: of_means([[1.0, 0, 0, 0]], lambda m: 1 / m, alone(4)),
    "not a number": lambda: mean([1.0, float("nan"), 2.0], alone(3)),
    "infinite": lambda: mean([1.0, float("inf"), 2.0], alone(3)),
}


@pytest.mark.parametrize("score", UNDEFINED.values(), ids=UNDEFINED)
def test_a_score_that_may_divide_by_zero_is_undefined(score) -> None:
    """No number comes out where the denominator's interval reaches zero."""
    with pytest.raises(UndefinedScoreError):
        score()


def test_an_undefined_score_says_what_is_not_told_apart() -> None:
    """The reason names ceiling and floor with their difference and its interval."""
    with pytest.raises(UndefinedScoreError) as problem:
        normalised(HALF, HALF, HALF, CLUSTERED)
    assert str(problem.value) == (
        f"ceiling and floor do not differ significantly: they differ by 0.000 [-{REACH:.3f}, {REACH:.3f}]"
    )


def test_a_normalised_score_is_a_ratio_of_means() -> None:
    """Means over rows come first, the ratio after: no row's own ratio counts."""
    part, floor, ceiling = share(6, 10), share(2, 10), share(10, 10)
    assert normalised(part, floor, ceiling, alone(10)).value == pytest.approx(0.5)


ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.booleans(), st.booleans()), min_size=2, max_size=25
)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_a_difference_changes_its_sign_with_its_sides(rows: list[tuple[str, bool, bool]]) -> None:
    """b - a is the mirror image of a - b, interval and all."""
    clusters, a, b = zip(*rows, strict=True)
    how = Sampling(clusters, 0.95, 0)
    forward = difference(np.array(a, float), np.array(b, float), how)
    backward = difference(np.array(b, float), np.array(a, float), how)
    low, high = backward.interval
    assert (
        -backward.value,
        pytest.approx((-high, -low), abs=0.02),
        pytest.approx(backward.standard_error),
    ) == (forward.value, forward.interval, forward.standard_error)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_an_interval_holds_its_value(rows: list[tuple[str, bool, bool]]) -> None:
    """The value of a mean and of a difference never lies outside its own interval."""
    clusters, a, b = zip(*rows, strict=True)
    how = Sampling(clusters, 0.95, 0)
    result = [
        mean(np.array(a, float), how),
        difference(np.array(a, float), np.array(b, float), how),
    ]
    assert [e.interval[0] <= e.value <= e.interval[1] for e in result] == [True, True]


def test_the_bootstrap_is_the_same_for_the_same_seed() -> None:
    """An interval depends on rows, confidence and seed alone, and touches no global state."""
    rows = contexts(np.random.default_rng(6), 0.6, 0.3)
    np.random.seed(1)  # noqa: NPY002
    first = mean(rows, CLUSTERED)
    estimates.remembered.clear()
    after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert (first, np.random.random()) == (mean(rows, CLUSTERED), after)  # noqa: NPY002
    assert first.interval != mean(rows, Sampling(CLUSTERS, 0.95, 1)).interval


def test_two_functions_of_one_name_have_estimates_of_their_own() -> None:
    """Of the same columns."""
    rows = [[0.25, 0.5, 0.125]]
    how = Sampling(list("abc"), 0.95, 0)
    once, twice = (
        of_means(rows, lambda m, k=k: k * m, how).value  # type: ignore[misc]
        for k in (1, 2)
    )
    assert twice == 2 * once


def test_an_estimate_that_is_asked_for_again_is_not_resampled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same score of the same rows; other rows, clusters, seeds and confidences have estimates of their own."""
    calls, right = [], stats.bootstrap

    def bootstrap(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return right(*arguments, **options)

    monkeypatch.setattr(stats, "bootstrap", bootstrap)
    rows = [0.25, 0.5, 0.125, 0.75]
    how = Sampling(list("aabc"), 0.95, 7)
    for _ in range(2):
        asked = [
            mean(rows, how),
            mean(rows[::-1], how),
            mean(rows, replace(how, clusters=list("abcc"))),
            mean(rows, replace(how, seed=8)),
            mean(rows, replace(how, confidence=0.9)),
            fraction(rows, [0.0] * 4, [1.0, 2.0, 1.0, 1.0], how, counted=False),
        ]
    assert len(calls) == len(asked)


def test_more_confidence_is_a_wider_interval() -> None:
    """Confidence reaches the bootstrap as well as Wilson."""
    rows = contexts(np.random.default_rng(7), 0.6, 0.3)
    for estimate in (mean, proportion):
        widths = []
        for confidence in (0.5, 0.8, 0.95, 0.99):
            low, high = estimate(rows, Sampling(CLUSTERS, confidence, 0)).interval
            widths.append(high - low)
        assert widths == sorted(set(widths))


def test_rows_of_a_cluster_are_added_up_in_order_of_first_appearance() -> None:
    """Rows of a cluster need not be adjacent."""
    sums, counts = by_cluster([np.array([1.0, 2.0, 4.0, 8.0])], ["b", "a", "b", "c"])
    assert ([s.tolist() for s in sums], counts.tolist()) == ([[5.0, 2.0, 8.0]], [2.0, 1.0, 1.0])


def test_the_first_rows_keep_their_clusters() -> None:
    """A control on fewer rows is sampled as its rows were."""
    assert CLUSTERED.first(10) == Sampling(CLUSTERS[:10], 0.95, 0)


def test_clusters_of_unequal_size_weigh_by_their_rows() -> None:
    """The mean is that of rows, not of clusters."""
    result = mean([1.0, 1.0, 1.0, 0.0], Sampling(["a", "a", "a", "b"], 0.95, 0))
    assert Estimate(0.75, (0.0, 1.0), result.standard_error, 4, 2) == result


def test_a_mean_of_zeros_that_count_nothing_is_zero() -> None:
    """A head that changes no row's log-probability has no effect; that is no share of 0 in n."""
    result = estimates.mean([0.0] * 40, Sampling([str(i // 4) for i in range(40)], 0.95, 0))
    assert (result.value, result.interval) == (0.0, (0.0, 0.0))
