"""Desiderata-based component masking: which heads of a group carry a variable.

Davies et al. 2023 (arXiv 2307.03637); Prakash et al., section 4 and appendix. A mask w in [0, 1],
one entry a head, starts at 1; z of a head is w * z(base) + (1 - w) * z(source). The loss is

    -mean logit of the target + lambda * sum(1 - w),

with Adam; w is clamped to [0, 1] after each step. Every four steps the mask is judged on validation
rows; the one with the best accuracy wins, ties to more heads. Selected are the heads with
round(w) = 0.

Other than published:

- 1,000 rows are learned from and 500 chosen on, as published; the 500 that a claim is judged on are
  the spec's own rows (``task.rows``). All three are drawn from streams of their own.
- The published validation loop gives the model the tokens of the last training batch, so a group
  whose place varies is judged at wrong places. Here each validation row is read as itself.
- A row with several right targets has the log of their summed exponentials for its logit.
- The mask is judged after the last step as well, where steps are no multiple of four.
- One seed: how far the selected heads depend on the rows drawn is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.measurements.dcm import (
    BATCH,
    TRAIN_ROWS,
    VALIDATION_ROWS,
    DcmMask,
    MaskResult,
)
from pytest_mechanism.methods.circuits.patching import Heads, edits, grouped, readings
from pytest_mechanism.methods.context import Batch, Columns, MeasurementContext
from pytest_mechanism.methods.readout import correct, total
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True)
class DcmSettings:
    """The published values.

    Attributes:
        sparsity: lambda, the price of a selected head.
        learning_rate: Adam's.
        epochs: passes over the training rows.
        batch: rows a step.
        judged: steps between two judgements on validation rows.
        train: rows the mask is learned on.
        validation: rows it is chosen on.
    """

    sparsity: float = 0.01
    learning_rate: float = 0.1
    epochs: int = 2
    batch: int = BATCH
    judged: int = 4
    train: int = TRAIN_ROWS
    validation: int = VALIDATION_ROWS


def measure(context: MeasurementContext, request: DcmMask, inputs: Sequence[Any]) -> MaskResult:
    """Whether the target comes out, on each validation row, when the selected heads are patched.

    Arguments: ``heads`` ([layer, head] each) and ``at``, ``variable``, ``sparsity`` and ``rate``
    (lambda and Adam's rate).
    """
    heads: Heads = [[layer, head, request.at] for layer, head in request.heads]
    settings = DcmSettings(sparsity=request.sparsity, learning_rate=request.rate)
    rows, variable = settings.validation, request.variable
    validation = context.task.interchange(context.vocabulary, variable, rows, "dcm_validation")
    selected, right = learned(context, heads, variable, validation, settings)
    columns = Columns()
    columns.add("patched", right)
    kept = tuple((layer, head) for layer, head, _ in selected)
    return columns.result(MaskResult, validation, selected=kept)


def learn_mask(
    context: MeasurementContext, heads: Heads, variable: str, settings: DcmSettings
) -> list[list[object]]:
    """The heads, as [layer, head, position], whose patch moves the variable."""
    validation = context.task.interchange(
        context.vocabulary, variable, settings.validation, "dcm_validation"
    )
    return learned(context, heads, variable, validation, settings)[0]


def learned(
    context: MeasurementContext,
    heads: Heads,
    variable: str,
    validation: Sequence[Row],
    settings: DcmSettings,
) -> tuple[list[list[object]], Tensor]:
    """The selected heads, and for each validation row whether the target comes out.

    Rows to learn from come from the stream ``dcm_train`` of the task, which nothing else uses.
    """
    train = context.task.interchange(context.vocabulary, variable, settings.train, "dcm_train")
    order: list[list[object]] = [
        [layer, head, name] for layer, name, hs in grouped(heads) for head in hs
    ]
    mask = torch.ones(len(order), device=context.model.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
    steps = [
        (batch, donated(context, heads, batch))
        for batch in (
            context.batch(train[start : start + settings.batch])
            for start in range(0, len(train), settings.batch)
        )
    ]
    judged = [(batch, donated(context, heads, batch)) for batch in context.batches(validation)]
    known: dict[tuple[bool, ...], Tensor] = {}  # a mask that selects the same is no other mask
    every = [*range(settings.judged, settings.epochs * len(steps), settings.judged)]
    every.append(settings.epochs * len(steps))
    for done, (batch, values) in enumerate(steps * settings.epochs, 1):
        with torch.enable_grad():
            logits = patched(context, heads, batch, values, mask, gradients=True)
            target = total(logits, batch.wanted).mean()
            loss = -target + settings.sparsity * (1 - mask).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        selected = mask.detach().round() == 0
        if done in every and (chosen := tuple(selected.tolist())) not in known:
            known[chosen] = right(context, heads, judged, selected)
    best = max(known, key=lambda chosen: (float(known[chosen].float().mean()), sum(chosen)))
    return [each for each, kept in zip(order, best, strict=True) if kept], known[best]


Donated = tuple[Batch, Sequence[Tensor]]
"""A batch and the source prompts' z of the heads, in `grouped` order."""


def donated(context: MeasurementContext, heads: Heads, batch: Batch) -> Sequence[Tensor]:
    """What the source prompts give; the same in every epoch."""
    source = batch.the_source()
    return context.engine.run(
        source.tokens, readings=readings(heads, source), answer=False
    ).outcome.readings


def patched(
    context: MeasurementContext,
    heads: Heads,
    batch: Batch,
    values: Sequence[Tensor],
    mask: Tensor,
    gradients: bool,
) -> Tensor:
    """[R, V] with z of the heads mixed by ``mask`` (one entry a head, in `grouped` order)."""
    sizes = [len(hs) for _, _, hs in grouped(heads)]
    keep = [part[None, None, :, None] for part in torch.split(mask, sizes)]
    run = context.engine.run(batch.base.tokens)
    outcome = next(iter(run.branches([Branch(edits(heads, batch.base, values, keep))], gradients)))
    return outcome.logits


def right(
    context: MeasurementContext, heads: Heads, judged: Sequence[Donated], selected: Tensor
) -> Tensor:
    """[R]: whether the target comes out when the selected heads are patched whole."""
    keep = (~selected).float().to(context.model.device)
    return torch.cat(
        [
            correct(patched(context, heads, batch, values, keep, gradients=False), batch.wanted)
            for batch, values in judged
        ]
    )


def accuracy(
    context: MeasurementContext, heads: Heads, judged: Sequence[Donated], selected: Tensor
) -> float:
    """Share of rows that are `right`."""
    return float(right(context, heads, judged, selected).double().mean())
