"""Interchange: does patching z of some heads from a source prompt move a variable?

Davies et al. 2023 (arXiv 2307.03637), the desiderata of DCM; Prakash et al. 2024, section 4. Columns
on held-out rows, each 1 where the answer is a right target of the row:

    floor      nothing is patched; the target is not the base's answer, so this is chance
    patched    z of the heads, and the output of the MLPs, comes from the source prompt
    control    that of other heads and MLPs does
    ceiling    the model's own answer to the base prompt is right: what it could give if the variable
               were moved perfectly

Where rows have several targets, the targets are some of the source's right answers and not all of
them (a later year than the source's, but not than the base's). A model whose variable is moved
perfectly gives a target only as often as on the source prompt, so that is the ceiling of such rows.
Then ``own`` has whether the model's answers to the base prompts are right.

Other than published: base and source always differ in the queried position, and box-label targets are
the word as it follows in the text (`tasks.families.entity_tracking` describes both defects). The
published score is ``patched`` alone; its floor was 0.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.methods.circuits.mixing import Mlps, edits, readings
from pytest_mechanism.methods.circuits.patching import Heads
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import correct
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: Interchange, inputs: Sequence[Any]
) -> Observations:
    """The columns of the module, row by row."""
    sets = {"patched": (request.heads, request.mlps)}
    if request.has_control:
        sets["control"] = (request.control, request.control_mlps)
    patches: dict[str, tuple[Heads, Mlps]] = {
        name: ([(*head, request.at) for head in heads], [(layer, request.at) for layer in mlps])
        for name, (heads, mlps) in sets.items()
    }
    rows = context.task.interchange(context.vocabulary, request.variable, request.rows, "test")
    several_targets = any(row.targets for row in rows)
    columns = Columns()
    for batch in context.batches(rows):
        side = batch.require_source()
        wanted = {name: readings(*both, side) for name, both in patches.items()}
        source = context.engine.run(
            side.tokens,
            readings=[reading for some in wanted.values() for reading in some],
            answer=several_targets,
        ).outcome
        source_z = iter(source.readings)
        run = context.engine.run(batch.base.tokens)
        base = run.outcome.logits
        columns.add("floor", correct(base, batch.correct_targets))
        if several_targets:
            columns.add("own", correct(base, batch.correct_answers))
            columns.add("ceiling", correct(source.logits, batch.correct_targets))
        else:
            columns.add("ceiling", correct(base, batch.correct_answers))
        branches = [
            Branch(edits(*both, batch.base, [next(source_z) for _ in wanted[name]]))
            for name, both in patches.items()
        ]
        for name, outcome in zip(patches, run.branches(branches), strict=True):
            columns.add(name, correct(outcome.logits, batch.correct_targets))
    return columns.observations(rows)
