"""The cosine of two means from the products of their rows."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_mechanism.statistics.cosine import by_chance, cosine
from pytest_mechanism.statistics.estimates import Array, Estimate, Sampling, UndefinedScoreError

N, WIDTH = 60, 8


def rows(mean: Array, seed: int = 0, n: int = N) -> Array:
    """[n, width], around a mean."""
    return mean + np.random.default_rng(seed).normal(size=(n, len(mean)))


def of(a: Array, b: Array) -> Estimate:
    how = Sampling([str(i) for i in range(len(a))], 0.95, 0)
    return cosine(a @ a.T, b @ b.T, a @ b.T, how)


def test_it_is_the_cosine_of_the_means() -> None:
    """Products of rows are enough to know it, and the interval holds it."""
    a, b = rows(np.ones(WIDTH)), rows(np.arange(WIDTH) - 2.0, 1)
    mean, other = a.mean(0), b.mean(0)
    result = of(a, b)
    expected = mean @ other / np.linalg.norm(mean) / np.linalg.norm(other)
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.interval[0] < expected < result.interval[1]
    assert (result.n, result.clusters) == (N, N)


def test_rows_are_drawn_in_pairs() -> None:
    """Noise that both models share does not part their directions."""
    a = rows(np.ones(WIDTH))
    together, apart = of(a, a + 0.01), of(a, rows(np.ones(WIDTH), 1))
    widths = [estimate.interval[1] - estimate.interval[0] for estimate in (together, apart)]
    assert widths[0] < widths[1] / 20


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_models_have_the_same_direction_for_sure(sign: int) -> None:
    """1, or -1 where one is the other's opposite."""
    a = rows(np.ones(WIDTH))
    result = of(a, sign * a)
    assert (result.value, *result.interval) == pytest.approx((sign, sign, sign))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """95 of 100 samples: fewer than 50 of 60 would come once in ten thousand tries."""
    a, b = np.ones(WIDTH), np.ones(WIDTH) + np.eye(WIDTH)[0] * 3
    truth = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    covered = 0
    for seed in range(60):
        result = of(rows(a, seed, 40), rows(b, 1000 + seed, 40))
        covered += result.interval[0] <= truth <= result.interval[1]
    assert covered >= 50


def test_a_mean_of_zero_has_no_direction() -> None:
    a = np.concatenate([np.ones((5, 3)), -np.ones((5, 3))])
    with pytest.raises(UndefinedScoreError, match="has no direction"):
        of(a, rows(np.ones(3), n=10))


def test_rows_that_belong_together_are_refused() -> None:
    """They are drawn one by one."""
    with pytest.raises(ValueError, match="independent"):
        cosine(np.eye(2), np.eye(2), np.eye(2), Sampling(["a", "a"], 0.95, 0))


@pytest.mark.parametrize("width", [2, 64, 4096])
def test_random_directions_lie_within_what_chance_gives(width: int) -> None:
    """Of many drawn ones, 5 in 100 lie outside."""
    several = np.random.default_rng(0).normal(size=(4000, width))
    cosines = several[:, 0] / np.linalg.norm(several, axis=1)
    low, high = by_chance(width, 0.95)
    outside = float(((cosines < low) | (cosines > high)).mean())
    assert outside == pytest.approx(0.05, abs=0.012)
