"""Does moving z of these heads from a source prompt move the variable? (DCM's desiderata)

Four columns on held-out rows: ``floor`` (nothing patched, the target is not the base's answer, so
this is what comes out by chance), ``ceiling`` (the model's own answer to the base prompt: what it
could give were the variable moved perfectly), ``patched``, and ``control`` (other heads).

Where rows have several targets, they are some of the source's right answers and not all of them (a
later year than the source's, but none later than the base's), so a model whose variable is moved
perfectly says one of them only as often as it does on the source prompt: that is the ceiling of such
rows. Then ``own`` has the model's own answers to the base prompts.

Other than published: base and source always differ in the queried position, and box-label targets are
the word as it follows in the text (`tasks.entity_tracking` has both defects). The published score is
``patched`` alone; its floor was 0.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.methods.circuits.patching import Heads, edits, readings
from pytest_mechanism.methods.context import Columns, MeasurementContext
from pytest_mechanism.methods.readout import correct
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: Interchange, inputs: Sequence[Any]
) -> Observations:
    """See the module.

    Args:
        bench: the model.
        arguments: ``heads`` and ``control`` ([layer, head] each), ``at``, ``variable``,
            ``rows``.
        inputs: none.
    """
    at, variable = request.at, request.variable
    heads: Heads = [[layer, head, at] for layer, head in request.heads]
    patches = {"patched": heads}
    if request.control:
        patches["control"] = [[layer, head, at] for layer, head in request.control]
    rows = context.task.interchange(context.vocabulary, variable, request.rows, "test")
    several = any(row.targets for row in rows)
    columns = Columns()
    for batch in context.batches(rows):
        source = batch.the_source()
        wanted = [readings(each, source) for each in patches.values()]
        given = context.engine.run(
            source.tokens, readings=[r for w in wanted for r in w], answer=several
        ).outcome
        taken = iter(given.readings)
        run = context.engine.run(batch.base.tokens)
        columns.add("floor", correct(run.outcome.logits, batch.wanted))
        own = correct(run.outcome.logits, batch.accepted)
        if several:
            columns.add("own", own)
            columns.add("ceiling", correct(given.logits, batch.wanted))
        else:
            columns.add("ceiling", own)
        branches = [
            Branch(edits(each, batch.base, [next(taken) for _ in w]))
            for each, w in zip(patches.values(), wanted, strict=True)
        ]
        for name, outcome in zip(patches, run.branches(branches), strict=True):
            columns.add(name, correct(outcome.logits, batch.wanted))
    return columns.observations(rows)
