"""Heads of two models that do the same at other indices, or in another basis of z.

Heads of a layer may change places, and z of a head may be rotated if its output matrix undoes it: the model
computes the same. No training does this; a conversion may. Heads are matched by what they write on the rows
(`methods.circuits.matching`), the best assignment within each layer by SciPy's Hungarian algorithm. A layer counts
as reordered only if *every* head of it is matched: where training moved the work of one head to another, the
silent head matches none, and that is a change of the mechanism and not of the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.profile_stages import Stage
from pytest_mechanism.measurements.cmap import CODE_ROWS, LEAST_AGREEMENT, ActivationDonation
from pytest_mechanism.measurements.matching import HeadMatching, LayerMatch, MatchResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.types import Head


@dataclass(frozen=True)
class OtherPlaces:
    """Where the heads of the reference model are in another model.

    Attributes:
        moved: head of the reference model -> the head that does its work; without heads that stayed.
        turned: heads that stayed and write z in another basis.
    """

    moved: dict[Head, Head]
    turned: tuple[Head, ...] = ()

    def sentences(self, source: str) -> list[str]:
        """What a reader has to know, in words.

        Args:
            source: role of the reference model.
        """
        lines = []
        for layer in sorted({layer for layer, _ in self.moved}):
            order = [f"{h} -> {g}" for (at, h), (_, g) in sorted(self.moved.items()) if at == layer]
            lines.append(
                f"layer {layer}'s heads are those of {source} in another order: {', '.join(order)}"
            )
        if self.turned:
            named = ", ".join(f"{layer}.{head}" for layer, head in self.turned)
            lines.append(
                f"{'head' if len(self.turned) == 1 else 'heads'} {named}: the same work in another basis of z, "
                "which the output matrix undoes"
            )
        return lines


def matching(
    context: ClaimContext, source: str, to: str, layers: Sequence[int], positions: Sequence[str]
) -> Measurement[MatchResult]:
    """All heads of some layers of both models, compared at some positions."""
    heads = [
        (layer, head, at)
        for layer in sorted({*layers})
        for at in dict.fromkeys(positions)
        for head in range(context.shapes[source].n_heads)
    ]
    donation = ActivationDonation(heads=heads, rows=min(CODE_ROWS, context.rows), stream="rows")
    request = HeadMatching(rows=min(CODE_ROWS, context.rows), stream="rows")
    return context.measurement(request, to, (context.measurement(donation, source),))


def places_in_circuit(
    context: ClaimContext, source: str, to: str, measure: Measure, of: Sequence[Stage]
) -> OtherPlaces:
    """Where the heads of the model of role ``source`` are in another model, in the layers of a circuit's stages."""
    layers = sorted({node[0] for stage in of for node in (*stage.own, *stage.receivers)})
    request = matching(context, source, to, layers, [stage.at for stage in of])
    return other_places(measure(request))


def other_places(result: MatchResult) -> OtherPlaces:
    """Heads that changed places, and heads whose z is written in another basis."""
    moved: dict[Head, Head] = {}
    turned: list[Head] = []
    for layer in result.layers:
        order = assigned(layer)
        if order is None:
            continue
        for head, other in enumerate(order):
            if other != head:
                moved[layer.layer, head] = (layer.layer, other)
            elif layer.codes[head] < LEAST_AGREEMENT:
                turned.append((layer.layer, head))
    return OtherPlaces(moved, tuple(turned))


def assigned(layer: LayerMatch) -> list[int] | None:
    """For each head of the reference model, the head that does its work; None where some head has none."""
    agreement = np.asarray(layer.writes)
    if np.all(np.diag(agreement) >= LEAST_AGREEMENT):
        return [*range(len(agreement))]
    _, columns = scipy.optimize.linear_sum_assignment(agreement, maximize=True)
    if np.any(agreement[range(len(agreement)), columns] < LEAST_AGREEMENT):
        return None
    return [int(column) for column in columns]
