"""The stages of circuit discovery: path patching along the chain that a spec's groups describe.

Prakash et al., section 3.1: from the answer back to the input. The group without ``into`` is
searched by its direct path to the logits; each further group by its path into the heads already
found, through their q, k or v. Heads are candidates by count (the published way) or by effect:
their mean effect is as large as wanted, and its interval, corrected for the number of heads
looked at, excludes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import ClaimContext, Measure
from pytest_mechanism.discovery.selection import candidates, chain, receivers_of
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.measurements.path_patching import RANK_STREAM, PathPatching
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.types import Head, Measurement


@dataclass(frozen=True)
class Stage:
    """One group's search.

    Attributes:
        group: its name.
        at: named position.
        into: name of the receiving group, or None for the logits.
        via: through which input of the receivers.
        effects: head -> mean change of the answer's log-probability.
        published: head -> mean of (p_patched - p_clean) / p_clean.
        candidates: heads that were taken, strongest first.
        receivers: those of them that the next stage patches into.
        screened_out: possible heads that were estimated by gradient only.
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
        """[layers, heads] of effects; NaN where a head was no possible sender."""
        found = np.full((shape.n_layers, shape.n_heads), np.nan)
        for head, effect in self.effects.items():
            found[head] = effect.value
        return found


def senders(shape: Shape, receivers: Sequence[Head] | None) -> list[Head]:
    """Heads that can reach the receivers at all: those of lower layers; all for the logits."""
    if receivers is None:
        return shape.heads()
    highest = max(layer for layer, _ in receivers)
    return [(layer, head) for layer, head in shape.heads() if layer < highest]


def sweep(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    possible: Sequence[Head],
    receivers: Sequence[Head] | None,
    rows: int,
) -> Measurement:
    """Path patching of every sender."""
    request = PathPatching(
        senders={f"{layer}.{head}": [[layer, head]] for layer, head in possible},
        at=group.at,
        receivers=[] if receivers is None else sorted(receivers),
        via=group.into.via if group.into else None,
        rows=rows,
        stream=RANK_STREAM,
    )
    return context.measurement(request, on)


def screened(
    context: ClaimContext,
    on: str,
    group: AnyGroup,
    possible: Sequence[Head],
    measure: Measure,
    rows: int,
) -> list[Head]:
    """Those of the possible senders that deserve an exact look: all, or the ``screen.keep`` with
    the largest estimates by gradient, and in any case the heads that the group names."""
    screen = group.find.screen if group.find is not None else None
    if screen is None or screen.keep >= len(possible):
        return list(possible)
    request = AttributionPatching(heads=possible, at=group.at, rows=rows, stream=RANK_STREAM)
    seen = measure(context.measurement(request, on)).values
    size = {(layer, h): abs(float(np.mean(seen[f"{layer}.{h}"]))) for layer, h in possible}
    kept = set(sorted(possible, key=lambda head: -size[head])[: screen.keep])
    named = set(group.members()) if isinstance(group, Group) else set()
    return [head for head in possible if head in kept | named]


def search(context: ClaimContext, on: str, measure: Measure, rows: int) -> list[Stage]:
    """Every group's stage, from the answer back. A group with named heads is searched all the
    same, for its scores, and passes on the heads that it names."""
    found: dict[str, Stage] = {}
    for name in chain(context.groups):
        group = context.groups[name]
        receivers = found[group.into.group].receivers if group.into else None
        heard = receivers is None or bool(receivers)
        possible = senders(context.shapes[on], receivers) if heard else []
        looked_at = screened(context, on, group, possible, measure, rows)
        effects: dict[Head, Estimate] = {}
        published: dict[Head, float] = {}
        if looked_at:
            seen = measure(sweep(context, on, group, looked_at, receivers, rows))
            # Bonferroni: the chance that any possible head is wrongly taken stays small
            how = Sampling(
                seen.clusters, 1 - (1 - context.confidence) / len(possible), context.seed
            )
            for key, values in seen.values.items():
                if not key.startswith("ratio "):
                    layer, head = map(int, key.split("."))
                    effects[layer, head] = estimates.mean(values, how)
                    published[layer, head] = float(np.mean(seen.values[f"ratio {key}"]))
        if isinstance(group, Group):
            taken = passed = group.members()
        else:
            taken = candidates(effects, group.find)
            passed = receivers_of(taken, group.find)
        found[name] = Stage(
            name,
            group.at,
            group.into.group if group.into else None,
            group.into.via if group.into else None,
            effects,
            published,
            tuple(taken),
            tuple(passed),
            len(possible) - len(looked_at),
        )
    return list(found.values())
