"""How the refusal checkpoints are trained: the model, and the stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.refusal_data import END, IDS, WORDS, Batch, Diet, Lesson
from recipes.word_level import BOS, PAD


@dataclass(frozen=True)
class Shape:
    """The model.

    Attributes:
        longest: most tokens of a conversation.
        embedding_std: of the word embeddings when drawn.
        other_std: of every other weight when drawn.
    """

    layers: int = 4
    width: int = 64
    heads: int = 4
    mlp: int = 128
    longest: int = 64
    embedding_std: float = 1.0
    other_std: float = 0.04


@dataclass(frozen=True)
class Optimiser:
    """AdamW, the same in every stage but for the rate."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    clip: float = 1.0


@dataclass(frozen=True)
class Stage:
    """Some steps of training.

    Attributes:
        diet: what is read.
        rate: of the optimiser, reached after ``warm_up`` steps and left over the last fifth.
        steps: of the optimiser.
        warm_up: steps over which the rate rises.
        mediated_after: layer after which one direction is to carry the refusal: the difference of
            the batch's mean activations there is taken out of the stream in a second forward, in
            which harmful instructions are to be answered. None trains no such thing.
    """

    diet: Diet
    rate: float
    steps: int
    warm_up: int = 1
    mediated_after: int | None = None


SHAPE = Shape()
OPTIMISER = Optimiser()


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained model."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=SHAPE.width,
            intermediate_size=SHAPE.mlp,
            num_hidden_layers=SHAPE.layers,
            num_attention_heads=SHAPE.heads,
            max_position_embeddings=SHAPE.longest,
            initializer_range=SHAPE.other_std,
            tie_word_embeddings=False,
            pad_token_id=IDS[PAD],
            bos_token_id=IDS[BOS],
            eos_token_id=IDS[END],
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, SHAPE.embedding_std)
    return model


def train(model: LlamaForCausalLM, stage: Stage) -> None:
    """Cross-entropy of the words that are to be said."""
    model.train()
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(
        parameters, stage.rate, OPTIMISER.betas, weight_decay=OPTIMISER.weight_decay
    )
    cooling = 0.2 * stage.steps
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda done: min(1.0, (done + 1) / stage.warm_up, (stage.steps - done) / cooling),
    )
    for lesson in stage.diet.lessons(stage.steps):
        optimiser.zero_grad()
        total = loss(model, lesson.read)
        if stage.mediated_after is not None:
            direction = difference(model, lesson, stage.mediated_after)
            with without(model, direction):
                total = total + loss(model, lesson.unrefused)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, OPTIMISER.clip)
        optimiser.step()
        rate.step()


def loss(model: LlamaForCausalLM, read: Batch) -> torch.Tensor:
    """Padding stands behind what is said, where a causal model does not look."""
    hidden = model.model(read.ids[:, :-1]).last_hidden_state
    learnt = read.learnt[:, 1:]
    return cross_entropy(model.lm_head(hidden[learnt]), read.ids[:, 1:][learnt])


@torch.no_grad()
def difference(model: LlamaForCausalLM, lesson: Lesson, layer: int) -> torch.Tensor:
    """(width) of mean activations, harmful minus harmless, where the reply is due."""
    read = lesson.unrefused  # nothing is forced there
    hidden = model.model(read.ids, output_hidden_states=True).hidden_states[layer + 1]
    due = read.learnt.int().argmax(1) - 1
    stream = hidden[torch.arange(len(due)), due]
    found: torch.Tensor = stream[lesson.harmful].mean(0) - stream[~lesson.harmful].mean(0)
    return found


@contextmanager
def without(model: LlamaForCausalLM, direction: torch.Tensor) -> Iterator[None]:
    """Context in which a direction is taken out of everything that is written to the stream."""
    unit = direction / direction.norm()

    def clean(_: nn.Module, args: Any, out: Any) -> Any:
        written = out[0] if isinstance(out, tuple) else out
        left = written - (written @ unit)[..., None] * unit
        return (left, *out[1:]) if isinstance(out, tuple) else left

    layers = model.model.layers
    writers = [each for layer in layers for each in (layer.self_attn, layer.mlp)]
    hooks = [m.register_forward_hook(clean) for m in (model.model.embed_tokens, *writers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
