"""The model with only a circuit's heads: every other head's z is ablated at every position.

    m(C) = the model's metric where z of head h at position p is its own for (h, p) in C, and the
           ablation's replacement elsewhere; MLPs and norms recompute

Prakash et al. 2024, section 3.2 and appendix. The run has every head ablated; a circuit is a branch
of it with frozen attention, in which the circuit's heads are active at their named positions.

With ``ablate_mlps``, a circuit is one of heads and MLPs: the output of each MLP is ablated in the same way,
at every position, but where the circuit names the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.engine.interface import ActiveHeads, ActiveMlp, Branch, Edit, Site
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.methods.circuits.ablation import replacements
from pytest_mechanism.methods.circuits.patching import Nodes, heads_of, mlps_of, places
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: CircuitPerformance, inputs: Sequence[Any]
) -> Observations:
    """``{name}_correct``, ``{name}_log_probability`` and perhaps ``{name}_logit_difference`` for each
    circuit."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        others = context.other_options(batch.rows) if request.differences else None
        ablated = replacements(context, batch, request.ablation)
        edits = [Edit(Site(layer, "z"), z) for layer, z in enumerate(ablated)]
        if request.ablate_mlps:
            mlps = replacements(context, batch, request.ablation, "mlp_out")
            edits += [Edit(Site(layer, "mlp_out"), out) for layer, out in enumerate(mlps)]
        run = context.engine.run(batch.base.tokens, edits)
        circuits = (
            Branch(
                freeze_attention=True,
                active_heads=active_heads(batch, nodes),
                active_mlps=active_mlps(batch, nodes) if request.ablate_mlps else (),
            )
            for nodes in request.alive.values()
        )
        for name, outcome in zip(request.alive, run.branches(circuits), strict=True):
            columns.add_answers(f"{name}_", outcome.logits, batch.correct_answers, others)
    return columns.observations(rows)


def active_heads(batch: Batch, nodes: Nodes) -> list[ActiveHeads]:
    """A circuit's heads at their positions."""
    return [ActiveHeads(layer, places(batch.base, name), h) for layer, name, h in heads_of(nodes)]


def active_mlps(batch: Batch, nodes: Nodes) -> list[ActiveMlp]:
    """A circuit's MLPs at their positions."""
    return [ActiveMlp(layer, places(batch.base, name)) for layer, name in mlps_of(nodes)]
