"""From rows to an estimate with its confidence interval.

Proportions have Wilson's interval (exact if all rows agree); the number of rows is reduced by the
design effect if rows of one context are correlated. Means, differences and ratios of means have a
bootstrap over clusters (BCa), which is SciPy's.

Importing ``scipy.stats`` takes a second, so only what resamples does it.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from pytest_mechanism.statistics import kept
from pytest_mechanism.statistics.power import NORMAL

Array = NDArray[np.float64]

Values = Sequence[float] | Array
"""One number for each row."""

RESAMPLES = 4999


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: the estimate.
        interval: two-sided.
        standard_error: of ``value``.
        n: number of rows.
        clusters: number of independent groups of rows.
        method: how the interval was computed.
    """

    value: float
    interval: tuple[float, float]
    standard_error: float
    n: int
    clusters: int
    method: str = "cluster bootstrap"


@dataclass(frozen=True)
class Sampling:
    """How rows were drawn and how to resample them.

    Attributes:
        clusters: one name for each row; rows of one cluster share a context and are resampled together.
        confidence: of intervals.
        seed: of the bootstrap.
    """

    clusters: Sequence[str]
    confidence: float
    seed: int

    def first(self, rows: int) -> Sampling:
        """The sampling of the first rows alone."""
        return Sampling(self.clusters[:rows], self.confidence, self.seed)


class UndefinedScoreError(ValueError):
    """A score has no value: a ratio whose denominator may be zero."""


def proportion(values: Values, how: Sampling) -> Estimate:
    """The share of ones.

    Wilson's interval on ``n / design effect`` rows. The design effect is the variance of the share
    between clusters divided by that of independent rows, and at least 1. Rows that all agree allow no
    estimate of it, so their interval is the exact one on all rows.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or not np.isin(x, (0.0, 1.0)).all():
        raise ValueError("a proportion needs rows of 0 and 1")
    p, n = float(x.mean()), int(x.size)
    sums, counts = by_cluster([x], how.clusters)
    groups = len(counts)
    if p in (0.0, 1.0):
        low, high = exact_bounds(n, how.confidence)
        interval = (0.0, high) if p == 0 else (low, 1.0)
        return Estimate(p, interval, 0.0, n, groups, "exact")
    effect = 1.0
    if 1 < groups < n:
        residual = sums[0] - p * counts
        variance = groups / (groups - 1) * float((residual**2).sum()) / n**2
        effect = max(1.0, variance / (p * (1 - p) / n))
    effective = max(1, math.floor(n / effect))
    # whole numbers of successes, rounded away from the estimate, so the interval gets no narrower
    low, _ = wilson(math.floor(p * effective + 1e-9), effective, how.confidence)
    _, high = wilson(math.ceil(p * effective - 1e-9), effective, how.confidence)
    return Estimate(
        p,
        (min(low, p), max(high, p)),
        math.sqrt(p * (1 - p) / n * effect),
        n,
        groups,
        "Wilson",
    )


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share: the shares p with |successes / n - p| <= z sqrt(p (1 - p) / n)."""
    z = NORMAL.inv_cdf(0.5 + 0.5 * confidence)
    p = successes / n
    scale = 2 * (n + z**2)
    middle = (2 * n * p + z**2) / scale
    reach = z / scale * math.sqrt(4 * n * p * (1 - p) + z**2)
    return middle - reach if successes else 0.0, middle + reach if successes < n else 1.0


