"""The spec's circuit and random circuits of the same sizes, as requests.

If a circuit names no MLP, every MLP is alive in it, and so it is in the random circuits and in the empty one
(Prakash et al. 2024). If it names one, it is a circuit of heads and MLPs: every other MLP is ablated too, at
every position, as heads are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.scoring import RANDOM_ROWS
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.circuit import RANDOM, CircuitPerformance
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import (
    ATTENTION,
    EVERYWHERE,
    MLP,
    Member,
    PlacedMember,
    counted,
    in_order,
)

ActiveHeads = Sequence[PlacedMember]
"""The heads, MLPs and attention outputs that are not ablated."""

CIRCUIT, WITHOUT_ORACLE, EMPTY = "circuit", "circuit_without_oracle", "empty"
"""The circuits that `circuit` measures: the spec's, the same without oracle positions, and none."""


def active_heads(context: ClaimContext, on: str, *, oracle: bool = True) -> list[PlacedMember]:
    """The members of all groups; ``oracle=False`` widens oracle positions.

    A circuit that is active only where the answer is in the prompt gets the answer from its author, so
    it is also measured without such positions (`Task.oracles`).
    """
    return [member for name in context.groups for member in of_group(context, on, name, oracle)]


def of_group(context: ClaimContext, on: str, name: str, oracle: bool = True) -> list[PlacedMember]:
    """The members of a group; ``oracle=False`` widens oracle positions."""
    placed = context.group(name, on).placed()
    if oracle:
        return placed
    return [(layer, part, without_oracle(context, at)) for layer, part, at in placed]


def without_oracle(context: ClaimContext, at: str) -> str:
    """A named position, or a wider one if it is an oracle."""
    return at if at == EVERYWHERE else context.task.without_oracle(at)


def circuit(context: ClaimContext, on: str, *, differences: bool = False) -> Measurement:
    """The spec's circuit, with and without oracle positions, and the model with all heads ablated."""
    variants: dict[str, ActiveHeads] = {CIRCUIT: active_heads(context, on), EMPTY: []}
    wide = active_heads(context, on, oracle=False)
    if wide != variants[CIRCUIT]:
        variants[WITHOUT_ORACLE] = wide
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
    """Name -> random members, as many of each kind at each position as the spec's groups have there.

    Groups at one position share no member, and no head is beside its layer's attention output. A number always
    gives the same circuit.
    """
    shape = context.shapes[on]
    members: dict[str, set[Member]] = {}
    for name in context.groups:
        group = context.group(name, on)
        if group.heads:  # an entry for each position in the order of groups, as ever
            members.setdefault(group.at, set())
        for layer, part, at in group.placed():
            members.setdefault(at, set()).add((layer, part))
    variants: dict[str, ActiveHeads] = {}
    for draw in numbers:
        rng = random.Random(f"random circuits/{context.seed}/{draw}")
        variants[f"{RANDOM}{draw}"] = [
            (*member, at)
            for at, like in members.items()
            for member in draw_members(shape, like, rng)
        ]
    return variants


def draw_members(shape: Shape, like: Iterable[Member], rng: random.Random) -> list[Member]:
    """Random members of a model, as many of each kind as there are in ``like``."""
    count = Counter(part if isinstance(part, str) else "head" for _, part in like)
    layers, heads = range(shape.n_layers), shape.heads()
    drawn: list[Member] = []
    if count[ATTENTION]:
        whole = rng.sample(layers, count[ATTENTION])
        drawn += [(layer, ATTENTION) for layer in whole]
        heads = [head for head in heads if head[0] not in whole]
        if len(heads) < count["head"]:
            raise MeasurementError(
                f"no random circuit has {counted(part for _, part in like)} at one position: the model has "
                f"too few heads in other layers than the attention outputs"
            )
    drawn += rng.sample(heads, count["head"])
    drawn += [(layer, MLP) for layer in rng.sample(layers, count[MLP])]
    return sorted(drawn, key=in_order)


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
        alive={name: context.nodes(members, on) for name, members in variants.items()},
        ablate_mlps=context.ablates_mlps,
        differences=differences,
    )
    return context.measurement(request, on)
