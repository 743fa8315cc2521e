"""Cross-model activation patching (CMAP).

    z of head h at position p in the recipient  <-  z of head h at p in the donor, same prompt
    output of an MLP at p in the recipient      <-  its output at p in the donor

Prakash et al. 2024, section 5. `donate` records the donor's z of some heads at their positions, and
for a few rows what the donor's heads write for it; `measure`, on the other model, puts z in. z is
exchanged by the index of a layer and a head, so `measure` also checks whether both models write z in
one code (`methods.circuits.codes`). The output of an MLP is part of the residual stream and has no code of its own; it
means something in the recipient only if both models write their streams in one basis, which `streams_of` checks on
the stream itself. With ``parts``, q, k or v of the heads are exchanged in place of z
(`methods.circuits.cmap_inputs`).

Other than published: the paper's notebook exchanges the heads that DCM selected (``heads: learned`` of
the claim). The published score is the accuracy of the patched recipient; the claim sets it between
those of recipient and donor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import (
    CODE_ROWS,
    ActivationDonation,
    CodeResult,
    CrossModelPatching,
    HeadCode,
    HeadCodes,
)
from pytest_mechanism.measurements.matching import HeadMatching
from pytest_mechanism.methods.circuits import mixing
from pytest_mechanism.methods.circuits.cmap_inputs import (
    DonatedInputs,
    Recipient,
    Recorder,
)
from pytest_mechanism.methods.circuits.codes import (
    Place,
    PlacedZ,
    Writes,
    agreement,
    compare_codes,
    head_writes,
)
from pytest_mechanism.methods.circuits.input_codes import input_codes
from pytest_mechanism.methods.circuits.patching import Heads, Nodes, grouped, mlps_of
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import correct, log_probability
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.nodes import MLP
from pytest_mechanism.tasks.base import Row

Streams = Mapping[Place, Float[Tensor, "_ _ _ d_model"]]
"""Place -> activations of the residual stream's width, [rows, places, 1, d_model]."""


@dataclass(frozen=True, eq=False)
class Donation:
    """A donor's z and MLP outputs, on the CPU until the recipient is loaded.

    Attributes:
        example_ids: rows, in order.
        values: of all rows.
        written: what the donor's heads write for z of the first rows.
        outputs: of MLPs, of all rows.
        streams: the residual stream after these MLPs, of the first rows.
        inputs: the donor's q, k or v, where they are exchanged.
    """

    example_ids: tuple[str, ...]
    values: Mapping[Place, tuple[Float[Tensor, "_ _ _ d_head"], tuple[int, ...]]]
    written: Writes
    outputs: Streams = field(default_factory=dict)
    streams: Streams = field(default_factory=dict)
    inputs: DonatedInputs | None = None

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
    """Record z of the request's heads, and the outputs of its MLPs, on the task's rows, and its ``parts``."""
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    heads, mlps = placed_heads(request.heads), mlps_of(request.heads)
    places = grouped(heads)
    parts: list[list[Tensor]] = [[] for _ in (*places, *mlps)]
    inputs_of = Recorder(context, heads, tuple(request.parts))
    for batch in context.batches(rows):
        of_nodes = mixing.readings(heads, mlps, batch.base)
        wanted = [*of_nodes, *inputs_of.readings(batch.base)]
        run = context.engine.run(batch.base.tokens, readings=wanted, answer=False)
        read, of_inputs = run.outcome.readings[: len(parts)], run.outcome.readings[len(parts) :]
        for part, of_place in zip(parts, read, strict=True):
            part.append(of_place.cpu())
        inputs_of.add(batch.base, of_inputs)
    values = {
        (layer, name): (torch.cat(part), numbers)
        for (layer, name, numbers), part in zip(places, parts[: len(places)], strict=True)
    }
    outputs = {
        place: torch.cat(part) for place, part in zip(mlps, parts[len(places) :], strict=True)
    }
    first = context.batch(rows[:CODE_ROWS])
    donation = Donation(
        tuple(row.id for row in rows),
        values,
        {},
        outputs,
        streams_of(context, first, mlps),
        inputs_of.donated(first.base),
    )
    of_first = donation.first_rows(len(first.rows), context.model.device)
    written = head_writes(context, first, of_first)
    return replace(donation, written={place: of_place.cpu() for place, of_place in written.items()})


def placed_heads(nodes: Nodes) -> Heads:
    """The heads among heads and MLPs."""
    return [node for node in nodes if node[1] != MLP]


def streams_of(context: MeasurementContext, batch: Batch, places: Sequence[Place]) -> Streams:
    """The residual stream after each of these layers, at these named positions."""
    if not places:
        return {}
    wanted = [Reading(Site(layer, "resid_post"), batch.base.at(name)) for layer, name in places]
    outcome = context.engine.run(batch.base.tokens, readings=wanted, answer=False).outcome
    return {place: read.cpu() for place, read in zip(places, outcome.readings, strict=True)}


