"""How much a circuit needs each of its heads (minimality).

The MLPs and attention outputs of a group are measured in the same way as its heads.

Heads of a group can replace each other, so a head is judged where its absence matters most. Of the
N other heads u of its group, K are the first ceil(0.3 N) by F(C without u) - F(C without u and v),
positive ones only. The head's effect is F(C without K) - F(C without K and v), and the published
score is F(C without K) / F(C without K and v) - 1 (Prakash et al., appendix).

Differences from the paper:

- Separate rows choose K, so that no head is judged on the rows that chose its K.
- The published code leaves out pairs of equal head index in different layers, by mistake.
- The effect, a difference, is judged. The published score is a ratio and has no interval if the
  circuit has nothing left without the head on some resample; it is reported too.
- The p-value and Holm's correction are ours: the paper keeps a head by its score alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pytest_mechanism.claims.circuits import of_variants
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.circuit import SELECT_STREAM
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import PlacedMember, in_order, spelled
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Observations


def at_most(others: int) -> int:
    """ceil(0.3 N): how many of N other heads may be in K, in integers because 0.3 is not exact."""
    return -(-3 * others // 10)


Part = tuple[Any, ...]
"""What is needed or not: a head, which works at the position of its group, or a member with its own position."""

Member = tuple[str, Part]
"""(group, head or placed member)."""

Circuit = Mapping[str, Sequence[Part]]
"""Group -> heads or placed members."""


@dataclass(frozen=True)
class HeadCost:
    """How much a circuit needs one head.

    Attributes:
        group: of the head.
        head: which.
        without: K, the heads ablated together with it.
        effect: F(C without K) - F(C without K and the head), accuracy on the same rows.
        score: the published one; infinite if the circuit has nothing left without the head.
        published: the same with its interval, or None if it is infinite on some resample.
        p: p-value of the hypothesis that the effect is no larger than the threshold (`exceeds`).
    """

    group: str
    head: Part
    without: tuple[Part, ...]
    effect: Estimate
    score: float
    published: Estimate | None
    p: float

    def __str__(self) -> str:
        return f"{spelled(self.head)} of {self.group}"


@dataclass(frozen=True)
class Minimality:
    """How much a circuit needs its heads and groups.

    Attributes:
        heads: every head of the circuit.
        groups: group -> accuracy that the circuit loses without it. If it loses nothing, the ablation
            value itself carries what the group writes (a positional mean holds the ordinal of a
            segment), and minimality cannot judge the group's heads.
    """

    heads: tuple[HeadCost, ...]
    groups: Mapping[str, Estimate]

    def can_judge(self, group: str) -> bool:
        return self.groups[group].interval[0] > 0


def cut_circuits(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    cuts: Mapping[str, Sequence[Member]],
    rows: int,
    stream: str,
) -> Measurement:
    """The accuracy of the circuit without the members of each cut."""
    alive = {
        name: [
            placed(context, group, part)
            for group, parts in circuit.items()
            for part in parts
            if (group, part) not in cut
        ]
        for name, cut in cuts.items()
    }
    return of_variants(context, on, alive, rows, stream)


def cut_name(cut: Sequence[Member]) -> str:
    return "+".join(f"{group}:{spelled(part)}" for group, part in cut) or "nothing"


def placed(context: ClaimContext, group: str, part: Part) -> PlacedMember:
    """A part of a circuit with its position."""
    layer, number, *at = part
    return (layer, number, *(at or [context.groups[group].at]))


def parts_of(group: Group) -> list[Part]:
    """The members of a group; heads without a position, since they have the group's."""
    members = group.placed()
    return [(m[0], m[1]) if isinstance(m[1], int) else m for m in members]


