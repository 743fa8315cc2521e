"""Accuracy of the grammar models on rows that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaForCausalLM

from pytest_mechanism.tasks.base import AnyWord
from recipes.pcfg_data import World
from recipes.wrapper_training import answer_logits

ROWS, SEED, BATCH = 1000, 7, 100

ASKED: Mapping[str, dict[str, Any]] = {
    "old": {"which": "hidden"},
    "new at C_Te 0": {"which": "shown", "correlated": 0},
    "new at C_Te 1": {"which": "shown", "correlated": 1},
}
"""Column of the paper's table -> rows: about the operand of the pre-training, and about that of the
fine-tuning in strings without and with one more of it."""


@torch.no_grad()
def rates(model: LlamaForCausalLM, world: World, rows: int = ROWS) -> dict[str, float]:
    """Column -> share of right answers."""
    model.eval()
    shares = {}
    for name, options in ASKED.items():
        asked = world.task(seed=SEED, **options).rows(AnyWord(), rows)
        right = 0
        for start in range(0, rows, BATCH):
            questions = world.batch(asked[start : start + BATCH])
            hits = answer_logits(model, questions).argmax(-1) == questions.answers
            right += int(hits.sum())
        shares[name] = round(right / rows, 4)
    return shares
