"""Model grafting of one member at a time: a head, an MLP or a layer with another model's weights, all else as it is.

    M_B(x)  with the weights of member m of model A                        (B is the recipient)

Panigrahi et al. 2023 (arXiv 2302.06600), section 2, whose grafted region is here one member. What the member then gives
is computed from what B's own earlier parts tell it. So a member that only *reads* something else gains nothing from the
graft, and the one that *does* something else gains all. Activations of A in B (`methods.circuits.exchange`) repair the
readers of a broken head as well as the head, and not a head whose W_O is broken.

No weight of the run is changed. Layer l with A's weights is called once on what B's layer l was given, which yields
A's z of every head on B's stream, z'; attention's output of B with head h grafted is then exactly

    attn_out + z'_h W'_O,h - z_h W_O,h

and a branch with this edit is the grafted model. A head's graft has A's norm before it and A's key-value head, an MLP's
graft A's norm before it, so that a norm folded into the next matrix changes nothing. The bias of W_O is A's only where
all heads of the layer are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import SiteHook, edited
from pytest_mechanism.engine.tolerance import TOLERANCE
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.grafting import BEFORE, MemberGraft
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probabilities, log_probability
from pytest_mechanism.methods.weights.member_weights import Weights, heads_of
from pytest_mechanism.model_families.layers import recorded_calls
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.nodes import MLP, Node
from pytest_mechanism.types import Observations

Call = dict[str, Any]
"""How a layer was called: its arguments by name."""


def measure(
    context: MeasurementContext, request: MemberGraft, inputs: Sequence[Any]
) -> Observations:
    """Log-probability that a right answer comes next: ``before``, and ``{name}`` for each member.

    Raises:
        MeasurementError: the two models' layers differ in size, or heads do not add up to attention's output.
    """
    weights: Weights = inputs[0]
    members = by_layer(request.members)
    check_sizes(context, weights, members)
    rows = context.task.row_set("rows", context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        run = context.engine.run(batch.base.tokens)
        columns.add(BEFORE, log_probability(run.outcome.logits, batch.correct_answers))
        names, branches = [], []
        calls = layer_calls(context, batch.base.tokens)
        for layer, of_layer in members.items():
            for name, edits in grafts(context, layer, of_layer, weights, calls[layer]):
                names.append(name)
                branches.append(Branch(edits))
        found = log_probabilities(run.branches(branches), batch.correct_answers)
        for name, values in zip(names, found, strict=True):
            columns.add(name, values)
    return columns.observations(rows)


def by_layer(members: Mapping[str, Sequence[Node]]) -> dict[int, dict[str, Sequence[Node]]]:
    """Layer -> its members.

    Raises:
        MeasurementError: a member lies in several layers, of which the later would read the earlier.
    """
    found: dict[int, dict[str, Sequence[Node]]] = {}
    for name, nodes in members.items():
        layers = {layer for layer, _ in nodes}
        if len(layers) != 1:
            raise MeasurementError(f"a graft is of one layer, and {name} has {len(layers)}")
        found.setdefault(layers.pop(), {})[name] = nodes
    return found


def check_sizes(
    context: MeasurementContext, weights: Weights, members: Mapping[int, Mapping[str, Any]]
) -> None:
    """Every grafted layer has the same parameters in both models, as plain numbers.

    Raises:
        MeasurementError: one has not, or does not stay in memory: what is written to it would be lost.
    """
    for layer in members:
        given = weights.get(f"layer {layer}", ())
        own = [*context.model.wrapped.layers[layer].module.parameters()]
        if any(tensor.is_meta for tensor in own):
            raise MeasurementError(
                f"weights of layer {layer} do not fit into memory, so nothing can be grafted"
            )
        sizes = [tensor.shape for tensor in own]
        if sizes != [t.shape for t in given] or not all(
            t.is_floating_point() for t in (*own, *given)
        ):
            raise MeasurementError(
                f"layer {layer} has other parameters in the two models, so nothing can be grafted"
            )


def layer_calls(context: MeasurementContext, tokens: Tokens) -> list[Call]:
    """How each layer is called on a batch."""
    model = context.model.wrapped
    with torch.no_grad(), recorded_calls(model.layers) as recorder, row_lengths(tokens.lengths):
        model.forward(tokens.ids, tokens.mask_for(model.plain), use_cache=False)
    context.tick(len(tokens.ids))
    return recorder.inputs


@torch.no_grad()
def grafts(
    context: MeasurementContext,
    layer: int,
    members: Mapping[str, Sequence[Node]],
    weights: Weights,
    call: Call,
) -> Iterator[tuple[str, list[Edit]]]:
    """Each member of a layer with the edits that graft it.

    Raises:
        MeasurementError: heads do not add up to attention's output, but for a bias.
    """
    attention, mlp, z_site = Site(layer, "attn_out"), Site(layer, "mlp_out"), Site(layer, "z")
    n_heads = context.model.shape.n_heads
    heads = {name: [part for _, part in nodes if part != MLP] for name, nodes in members.items()}
    alone = any(0 < len(of_member) < n_heads for of_member in heads.values())
    whole, z = called(context, call, [Reading(attention), Reading(z_site)])
    own = head_writes(context, layer, z) if alone else None
    if own is not None:
        rest = whole[:, :, 0].float() - own.sum(2)  # the same bias at every token
        if not small(rest - rest[:1, :1], whole, context.model.dtype):
            raise MeasurementError(
                f"the heads of layer {layer} do not add up to attention's output, so no head can be grafted alone"
            )
    with replaced(context.model.wrapped.layers[layer].module, weights[f"layer {layer}"]):
        given, theirs = called(context, call, [Reading(attention), Reading(z_site)])
        change = None if own is None else head_writes(context, layer, theirs) - own
        for name, nodes in members.items():
            value = given if len(heads[name]) == n_heads else whole
            if change is not None and value is whole:
                value = whole + change[:, :, heads[name]].sum(2, keepdim=True).to(whole.dtype)
            edits = [Edit(attention, value)] if heads[name] else []
            if (layer, MLP) in nodes:
                (read,) = called(context, call, [Reading(mlp)], [Edit(attention, value)])
                edits.append(Edit(mlp, read))
            yield name, edits


def small(gap: Tensor, of: Tensor, dtype: torch.dtype) -> bool:
    """Whether numbers are rounding errors of others."""
    return float(gap.abs().max()) <= 10 * TOLERANCE[dtype] * max(float(of.float().std()), 1e-12)


def called(
    context: MeasurementContext, call: Call, readings: Sequence[Reading], edits: Sequence[Edit] = ()
) -> list[Float[Tensor, "rows tokens heads width"]]:
    """What is read when one layer is called as it was, with its present weights and with some edits."""
    model = context.model.wrapped
    layer = readings[0].site.layer
    hooks = {reading.site: SiteHook((), [(i, reading)]) for i, reading in enumerate(readings)}
    for edit in edits:
        hooks[edit.site] = SiteHook([partial(edited, edit=edit)], ())
    with model.hooked([(site.hook, hook) for site, hook in hooks.items()]):
        model.layers[layer].module(**call)
    values: dict[int, Tensor] = {}
    for hook in hooks.values():
        values |= hook.values
    return [values[i] for i in range(len(readings))]


def head_writes(
    context: MeasurementContext, layer: int, z: Float[Tensor, "rows tokens heads d_head"]
) -> Float[Tensor, "rows tokens heads d_model"]:
    """z_h W_O,h of every head, with the layer's present weights.

    Raises:
        MeasurementError: the family does not keep the matrices of its heads apart.
    """
    attention = context.model.wrapped.layers[layer].module.attn
    written = [matrices[3] for _, matrices in heads_of(attention, layer, z.shape[2])]
    if not written:
        raise MeasurementError(f"the heads of layer {layer} have no matrices of their own")
    return torch.einsum("rthw,hwd->rthd", z.float(), torch.stack(written).float())


@contextmanager
def replaced(module: torch.nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Context in which a module's parameters have other values, and after which they have their own again."""
    own = [*module.parameters()]
    kept = [parameter.detach().clone() for parameter in own]
    try:
        for parameter, value in zip(own, weights, strict=True):
            parameter.data.copy_(value)
        yield
    finally:
        for parameter, value in zip(own, kept, strict=True):
            parameter.data.copy_(value)
