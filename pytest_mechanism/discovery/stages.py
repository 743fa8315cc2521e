"""The stages of circuit discovery: path patching along the chain that a spec's groups describe.

Prakash et al., section 3.1, from the answer back to the input: the group without ``into`` is searched by
its direct path to the logits, and each further group by its path into the heads that the previous stage
found, through their q, k or v. `selection` turns the effects into candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.discovery.selection import candidates, chain, receivers_of
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import RANK_STREAM, PathPatching
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.types import Head


@dataclass(frozen=True)
class Stage:
    """The search for the heads of one group.

    Attributes:
        group: name of the group.
        at: named position.
        into: name of the receiving group, or None for the logits.
        via: the input of the receivers that is patched.
        effects: head -> mean change of the answer's log-probability.
        published: head -> mean of (p_patched - p_clean) / p_clean.
        candidates: the selected heads, strongest first.
        receivers: the candidates that the next stage patches into.
        screened_out: number of possible senders whose effect was estimated by gradient only.
    """

    group: str
    at: str
    into: str | None
    via: str | None
    effects: Mapping[Head, Estimate]
    published: Mapping[Head, float]
    candidates: tuple[Head, ...]
    receivers: tuple[Head, ...]
    screened_out: int = 0

    def table(self, shape: Shape) -> NDArray[np.float64]:
        """[layers, heads] of effects; NaN for a head that was not patched."""
        table = np.full((shape.n_layers, shape.n_heads), np.nan)
        for head, effect in self.effects.items():
            table[head] = effect.value
        return table


def senders(shape: Shape, receivers: Sequence[Head] | None) -> list[Head]:
    """Heads that can reach the receivers: those of lower layers, or all heads for the logits."""
    if receivers is None:
        return shape.heads()
    highest = max(layer for layer, _ in receivers)
    return [(layer, head) for layer, head in shape.heads() if layer < highest]


def patched_heads(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    heads: Sequence[Head],
    receivers: Sequence[Head] | None,
    rows: int,
) -> Measurement:
    """Path patching of each head alone."""
    request = PathPatching(
        senders={f"{layer}.{head}": [[layer, head]] for layer, head in heads},
        at=group.at,
        receivers=[] if receivers is None else sorted(receivers),
        via=group.into.via if group.into else None,
        rows=rows,
        stream=RANK_STREAM,
    )
    return context.measurement(request, on)


def screen(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    possible: Sequence[Head],
    measure: Measure,
    rows: int,
) -> list[Head]:
    """The possible senders to be path patched: all, or the ``screen.keep`` heads with the largest
    estimates by gradient and the heads that the group names."""
    keep = group.find.screen.keep if group.find and group.find.screen else len(possible)
    if keep >= len(possible):
        return list(possible)
    request = AttributionPatching(heads=possible, at=group.at, rows=rows, stream=RANK_STREAM)
    estimated = measure(context.measurement(request, on)).values
    size = {(layer, h): abs(float(np.mean(estimated[f"{layer}.{h}"]))) for layer, h in possible}
    kept = set(sorted(possible, key=lambda head: -size[head])[:keep])
    named = set(group.members()) if isinstance(group, Group) else set()
    return [head for head in possible if head in kept | named]


def search(context: ClaimContext, on: str, measure: Measure, rows: int) -> list[Stage]:
    """The stage of every group, from the answer back. A group whose heads the spec names is searched
    for its scores; its named heads are the candidates and receivers."""
    stages: dict[str, Stage] = {}
    for name in chain(context.groups):
        group = context.groups[name]
        receivers = stages[group.into.group].receivers if group.into else None
        has_receivers = receivers is None or bool(receivers)
        possible = senders(context.shapes[on], receivers) if has_receivers else []
        heads = screen(context, on, group, possible, measure, rows)
        effects: dict[Head, Estimate] = {}
        published: dict[Head, float] = {}
        if heads:
            measured = measure(patched_heads(context, on, group, heads, receivers, rows))
            # Bonferroni: the chance that any possible sender is wrongly selected stays small
            confidence = 1 - (1 - context.confidence) / len(possible)
            sampling = Sampling(measured.clusters, confidence, context.seed)
            for layer, head in heads:
                column = f"{layer}.{head}"
                effects[layer, head] = estimates.mean(measured.values[column], sampling)
                published[layer, head] = float(np.mean(measured.values[f"ratio {column}"]))
        if isinstance(group, Group):
            selected = passed_on = group.members()
        else:
            selected = candidates(effects, group.find)
            passed_on = receivers_of(selected, group.find)
        stages[name] = Stage(
            name,
            group.at,
            group.into.group if group.into else None,
            group.into.via if group.into else None,
            effects,
            published,
            tuple(selected),
            tuple(passed_on),
            len(possible) - len(heads),
        )
    return list(stages.values())
