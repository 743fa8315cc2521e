"""Edge attribution patching (EAP): which edges are worth path patching.

Syed et al. 2023 (arXiv 2310.10348); with integrated gradients, Hanna et al. 2024 (arXiv 2403.17806, EAP-IG).
For a sender u and a receiver v, with s the share of u's output that comes from the source prompt:

    EAP(u -> v)    = d log p(answer) / d in_v  *  d in_v / d s_u             at s = 0, the base prompt
    EAP-IG(u -> v) = the mean of the same product over s = 0, 0.2, ..., 0.8, with every sender at s

in_v is what path patching (`path_patching`) puts into v: q, k or v of a head, or the output of an MLP, at the
senders' position. d in_v / d s_u goes through run 1, in which attention is frozen and MLPs recompute, and
d log p / d in_v through run 2, in which nothing is frozen. So an edge's estimate approximates path patching of u
into v alone, and the estimates of a sender's edges add up to its estimate as a node (`screen`). An edge to the
logits is the path that no other attention lies on.

Other than published: an MLP between u and v is part of their edge, as in path patching; senders are moved at one
named position, and together, in place of the input embeddings, since base and source prompts need not have
equal lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.measurements.edges import SHARES, EdgeAttribution, edge_name
from pytest_mechanism.methods.circuits.path_patching import (
    pairs,
    receiver_readings,
    source_z,
)
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.nodes import MLP, Node
from pytest_mechanism.types import Observations

Slopes = dict[str, Float[Tensor, " rows"]]
"""Edge -> derivative of the answer's log-probability by the sender's share, row by row."""


def measure(
    context: MeasurementContext, request: EdgeAttribution, inputs: Sequence[Any]
) -> Observations:
    """``{edge}``: EAP-IG; ``slope {edge}``: EAP. Both estimate the change of the answer's log-probability."""
    columns = Columns()
    for batch in context.batches(pairs(context, request)):
        steps = [slopes(context, batch, request, share) for share in SHARES]
        for edge, at_base in steps[0].items():
            columns.add(edge, torch.stack([step[edge] for step in steps]).mean(0))
            columns.add(f"slope {edge}", at_base)
    return columns.observations(pairs(context, request))


def slopes(
    context: MeasurementContext, batch: Batch, request: EdgeAttribution, share: float
) -> Slopes:
    """The derivative along every edge, with every sender at ``share``.

    Rows do not affect each other, so the gradient of a sum over rows is each row's own.
    """
    kept = {
        sender: torch.full(
            (len(batch.rows), 1, 1, 1), 1 - share, device=context.model.device, requires_grad=True
        )
        for sender in request.senders
    }
    place = batch.base.at(request.at)
    wanted = receiver_readings(context, request.receivers, request.via, place)
    run = context.engine.run(batch.base.tokens)
    with torch.enable_grad():
        first = Branch(
            moved(context, batch, request.at, kept),
            wanted,
            freeze_attention=True,
            answer=request.via is None,
        )
        (outcome,) = run.branches([first], gradients=True)
        if request.via is None:
            score = log_probability(outcome.logits, batch.correct_answers).sum()
            return by_sender(score, kept, None)
        given = [value.detach().requires_grad_() for value in outcome.readings]
        second = Branch(
            [Edit(r.site, v, at=r.at, heads=r.heads) for r, v in zip(wanted, given, strict=True)]
        )
        (answered,) = run.branches([second], gradients=True)
        score = log_probability(answered.logits, batch.correct_answers).sum()
        by_input = torch.autograd.grad(score, given)
        found: Slopes = {}
        for receiver in request.receivers:
            number, column = where(context, request, wanted, receiver)
            value = outcome.readings[number][:, :, column]
            found |= by_sender((by_input[number][:, :, column] * value).sum(), kept, receiver)
    return found


def moved(
    context: MeasurementContext,
    batch: Batch,
    at: str,
    kept: dict[Node, Float[Tensor, "rows 1 1 1"]],
) -> list[Edit]:
    """Each sender's output as a mixture of the base's and the source's; ``kept`` has the base's share."""
    place = batch.base.at(at)
    z = source_z(context, batch, at)
    out = source_z(context, batch, at, "mlp_out") if any(p == MLP for _, p in kept) else ()
    return [
        Edit(Site(layer, "mlp_out"), out[layer], at=place, keep=share)
        if isinstance(part, str)
        else Edit(Site(layer, "z"), z[layer][:, :, [part]], at=place, heads=(part,), keep=share)
        for (layer, part), share in kept.items()
    ]


def where(
    context: MeasurementContext,
    request: EdgeAttribution,
    wanted: Sequence[Reading],
    receiver: Node,
) -> tuple[int, int]:
    """Number of the reading that has a receiver's input, and the receiver's place among its heads."""
    layer, part = receiver
    number = next(i for i, reading in enumerate(wanted) if reading.site.layer == layer)
    heads = wanted[number].heads
    if isinstance(part, str) or heads is None:
        return number, 0
    shape = context.model.shape
    return number, heads.index(
        part if request.via == "q" else part * shape.n_kv_heads // shape.n_heads
    )


def by_sender(
    score: Tensor, kept: dict[Node, Float[Tensor, "rows 1 1 1"]], receiver: Node | None
) -> Slopes:
    """The derivative of a score by each sender's share; 0 where the sender cannot reach it."""
    shares = list(kept.values())
    gradients: Sequence[Tensor | None] = [None] * len(shares)
    if score.requires_grad:
        gradients = torch.autograd.grad(score, shares, retain_graph=True, allow_unused=True)
    return {
        edge_name(sender, receiver): torch.zeros_like(share[:, 0, 0, 0])
        if gradient is None
        else -gradient[:, 0, 0, 0]
        for (sender, share), gradient in zip(kept.items(), gradients, strict=True)
    }
