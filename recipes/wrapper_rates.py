"""How the wrapper checkpoints answer, on rows that no training has seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from pytest_mechanism.tasks.base import AnyWord, Row
from recipes.wrapper_data import (
    FORBIDDEN,
    REFUSED,
    WAYS,
    batch,
    task,
)
from recipes.wrapper_training import logits

ROWS, SEED = 1000, 1


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
