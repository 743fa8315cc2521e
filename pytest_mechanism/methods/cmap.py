"""Cross-model activation patching (Prakash et al., section 5).

Both models read the same prompts. `donate` records the donor's z of the needed heads at the
needed positions and nothing else; `measure`, on the other model, puts them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.bench import Bench, Columns
from pytest_mechanism.methods.patching import edits, grouped, readings
from pytest_mechanism.methods.readout import correct, log_probability
from pytest_mechanism.types import Observations


@dataclass(frozen=True, eq=False)
class Donation:
    """A donor's z, on the CPU until the recipient is loaded.

    Attributes:
        example_ids: rows, in order.
        values: (layer, position) -> ([N, K, heads, d], which heads).
    """

    example_ids: tuple[str, ...]
    values: Mapping[tuple[int, str], tuple[Tensor, tuple[int, ...]]]


def donate(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Donation:
    """Record ``heads`` ([layer, head, position] each) on the task's rows."""
    rows = bench.task.rows(bench.vocabulary, arguments["rows"], arguments["stream"])
    parts: list[list[Tensor]] = [[] for _ in grouped(arguments["heads"])]
    for batch in bench.batches(rows):
        wanted = readings(arguments["heads"], batch.base)
        found = bench.engine.run(batch.base.tokens, readings=wanted, answer=False).outcome.readings
        for part, value in zip(parts, found, strict=True):
            part.append(value.cpu())
    return Donation(
        tuple(row.id for row in rows),
        {
            (layer, name): (torch.cat(part), heads)
            for (layer, name, heads), part in zip(grouped(arguments["heads"]), parts, strict=True)
        },
    )


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``patched`` and ``control``: is the answer right with the donor's z in these heads?

    And ``patched_log_probability`` and ``control_log_probability``: how likely is it?

    Args:
        bench: the recipient.
        arguments: ``rows``, ``stream``, ``heads`` and ``control`` ([layer, head, position] each).
        inputs: the donor's `Donation`.
    """
    donation: Donation = inputs[0]
    rows = bench.task.rows(bench.vocabulary, arguments["rows"], arguments["stream"])
    if donation.example_ids != tuple(row.id for row in rows):
        raise MeasurementError("donor and recipient were asked different rows")
    patches = {"patched": arguments["heads"]}
    if arguments["control"]:
        patches["control"] = arguments["control"]
    columns = Columns()
    start = 0
    for batch in bench.batches(rows):
        here = slice(start, start + len(batch.rows))
        start += len(batch.rows)
        run = bench.engine.run(batch.base.tokens)
        branches = [
            Branch(edits(heads, batch.base, given(bench, donation, heads, here)))
            for heads in patches.values()
        ]
        for name, outcome in zip(patches, run.branches(branches), strict=True):
            columns.add(name, correct(outcome.logits, batch.accepted))
            likely = log_probability(outcome.logits, batch.accepted)
            columns.add(f"{name}_log_probability", likely)
    return columns.observations(rows)


def given(bench: Bench, donation: Donation, heads: Any, here: slice) -> list[Tensor]:
    """The donor's values for some rows, in `grouped` order.

    Raises:
        MeasurementError: the donor's heads have another width.
    """
    found: list[Tensor] = []
    for layer, name, wanted in grouped(heads):
        values, recorded = donation.values[layer, name]
        if values.shape[-1] != bench.model.shape.d_head:
            raise MeasurementError(
                f"the donor's heads have width {values.shape[-1]}, the recipient's "
                f"{bench.model.shape.d_head}: their activations cannot be exchanged"
            )
        columns = [recorded.index(head) for head in wanted]
        found.append(values[here][:, :, columns].to(bench.model.device))
    return found
