"""The cosine of two mean vectors, with its interval."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import (
    Array,
    Estimate,
    Sampling,
    UndefinedScoreError,
)


def cosine(own: Array, other: Array, both: Array, how: Sampling) -> Estimate:
    """cos(mean of a_i, mean of b_i), with a bootstrap (BCa, SciPy's) over the rows i.

    Rows are resampled as pairs: sampling that moves both means alike does not separate them. The dot
    products of rows determine the means of every resample, so the cost does not depend on the width.

    Args:
        own: [N, N], a_i . a_j.
        other: [N, N], b_i . b_j.
        both: [N, N], a_i . b_j.
        how: confidence and seed; each row must be its own cluster.

    Raises:
        UndefinedScoreError: a mean is zero, on the rows or on a resample.
    """
    n = len(own)
    if len(set(how.clusters)) < n:
        raise ValueError("rows of a cosine must be independent")

    def cosine_of(rows: NDArray[Any], axis: int = -1) -> Any:
        resamples = np.moveaxis(np.asarray(rows, dtype=np.int64), axis, -1)
        flat = resamples.reshape(-1, resamples.shape[-1])
        counts = np.stack([np.bincount(rows, minlength=n) for rows in flat]).astype(np.float64)
        a, b, ab = (((counts @ m) * counts).sum(-1) for m in (own, other, both))
        return (ab / np.sqrt(a * b)).reshape(resamples.shape[:-1])

    rows = np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data are handled below
        value = float(cosine_of(rows))
        if not math.isfinite(value):
            raise UndefinedScoreError("a mean vector is zero, so it has no direction")
        for method in ("BCa", "percentile"):  # two equal models give 1 on every resample
            result = scipy.stats.bootstrap(
                (rows,),
                cosine_of,
                vectorized=True,
                n_resamples=estimates.RESAMPLES,
                batch=500,
                confidence_level=how.confidence,
                method=method,
                rng=np.random.default_rng(how.seed),
            )
            low, high = (float(bound) for bound in result.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
        else:
            raise UndefinedScoreError("a mean vector is zero on some of the resampled rows")
    return Estimate(value, (min(low, value), max(high, value)), float(result.standard_error), n, n)


def by_chance(width: int, confidence: float) -> tuple[float, float]:
    """The interval in which the cosine of a direction with a random one lies.

    The squared cosine has a beta distribution with 1/2 and (width - 1) / 2.
    """
    bound = math.sqrt(float(scipy.special.betaincinv(0.5, (width - 1) / 2, confidence)))
    return -bound, bound
