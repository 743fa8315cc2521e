"""From path-patching scores to a circuit: the published rule, with its numbers as arguments.

Prakash et al., section 3 and appendix: the heads with the most negative scores of each group are
candidates; a head that two groups share stays with one of them; a head stays in its group if
taking it out costs the circuit enough (minimality).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pytest_mechanism.types import Head


@dataclass(frozen=True)
class SelectionRule:
    """The rule's numbers; the defaults of `minimality` and `yields` are the published ones.

    Attributes:
        candidates: group -> how many heads with the most negative scores are considered.
        yields: group -> the group to which it gives up the heads that both have.
        minimality: least minimality score with which a head stays.
    """

    candidates: Mapping[str, int]
    yields: Mapping[str, str]
    minimality: float = 0.01


def ranked(scores: ArrayLike, count: int) -> list[Head]:
    """The ``count`` heads with the most negative scores, the most negative first.

    Args:
        scores: [layers, heads].
        count: how many; all where there are fewer.
    """
    table = np.asarray(scores)
    order = np.argsort(table, axis=None, kind="stable")[:count]
    layers, heads = np.unravel_index(order, table.shape)
    return [(int(layer), int(head)) for layer, head in zip(layers, heads, strict=True)]


def minimality_score(without_k: float, without_k_and_head: float) -> float:
    """F(C without K) / F(C without K and the head) - 1; infinite where nothing is left without it.

    Prakash et al., appendix. K are the heads of the group whose absence makes this one matter most.
    """
    if without_k_and_head == 0:
        return float("inf") if without_k > 0 else 0.0
    return without_k / without_k_and_head - 1


def candidates(scores: Mapping[str, ArrayLike], rule: SelectionRule) -> dict[str, list[Head]]:
    """Group -> its candidates, best first, shared heads given up as the rule says.

    Args:
        scores: group -> path-patching scores, [layers, heads].
        rule: counts, and who yields to whom.
    """
    found = {group: ranked(scores[group], count) for group, count in rule.candidates.items()}
    return {
        group: [h for h in heads if h not in found[rule.yields[group]]]
        if group in rule.yields
        else heads
        for group, heads in found.items()
    }


def minimal(
    heads: Sequence[Head], accuracies: Mapping[Head, tuple[float, float]], least: float
) -> list[Head]:
    """The heads whose minimality score is at least ``least``, in order.

    Args:
        heads: candidates of one group.
        accuracies: head -> (F without K, F without K and the head).
        least: threshold.
    """
    return [h for h in heads if minimality_score(*accuracies[h]) >= least]