def replacements(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    group: str,
    measure: Measure,
    rows: int,
    partners: int | None = None,
) -> dict[Part, tuple[Part, ...]]:
    """K of each head of a group; with ``partners``, only that many first heads of the group may be in K."""
    heads = list(circuit[group])
    may_replace = {*heads[:partners]}
    cuts: list[list[Member]] = [[(group, head)] for head in heads]
    cuts += [
        [(group, u), (group, v)]
        for u, v in combinations(heads, 2)
        if u in may_replace or v in may_replace
    ]
    named = {cut_name(cut): cut for cut in cuts}
    observations = measure(cut_circuits(context, on, circuit, named, rows, SELECT_STREAM))

    def accuracy(*without: Part) -> float:
        cut = [(group, head) for head in heads if head in without]
        return float(np.mean(observations.values[f"{cut_name(cut)}_correct"]))

    sets: dict[Part, tuple[Part, ...]] = {}
    for v in heads:
        gains = {u: accuracy(u) - accuracy(u, v) for u in heads if u != v and u in may_replace}
        best = sorted((u for u in gains if gains[u] > 0), key=lambda u: -gains[u])
        sets[v] = tuple(sorted(best[: at_most(len(heads) - 1)], key=in_order))
    return sets


def measure_minimality(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    measure: Measure,
    select_rows: int,
    rows: int,
    stream: str,
    threshold: float = 0.0,
    partners: int | None = None,
) -> Minimality:
    """The cost of every head and group of the circuit.

    Args:
        context: of the claim or the search.
        on: role of the model.
        circuit: group -> heads.
        measure: gives results.
        select_rows: rows of `SELECT_STREAM`, on which K is chosen.
        rows: rows of ``stream``, on which effects are measured.
        stream: of random numbers.
        threshold: the effect that `HeadCost.p` tests against.
        partners: how many heads of each group, the first ones, may be in K; None is all. The choice of
            K measures pairs of heads, so its cost grows with the square of the group's size.
    """
    chosen = {
        group: replacements(context, on, circuit, group, measure, select_rows, partners)
        for group in circuit
        if circuit[group]
    }
    cuts: dict[str, list[Member]] = {}
    for group, sets in chosen.items():
        for part, k in sets.items():
            cuts[f"{group}:{spelled(part)} kept"] = [(group, u) for u in k]
            cuts[f"{group}:{spelled(part)} gone"] = [(group, u) for u in (*k, part)]
        cuts[f"{group} gone"] = [(group, u) for u in sets]
    cuts["nothing gone"] = []
    observations = measure(cut_circuits(context, on, circuit, cuts, rows, stream))
    whole = observations.values["nothing gone_correct"]
    how = context.sampling(observations)
    return Minimality(
        tuple(
            head_cost(context, group, head, k, observations, threshold)
            for group, sets in chosen.items()
            for head, k in sets.items()
        ),
        {
            group: estimates.difference(whole, observations.values[f"{group} gone_correct"], how)
            for group in chosen
        },
    )


def minimality_score(without_k: float, without_k_and_head: float) -> float:
    """F(C without K) / F(C without K and the head) - 1; infinite where nothing is left without it.

    Prakash et al., appendix. K are the heads of the group whose absence makes this one matter most.
    """
    if without_k_and_head == 0:
        return float("inf") if without_k > 0 else 0.0
    return without_k / without_k_and_head - 1


def head_cost(
    context: ClaimContext,
    group: str,
    head: Part,
    k: tuple[Part, ...],
    observations: Observations,
    threshold: float,
) -> HeadCost:
    """The effect and the scores of one head."""
    name = f"{group}:{spelled(head)}"
    kept = np.asarray(observations.values[f"{name} kept_correct"])
    gone = np.asarray(observations.values[f"{name} gone_correct"])
    how = context.sampling(observations)
    try:
        published = estimates.of_means([kept, gone], lambda k, g: k / g - 1, how)
    except estimates.UndefinedScoreError:
        published = None
    return HeadCost(
        group,
        head,
        k,
        estimates.difference(kept, gone, how),
        minimality_score(float(kept.mean()), float(gone.mean())),
        published,
        estimates.exceeds(kept - gone, threshold, how),
    )
