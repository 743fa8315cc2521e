"""Cross-model activation patching (CMAP).

    z of head h at position p in the recipient  <-  z of head h at p in the donor, same prompt

Prakash et al. 2024, section 5. `donate` records the donor's z of some heads at their positions, and
for a few rows what the donor's heads write for it; `measure`, on the other model, puts z in. z is
exchanged by the index of a layer and a head, so `measure` also checks whether both models write z in
one code (`methods.circuits.codes`).

Other than published: the paper's notebook exchanges the heads that DCM selected (``heads: learned`` of
the claim), and exchanges q, k and v in place of z as well, which is left out here. The published
score is the accuracy of the patched recipient; the claim sets it between those of recipient and donor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
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
from pytest_mechanism.methods.circuits.codes import (
    Place,
    PlacedZ,
    Writes,
    compare_codes,
    head_writes,
)
from pytest_mechanism.methods.circuits.patching import Heads, edits, grouped, readings
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import correct, log_probability
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True, eq=False)
class Donation:
    """A donor's z, on the CPU until the recipient is loaded.

    Attributes:
        example_ids: rows, in order.
        values: of all rows.
        written: what the donor's heads write for z of the first rows.
    """

    example_ids: tuple[str, ...]
    values: Mapping[Place, tuple[Float[Tensor, "_ _ _ d_head"], tuple[int, ...]]]
    written: Writes

    def first_rows(self, count: int, device: torch.device) -> PlacedZ:
        """z of the first rows, on a device."""
        return {place: (z[:count].to(device), heads) for place, (z, heads) in self.values.items()}

    def of_heads(
        self, heads: Heads, rows: slice, device: torch.device
    ) -> list[Float[Tensor, "rows _ _ d_head"]]:
        """z of some heads on some rows, in `grouped` order."""
        z = []
        for layer, name, wanted in grouped(heads):
            values, recorded = self.values[layer, name]
            columns = [recorded.index(head) for head in wanted]
            z.append(values[rows][:, :, columns].to(device))
        return z


def donate(
    context: MeasurementContext, request: ActivationDonation, inputs: Sequence[Any]
) -> Donation:
    """Record z of the request's heads on the task's rows."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    parts: list[list[Tensor]] = [[] for _ in grouped(request.heads)]
    for batch in context.batches(rows):
        wanted = readings(request.heads, batch.base)
        run = context.engine.run(batch.base.tokens, readings=wanted, answer=False)
        for part, z in zip(parts, run.outcome.readings, strict=True):
            part.append(z.cpu())
    values = {
        (layer, name): (torch.cat(part), heads)
        for (layer, name, heads), part in zip(grouped(request.heads), parts, strict=True)
    }
    donation = Donation(tuple(row.id for row in rows), values, {})
    first = context.batch(rows[:CODE_ROWS])
    of_first = donation.first_rows(len(first.rows), context.model.device)
    written = head_writes(context, first, of_first)
    return replace(donation, written={place: of_place.cpu() for place, of_place in written.items()})


def measure(
    context: MeasurementContext, request: CrossModelPatching, inputs: Sequence[Any]
) -> CodeResult:
    """Columns ``patched`` and ``control`` (is the answer right with the donor's z in these heads?),
    ``patched_log_probability`` and ``control_log_probability``.

    Args:
        context: the recipient.
        request: which heads.
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
        branches = [
            Branch(edits(heads, batch.base, donation.of_heads(heads, here, context.model.device)))
            for heads in patches.values()
        ]
        outcomes = context.engine.run(batch.base.tokens).branches(branches)
        for name, outcome in zip(patches, outcomes, strict=True):
            columns.add(name, correct(outcome.logits, batch.correct_answers))
            likely = log_probability(outcome.logits, batch.correct_answers)
            columns.add(f"{name}_log_probability", likely)
    return columns.result(CodeResult, rows, codes=codes_of(context, donation, rows))


def code(context: MeasurementContext, request: HeadCodes, inputs: Sequence[Any]) -> CodeResult:
    """How this model reads the z of another, and nothing else; the input is the other's `Donation`."""
    rows = same_rows(context, inputs[0], request)
    return Columns().result(CodeResult, rows, codes=codes_of(context, inputs[0], rows))


def same_rows(
    context: MeasurementContext, donation: Donation, request: CrossModelPatching | HeadCodes
) -> Sequence[Row]:
    """The rows of the request, which are the donor's.

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
    """Whether recipient and donor write z in one code, on the first rows."""
    first = context.batch(rows[:CODE_ROWS])
    z = donation.first_rows(len(first.rows), context.model.device)
    return tuple(compare_codes(context, first, z, donation.written))
