"""The spec's circuit and random circuits of the same sizes, as requests."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.scoring import RANDOM_ROWS
from pytest_mechanism.measurements.circuit import RANDOM, CircuitPerformance
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import PlacedHead
from pytest_mechanism.types import Head

ActiveHeads = Sequence[PlacedHead]
"""The heads that are not ablated."""

CIRCUIT, WITHOUT_ORACLE, EMPTY = "circuit", "circuit_without_oracle", "empty"
"""The circuits that `circuit` measures: the spec's, the same without oracle positions, and none."""


def active_heads(context: ClaimContext, on: str, *, oracle: bool = True) -> ActiveHeads:
    """The heads of all groups; ``oracle=False`` widens oracle positions.

    A circuit that is active only where the answer is in the prompt gets the answer from its author, so
    it is also measured without such positions (`Task.oracles`).
    """
    heads: list[PlacedHead] = []
    for name in context.groups:
        group = context.group(name, on)
        at = group.at if oracle else context.task.without_oracle(group.at)
        heads += [(layer, head, at) for layer, head in group.members()]
    return heads


def circuit(context: ClaimContext, on: str, *, differences: bool = False) -> Measurement:
    """The spec's circuit, with and without oracle positions, and the model with all heads ablated."""
    variants: dict[str, ActiveHeads] = {CIRCUIT: active_heads(context, on), EMPTY: []}
    if any(context.task.without_oracle(group.at) != group.at for group in context.groups.values()):
        variants[WITHOUT_ORACLE] = active_heads(context, on, oracle=False)
    return of_variants(context, on, variants, context.rows, differences=differences)


def random_circuits(
    context: ClaimContext, on: str, draws: int, first: int = 0, *, differences: bool = False
) -> Measurement:
    """Circuits of random heads, see `draw_circuits`.

    Args:
        context: of the claim.
        on: role of the model.
        draws: how many circuits.
        first: number of the first circuit; earlier circuits have been measured.
        differences: whether the logit difference is measured too.
    """
    variants = draw_circuits(context, on, range(first, first + draws))
    rows = min(context.rows, RANDOM_ROWS)
    return of_variants(context, on, variants, rows, differences=differences)


def draw_circuits(context: ClaimContext, on: str, numbers: Iterable[int]) -> dict[str, ActiveHeads]:
    """Name -> random heads, as many at each position as the spec's groups have there.

    Groups at one position share no head. A number always gives the same circuit.
    """
    shape = context.shapes[on]
    members: dict[str, set[Head]] = {}
    for name in context.groups:
        group = context.group(name, on)
        members.setdefault(group.at, set()).update(group.members())
    variants: dict[str, ActiveHeads] = {}
    for draw in numbers:
        rng = random.Random(f"random circuits/{context.seed}/{draw}")
        variants[f"{RANDOM}{draw}"] = [
            (layer, head, at)
            for at, heads in members.items()
            for layer, head in sorted(rng.sample(shape.heads(), len(heads)))
        ]
    return variants


def of_variants(
    context: ClaimContext,
    on: str,
    variants: Mapping[str, ActiveHeads],
    rows: int,
    stream: str = "rows",
    *,
    differences: bool = False,
) -> Measurement:
    """The accuracy of several circuits on the same rows."""
    request = CircuitPerformance(
        rows=rows,
        stream=stream,
        ablation=context.ablation,
        alive=dict(variants),
        differences=differences,
    )
    return context.measurement(request, on)
