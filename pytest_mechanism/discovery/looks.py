"""Path patching with as few rows as settle each head.

All heads are measured on the first rows. A head whose whole interval lies on one side of the required effect is
settled; the others are measured on further rows, `LOOKS` times at most. Intervals are Bonferroni-corrected for every
head and every look, so that repeated looks add no false candidates. What a search selects is a proposal all the same:
claims are judged on rows that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pytest_mechanism.claims.context import LEAST_CLUSTERS
from pytest_mechanism.nodes import Member, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.types import Observations

FIRST_LOOKS = (64, 128)
"""Rows after which heads may be settled; the last look is at all rows that the search may use."""

LOOKS = len(FIRST_LOOKS) + 1

MeasureHeads = Callable[[Sequence[Member], int, int], Observations]
"""Called with members, the number of the first row, and a number of rows; measures the members on these rows."""


def looks(rows: int) -> list[int]:
    """Numbers of rows, from the first, that are looked at."""
    return [count for count in FIRST_LOOKS if count < rows] + [rows]


@dataclass(frozen=True)
class Sample:
    """One head's numbers so far.

    Attributes:
        changes: of the answer's log-probability, row by row.
        ratios: of the answer's probability, likewise.
        clusters: of the rows.
    """

    changes: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)

    def add(self, observations: Observations, member: Member) -> None:
        """Add the rows of a measurement."""
        column = spelled(member)
        self.changes.extend(observations.values[column])
        self.ratios.extend(observations.values[f"ratio {column}"])
        self.clusters.extend(observations.clusters)

    def effect(self, confidence: float, seed: int) -> Estimate:
        return estimates.mean(self.changes, Sampling(self.clusters, confidence, seed))

    @property
    def published(self) -> float:
        return float(np.mean(self.ratios))


def is_settled(effect: Estimate, least: float) -> bool:
    """Whether the interval lies on one side of the required effect ``-least``."""
    low, high = effect.interval
    return effect.clusters >= LEAST_CLUSTERS and (high <= -least or low > -least)


def measure_in_looks(
    heads: Sequence[Member],
    rows: int,
    least: float | None,
    confidence: float,
    seed: int,
    measure: MeasureHeads,
) -> tuple[dict[Member, Estimate], dict[Member, float]]:
    """The effect of each head, and its published score.

    Args:
        heads: or other members.
        rows: at most.
        least: the effect that a candidate needs; None settles no head early, for heads that are taken by rank.
        confidence: of each interval.
        seed: of the bootstrap.
        measure: see `MeasureHeads`.
    """
    samples = {head: Sample() for head in heads}
    effects: dict[Member, Estimate] = {}
    waiting = list(heads)
    for start, stop in pairwise([0, *looks(rows)]):
        if not waiting:
            break
        observations = measure(waiting, start, stop - start)
        if not observations.example_ids:  # the task has no more rows
            break
        for head in waiting:
            samples[head].add(observations, head)
            effects[head] = samples[head].effect(confidence, seed)
        if least is not None:
            waiting = [head for head in waiting if not is_settled(effects[head], least)]
    return effects, {head: sample.published for head, sample in samples.items()}
