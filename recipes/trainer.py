"""The trainer of all recipes: a small Llama, an optimiser, and one loop over batches.

Each recipe brings its own batches and its own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_mechanism.measurements.descent import ADAMW, Descent
from pytest_mechanism.methods.weights.optimiser import descend, make_optimiser, set_rates
from recipes.word_level import BOS, PAD

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        longest: maximum number of tokens in a prompt.
        embedding_std: standard deviation of the initial word embeddings. At 1, attention can tell
            words apart from the first step on.
        other_std: standard deviation of all other initial weights.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    longest: int
    embedding_std: float = 1.0
    other_std: float = 0.04

    @property
    def d_head(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Optimiser:
    """Settings of AdamW, the same in every stage; only the learning rate differs. Of SGD, only ``clip``: it
    has no weight decay."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    clip: float = 1.0


OPTIMISER = Optimiser()


def new_model(
    shape: Shape, ids: Mapping[str, int], seed: int, end: str | None = None
) -> LlamaForCausalLM:
    """An untrained model.

    Args:
        shape: its sizes.
        ids: word -> token id.
        seed: of the initial weights.
        end: the word that ends a reply, or None.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=shape.width,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.longest,
            initializer_range=shape.other_std,
            tie_word_embeddings=False,
            pad_token_id=ids[PAD],
            bos_token_id=ids[BOS],
            eos_token_id=None if end is None else ids[end],
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, shape.embedding_std)
    return model


def schedule(steps: int, warm_up: int, cool_down: float = 0.0) -> Callable[[int], float]:
    """The share of the learning rate after so many steps.

    Args:
        steps: of the whole stage.
        warm_up: steps over which the learning rate rises linearly.
        cool_down: share of the steps, at the end, over which it falls to zero linearly.
    """

    def share(done: int) -> float:
        rising = min(1.0, (done + 1) / warm_up)
        return min(rising, (steps - done) / (cool_down * steps)) if cool_down else rising

    return share


def train(
    parameters: Sequence[nn.Parameter],
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
    *,
    rate: float,
    slow: Sequence[nn.Parameter] = (),
    slow_rate: float = 0.0,
    rate_share: Callable[[int], float] = lambda done: 1.0,
    descent: Descent = ADAMW,
    steps: int | None = None,
    after_step: Callable[[int], None] = lambda done: None,
) -> None:
    """Minimises ``loss``, one step for each batch.

    Args:
        parameters: all weights to train.
        batches: what the model reads, step by step.
        loss: of one batch.
        rate: the learning rate.
        slow: those of ``parameters`` that have the learning rate ``slow_rate`` instead.
        slow_rate: see ``slow``.
        rate_share: factor on the learning rates, from the number of finished steps.
        descent: which optimiser; its schedule is a further factor on the learning rates.
        steps: number of batches, which a schedule of ``descent`` needs.
        after_step: called after each step with the number of finished steps.

    Raises:
        ValueError: the descent has a schedule, and ``steps`` is missing.
    """
    if descent.scheduled and steps is None:
        raise ValueError(f"{descent}: needs the number of steps")
    slow_ids = {id(p) for p in slow}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in slow_ids], "lr": rate}
    ]
    if slow:
        groups.append({"params": [p for p in parameters if id(p) in slow_ids], "lr": slow_rate})
    optimiser = make_optimiser(
        groups, descent, betas=OPTIMISER.betas, weight_decay=OPTIMISER.weight_decay
    )
    for done, batch in enumerate(batches):
        set_rates(optimiser, rate_share(done) * descent.share(done + 1, steps or 0))
        descend(loss(batch), optimiser, parameters, OPTIMISER.clip)
        after_step(done + 1)
