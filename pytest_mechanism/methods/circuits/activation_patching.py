"""Activation patching: each head's z from the source prompt, one head at a time.

Score of a head, row by row: log p(answer | patched) - log p(answer | clean). The published mean
of ratios (p_patched - p_clean) / p_clean explodes where a model is wrong and sure, so it is not
what heads are ranked by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.methods.circuits.patching import edits, readings
from pytest_mechanism.methods.context import Columns, MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, arguments: Mapping[str, Any], inputs: Sequence[Any]
) -> Observations:
    """``{layer}.{head}``: change of the answer's log-probability when that head is patched.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``, ``at`` (named position), ``heads`` ([layer, head] each).
        inputs: none.
    """
    rows = context.task.pairs(context.vocabulary, arguments["rows"], arguments["stream"])
    heads = [(layer, head, arguments["at"]) for layer, head in arguments["heads"]]
    columns = Columns()
    for batch in context.batches(rows):
        source = batch.the_source()
        # one reading a head, so that each is a branch of its own
        wanted = [r for each in heads for r in readings([each], source)]
        taken = context.engine.run(source.tokens, readings=wanted, answer=False).outcome.readings
        run = context.engine.run(batch.base.tokens)
        clean = log_probability(run.outcome.logits, batch.accepted)
        branches = [
            Branch(edits([each], batch.base, [value]))
            for each, value in zip(heads, taken, strict=True)
        ]
        for (layer, head, _), outcome in zip(heads, run.branches(branches), strict=True):
            patched = log_probability(outcome.logits, batch.accepted)
            columns.add(f"{layer}.{head}", patched - clean)
    return columns.observations(rows)
