"""Attention knockout: attention between two positions is blocked from a layer on.

    in layers l, l + 1, ...: score_h(i, j) = the dtype's lowest number before the softmax, for every
    head h, each token i of the query and each token j of the key

Geva et al. 2023 (arXiv 2304.14767), section 3; Prakash et al. 2024, appendix. Control, as published:
as many random pairs of tokens in each row, the same from every start layer. Each is a token and an
earlier one, so that no token loses all that it can attend to, and none is among the blocked pairs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from pytest_mechanism.engine.interface import Branch, Knockout, Positions
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.methods.circuits.attention import check_order
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Observations

Pair = tuple[int, int]
"""(token that attends, token that is attended to)."""


def measure(
    context: MeasurementContext, request: AttentionKnockout, inputs: Sequence[Any]
) -> Observations:
    """``{what}@{layer}_correct`` and ``{what}@{layer}_log_probability``, blocked from that layer on;
    what is ``pair`` or ``random``."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        check_order(batch, request.query, request.key)
        queries, keys = batch.base.at(request.query), batch.base.at(request.key)
        blocked = {"pair": [(queries, keys)], "random": random_positions(batch, request)}
        names = [(what, start) for what in blocked for start in request.starts]
        branches = (
            Branch(
                knockouts=[
                    Knockout(layer, i, j)
                    for layer in range(start, context.model.shape.n_layers)
                    for i, j in blocked[what]
                ]
            )
            for what, start in names
        )
        outcomes = context.engine.run(batch.base.tokens).branches(branches)
        for (what, start), outcome in zip(names, outcomes, strict=True):
            columns.add_answers(f"{what}@{start}_", outcome.logits, batch.correct_answers)
    return columns.observations(rows)


def random_positions(batch: Batch, request: AttentionKnockout) -> list[tuple[Positions, Positions]]:
    """As many random pairs of tokens as are blocked, in the form of knockouts of one pair a row."""
    queries, keys = (batch.base.at(name).tolist() for name in (request.query, request.key))
    drawn = [
        random_pairs(request, row, set(i), set(j), length)
        for row, i, j, length in zip(
            batch.rows, queries, keys, batch.base.tokens.lengths.tolist(), strict=True
        )
    ]
    most = max(map(len, drawn))  # a row with fewer repeats its last pair, which blocks nothing more
    padded = [[*pairs, *[pairs[-1]] * (most - len(pairs))] for pairs in drawn]
    table = torch.tensor(padded, device=batch.base.tokens.ids.device)  # [rows, pairs, 2]
    return [(table[:, n, :1], table[:, n, 1:]) for n in range(most)]


def random_pairs(
    request: AttentionKnockout, row: Row, queries: set[int], keys: set[int], length: int
) -> list[Pair]:
    """Random pairs of a row's tokens, as many as are blocked in it, and none of these.

    Raises:
        MeasurementError: a blocked token loses all that it can attend to, or the row has too few other
            pairs.
    """
    blocked = {(i, j) for i in queries for j in keys if j <= i}
    for i in queries:
        if keys.issuperset(range(i + 1)):
            raise MeasurementError(
                f"{request.query} could attend to nothing without {request.key} in "
                f"{row.base.text[:100]!r}; name another position"
            )
    others = [(i, j) for i in range(length) for j in range(i) if (i, j) not in blocked]
    if len(others) < len(blocked):
        raise MeasurementError(
            f"{request.query} -> {request.key} has {len(blocked)} of the pairs of tokens in "
            f"{row.base.text[:100]!r}, so that fewer are left for the control; name fewer tokens"
        )
    rng = random.Random(f"random pairs/{request.seed}/{row.id}")
    return rng.sample(others, len(blocked))
