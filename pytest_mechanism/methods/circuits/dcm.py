"""Desiderata-based component masking (DCM): which heads of a group carry a variable?

Davies et al. 2023 (arXiv 2307.03637); Prakash et al. 2024, section 4 and appendix. A mask w in
[0, 1] with an entry for each head starts at 1, and

    z = w * z(base) + (1 - w) * z(source)
    loss = -mean logit of the target + lambda * sum(1 - w)

is minimised with Adam; w is clamped to [0, 1] after each step. Every four steps, the accuracy of the
rounded mask is measured on validation rows; the mask with the best accuracy wins, ties go to more
heads. The selected heads are those with round(w) = 0.

Other than published:

- The mask is learned on 1,000 rows and chosen on 500, as published; a claim is judged on the spec's
  own rows (``task.rows``). Each of the three sets comes from a separate random stream.
- The published validation loop gives the model the tokens of the last training batch, so a group
  whose position varies is patched at wrong positions. Here each validation row is patched at its own.
- The logit of a row with several right targets is the log of their summed exponentials.
- The mask is also evaluated after the last step, where the number of steps is no multiple of four.
- One seed: how much the selected heads depend on the drawn rows is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.measurements.dcm import (
    BATCH,
    TRAIN_ROWS,
    VALIDATION_ROWS,
    DcmMask,
    MaskResult,
)
from pytest_mechanism.measurements.request import PlacedHead
from pytest_mechanism.methods.circuits.patching import Heads, edits, grouped, readings
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import correct, log_sum_exp
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.tasks.base import Row


@dataclass(frozen=True)
class DcmSettings:
    """The published values.

    Attributes:
        sparsity: lambda, the price of a selected head.
        learning_rate: Adam's.
        epochs: passes over the training rows.
        batch: rows of a step.
        evaluate_every: steps between two evaluations on validation rows.
        train: rows that the mask is learned on.
        validation: rows that it is chosen on.
    """

    sparsity: float = 0.01
    learning_rate: float = 0.1
    epochs: int = 2
    batch: int = BATCH
    evaluate_every: int = 4
    train: int = TRAIN_ROWS
    validation: int = VALIDATION_ROWS


SourceBatch = tuple[Batch, Sequence[Float[Tensor, "rows _ _ d_head"]]]
"""A batch and its source prompts' z of the heads, in `grouped` order."""


@dataclass(frozen=True, eq=False)
class LearnedMask:
    """The best mask.

    Attributes:
        selected: its heads, in `grouped` order.
        validation: the rows that it was chosen on.
        gives_target: which of these give a right target when the heads are patched.
    """

    selected: list[PlacedHead]
    validation: Sequence[Row]
    gives_target: Bool[Tensor, " rows"]


def measure(context: MeasurementContext, request: DcmMask, inputs: Sequence[Any]) -> MaskResult:
    """``patched``: whether each validation row gives the target when the selected heads are patched."""
    heads = [(*head, request.at) for head in request.heads]
    settings = DcmSettings(sparsity=request.sparsity, learning_rate=request.rate)
    mask = learn_mask(context, heads, request.variable, settings)
    columns = Columns()
    columns.add("patched", mask.gives_target)
    selected = tuple((layer, head) for layer, head, _ in mask.selected)
    return columns.result(MaskResult, mask.validation, selected=selected)


def learn_mask(
    context: MeasurementContext, heads: Heads, variable: str, settings: DcmSettings
) -> LearnedMask:
    """Learn on the task's stream ``dcm_train`` and choose on ``dcm_validation``; nothing else uses
    these rows."""
    task, vocabulary = context.task, context.vocabulary
    train = task.interchange(vocabulary, variable, settings.train, "dcm_train")
    validation = task.interchange(vocabulary, variable, settings.validation, "dcm_validation")
    order = [(layer, head, name) for layer, name, numbers in grouped(heads) for head in numbers]
    mask = torch.ones(len(order), device=context.model.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
    batches = [
        context.batch(train[start : start + settings.batch])
        for start in range(0, len(train), settings.batch)
    ]
    steps = [(batch, source_z(context, heads, batch)) for batch in batches] * settings.epochs
    evaluation = [(b, source_z(context, heads, b)) for b in context.batches(validation)]
    by_selection: dict[tuple[bool, ...], Bool[Tensor, " rows"]] = {}
    for step, (batch, values) in enumerate(steps, 1):
        with torch.enable_grad():
            logits = patched(context, heads, batch, values, mask, gradients=True)
            target = log_sum_exp(logits, batch.correct_targets).mean()
            loss = -target + settings.sparsity * (1 - mask).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        if step % settings.evaluate_every == 0 or step == len(steps):
            selected = mask.detach().round() == 0
            if (key := tuple(selected.tolist())) not in by_selection:
                by_selection[key] = gives_target(context, heads, evaluation, selected)
    best = max(by_selection, key=lambda key: (float(by_selection[key].float().mean()), sum(key)))
    heads_of_best = [head for head, kept in zip(order, best, strict=True) if kept]
    return LearnedMask(heads_of_best, validation, by_selection[best])


def source_z(
    context: MeasurementContext, heads: Heads, batch: Batch
) -> Sequence[Float[Tensor, "rows _ _ d_head"]]:
    """z of the heads on the source prompts, in `grouped` order; the same in every epoch."""
    source = batch.require_source()
    return context.engine.run(
        source.tokens, readings=readings(heads, source), answer=False
    ).outcome.readings


def patched(
    context: MeasurementContext,
    heads: Heads,
    batch: Batch,
    values: Sequence[Float[Tensor, "rows _ _ d_head"]],
    mask: Float[Tensor, " heads"],
    gradients: bool,
) -> Float[Tensor, "rows words"]:
    """Logits where z of the heads is mixed by ``mask``, which is in `grouped` order."""
    sizes = [len(numbers) for _, _, numbers in grouped(heads)]
    keep = [part[None, None, :, None] for part in torch.split(mask, sizes)]
    run = context.engine.run(batch.base.tokens)
    outcome = next(iter(run.branches([Branch(edits(heads, batch.base, values, keep))], gradients)))
    return outcome.logits


def gives_target(
    context: MeasurementContext,
    heads: Heads,
    batches: Sequence[SourceBatch],
    selected: Bool[Tensor, " heads"],
) -> Bool[Tensor, " rows"]:
    """Which rows give a right target when the selected heads are patched whole."""
    keep = (~selected).float().to(context.model.device)
    return torch.cat(
        [
            correct(
                patched(context, heads, batch, values, keep, gradients=False),
                batch.correct_targets,
            )
            for batch, values in batches
        ]
    )
