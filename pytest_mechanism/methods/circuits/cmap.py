"""Cross-model activation patching (Prakash et al., section 5).

Both models read the same prompts. `donate` records the donor's z of the needed heads at the
needed positions, and for a few rows what the donor's heads write for it; `measure`, on the other
model, puts z in. Whether the two models speak one code is measured beside (`methods.codes`): z is
exchanged by the number of a layer and a head.

Other than published: the paper's notebook exchanges the heads that DCM selected (``heads: learned``
of the claim), and also q, k and v in the place of z, which is left out here. The published score is
the accuracy of the patched recipient; the claim sets it between that of recipient and donor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import (
    CODE_ROWS,
    ActivationDonation,
    CodeResult,
    CrossModelPatching,
    HeadCode,
    HeadCodes,
)
from pytest_mechanism.methods.circuits.codes import Place, compared, writes
from pytest_mechanism.methods.circuits.patching import edits, grouped, readings
from pytest_mechanism.methods.context import Columns, MeasurementContext
from pytest_mechanism.methods.readout import correct, log_probability
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True, eq=False)
class Donation:
    """A donor's z, on the CPU until the recipient is loaded.

    Attributes:
        example_ids: rows, in order.
        values: (layer, position) -> ([N, K, heads, d], which heads).
        written: (layer, position) -> [n, K, heads, d_model], what the donor's heads write for the z
            of the first n rows.
    """

    example_ids: tuple[str, ...]
    values: Mapping[Place, tuple[Tensor, tuple[int, ...]]]
    written: Mapping[Place, Tensor]

    def first(self, rows: int) -> dict[Place, tuple[Tensor, tuple[int, ...]]]:
        """z of the first rows."""
        return {place: (z[:rows], heads) for place, (z, heads) in self.values.items()}


def donate(
    context: MeasurementContext, request: ActivationDonation, inputs: Sequence[Any]
) -> Donation:
    """Record ``heads`` ([layer, head, position] each) on the task's rows."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    parts: list[list[Tensor]] = [[] for _ in grouped(request.heads)]
    for batch in context.batches(rows):
        wanted = readings(request.heads, batch.base)
        found = context.engine.run(
            batch.base.tokens, readings=wanted, answer=False
        ).outcome.readings
        for part, value in zip(parts, found, strict=True):
            part.append(value.cpu())
    values = {
        (layer, name): (torch.cat(part), heads)
        for (layer, name, heads), part in zip(grouped(request.heads), parts, strict=True)
    }
    made = Donation(tuple(row.id for row in rows), values, {})
    first = context.batch(rows[:CODE_ROWS])
    written = writes(context, first, moved(context, made.first(len(first.rows))))
    return replace(made, written={place: each.cpu() for place, each in written.items()})


def measure(
    context: MeasurementContext, request: CrossModelPatching, inputs: Sequence[Any]
) -> CodeResult:
    """``patched`` and ``control``: is the answer right with the donor's z in these heads?

    And ``patched_log_probability`` and ``control_log_probability``: how likely is it?

    Args:
        bench: the recipient.
        arguments: ``rows``, ``stream``, ``heads`` and ``control`` ([layer, head, position] each).
        inputs: the donor's `Donation`.
    """
    donation: Donation = inputs[0]
    rows = same_rows(context, donation, request)
    patches = {"patched": request.heads}
    if request.control:
        patches["control"] = request.control
    columns = Columns()
    start = 0
    for batch in context.batches(rows):
        here = slice(start, start + len(batch.rows))
        start += len(batch.rows)
        run = context.engine.run(batch.base.tokens)
        branches = [
            Branch(edits(heads, batch.base, given(context, donation, heads, here)))
            for heads in patches.values()
        ]
        for name, outcome in zip(patches, run.branches(branches), strict=True):
            columns.add(name, correct(outcome.logits, batch.accepted))
            likely = log_probability(outcome.logits, batch.accepted)
            columns.add(f"{name}_log_probability", likely)
    return columns.result(CodeResult, rows, codes=codes_of(context, donation, rows))


def code(context: MeasurementContext, request: HeadCodes, inputs: Sequence[Any]) -> CodeResult:
    """How this model reads the z of another one, and nothing else.

    Inputs: the other model's `Donation`.
    """
    rows = same_rows(context, inputs[0], request)
    return Columns().result(CodeResult, rows, codes=codes_of(context, inputs[0], rows))


def same_rows(
    context: MeasurementContext, donation: Donation, request: CrossModelPatching | HeadCodes
) -> Sequence[Row]:
    """The rows, which are the donor's.

    Raises:
        MeasurementError: they are not, or the donor's heads have another width.
    """
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    if donation.example_ids != tuple(row.id for row in rows):
        raise MeasurementError("donor and recipient were asked different rows")
    for values, _ in donation.values.values():
        if values.shape[-1] != context.model.shape.d_head:
            raise MeasurementError(
                f"the donor's heads have width {values.shape[-1]}, the recipient's "
                f"{context.model.shape.d_head}: their activations cannot be exchanged"
            )
    return rows


def codes_of(
    context: MeasurementContext, donation: Donation, rows: Sequence[Row]
) -> tuple[HeadCode, ...]:
    first = context.batch(rows[:CODE_ROWS])
    given = moved(context, donation.first(len(first.rows)))
    return tuple(compared(context, first, given, donation.written))


def moved(
    context: MeasurementContext, values: Mapping[Place, tuple[Tensor, tuple[int, ...]]]
) -> dict[Place, tuple[Tensor, tuple[int, ...]]]:
    """Values where the model is."""
    return {place: (z.to(context.model.device), heads) for place, (z, heads) in values.items()}


def given(context: MeasurementContext, donation: Donation, heads: Any, here: slice) -> list[Tensor]:
    """The donor's values for some rows, in `grouped` order."""
    found: list[Tensor] = []
    for layer, name, wanted in grouped(heads):
        values, recorded = donation.values[layer, name]
        columns = [recorded.index(head) for head in wanted]
        found.append(values[here][:, :, columns].to(context.model.device))
    return found
