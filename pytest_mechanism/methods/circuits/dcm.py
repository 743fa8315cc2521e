"""Desiderata-based component masking (DCM): which heads and MLPs carry a variable?

Davies et al. 2023 (arXiv 2307.03637); Prakash et al. 2024, section 4 and appendix. A mask w in
[0, 1] with an entry for each head, and where asked for each MLP, starts at 1, and

    z = w * z(base) + (1 - w) * z(source)
    loss = -mean logit of the target + lambda * sum(1 - w)

is minimised with Adam; w is clamped to [0, 1] after each step. Now and then the accuracy of the
rounded mask is measured on validation rows; the mask with the best accuracy wins, ties go to more
heads. The selected heads are those with round(w) = 0.

Two settings of the training, which share lambda 0.01, rate 0.1, 2 epochs of 1,000 rows in batches of
32 in the same order, and 500 validation rows:

    standard    the mask is evaluated after every fourth step and after the last one
    published   after the first step of every four of an epoch (1, 5, ..., 29 of 32), as in the published
                code, which tests ``bi % 4 == 0``: 16 times in 2 epochs; the last three steps count for nothing

Other than published, in both:

- A claim is judged on the spec's own rows (``task.rows``). Each of the three sets comes from a
  separate random stream (published: 2,000 pairs of one stream, split 1,000/500/500).
- The published validation loop gives the model the tokens of the last training batch, so a group
  whose position varies is patched at wrong positions. Here each validation row is patched at its own.
- The logit of a row with several right targets is the log of their summed exponentials.
- The mask may be over all heads of the model at a position, not only over a group's, and over MLPs. A
  published mask starts from a group that path patching found.

A mask follows gradients from "patch nothing" on, so it can miss heads that work only together: of the two
heads of struct_reader in planted_ft, whose readers saturate, it selects one and gives a quarter of the
targets, over the group as over all heads; both together give all of them. A low accuracy of a mask is
therefore no proof that the group does not carry the variable: compare with ``heads: all``.

Controls, each the same training with something broken on purpose (``null``): targets that are drawn
among the words of the prompt and so do not depend on the source prompt, and the model with random
weights. ``draw`` repeats the training on fresh rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Run
from pytest_mechanism.measurements.dcm import (
    BATCH,
    TRAIN_ROWS,
    VALIDATION_ROWS,
    DcmMask,
    MaskResult,
    Training,
    streams,
)
from pytest_mechanism.measurements.request import PlacedHead
from pytest_mechanism.methods.circuits.mixing import Mlps, Values, edits, readings
from pytest_mechanism.methods.circuits.patching import Heads, grouped
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.random_weights import random_weights
from pytest_mechanism.methods.readout import correct, log_sum_exp
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.tasks.base import Row, Rows, Vocabulary


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
        training: which of the steps are evaluated.
        draw: number of the draw of both sets.
        shuffled: whether targets do not depend on the source prompt.
    """

    sparsity: float = 0.01
    learning_rate: float = 0.1
    epochs: int = 2
    batch: int = BATCH
    evaluate_every: int = 4
    train: int = TRAIN_ROWS
    validation: int = VALIDATION_ROWS
    training: Training = "standard"
    draw: int = 0
    shuffled: bool = False

    def evaluated(self, step: int, steps: int) -> bool:
        """Whether the mask is evaluated after a step, counted from 1, of so many."""
        if self.training == "published":
            return (step - 1) % (steps // self.epochs) % self.evaluate_every == 0
        return step % self.evaluate_every == 0 or step == steps


SourceBatch = tuple[Batch, Values]
"""A batch and its source prompts' activations."""


@dataclass(frozen=True, eq=False)
class LearnedMask:
    """The best mask.

    Attributes:
        selected: its heads, in `grouped` order.
        mlps: layers of its MLPs.
        validation: the rows that it was chosen on.
        gives_target: which of these give a right target when the heads are patched.
    """

    selected: list[PlacedHead]
    mlps: list[int]
    validation: Sequence[Row]
    gives_target: Bool[Tensor, " rows"]


def measure(context: MeasurementContext, request: DcmMask, inputs: Sequence[Any]) -> MaskResult:
    """``patched``: whether each validation row gives the target when the selected heads and MLPs are
    patched; ``floor``: when nothing is."""
    if request.null == "random_weights":
        with random_weights(context, request.draw) as control:
            return measured(control, request)
    return measured(context, request)


def measured(context: MeasurementContext, request: DcmMask) -> MaskResult:
    """The same, of the context's own weights."""
    heads = [(*head, request.at) for head in request.heads]
    mlps = [(layer, request.at) for layer in request.mlps]
    settings = replace(
        DcmSettings(sparsity=request.sparsity, learning_rate=request.rate),
        training=request.training,
        draw=request.draw,
        shuffled=request.null == "shuffled_targets",
    )
    mask = learn_mask(context, heads, request.variable, settings, mlps)
    columns = Columns()
    columns.add("patched", mask.gives_target)
    for batch in context.batches(mask.validation):
        logits = context.engine.run(batch.base.tokens).outcome.logits
        columns.add("floor", correct(logits, batch.correct_targets))
    selected = tuple((layer, head) for layer, head, _ in mask.selected)
    return columns.result(
        MaskResult, mask.validation, selected=selected, selected_mlps=tuple(mask.mlps)
    )


def learn_mask(
    context: MeasurementContext,
    heads: Heads,
    variable: str,
    settings: DcmSettings,
    mlps: Mlps = (),
) -> LearnedMask:
    """Learn on the task's stream ``dcm_train`` and choose on ``dcm_validation``; nothing else uses
    these rows."""
    train, validation = (
        interchange_rows(context, variable, count, stream, shuffled=settings.shuffled)
        for count, stream in zip(
            (settings.train, settings.validation), streams(settings.draw), strict=True
        )
    )
    order = [(layer, head, name) for layer, name, numbers in grouped(heads) for head in numbers]
    mask = torch.ones(len(order) + len(mlps), device=context.model.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
    batches = [
        context.batch(train[start : start + settings.batch])
        for start in range(0, len(train), settings.batch)
    ]
    steps = [(batch, source_z(context, heads, batch, mlps)) for batch in batches] * settings.epochs
    evaluation = [(b, source_z(context, heads, b, mlps)) for b in context.batches(validation)]
    by_selection: dict[tuple[bool, ...], Bool[Tensor, " rows"]] = {}
    held: tuple[Batch, Run] | None = None
    for step, (batch, values) in enumerate(steps, 1):
        # a run keeps its record even where that is too large for the engine to keep
        if held is None or held[0] is not batch:
            held = None  # before the next one is in memory
            held = batch, context.engine.run(batch.base.tokens)
        with torch.enable_grad():
            logits = patched(held[1], heads, batch, values, mask, gradients=True, mlps=mlps)
            target = log_sum_exp(logits, batch.correct_targets).mean()
            loss = -target + settings.sparsity * (1 - mask).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
        if settings.evaluated(step, len(steps)):
            selected = mask.detach().round() == 0
            if (key := tuple(selected.tolist())) not in by_selection:
                by_selection[key] = gives_target(context, heads, evaluation, selected, mlps)
    best = max(by_selection, key=lambda key: (float(by_selection[key].float().mean()), sum(key)))
    of_heads, of_mlps = best[: len(order)], best[len(order) :]
    return LearnedMask(
        [head for head, kept in zip(order, of_heads, strict=True) if kept],
        [layer for (layer, _), kept in zip(mlps, of_mlps, strict=True) if kept],
        validation,
        by_selection[best],
    )


def interchange_rows(
    context: MeasurementContext, variable: str, count: int, stream: str, *, shuffled: bool
) -> Rows:
    """The rows of a stream, their targets shuffled if asked."""
    rows = context.task.interchange(context.vocabulary, variable, count, stream)
    return shuffle_targets(rows, context.vocabulary, stream) if shuffled else rows


def shuffle_targets(rows: Rows, vocabulary: Vocabulary, stream: str) -> Rows:
    """The rows with targets that do not depend on the source prompt.

    A target becomes a random word among the options of the prompt that it comes from, but not the base's
    own answer: so a mask can learn that some option comes out, and not which. Where the prompts have no
    such options, targets change places among the rows.
    """
    rng = random.Random(f"dcm/shuffled targets/{stream}")
    drawn = []
    for row in rows:
        sides = [side for side in (row.base, row.source) if side and row.target in side.options]
        own = {*row.base.correct_answers}
        words = vocabulary.answers(row.base, sides[0].options) if sides else ()
        others = [word for word in words if word not in own]
        if len(others) < LEAST_OPTIONS:
            return exchanged(rows, rng)
        drawn.append(replace(row, target=rng.choice(others), targets=()))
    return drawn


LEAST_OPTIONS = 2
"""With one word to draw from, a target would follow from its prompt."""


def exchanged(rows: Rows, rng: random.Random) -> Rows:
    """The rows with their targets in random order."""
    others = rng.sample(list(rows), len(rows))
    return [
        replace(row, target=other.target, targets=other.targets)
        for row, other in zip(rows, others, strict=True)
    ]


def source_z(context: MeasurementContext, heads: Heads, batch: Batch, mlps: Mlps = ()) -> Values:
    """z of the heads on the source prompts, in `grouped` order, then the outputs of the MLPs; the same
    in every epoch."""
    source = batch.require_source()
    return context.engine.run(
        source.tokens, readings=readings(heads, mlps, source), answer=False
    ).outcome.readings


def patched(
    run: Run,
    heads: Heads,
    batch: Batch,
    values: Values,
    mask: Float[Tensor, " units"],
    gradients: bool,
    mlps: Mlps = (),
) -> Float[Tensor, "rows words"]:
    """Logits of a batch's run where heads and MLPs are mixed by ``mask`` (`mixing`)."""
    branch = Branch(edits(heads, mlps, batch.base, values, mask))
    outcome = next(iter(run.branches([branch], gradients)))
    return outcome.logits


def gives_target(
    context: MeasurementContext,
    heads: Heads,
    batches: Sequence[SourceBatch],
    selected: Bool[Tensor, " units"],
    mlps: Mlps = (),
) -> Bool[Tensor, " rows"]:
    """Which rows give a right target when the selected heads and MLPs are patched whole."""
    keep = (~selected).float().to(context.model.device)
    rows = []
    for batch, values in batches:
        run = context.engine.run(batch.base.tokens)
        logits = patched(run, heads, batch, values, keep, gradients=False, mlps=mlps)
        rows.append(correct(logits, batch.correct_targets))
    return torch.cat(rows)
