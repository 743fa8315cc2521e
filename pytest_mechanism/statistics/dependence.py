"""How much two scores of the same rows depend on each other: normalised HSIC, and a permutation test.

The Hilbert-Schmidt independence criterion of x and y with kernels k and l (Gretton et al. 2005):

    HSIC(x, y) = E[k_ij l_ij] + E[k_ij] E[l_qr] - 2 E[k_ij l_iq],  i, j, q, r distinct rows

Its unbiased estimate (Song et al. 2012, eq. 5) takes the means over distinct rows. Rows of one context are
not independent, so here all indices are of distinct *clusters*; with one row in each cluster that is
Song's. It is normalised as a correlation is, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)): 0 for independent
scores, 1 for equal ones. The unbiased estimate may fall slightly below 0.

k and l are Gaussian, exp(-d^2 / (2 m^2)) with m the median distance between rows, so units do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from pytest_mechanism.statistics.estimates import (
    Array,
    Estimate,
    Sampling,
    UndefinedScoreError,
    Values,
)
from pytest_mechanism.statistics.power import PAIRS

RESAMPLES = 999
"""Resamples of the clusters behind an interval."""

PERMUTATIONS = 199
"""Permutations of the clusters behind a p-value."""

MOST_ROWS = 2000
"""Rows that are used at most: time and memory grow with their square."""

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The clusters of rows as numbers.

    Attributes:
        of: [rows], the cluster of each row.
        sizes: [clusters], rows in each.
    """

    of: Index
    sizes: Index

    @staticmethod
    def from_names(clusters: Sequence[str]) -> Rows:
        """Clusters in order of first appearance."""
        order: dict[str, int] = {}
        of = np.array([order.setdefault(name, len(order)) for name in clusters], dtype=np.int64)
        return Rows(of, np.bincount(of))

    @property
    def apart(self) -> Array:
        """[rows, rows], 1 where two rows belong to two clusters."""
        return np.asarray(self.of[:, None] != self.of[None, :], dtype=np.float64)

    def columns_summed(self, matrix: Array) -> Array:
        """[rows, clusters], from [rows, rows]."""
        order = np.argsort(self.of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        return np.asarray(np.add.reduceat(matrix[:, order], starts, axis=1), dtype=np.float64)

    def both_summed(self, matrix: Array) -> Array:
        """[clusters, clusters], from [rows, rows]."""
        return np.transpose(self.columns_summed(self.columns_summed(matrix).T))


def kernel(values: Values, rows: Rows) -> Array:
    """[rows, rows], the Gaussian kernel; 0 within a cluster.

    Raises:
        UndefinedScoreError: most pairs of rows have the same score.
    """
    x = np.asarray(values, dtype=np.float64)
    distance = np.abs(x[:, None] - x[None, :])
    apart = rows.apart
    median = float(np.median(distance[apart > 0]))
    if median <= 0:
        raise UndefinedScoreError("most rows have the same score, so it can depend on nothing")
    return np.asarray(np.exp(-((distance / median) ** 2) / 2) * apart)


class Sums:
    """The sums behind HSIC of two kernels, for weights of the clusters.

    With weights w (how often a resample has a cluster), sums run over distinct clusters of the sample, so
    that a cluster drawn twice is never compared with itself.
    """

    def __init__(self, k: Array, l: Array, rows: Rows) -> None:  # noqa: E741 - the papers' names
        self.of = rows.of
        self.product = rows.both_summed(k * l)
        self.k, self.l = rows.columns_summed(k), rows.columns_summed(l)
        self.k_pairs, self.l_pairs = rows.both_summed(k), rows.both_summed(l)
        self.both = self.k * self.l
        self.pairs = self.k_pairs * self.l_pairs

    def totals(self, w: Array) -> Totals:
        """For weights [clusters, resamples]: the sums of k_ij l_ij, k_ij l_qr and k_ij l_iq."""
        squared = w**2
        first = np.einsum("ab,ab->b", w, self.product @ w)
        k_w, l_w = self.k_pairs @ w, self.l_pairs @ w
        # all quadruples of clusters less those that share one, by inclusion and exclusion
        second = (
            np.einsum("ab,ab->b", w, k_w) * np.einsum("ab,ab->b", w, l_w)
            - 4 * np.einsum("ab,ab->b", squared, k_w * l_w)
            + 2 * np.einsum("ab,ab->b", squared, self.pairs @ squared)
        )
        by_row = (self.k @ w) * (self.l @ w) - self.both @ squared
        third = np.einsum("ib,ib->b", w[self.of], by_row)
        return first, second, third


Totals = tuple[Array, Array, Array]


def terms(rows: Rows, weights: Array) -> Totals:
    """[resamples], how many terms each sum has."""
    return Sums(rows.apart, rows.apart, rows).totals(weights)


def hsic(k: Array, l: Array, rows: Rows, weights: Array, count: Totals) -> Array:  # noqa: E741
    """[resamples], the unbiased HSIC for weights [clusters, resamples] of the clusters."""
    sums = Sums(k, l, rows).totals(weights)
    first, second, third = (total / n for total, n in zip(sums, count, strict=True))
    return np.asarray(first + second - 2 * third)


def normalised(x: Values, others: Sequence[Values], how: Sampling) -> Estimate:
    """Normalised HSIC of x with each of several scores, the mean over these, with a bootstrap of clusters.

    Raises:
        UndefinedScoreError: a score hardly varies.
    """
    rows = Rows.from_names(how.clusters)
    clusters = len(rows.sizes)
    drawn = np.random.default_rng(how.seed).multinomial(
        clusters, np.full(clusters, 1 / clusters), RESAMPLES
    )
    whole, without_one = np.ones((clusters, 1)), 1 - np.eye(clusters)
    weights = np.concatenate([whole, without_one, drawn.T], axis=1)
    k, count = kernel(x, rows), terms(rows, weights)
    own = hsic(k, k, rows, weights, count)
    shares = []
    for other in others:
        l = kernel(other, rows)  # noqa: E741
        scale = own * hsic(l, l, rows, weights, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append(hsic(k, l, rows, weights, count) / np.sqrt(scale))
    mean = np.mean(shares, axis=0)
    if not np.isfinite(mean).all():
        raise UndefinedScoreError("the scores hardly vary on some of the resampled rows")
    value, jackknife, resampled = float(mean[0]), mean[1 : clusters + 1], mean[clusters + 1 :]
    low, high = bca(value, jackknife, resampled, how.confidence)
    return Estimate(
        value,
        (min(low, value), max(high, value)),
        float(np.std(resampled, ddof=1)),
        len(rows.of),
        clusters,
        PAIRS,
    )


def bca(value: float, jackknife: Array, resampled: Array, confidence: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval of a bootstrap (Efron 1987, eq. 2.3 and 6.6). SciPy's
    resamples rows itself, and so would compare a cluster that it draws twice with itself."""
    influence = jackknife.mean() - jackknife
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    edge = 1 / (len(resampled) + 1)
    bias = scipy.special.ndtri(np.clip(np.mean(resampled < value), edge, 1 - edge))
    tail = (1 - confidence) / 2
    z = bias + scipy.special.ndtri([tail, 1 - tail])
    low, high = np.quantile(resampled, scipy.special.ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def permutation_p(x: Values, y: Values, how: Sampling) -> float:
    """(1 + number of permutations whose HSIC is as large) / (1 + permutations).

    Whole clusters of y are exchanged, each with another of as many rows: rows of a cluster depend on each other.
    """
    rows = Rows.from_names(how.clusters)
    k, l = kernel(x, rows), kernel(y, rows)  # noqa: E741
    ones = np.ones((len(rows.sizes), 1))
    count = terms(rows, ones)
    observed = float(hsic(k, l, rows, ones, count)[0])
    rng = np.random.default_rng(how.seed)
    members = [np.flatnonzero(rows.of == cluster) for cluster in range(len(rows.sizes))]
    larger = 0
    for _ in range(PERMUTATIONS):
        taken = np.arange(len(rows.of))
        for size in np.unique(rows.sizes):
            alike = np.flatnonzero(rows.sizes == size)
            for cluster, other in zip(alike, rng.permutation(alike), strict=True):
                taken[members[cluster]] = members[other]
        larger += float(hsic(k, l[np.ix_(taken, taken)], rows, ones, count)[0]) >= observed
    return (1 + larger) / (1 + PERMUTATIONS)
