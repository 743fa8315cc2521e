"""The full model without some heads and MLPs: z of these heads, and the output of these MLPs, is ablated at their
positions.

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

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.engine.reference import select
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.methods.circuits.ablation import replacements
from pytest_mechanism.methods.circuits.patching import Nodes, heads_of, mlps_of, places
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
        branches = (
            Branch(ablating(context, batch, request.ablation, nodes))
            for nodes in request.removed.values()
        )
        outcomes = context.engine.run(batch.base.tokens).branches(branches)
        for name, outcome in zip(request.removed, outcomes, strict=True):
            columns.add_answers(f"{name}_", outcome.logits, batch.correct_answers)
    return columns.observations(rows)


def ablating(
    context: MeasurementContext, batch: Batch, ablation: Ablation, nodes: Nodes
) -> list[Edit]:
    """The edits that ablate these heads and MLPs at their positions."""
    made = []
    if heads := heads_of(nodes):
        z = replacements(context, batch, ablation)
        made += [replaced(batch, Site(n, "z"), z[n], name, of_layer) for n, name, of_layer in heads]
    if mlps := mlps_of(nodes):
        out = replacements(context, batch, ablation, "mlp_out")
        made += [replaced(batch, Site(n, "mlp_out"), out[n], name) for n, name in mlps]
    return made


def replaced(
    batch: Batch,
    site: Site,
    values: Float[Tensor, "_ _ heads _"],
    name: str,
    heads: tuple[int, ...] | None = None,
) -> Edit:
    """The replacement of some heads, or of an MLP's output, at a position."""
    whole = values.expand(*batch.base.tokens.ids.shape, -1, -1)
    at = places(batch.base, name)
    return Edit(site, select(whole, at, heads), at, heads)
