"""Normalised HSIC: known values, no bias, coverage, and its permutation test."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from pytest_mechanism.statistics import dependence
from pytest_mechanism.statistics.dependence import (
    Rows,
    hsic,
    kernel,
    normalised,
    permutation_p,
    terms,
)
from pytest_mechanism.statistics.estimates import Sampling, UndefinedScoreError


def contexts(clusters: int, size: int) -> list[str]:
    return [f"c{i // size}" for i in range(clusters * size)]


def one(k: np.ndarray, l: np.ndarray, rows: Rows) -> float:  # noqa: E741
    ones = np.ones((len(rows.sizes), 1))
    return float(hsic(k, l, rows, ones, terms(rows, ones))[0])


def test_one_row_in_each_cluster_is_the_published_unbiased_estimate() -> None:
    """Song et al. 2012, equation 5, with matrices whose diagonal is 0."""
    rng = np.random.default_rng(0)
    n = 12
    x, y = rng.normal(size=(2, n))
    rows = Rows.from_names(contexts(n, 1))
    k, l = kernel(x, rows), kernel(y, rows)  # noqa: E741
    published = (
        np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    ) / (n * (n - 3))
    assert one(k, l, rows) == pytest.approx(published, abs=1e-12)


def test_rows_of_one_cluster_are_never_compared() -> None:
    """The means run over rows of distinct clusters, counted one by one."""
    rng = np.random.default_rng(1)
    names = ["a", "b", "b", "c", "c", "d", "e"]
    x, y = rng.normal(size=(2, len(names)))
    rows = Rows.from_names(names)
    k, l = kernel(x, rows), kernel(y, rows)  # noqa: E741

    def mean(size: int, term) -> float:
        apart = [i for i in permutations(range(7), size) if len({names[j] for j in i}) == size]
        return float(np.mean([term(*i) for i in apart]))

    counted = (
        mean(2, lambda i, j: k[i, j] * l[i, j])
        + mean(4, lambda i, j, q, r: k[i, j] * l[q, r])
        - 2 * mean(3, lambda i, j, q: k[i, j] * l[i, q])
    )
    assert one(k, l, rows) == pytest.approx(counted, abs=1e-12)


def test_a_cluster_drawn_twice_counts_twice_and_is_not_compared_with_itself() -> None:
    """Weights 2 and 0 give the sums over distinct clusters with each term weighted."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 6))
    rows = Rows.from_names(contexts(6, 1))
    k, l = kernel(x, rows), kernel(y, rows)  # noqa: E741
    w = np.array([2.0, 0, 1, 1, 1, 1])

    def mean(size: int, term) -> float:
        total = weight = 0.0
        for i in permutations(range(6), size):
            product = float(np.prod(w[list(i)]))
            total, weight = total + product * term(*i), weight + product
        return total / weight

    counted = (
        mean(2, lambda i, j: k[i, j] * l[i, j])
        + mean(4, lambda i, j, q, r: k[i, j] * l[q, r])
        - 2 * mean(3, lambda i, j, q: k[i, j] * l[i, q])
    )
    assert float(hsic(k, l, rows, w[:, None], terms(rows, w[:, None]))[0]) == pytest.approx(
        counted, abs=1e-12
    )


def test_a_score_depends_on_itself_entirely_in_any_unit() -> None:
    """The normalised value is 1, and multiplying a score changes nothing."""
    x = np.random.default_rng(3).normal(size=60)
    how = Sampling(contexts(20, 3), 0.95, 0)
    assert normalised(x, [1000 * x + 5], how).value == pytest.approx(1.0, abs=1e-9)


def test_independent_scores_of_clustered_rows_have_no_bias() -> None:
    """The mean over 200 draws is 0 within three standard errors, although rows of a context are alike. The
    biased estimate would be about 0.1 here."""
    rng = np.random.default_rng(5)
    rows = Rows.from_names(contexts(15, 4))
    drawn = []
    for _ in range(200):
        x, y = (np.repeat(rng.normal(size=15), 4) + 0.3 * rng.normal(size=60) for _ in range(2))
        drawn.append(one(kernel(x, rows), kernel(y, rows), rows))
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / np.sqrt(200)


@pytest.mark.slow
def test_the_upper_bound_lies_above_the_true_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass depends on it. In at least 92 of 100 draws; their mean is the truth, because the estimate has
    no bias."""
    monkeypatch.setattr(dependence, "RESAMPLES", 199)
    rng = np.random.default_rng(5)

    def draw(clusters: int) -> tuple[np.ndarray, np.ndarray, Sampling]:
        x = np.repeat(rng.normal(size=clusters), 3) + rng.normal(size=3 * clusters)
        y = 0.6 * x + 0.8 * rng.normal(size=3 * clusters)
        return x, y, Sampling(contexts(clusters, 3), 0.95, 0)

    estimates = [normalised(x, [y], how) for x, y, how in (draw(60) for _ in range(100))]
    truth = np.mean([estimate.value for estimate in estimates])
    covered = sum(truth <= estimate.interval[1] for estimate in estimates)
    assert covered >= 92


def test_the_permutation_test_rejects_dependence_and_seldom_independence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two scores that share only their context's difficulty by chance are independent."""
    monkeypatch.setattr(dependence, "PERMUTATIONS", 99)
    rng = np.random.default_rng(6)
    how = Sampling(contexts(20, 2), 0.95, 0)
    rejected = 0
    for _ in range(40):
        x, y = (np.repeat(rng.normal(size=20), 2) + 0.1 * rng.normal(size=40) for _ in range(2))
        rejected += permutation_p(x, y, how) <= 0.05
    assert rejected <= 6
    assert permutation_p(x, np.abs(x), how) <= 0.05


def test_scores_that_do_not_vary_have_no_dependence() -> None:
    """An error, because 0 would be a pass."""
    how = Sampling(contexts(20, 1), 0.95, 0)
    with pytest.raises(UndefinedScoreError, match="most rows have the same score"):
        normalised(np.arange(20.0), [np.zeros(20)], how)
