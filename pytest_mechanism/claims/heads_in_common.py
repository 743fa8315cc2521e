"""Which members two circuits have in common: precision, recall and Jaccard index over several pairs of circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pytest_mechanism.claims.needed_heads import Part, parts_of
from pytest_mechanism.fields.groups import Find, Group
from pytest_mechanism.nodes import KINDS, listing
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling

Circuit = Mapping[str, frozenset[Part]]
"""Group -> its heads, and its MLPs and attention outputs with their positions."""

Index = Literal["jaccard", "precision", "recall"]

INDICES: Mapping[Index, str] = {
    "jaccard": "|B & F| / |B | F|",
    "precision": "|B & F| / |F|",
    "recall": "|B & F| / |B|",
}
"""Index -> its formula, with B the heads of ``from`` and F those of ``to``."""


def members_of(groups: Mapping[str, Group], names: Sequence[str]) -> Circuit:
    """The members of each of these groups; none where a group is missing."""
    return {name: frozenset(parts_of(groups[name]) if name in groups else ()) for name in names}


def unsearched(group: Group) -> str | None:
    """What a group names and its own search would not look for, after "group NAME"; None if it looks for all."""
    find = group.find or Find()
    missing = [key for key in group.kinds if key not in find.members]
    if not missing:
        return None
    members = ", ".join(key for key in KINDS if key in {*group.kinds, *find.members})
    offers = f"its find offers {listing(find.members)} alone"
    return f"names {missing[0]}, and {offers} (write find: {{members: [{members}]}})"


def of(circuits: Sequence[Circuit], name: str) -> list[Circuit]:
    """One group of each circuit."""
    return [{name: circuit[name]} for circuit in circuits]


def counts(index: Index, reference: Circuit, other: Circuit) -> tuple[int, int]:
    """How many members both circuits have, and how many the index divides by."""
    common = sum(len(members & other[name]) for name, members in reference.items())
    own, theirs = (sum(map(len, circuit.values())) for circuit in (reference, other))
    among = {"jaccard": own + theirs - common, "precision": theirs, "recall": own}
    return common, among[index]


def shared(
    index: Index, reference: Sequence[Circuit], other: Sequence[Circuit], how: Sampling
) -> Estimate:
    """The pooled index with its interval.

    A member that a search finds is a row, a search a cluster. The design effect of few searches is itself an
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
