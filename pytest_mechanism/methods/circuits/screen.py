"""Attribution patching as a screen: which senders are worth path patching.

Nanda 2023; Syed et al. 2023; integrated as in Hanna et al. 2024 (EAP-IG). Path patching (`path_patching`) as a
function of how much of each sender's z comes from the source prompt, s = 0 (base) to 1 (source):

    estimate of h = integral over s of  d log p(answer) / d s_h,  every sender at s

by Simpson's rule (`STEPS`), with every sender's share moved together. The derivative goes through the path
that path patching patches: run 1 with frozen attention, then, for receivers, their q, k or v in run 2. At
s = 0 it is the first-order estimate; the other steps see past a softmax that is saturated at the base. A
step costs one branch and its backward for all senders. The estimates of all senders add up to the effect of
patching them together, so a sender that replaces another one shares its estimate.

The output of an MLP is moved as z of a head is. Where all MLPs come from the source, no other sender has an effect
through them, so discovery asks for heads and for MLPs in requests of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.measurements.screen import STEPS, AttributionPatching
from pytest_mechanism.methods.circuits.path_patching import (
    pairs,
    receiver_readings,
    second_run,
    sender_edits,
    source_z,
)
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.nodes import MLP, Node, by_layer, spelled
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: AttributionPatching, inputs: Sequence[Any]
) -> Observations:
    """``{layer}.{head}`` or ``{layer}.mlp``: estimated change of the answer's log-probability; ``slope ...``: the
    first-order estimate at the base."""
    rows = pairs(context, request)
    columns = Columns()
    for batch in context.batches(rows):
        steps = [derivatives(context, batch, request, share) for share, _ in STEPS]
        weights = [weight for _, weight in STEPS]
        for sender in senders(request):
            name = spelled(sender)
            each = zip(weights, steps, strict=True)
            columns.add(name, sum((w * step[sender] for w, step in each), steps[0][sender] * 0))
            columns.add(f"slope {name}", steps[0][sender])
    return columns.observations(rows)


def senders(request: AttributionPatching) -> list[Node]:
    """The heads and MLPs that are moved."""
    return [*request.heads, *((layer, MLP) for layer in request.mlps)]


def derivatives(
    context: MeasurementContext, batch: Batch, request: AttributionPatching, share: float
) -> dict[Node, Float[Tensor, " rows"]]:
    """d log p(answer) / d share of each sender, with every sender at ``share``.

    Rows do not affect each other, so the gradient of the sum over rows is each row's own.
    """
    place = batch.base.at(request.at)
    layers = by_layer(request.heads)
    from_source = source_z(context, batch, request.at)
    inputs = receiver_readings(context, request.receivers, request.via, place)
    run = context.engine.run(batch.base.tokens)

    def shares(count: int) -> Float[Tensor, "rows 1 senders 1"]:
        size = (len(batch.rows), 1, count, 1)
        return torch.full(size, 1 - share, device=context.model.device, requires_grad=True)

    kept = {layer: shares(len(heads)) for layer, heads in layers.items()}
    kept_mlps = {layer: shares(1) for layer in request.mlps}
    with torch.enable_grad():
        edits = sender_edits(from_source, place, request.heads, kept)
        if kept_mlps:
            out = source_z(context, batch, request.at, "mlp_out")
            edits += [
                Edit(Site(layer, "mlp_out"), out[layer], at=place, keep=of_layer)
                for layer, of_layer in kept_mlps.items()
            ]
        first = Branch(edits, inputs, freeze_attention=True, answer=request.via is None)
        outcome = next(iter(run.branches([first], gradients=True)))
        if request.via is not None:
            outcome = next(iter(run.branches([second_run(inputs, outcome)], gradients=True)))
        score = log_probability(outcome.logits, batch.correct_answers).sum()
        gradients = torch.autograd.grad(
            score, [*kept.values(), *kept_mlps.values()], allow_unused=True
        )
    moved: list[list[Node]] = [[(n, head) for head in heads] for n, heads in layers.items()]
    moved += [[(layer, MLP)] for layer in kept_mlps]
    return {
        sender: torch.zeros(len(batch.rows), device=context.model.device)
        if gradient is None
        else -gradient[:, 0, number, 0]
        for of_edit, gradient in zip(moved, gradients, strict=True)
        for number, sender in enumerate(of_edit)
    }
