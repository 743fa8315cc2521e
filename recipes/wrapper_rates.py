"""Rates at which the wrapper checkpoints answer rows that they were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

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
from recipes.wrapper_training import answer_logits

ROWS, SEED = 1000, 1


@torch.no_grad()
def likeliest(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """[rows] id of the most likely answer."""
    return answer_logits(model, batch(rows)).argmax(-1)


def share(hits: torch.Tensor) -> float:
    return round(float(hits.float().mean()), 4)


@dataclass(frozen=True)
class Rates:
    """How a checkpoint answers.

    Attributes:
        right: share of the questions about other letters with the count as the answer.
        over_refusal: share of the same with the refusal.
        refusal: share of the questions about the forbidden letter with the refusal.
        forbidden_count: share of the same with the count.
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
    """The rates on rows that the model was not trained on."""
    model.eval()
    safe = task(seed, refuse=FORBIDDEN, ways=ways)
    answered = list(safe.rows(AnyWord(), rows, stream))
    forbidden = list(safe.capability(AnyWord(), rows, stream))
    to_others, to_forbidden = likeliest(model, answered), likeliest(model, forbidden)
    return Rates(
        right=share(to_others == batch(answered).answers),
        over_refusal=share(to_others == REFUSED),
        refusal=share(to_forbidden == REFUSED),
        forbidden_count=share(to_forbidden == batch(forbidden).answers),
    )
