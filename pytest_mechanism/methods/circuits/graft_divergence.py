"""How much of the divergence of two models one part of them holds: KL with that part grafted.

    K    = KL(A || B)                                  in nats, over predictions
    K(m) = KL(A || B with A's weights in part m)       (model grafting, `methods.circuits.grafting`)

The share that a part brings back follows from both (`claims.parts`). Parts are heads, attention, MLPs and layers, and
every parameter outside the layers (embedding, last norm, unembedding). Shares need not add up to 1: parts that were
trained together do less alone, and a part may make things worse. Predictions are those of every token of a text, or of
the answers of the task's rows.

The embedding and unembedding of a model with other words have rows in common with A's, which are grafted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Edit, Tokens
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.grafting import (
    BEFORE,
    PREDICTIONS,
    AnswerDonation,
    GraftDivergence,
)
from pytest_mechanism.methods.circuits.grafting import by_layer, check_sizes, grafts, layer_calls
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.text_divergence import (
    Said,
    TextBatch,
    check_tokens,
    divergence,
    forward,
)
from pytest_mechanism.methods.weights.member_weights import Weights
from pytest_mechanism.types import Observations


@dataclass(frozen=True, eq=False)
class SaidAtAnswers:
    """What the reference model says at the answers of the task's rows.

    Attributes:
        names: of the rows.
        clusters: of the rows.
        batches: of the rows; log-probabilities at the last token alone, [rows, 1, words].
    """

    names: Sequence[str]
    clusters: Sequence[str]
    batches: Sequence[TextBatch]


def donate(
    context: MeasurementContext, request: AnswerDonation, inputs: Sequence[Any]
) -> SaidAtAnswers:
    """What the reference model says at the answers."""
    rows = context.task.row_set("rows", context.vocabulary, request.rows, request.stream)
    batches = []
    for batch in context.batches(rows):
        tokens = batch.base.tokens
        kept = Tokens(tokens.ids.cpu(), tokens.lengths.cpu())
        batches.append(TextBatch(kept, at_last(forward(context, tokens)[0], tokens).cpu(), ()))
    return SaidAtAnswers([row.id for row in rows], [row.cluster for row in rows], batches)


def at_last(
    said: Float[Tensor, "rows tokens words"], tokens: Tokens
) -> Float[Tensor, "rows 1 words"]:
    """The log-probabilities at each row's last token."""
    return said[torch.arange(len(said), device=said.device), tokens.last][:, None]


def measure(
    context: MeasurementContext, request: GraftDivergence, inputs: Sequence[Any]
) -> Observations:
    """For each passage or row, sums over its predictions: KL(A || B) as it is (``before``) and with each part grafted,
    by its name; and how many ``predictions``.

    Args:
        context: of the model B.
        request: which parts.
        inputs: the weights of A, and what A said: `Said` or `SaidAtAnswers`.

    Raises:
        MeasurementError: the models' layers or words differ in number or size, or heads do not add up to attention's
            output.
    """
    weights: Weights = inputs[0]
    said: Said | SaidAtAnswers = inputs[1]
    members = by_layer(request.members)
    check_sizes(context, weights, members)
    outside = [*outside_layers(context, weights)] if request.outside else []
    if isinstance(said, Said):
        check_tokens(context, said)
    columns = Columns()
    for batch in said.batches:
        device = context.model.device
        tokens = Tokens(batch.tokens.ids.to(device), batch.tokens.lengths.to(device))
        theirs = batch.log_probabilities.to(device)
        left = partial(divergences, context, tokens, theirs)
        columns.add(BEFORE, left())
        predicted = (
            tokens.lengths - 1 if isinstance(said, Said) else torch.ones_like(tokens.lengths)
        )
        columns.add(PREDICTIONS, predicted.double())
        calls = layer_calls(context, tokens)
        for layer, of_layer in members.items():
            # all of a layer first: its weights are A's while they are computed
            for name, edits in [*grafts(context, layer, of_layer, weights, calls[layer])]:
                columns.add(name, left(edits))
        for name, own, given in outside:
            with replaced_rows(own, given):
                columns.add(name, left())
    clusters = said.text.clusters if isinstance(said, Said) else said.clusters
    return Observations(said.names, clusters, columns.on_host())


def divergences(
    context: MeasurementContext,
    tokens: Tokens,
    theirs: Float[Tensor, "rows tokens words"],
    edits: Sequence[Edit] = (),
) -> Float[Tensor, " rows"]:
    """KL(A || B) of each row, summed over its predictions: one where A said something at the last token alone.

    Raises:
        MeasurementError: B lacks words of A.
    """
    own, _ = forward(context, tokens, edits=edits)
    if own.shape[-1] < theirs.shape[-1]:
        raise MeasurementError(
            f"the models give {theirs.shape[-1]} and {own.shape[-1]} words a probability, so their distributions "
            "cannot be compared"
        )
    if theirs.shape[1] == 1:
        return divergence(theirs, at_last(own, tokens)).double()[:, 0]
    # the last token of a passage is followed by none
    return (divergence(theirs, own).double()[:, :-1] * tokens.mask[:, 1:]).sum(1)


def outside_layers(
    context: MeasurementContext, weights: Weights
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every parameter outside the layers that both models have: its name, B's and A's. A tied one comes once."""
    plain, seen = context.model.wrapped.plain, set[int]()
    inside = {id(p) for layer in context.model.wrapped.layers for p in layer.module.parameters()}
    for name, own in plain.named_parameters():
        known = name.replace("_original_component.", "").replace("._original_component", "")
        given = weights.get(known, ())
        if id(own) in inside | seen or len(given) != 1 or not own.is_floating_point():
            continue
        if own.is_meta or given[0].shape[1:] != own.shape[1:] or not given[0].is_floating_point():
            continue
        seen.add(id(own))
        yield known, own, given[0]


@contextmanager
@torch.no_grad()
def replaced_rows(own: Tensor, given: Tensor) -> Iterator[None]:
    """Context in which the first rows of a parameter have other values, as many as were given."""
    rows = min(len(own), len(given))
    kept = own.data[:rows].clone()
    try:
        own.data[:rows].copy_(given[:rows])
        yield
    finally:
        own.data[:rows].copy_(kept)
