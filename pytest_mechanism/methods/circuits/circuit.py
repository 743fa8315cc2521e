"""The model with only some heads alive: every other head's z is ablated at every position.

The run has every head ablated; a circuit is a branch of it that is held, with its heads alive.

Prakash et al., section 3.2 and appendix. MLPs stay alive. A head is alive at named positions; at
all others it is ablated like the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.engine.interface import ActiveHeads, Branch, Edit, Site
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.methods.circuits.ablation import replacements
from pytest_mechanism.methods.circuits.patching import Heads, grouped
from pytest_mechanism.methods.context import Batch, Columns, MeasurementContext
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: CircuitPerformance, inputs: Sequence[Any]
) -> Observations:
    """``{name}_correct`` and ``{name}_log_probability`` for each circuit in ``alive``.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``, ``ablation``, and ``alive``: name -> list of
            [layer, head, named position].
        inputs: none.
    """
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        silent = replacements(context, batch, request.ablation)
        run = context.engine.run(
            batch.base.tokens, [Edit(Site(layer, "z"), z) for layer, z in enumerate(silent)]
        )
        circuits = (
            Branch(freeze_attention=True, active_heads=active_heads(batch, heads))
            for heads in request.alive.values()
        )
        for name, outcome in zip(request.alive, run.branches(circuits), strict=True):
            columns.add_answers(f"{name}_", outcome.logits, batch.accepted)
    return columns.observations(rows)


def active_heads(batch: Batch, heads: Heads) -> list[ActiveHeads]:
    """Heads that are computed, at their positions."""
    return [ActiveHeads(layer, batch.base.at(name), of) for layer, name, of in grouped(heads)]
