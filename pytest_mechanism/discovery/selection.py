"""The rule that turns path-patching scores into a circuit.

Prakash et al., section 3 and appendix: the heads with the most negative scores of each group are its
candidates; a head that is a candidate of two groups at one position leaves the group nearer the answer;
a candidate stays if the circuit needs it (minimality). Discovery applies the rule to the mean change of the
answer's log-probability, the paper to the mean relative change of its probability. Selecting candidates by
effect instead of by count is ours.

Where a group may have MLPs and attention outputs too, which the paper does not search, they compete with heads by
the same effect: in the ranking that the published number is taken from, or against the same threshold. An
attention output is the sum of its heads, so it is taken only if none of its heads is.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence

from pytest_mechanism.claims.needed_heads import Part
from pytest_mechanism.fields.groups import AnyGroup, Find, Group
from pytest_mechanism.nodes import ATTENTION, Member, in_order, is_part
from pytest_mechanism.statistics.estimates import Estimate

MINIMALITY = 0.01
"""The published threshold: the least minimality score of a head that stays."""


def chain(groups: Mapping[str, AnyGroup]) -> list[str]:
    """Group names from the answer back to the input: a group comes after the group that reads it."""
    readers = {name: [group.into.group] if group.into else [] for name, group in groups.items()}
    return list(graphlib.TopologicalSorter(readers).static_order())


def ranked(effects: Mapping[Member, Estimate]) -> list[Member]:
    """Members from the most negative effect upwards; ties keep the order of layers and heads."""
    return sorted(effects, key=lambda member: (effects[member].value, in_order(member)))


def candidates(effects: Mapping[Member, Estimate], find: Find) -> list[Member]:
    """Candidates of a group, strongest first: the published number of them, or every member whose effect
    is large enough and whose interval excludes 0."""
    order = ranked(effects)
    if find.candidates is not None:
        # an attention output that yields to a head makes room for the next member
        prefixes = (without_wholes(order[:size]) for size in range(1, len(order) + 1))
        enough = (chosen for chosen in prefixes if len(chosen) == find.candidates)
        return next(enough, without_wholes(order))
    return without_wholes(
        [
            member
            for member in order
            if effects[member].value <= -find.drops_at_least and effects[member].interval[1] < 0
        ]
    )


def without_wholes(members: Sequence[Member]) -> list[Member]:
    """The members without the attention outputs of which a head is among them."""
    return [
        member
        for member in members
        if member[1] != ATTENTION or not any(is_part(member, other) for other in members)
    ]


def receivers_of(members: Sequence[Member], find: Find) -> list[Member]:
    """The candidates, given strongest first, that the next group is patched into."""
    return list(members[: find.receivers])


def unshared(
    members: Mapping[str, list[Part]], groups: Mapping[str, AnyGroup]
) -> dict[str, list[Part]]:
    """Group -> its candidates without those of groups at the same position that are further from the
    answer, or that have a head of theirs. A group whose members the spec names keeps them all."""
    kept: dict[str, list[Part]] = {}
    order = chain(groups)
    for i, name in enumerate(order):
        further = [m for n in order[i + 1 :] if groups[n].at == groups[name].at for m in members[n]]
        named = isinstance(groups[name], Group)
        kept[name] = [
            m
            for m in members[name]
            if named or not any(m == other or is_part(m, other) for other in further)
        ]
    return kept


def minimal(scores: Mapping[Part, float], least: float = MINIMALITY) -> list[Part]:
    """Members whose minimality score (`claims.needed_heads.minimality_score`) is at least ``least``."""
    return [member for member, score in scores.items() if score >= least]
