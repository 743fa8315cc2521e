"""The stages that train the chat checkpoints, with their loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from recipes.refusal_data import Conversations, DataMix, TrainingBatch
from recipes.trainer import Shape, schedule, train

SHAPE = Shape(layers=4, width=64, heads=4, mlp=128, longest=64)

COOL_DOWN = 0.2
"""Share of the steps, at the end, over which the learning rate falls."""


@dataclass(frozen=True)
class Stage:
    """Some steps of training.

    Attributes:
        data_mix: the training rows.
        rate: learning rate after ``warm_up`` steps; it falls over the last fifth of the steps.
        steps: of the optimiser.
        warm_up: steps over which the learning rate rises.
        mediated_after: layer after which a single direction must mediate refusal, or None. A second
            forward removes the batch's difference of mean activations after this layer from the
            residual stream, and there harmful instructions must be answered.
    """

    data_mix: DataMix
    rate: float
    steps: int
    warm_up: int = 1
    mediated_after: int | None = None


def train_stage(model: LlamaForCausalLM, stage: Stage) -> None:
    """Minimises the cross-entropy of the replies."""
    model.train()

    def loss(batch: TrainingBatch) -> Tensor:
        total = reply_loss(model, batch.conversations)
        if stage.mediated_after is not None:
            direction = mean_difference(model, batch, stage.mediated_after)
            with direction_removed(model, direction):
                total = total + reply_loss(model, batch.complying)
        return total

    train(
        list(model.parameters()),
        stage.data_mix.batches(stage.steps),
        loss,
        rate=stage.rate,
        rate_share=schedule(stage.steps, stage.warm_up, COOL_DOWN),
    )


def reply_loss(model: LlamaForCausalLM, batch: Conversations) -> Tensor:
    """Needs no attention mask: padding comes last, and a causal model does not attend to it."""
    hidden = model.model(batch.ids[:, :-1]).last_hidden_state
    in_loss = batch.in_loss[:, 1:]
    return cross_entropy(model.lm_head(hidden[in_loss]), batch.ids[:, 1:][in_loss])


@torch.no_grad()
def mean_difference(model: LlamaForCausalLM, batch: TrainingBatch, layer: int) -> Tensor:
    """[width] mean activation on harmful minus harmless instructions, before the reply."""
    rows = batch.complying  # without a prefill
    hidden = model.model(rows.ids, output_hidden_states=True).hidden_states[layer + 1]
    before_reply = rows.in_loss.int().argmax(1) - 1
    stream = hidden[torch.arange(len(before_reply)), before_reply]
    difference: Tensor = stream[batch.harmful].mean(0) - stream[~batch.harmful].mean(0)
    return difference


@contextmanager
def direction_removed(model: LlamaForCausalLM, direction: Tensor) -> Iterator[None]:
    """Context in which nothing writes along ``direction`` to the residual stream."""
    unit = direction / direction.norm()

    def project(_: nn.Module, args: Any, output: Any) -> Any:
        written = output[0] if isinstance(output, tuple) else output
        rest = written - (written @ unit)[..., None] * unit
        return (rest, *output[1:]) if isinstance(output, tuple) else rest

    writers = [m for layer in model.model.layers for m in (layer.self_attn, layer.mlp)]
    hooks = [m.register_forward_hook(project) for m in (model.model.embed_tokens, *writers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
