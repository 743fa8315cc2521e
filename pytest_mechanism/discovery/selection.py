"""The published rule that turns path-patching scores into a circuit.

Prakash et al., section 3 and appendix: the heads with the most negative scores of each group are its
candidates; a head that is a candidate of two groups at one position leaves the group nearer the answer;
a candidate stays if the circuit needs it (minimality). Discovery applies the rule to the mean change of the
answer's log-probability, the paper to the mean relative change of its probability. Selecting candidates by
effect instead of by count is ours.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence

from pytest_mechanism.fields.groups import AnyGroup, Find, Group
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head

MINIMALITY = 0.01
"""The published threshold: the least minimality score of a head that stays."""


def chain(groups: Mapping[str, AnyGroup]) -> list[str]:
    """Group names from the answer back to the input: a group comes after the group that reads it."""
    readers = {name: [group.into.group] if group.into else [] for name, group in groups.items()}
    return list(graphlib.TopologicalSorter(readers).static_order())


def ranked(effects: Mapping[Head, Estimate]) -> list[Head]:
    """Heads from the most negative effect upwards; ties keep the order of layers and heads."""
    return sorted(effects, key=lambda head: (effects[head].value, head))


def candidates(effects: Mapping[Head, Estimate], find: Find) -> list[Head]:
    """Candidates of a group, strongest first: the published number of heads, or every head whose effect
    is large enough and whose interval excludes 0."""
    if find.candidates is not None:
        return ranked(effects)[: find.candidates]
    return [
        head
        for head in ranked(effects)
        if effects[head].value <= -find.drops_at_least and effects[head].interval[1] < 0
    ]


def receivers_of(heads: Sequence[Head], find: Find) -> list[Head]:
    """The candidates, given strongest first, that the next group is patched into."""
    return list(heads[: find.receivers])


def unshared(
    heads: Mapping[str, list[Head]], groups: Mapping[str, AnyGroup]
) -> dict[str, list[Head]]:
    """Group -> its candidates without those of groups at the same position that are further from the
    answer. A group whose heads the spec names keeps them all."""
    kept: dict[str, list[Head]] = {}
    order = chain(groups)
    for i, name in enumerate(order):
        further = {h for n in order[i + 1 :] if groups[n].at == groups[name].at for h in heads[n]}
        named = isinstance(groups[name], Group)
        kept[name] = [h for h in heads[name] if named or h not in further]
    return kept


def minimal(scores: Mapping[Head, float], least: float = MINIMALITY) -> list[Head]:
    """Heads whose minimality score (`claims.needed_heads.minimality_score`) is at least ``least``."""
    return [head for head, score in scores.items() if score >= least]
