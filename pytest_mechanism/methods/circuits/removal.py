"""The full model without some heads: their z is ablated at their positions.

    m(M without K) = the model's metric where z of head h at position p is the ablation's replacement
                     for (h, p) in K; all other heads, MLPs and norms recompute

Wang et al. 2022 (arXiv 2211.00593), section 4; Prakash et al. 2024, appendix. `circuit` is the other way
round: there, every head but some is ablated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.engine.reference import select
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.methods.circuits.ablation import LayerZ, replacements
from pytest_mechanism.methods.circuits.patching import Heads, edits, grouped
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: HeadRemoval, inputs: Sequence[Any]
) -> Observations:
    """``{name}_correct`` and ``{name}_log_probability`` without each set of heads."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        ablated = replacements(context, batch, request.ablation)
        branches = (
            Branch(edits(heads, batch.base, replaced(batch, ablated, heads)))
            for heads in request.removed.values()
        )
        outcomes = context.engine.run(batch.base.tokens).branches(branches)
        for name, outcome in zip(request.removed, outcomes, strict=True):
            columns.add_answers(f"{name}_", outcome.logits, batch.correct_answers)
    return columns.observations(rows)


def replaced(batch: Batch, ablated: LayerZ, heads: Heads) -> list[Float[Tensor, "rows _ _ d_head"]]:
    """The replacement of each head at its position, in the order of `grouped`."""
    shape = batch.base.tokens.ids.shape
    return [
        select(ablated[layer].expand(*shape, -1, -1), batch.base.at(name), of_layer)
        for layer, name, of_layer in grouped(heads)
    ]