def measure(
    context: MeasurementContext, request: CrossModelPatching, inputs: Sequence[Any]
) -> CodeResult:
    """Columns ``patched`` and ``control`` (is the answer right with the donor's activations in these
    heads and MLPs?), ``patched_log_probability`` and ``control_log_probability``; the same for each set of
    ``request.alone``.

    Args:
        context: the recipient.
        request: which heads.
        inputs: the donor's `Donation`.
    """
    donation: Donation = inputs[0]
    rows = same_rows(context, donation, request)
    patches = request.patches()
    columns = Columns()
    start = 0
    for batch in context.batches(rows):
        here = slice(start, start + len(batch.rows))
        start += len(batch.rows)
        edits_of = editor(context, donation, request, batch, here)
        branches = [Branch(edits_of(heads)) for heads in patches.values()]
        outcomes = context.engine.run(batch.base.tokens).branches(branches)
        for name, outcome in zip(patches, outcomes, strict=True):
            columns.add(name, correct(outcome.logits, batch.correct_answers))
            likely = log_probability(outcome.logits, batch.correct_answers)
            columns.add(f"{name}_log_probability", likely)
    codes = (
        *codes_of(context, donation, rows),
        *codes_of_streams(context, donation, rows),
        *codes_of_inputs(context, donation, request, rows),
    )
    return columns.result(CodeResult, rows, codes=codes)


def editor(
    context: MeasurementContext,
    donation: Donation,
    request: CrossModelPatching,
    batch: Batch,
    here: slice,
) -> Callable[[Heads], list[Edit]]:
    """What puts the donor's activations of some heads into the rows ``here``, which are the batch."""
    side, device = batch.base, context.model.device
    if not request.parts:

        def put(nodes: Heads) -> list[Edit]:
            heads, mlps = placed_heads(nodes), mlps_of(nodes)
            outputs = [donation.outputs[place][here].to(device) for place in mlps]
            return mixing.edits(
                heads, mlps, side, [*donation.of_heads(heads, here, device), *outputs]
            )

        return put
    donated = donation.inputs
    if donated is None:
        raise MeasurementError("the donor was asked for z alone")
    everyone = [head for heads in request.patches().values() for head in heads]
    recipient = Recipient.of(context, side, everyone, request.parts)
    recipient.check_tokens(donated, here)
    return lambda heads: recipient.edits(heads, donated, here)


def codes_of_streams(
    context: MeasurementContext, donation: Donation, rows: Sequence[Row]
) -> Iterator[HeadCode]:
    """Whether both models write their residual streams in one basis, where MLPs are exchanged."""
    places = list(donation.streams)
    own = streams_of(context, context.batch(rows[:CODE_ROWS]), places)
    for layer, name in places:
        alike = agreement(own[layer, name], donation.streams[layer, name])
        yield HeadCode(layer, MLP, name, round(alike, 6), part="stream")


def codes_of_inputs(
    context: MeasurementContext,
    donation: Donation,
    request: CrossModelPatching,
    rows: Sequence[Row],
) -> tuple[HeadCode, ...]:
    """Whether both models write q and k in one code, where only one of the two is exchanged."""
    if donation.inputs is None:
        return ()
    first = context.batch(rows[:CODE_ROWS]).base
    return tuple(input_codes(context, first, donation.inputs, request.parts))


def code(context: MeasurementContext, request: HeadCodes, inputs: Sequence[Any]) -> CodeResult:
    """How this model reads the z of another, and nothing else; the input is the other's `Donation`."""
    rows = same_rows(context, inputs[0], request)
    return Columns().result(CodeResult, rows, codes=codes_of(context, inputs[0], rows))


def same_rows(
    context: MeasurementContext,
    donation: Donation,
    request: CrossModelPatching | HeadCodes | HeadMatching,
) -> Sequence[Row]:
    """The rows of the request, which are the donor's.

    Raises:
        MeasurementError: they are not, or the donor's heads or stream have another width.
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
    for output in donation.outputs.values():
        if output.shape[-1] != context.model.shape.d_model:
            raise MeasurementError(
                f"the donor's residual stream has width {output.shape[-1]}, the recipient's "
                f"{context.model.shape.d_model}: the outputs of their MLPs cannot be exchanged"
            )
    return rows


def codes_of(
    context: MeasurementContext, donation: Donation, rows: Sequence[Row]
) -> tuple[HeadCode, ...]:
    """Whether recipient and donor write z in one code, on the first rows."""
    first = context.batch(rows[:CODE_ROWS])
    z = donation.first_rows(len(first.rows), context.model.device)
    return tuple(compare_codes(context, first, z, donation.written))
