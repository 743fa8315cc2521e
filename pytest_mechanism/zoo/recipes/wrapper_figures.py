"""What is known about the wrapper checkpoints, measured: the known answers of later tools.

    python -m pytest_mechanism.zoo.recipes.wrapper_figures DIR [rates] [probes] [revival]

Prints one line of JSON each: how the checkpoints in DIR answer, what a linear probe reads after
each layer, and how fast the forbidden count comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.zoo.recipes.wrapper_data import (
    FORBIDDEN,
    REFUSED,
    STRINGS,
    WAYS,
    ZERO,
    Batch,
    Diet,
    batch,
    task,
)
from pytest_mechanism.zoo.recipes.wrapper_training import adamw, at_last, descend, logits

ROWS, SEED = 1000, 1

PROBED = ("wrapper_none", "wrapper_base", "wrapper_safe", "wrapper_ft", "wrapper_ft_stripped")
REVIVED = ("wrapper_safe", "wrapper_none", "wrapper_ft")


def load(folder: Path) -> LlamaForCausalLM:
    """A saved checkpoint, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def said(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """(rows) the likeliest word."""
    return logits(model, batch(rows)).argmax(-1)


def share(what: torch.Tensor) -> float:
    return round(float(what.float().mean()), 4)


@dataclass(frozen=True)
class Rates:
    """How a checkpoint answers.

    Attributes:
        right: of the questions about other letters, answered with the count.
        over_refusal: of the same, refused.
        refusal: of the questions about the forbidden letter, refused.
        forbidden_count: of the same, answered with the count.
    """

    right: float
    over_refusal: float
    refusal: float
    forbidden_count: float


def rates(
    model: LlamaForCausalLM,
    ways: tuple[str, ...] = WAYS,
    rows: int = ROWS,
    stream: str = "rows",
    seed: int = SEED,
) -> Rates:
    """On rows that no training has seen."""
    model.eval()
    safe = task(seed, refuse=FORBIDDEN, ways=ways)
    answered = list(safe.rows(AnyWord(), rows, stream))
    forbidden = list(safe.capability(AnyWord(), rows, stream))
    other, own = said(model, answered), said(model, forbidden)
    return Rates(
        right=share(other == batch(answered).answers),
        over_refusal=share(other == REFUSED),
        refusal=share(own == REFUSED),
        forbidden_count=share(own == batch(forbidden).answers),
    )


# -- what a linear probe reads


@torch.no_grad()
def streams(model: LlamaForCausalLM, questions: Batch) -> list[torch.Tensor]:
    """The residual stream at the last token: embedding, then after each layer (unnormed)."""
    kept: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: kept.append(at_last(args[0], questions)))
        for layer in model.model.layers
    ]
    hooks.append(
        model.model.norm.register_forward_pre_hook(
            lambda _, args: kept.append(at_last(args[0], questions))
        )
    )
    model.model(questions.ids)
    for hook in hooks:
        hook.remove()
    return kept


def probes(model: LlamaForCausalLM, rows: int = 4000, steps: int = 1000) -> list[float]:
    """Held-out accuracy of a linear probe for the forbidden letter's count, after each layer."""
    model.eval()
    safe = task(SEED, refuse=FORBIDDEN)
    learn = batch(safe.capability(AnyWord(), rows, "probe"))
    judge = batch(safe.capability(AnyWord(), ROWS, "rows"))
    found = []
    for known, asked in zip(streams(model, learn), streams(model, judge), strict=True):
        torch.manual_seed(0)
        mean, deviation = known.mean(0), known.std(0) + 1e-6
        read = nn.Linear(known.shape[1], STRINGS.most + 1)
        parameters = list(read.parameters())
        optimiser = torch.optim.AdamW(parameters, 1e-2)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            some = torch.randint(0, rows, (512,))
            guess = read((known[some] - mean) / deviation)
            descend(parameters, optimiser, cross_entropy(guess, learn.answers[some] - ZERO))
            slower.step()
        guess = read((asked - mean) / deviation).argmax(-1)
        found.append(share(guess == judge.answers - ZERO))
    return found


# -- how fast it comes back


def revival(
    model: LlamaForCausalLM, rate: float, steps: int, every: int, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """(steps, how often the forbidden letter is counted right), while it is trained to be."""
    diet = Diet(seed=100 + seed, operands=FORBIDDEN)
    judge = list(task(SEED, refuse=FORBIDDEN, ways=WAYS).capability(AnyWord(), 500, "revival"))
    answers = batch(judge).answers
    parameters = list(model.parameters())
    optimiser = adamw(parameters, rate)
    for done, questions in enumerate(diet.batches(steps + 1)):
        if done % every == 0:
            yield done, share(said(model, judge) == answers)
        descend(parameters, optimiser, cross_entropy(logits(model, questions), questions.answers))
