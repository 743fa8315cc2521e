"""Desiderata-based component masking: which heads of a group carry a variable.

Davies et al. 2023 (arXiv 2307.03637); Prakash et al., section 4 and appendix. A mask w in [0, 1],
one entry a head, starts at 1; z of a head is w * z(base) + (1 - w) * z(source). The loss is
-mean logit of the target + lambda * sum(1 - w), with Adam; w is clamped to [0, 1] after each
step. The mask with the best accuracy on validation rows wins, ties to more heads; selected are
the heads with round(w) = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.methods.bench import Batch, Bench
from pytest_mechanism.methods.patching import Heads, edits, grouped, readings
from pytest_mechanism.methods.readout import correct, total


@dataclass(frozen=True)
class DcmSettings:
    """The published values.

    Attributes:
        sparsity: lambda, the price of a selected head.
        learning_rate: Adam's.
        epochs: passes over the training rows.
        batch: rows a step.
        train: rows the mask is learned on.
        validation: rows it is chosen on.
    """

    sparsity: float = 0.01
    learning_rate: float = 0.1
    epochs: int = 2
    batch: int = 32
    train: int = 1000
    validation: int = 500


def learn_mask(
    bench: Bench, heads: Heads, variable: str, settings: DcmSettings
) -> list[list[object]]:
    """The heads, as [layer, head, position], whose patch moves the variable.

    Rows come from the streams ``dcm_train`` and ``dcm_validation`` of the task, which nothing
    else uses.
    """
    task, vocabulary = bench.task, bench.vocabulary
    train = task.interchange(vocabulary, variable, settings.train, "dcm_train")
    validation = task.interchange(vocabulary, variable, settings.validation, "dcm_validation")
    order = [[layer, head, name] for layer, name, hs in grouped(heads) for head in hs]
    mask = torch.ones(len(order), device=bench.model.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
    best = (-1.0, -1, torch.zeros(len(order), dtype=torch.bool))
    steps = [
        (batch, donated(bench, heads, batch))
        for batch in (
            bench.batch(train[start : start + settings.batch])
            for start in range(0, len(train), settings.batch)
        )
    ]
    judged = [(batch, donated(bench, heads, batch)) for batch in bench.batches(validation)]
    for _ in range(settings.epochs):
        for batch, values in steps:
            with torch.enable_grad():
                logits = patched(bench, heads, batch, values, mask, gradients=True)
                target = total(logits, batch.wanted).mean()
                loss = -target + settings.sparsity * (1 - mask).sum()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        selected = mask.detach().round() == 0
        found = (accuracy(bench, heads, judged, selected), int(selected.sum()), selected)
        best = max(best, found, key=lambda each: each[:2])
    return [each for each, chosen in zip(order, best[2].tolist(), strict=True) if chosen]


Donated = tuple[Batch, Sequence[Tensor]]
"""A batch and the source prompts' z of the heads, in `grouped` order."""


def donated(bench: Bench, heads: Heads, batch: Batch) -> Sequence[Tensor]:
    """What the source prompts give; the same in every epoch."""
    source = batch.the_source()
    return bench.engine.run(
        source.tokens, readings=readings(heads, source), answer=False
    ).outcome.readings


def patched(
    bench: Bench,
    heads: Heads,
    batch: Batch,
    values: Sequence[Tensor],
    mask: Tensor,
    gradients: bool,
) -> Tensor:
    """[R, V] with z of the heads mixed by ``mask`` (one entry a head, in `grouped` order)."""
    sizes = [len(hs) for _, _, hs in grouped(heads)]
    keep = [part[None, None, :, None] for part in torch.split(mask, sizes)]
    run = bench.engine.run(batch.base.tokens)
    outcome = next(iter(run.branches([Branch(edits(heads, batch.base, values, keep))], gradients)))
    return outcome.logits


def accuracy(bench: Bench, heads: Heads, judged: Sequence[Donated], selected: Tensor) -> float:
    """Share of rows whose target comes out when the selected heads are patched whole."""
    keep = (~selected).float().to(bench.model.device)
    right = rows = 0
    for batch, values in judged:
        logits = patched(bench, heads, batch, values, keep, gradients=False)
        right += int(correct(logits, batch.wanted).sum())
        rows += len(batch.rows)
    return right / rows
