"""Which heads two circuits have in common: precision, recall and Jaccard index over several pairs of circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pytest_mechanism.fields.groups import Group
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.types import Head

Circuit = Mapping[str, frozenset[Head]]
"""Group -> its heads."""

Index = Literal["jaccard", "precision", "recall"]

INDICES: Mapping[Index, str] = {
    "jaccard": "|B & F| / |B | F|",
    "precision": "|B & F| / |F|",
    "recall": "|B & F| / |B|",
}
"""Index -> its formula, with B the heads of ``from`` and F those of ``to``."""


def heads_of(groups: Mapping[str, Group], names: Sequence[str]) -> Circuit:
    """The heads of each of these groups; none where a group is missing."""
    return {name: frozenset(groups[name].members() if name in groups else ()) for name in names}


def of(circuits: Sequence[Circuit], name: str) -> list[Circuit]:
    """One group of each circuit."""
    return [{name: circuit[name]} for circuit in circuits]


def counts(index: Index, reference: Circuit, other: Circuit) -> tuple[int, int]:
    """How many heads both circuits have, and how many the index divides by."""
    common = sum(len(heads & other[name]) for name, heads in reference.items())
    own, theirs = (sum(map(len, circuit.values())) for circuit in (reference, other))
    among = {"jaccard": own + theirs - common, "precision": theirs, "recall": own}
    return common, among[index]


def shared(
    index: Index, reference: Sequence[Circuit], other: Sequence[Circuit], how: Sampling
) -> Estimate:
    """The pooled index with its interval.

    A head of a search is a row, a search a cluster. The design effect of few searches is itself an
    estimate, so its interval has Student's t in place of the normal distribution's z.
    """
    rows: list[float] = []
    clusters: list[str] = []
    for i, (own, theirs) in enumerate(zip(reference, other, strict=True)):
        common, among = counts(index, own, theirs)
        rows += [1.0] * common + [0.0] * (among - common)
        clusters += [f"search {i}"] * among
    if not rows:
        return Estimate(0.0, (0.0, 1.0), 0.0, 0, 0, "exact")
    estimate = estimates.proportion(rows, replace(how, clusters=clusters))
    wider = estimates.for_few_clusters(estimate, how.confidence)
    low, high = wider.interval
    return replace(wider, interval=(max(0.0, low), min(1.0, high)))
