"""The cosine of two mean vectors, with its interval."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_mechanism.statistics.estimates import (
    RESAMPLES,
    Array,
    Estimate,
    Sampling,
    UndefinedScoreError,
)


def cosine(own: Array, other: Array, both: Array, how: Sampling) -> Estimate:
    """cos(mean of a_i, mean of b_i), with a bootstrap (BCa, SciPy's) over the rows i.

    Rows are drawn as pairs: what sampling does to both means alike does not part them. The means
    of any resample follow from the products of rows, so vectors of any width cost the same.

    Args:
        own: [N, N], a_i . a_j.
        other: [N, N], b_i . b_j.
        both: [N, N], a_i . b_j.
        how: confidence and seed; each row must be a cluster of its own.

    Raises:
        UndefinedScoreError: a mean is zero, on the rows or on a resample.
    """
    n = len(own)
    if len(set(how.clusters)) < n:
        raise ValueError("rows of a cosine must be independent")

    def of(rows: NDArray[Any], axis: int = -1) -> Any:
        several = np.moveaxis(np.asarray(rows, dtype=np.int64), axis, -1)
        flat = several.reshape(-1, several.shape[-1])
        counts = np.stack([np.bincount(each, minlength=n) for each in flat]).astype(np.float64)
        a, b, ab = (((counts @ m) * counts).sum(-1) for m in (own, other, both))
        return (ab / np.sqrt(a * b)).reshape(several.shape[:-1])

    rows = np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data are dealt with below
        value = float(of(rows))
        if not math.isfinite(value):
            raise UndefinedScoreError("a mean vector is zero, and has no direction")
        for method in ("BCa", "percentile"):  # of two equal models every resample gives 1
            found = stats.bootstrap(
                (rows,),
                of,
                vectorized=True,
                n_resamples=RESAMPLES,
                batch=500,
                confidence_level=how.confidence,
                method=method,
                rng=np.random.default_rng(how.seed),
            )
            low, high = (float(x) for x in found.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
        else:
            raise UndefinedScoreError("a mean vector is zero on some of the resampled rows")
    return Estimate(value, (min(low, value), max(high, value)), float(found.standard_error), n, n)


def by_chance(width: int, confidence: float) -> tuple[float, float]:
    """Between what the cosine of a direction with a random one lies.

    The squared cosine has a beta distribution with 1/2 and (width - 1) / 2.
    """
    bound = math.sqrt(float(stats.beta.ppf(confidence, 0.5, (width - 1) / 2)))
    return -bound, bound