def exact_bounds(n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson: the lower bound of n successes in n, the upper bound of no success in n. The lower bound p
    has p^n = (1 - confidence) / 2."""
    low = ((1 - confidence) / 2) ** (1 / n)
    return low, 1 - low


def itself(mean: Array | float) -> Array | float:
    """A mean."""
    return mean


def ratio(part: Array, whole: Array) -> Array:
    """A ratio of means."""
    return part / whole


def change_of_ratio(part: Array, whole: Array, before: Array, whole_before: Array) -> Array:
    """The difference of two ratios of means."""
    return part / whole - before / whole_before


def share(part: Array, floor: Array, ceiling: Array) -> Array:
    """The part of the way from floor to ceiling."""
    return (part - floor) / (ceiling - floor)


NAMES: dict[Callable[..., Array | float], str] = {
    itself: "mean",
    ratio: "ratio",
    change_of_ratio: "change of a ratio",
    share: "share",
}
"""Functions whose estimates are remembered."""

REVISION = 1
"""Raise it when an estimate of the same rows can be another one than before."""

MOST_KNOWN = 1 << 12
"""Estimates that are remembered in this process."""

remembered: dict[str, Estimate] = {}


def of_means(
    columns: Sequence[Values],
    statistic: Callable[..., Array | float],
    how: Sampling,
    *,
    counted: bool = True,
) -> Estimate:
    """A function of the means of paired columns, with a bootstrap over clusters.

    Args:
        columns: one number for each row; the same rows in every column.
        statistic: takes the mean of each column (numbers or arrays of equal shape).
        how: clusters, confidence and seed.
        counted: whether a column of zeros and ones counts successes.

    A counted column in which all rows agree has no spread to resample, but its mean is not known
    exactly: the exact bounds of that column widen the interval.

    The bootstrap is most of a run without measurements, and claims of one circuit ask for the same estimates. So the
    estimate of a function with a name (`NAMES`) is computed once for each content of the columns, and kept for later
    runs (`statistics.kept`).

    Raises:
        UndefinedScoreError: the statistic is not finite on the rows or on a resample.
    """
    data = [np.asarray(column, dtype=np.float64) for column in columns]
    if (name := NAMES.get(statistic)) is None:
        return bootstrapped(data, statistic, how, counted)
    what = (name, REVISION, np.__version__, scipy.__version__, RESAMPLES)
    about = [*what, how.confidence, how.seed, counted, len(data), *how.clusters]
    content = hashlib.sha256(json.dumps(about).encode())
    for column in data:
        content.update(column.tobytes())
    key = content.hexdigest()
    if key not in remembered:
        if len(remembered) >= MOST_KNOWN:
            remembered.clear()
        stored = kept.get(key)
        remembered[key] = (
            bootstrapped(data, statistic, how, counted) if stored is None else Estimate(*stored)
        )
    kept.put(key, astuple(remembered[key]))
    return remembered[key]


def bootstrapped(
    data: Sequence[Array], statistic: Callable[..., Array | float], how: Sampling, counted: bool
) -> Estimate:
    """`of_means`, computed now."""
    n = int(data[0].size)
    sums, counts = by_cluster(data, how.clusters)
    means = [column.mean() for column in data]  # NumPy's numbers divide by zero without raising

    def resampled(*parts: Array, axis: int = -1) -> Array:
        total = parts[-1].sum(axis=axis)
        return np.asarray(statistic(*(s.sum(axis=axis) / total for s in parts[:-1])))

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data are handled below
        value = float(statistic(*means))
        if not math.isfinite(value):
            raise UndefinedScoreError("the score divides by zero")
        low, high, error = value, value, 0.0
        if len(counts) > 1:
            for method in ("BCa", "percentile"):
                result = scipy.stats.bootstrap(
                    (*sums, counts),
                    resampled,
                    paired=True,
                    vectorized=True,
                    n_resamples=RESAMPLES,
                    batch=500,
                    confidence_level=how.confidence,
                    method=method,
                    rng=np.random.default_rng(how.seed),
                )
                interval = result.confidence_interval
                low, high = float(interval.low), float(interval.high)
                error = float(result.standard_error)
                if math.isfinite(low) and math.isfinite(high):
                    break
        edges = [value, low, high]
        for i, column in enumerate(data if counted else ()):
            # -1 in every row: paired differences, the same as 1 with the sides exchanged
            if column.size and column.min() == column.max() and column[0] in (-1.0, 0.0, 1.0):
                all_bound, none_bound = exact_bounds(n, how.confidence)
                extreme = [*means]
                extreme[i] = column[0] * all_bound if column[0] else none_bound
                edges.append(float(statistic(*extreme)))
    if not all(math.isfinite(number) for number in (*edges, error)):
        raise UndefinedScoreError("the score divides by zero on some of the resampled rows")
    return Estimate(value, (min(edges), max(edges)), error, n, len(counts))


def p_above_zero(value: float, standard_error: float, clusters: int) -> float:
    """The p-value of the hypothesis that a quantity is at most 0, against a larger one: Student's t over clusters."""
    if standard_error <= 0:
        return 0.0 if value > 0 else 1.0
    return float(scipy.special.stdtr(max(1, clusters - 1), -value / standard_error))


def for_few_clusters(estimate: Estimate, confidence: float) -> Estimate:
    """The estimate with an interval for a spread that few clusters estimate: wider by the ratio of Student's t
    to the normal distribution's z. An exact interval estimates no spread."""
    if estimate.method == "exact" or estimate.clusters < 2:
        return estimate
    tail = 0.5 + confidence / 2
    wider = float(scipy.special.stdtrit(estimate.clusters - 1, tail)) / NORMAL.inv_cdf(tail)
    value, (low, high) = estimate.value, estimate.interval
    return replace(
        estimate, interval=(value - wider * (value - low), value + wider * (high - value))
    )


def mean(values: Values, how: Sampling) -> Estimate:
    """The mean of numbers that count nothing, such as log-probabilities."""
    return of_means([values], itself, how, counted=False)


def difference(a: Values, b: Values, how: Sampling) -> Estimate:
    """The mean of a - b on the same rows.

    If no row differs, the interval is the exact bound on the share of rows that might differ.
    """
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    estimate = of_means([gap], itself, how)
    if gap.size and not gap.any():
        _, bound = exact_bounds(estimate.n, how.confidence)
        return Estimate(0.0, (-bound, bound), 0.0, estimate.n, estimate.clusters, "exact")
    return estimate


def normalised(
    part: Values,
    floor: Values,
    ceiling: Values,
    how: Sampling,
) -> Estimate:
    """(part - floor) / (ceiling - floor), a ratio of differences of means.

    Raises:
        UndefinedScoreError: the interval of the denominator reaches zero.
    """
    span = difference(ceiling, floor, how)
    if span.interval[0] <= 0:
        raise UndefinedScoreError(
            f"ceiling and floor do not differ significantly: they differ by {span.value:.3f} "
            f"[{span.interval[0]:.3f}, {span.interval[1]:.3f}]"
        )
    return fraction(part, floor, ceiling, how)


def fraction(
    part: Values, floor: Values, ceiling: Values, how: Sampling, *, counted: bool = True
) -> Estimate:
    """(part - floor) / (ceiling - floor) for a denominator of either sign that is known not to be zero.

    If ``part`` equals ``floor`` (or ``ceiling``) in every row, the value is 0 (or 1) on every resample;
    the share of rows that might have differed widens the interval. ``counted`` as in `of_means`.
    """
    columns = [part, floor, ceiling]
    estimate = of_means(columns, share, how, counted=counted)
    edges = [*estimate.interval]
    for end in (floor, ceiling):
        if np.array_equal(np.asarray(part), np.asarray(end)):
            _, bound = exact_bounds(estimate.n, how.confidence)
            width = bound / abs(float(np.mean(ceiling)) - float(np.mean(floor)))
            edges += [estimate.value - width, estimate.value + width]
    return replace(estimate, interval=(min(edges), max(edges)))


def by_cluster(columns: Sequence[Array], clusters: Sequence[str]) -> tuple[list[Array], Array]:
    """The sum of each column in every cluster, and rows per cluster, in order of first appearance."""
    order: dict[str, int] = {}
    index = np.array([order.setdefault(name, len(order)) for name in clusters])
    counts = np.bincount(index, minlength=len(order)).astype(np.float64)
    sums = [
        np.asarray(np.bincount(index, column, len(order)), dtype=np.float64) for column in columns
    ]
    return sums, counts


def exceeds(values: Values, threshold: float, how: Sampling) -> float:
    """The one-sided p-value of the hypothesis that the mean is no larger than a threshold.

    A sign-flip test over clusters, which are independent: under the hypothesis, the sum of a cluster's
    rows minus the threshold may as well have the other sign. SciPy's test is exact for few clusters.
    """
    x = np.asarray(values, dtype=np.float64)
    sums, _ = by_cluster([x - threshold], how.clusters)
    result = scipy.stats.permutation_test(
        (sums[0],),
        lambda flipped, axis: flipped.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,
        alternative="greater",
        rng=np.random.default_rng(how.seed),
    )
    return float(result.pvalue)
