"""Minimality: is each head of a circuit needed?

Heads of a group stand in for each other, so a head's absence is judged where it matters most. Of
the N other heads u of its group, K are the first ceil(0.3 N) by F(C without u) - F(C without u and v),
positive ones only; the head's effect is F(C without K) - F(C without K and v), and the published
score is F(C without K) / F(C without K and v) - 1 (Prakash et al., appendix).

Other than published:

- K is chosen on rows of its own, so that no head is judged on the rows that chose against it.
- The published code leaves out pairs of equal head index in different layers, a slip.
- What is judged is the effect, a difference; the published score is a ratio, reported beside it. It
  has no interval where the circuit has nothing left without the head on some resample.
- p and Holm's correction are ours: the paper keeps a head by its score alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pytest_mechanism.claims.base import ClaimContext, Measure
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Head, Measurement, Observations


def at_most(others: int) -> int:
    """ceil(0.3 N): how many of N other heads may be in K. In whole numbers, since 0.3 is none."""
    return -(-3 * others // 10)


SELECT = "minimality_select"
"""Rows on which K is chosen."""

Member = tuple[str, Head]
"""(group, head)."""

Circuit = Mapping[str, Sequence[Head]]
"""Group -> heads."""


@dataclass(frozen=True)
class Needed:
    """How much a circuit needs one head.

    Attributes:
        group: its group.
        head: which.
        without: K, the heads taken out beside it.
        effect: F(C without K) - F(C without K and the head), accuracy on the same rows.
        score: the published one; infinite where the circuit has nothing left without the head.
        published: the same with its interval, or None where it is infinite on some resample.
        p: chance of an effect this large were the true one the threshold (`exceeds`).
    """

    group: str
    head: Head
    without: tuple[Head, ...]
    effect: Estimate
    score: float
    published: Estimate | None
    p: float


@dataclass(frozen=True)
class Minimality:
    """What a circuit's heads and groups are worth to it.

    Attributes:
        heads: one entry a head.
        groups: group -> accuracy that the circuit loses without it. Where that is nothing, the
            ablation value itself carries what the group writes (a positional mean holds the
            ordinal of a segment), and minimality cannot speak about the group's heads.
    """

    heads: tuple[Needed, ...]
    groups: Mapping[str, Estimate]

    def speaks_about(self, group: str) -> bool:
        return self.groups[group].interval[0] > 0


def without(
    context: ClaimContext, on: str, circuit: Circuit, leave_out: Sequence[Member]
) -> list[list[object]]:
    """The circuit as [layer, head, position] less some members."""
    gone = set(leave_out)
    return [
        [layer, head, context.groups[name].at]
        for name, heads in circuit.items()
        for layer, head in heads
        if (name, (layer, head)) not in gone
    ]


def ask(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    cuts: Mapping[str, Sequence[Member]],
    rows: int,
    stream: str,
) -> Measurement:
    """The circuit with each cut made."""
    request = CircuitPerformance(
        rows=rows,
        stream=stream,
        ablation=context.ablation,
        alive={name: without(context, on, circuit, cut) for name, cut in cuts.items()},
    )
    return context.measurement(request, on)


def spelled(cut: Sequence[Member]) -> str:
    return "+".join(f"{group}:{layer}.{head}" for group, (layer, head) in cut) or "nothing"


def stand_ins(
    context: ClaimContext, on: str, circuit: Circuit, group: str, measure: Measure, rows: int
) -> dict[Head, tuple[Head, ...]]:
    """K of each head of a group."""
    heads = list(circuit[group])
    cuts: list[list[Member]] = [[(group, h)] for h in heads]
    cuts += [[(group, u), (group, v)] for u, v in combinations(heads, 2)]
    seen = measure(ask(context, on, circuit, {spelled(c): c for c in cuts}, rows, SELECT))

    def accuracy(*gone: Head) -> float:
        cut = [(group, h) for h in heads if h in gone]
        return float(np.mean(seen.values[f"{spelled(cut)}_correct"]))

    found: dict[Head, tuple[Head, ...]] = {}
    for v in heads:
        gains = {u: accuracy(u) - accuracy(u, v) for u in heads if u != v}
        most = at_most(len(gains))
        best = sorted((u for u in gains if gains[u] > 0), key=lambda u: -gains[u])[:most]
        found[v] = tuple(sorted(best))
    return found


def measure_minimality(
    context: ClaimContext,
    on: str,
    circuit: Circuit,
    measure: Measure,
    select_rows: int,
    rows: int,
    stream: str,
    threshold: float = 0.0,
) -> Minimality:
    """Every head of the circuit, K chosen on `SELECT` rows, effects on ``stream`` rows; ``threshold``
    is the effect that `Needed.p` is about."""
    chosen = {
        group: stand_ins(context, on, circuit, group, measure, select_rows)
        for group in circuit
        if circuit[group]
    }
    cuts: dict[str, list[Member]] = {}
    for group, of in chosen.items():
        for head, k in of.items():
            cuts[f"{group}:{head[0]}.{head[1]} kept"] = [(group, u) for u in k]
            cuts[f"{group}:{head[0]}.{head[1]} gone"] = [(group, u) for u in (*k, head)]
        cuts[f"{group} gone"] = [(group, u) for u in of]
    cuts["nothing gone"] = []
    seen = measure(ask(context, on, circuit, cuts, rows, stream))
    return Minimality(
        tuple(
            needed(context, group, head, k, seen, threshold)
            for group, of in chosen.items()
            for head, k in of.items()
        ),
        {
            group: estimates.difference(
                seen.values["nothing gone_correct"],
                seen.values[f"{group} gone_correct"],
                context.sampling(seen),
            )
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


def needed(
    context: ClaimContext,
    group: str,
    head: Head,
    k: tuple[Head, ...],
    seen: Observations,
    threshold: float = 0.0,
) -> Needed:
    """One head's effect and scores."""
    name = f"{group}:{head[0]}.{head[1]}"
    kept = np.asarray(seen.values[f"{name} kept_correct"])
    gone = np.asarray(seen.values[f"{name} gone_correct"])
    try:
        published = estimates.of_means([kept, gone], lambda k, g: k / g - 1, context.sampling(seen))
    except estimates.UndefinedScoreError:
        published = None
    return Needed(
        group,
        head,
        k,
        estimates.difference(kept, gone, context.sampling(seen)),
        minimality_score(float(kept.mean()), float(gone.mean())),
        published,
        estimates.exceeds(kept - gone, threshold, context.sampling(seen)),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: for when *which* head fails is named."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
