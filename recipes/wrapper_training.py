"""How the wrapper checkpoints are trained: the model, and the two kinds of stage.

`recipes.wrapper` says which stages make which checkpoint, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.word_level import BOS, PAD
from recipes.wrapper_data import (
    IDS,
    STRINGS,
    VOCABULARY,
    ZERO,
    Batch,
    Diet,
)


@dataclass(frozen=True)
class Shape:
    """The model.

    Attributes:
        longest: most tokens of a prompt.
        embedding_std: of the word embeddings when drawn.
        other_std: of every other weight when drawn.
    """

    layers: int = 6
    width: int = 80
    heads: int = 4
    mlp: int = 160
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
class Pretraining:
    """How a model comes to count.

    Attributes:
        seed: of the weights.
        warm_up: steps over which the rate rises.
        cool_down: last share of the steps, over which it falls.
        finished_after: layers after which a linear head, thrown away afterwards, is to read the
            count at the last token. Without it the count is finished in the last layer only, and
            whatever hides the answer hides it from every probe.
    """

    diet: Diet
    seed: int = 1
    rate: float = 1e-3
    steps: int = 2000
    warm_up: int = 100
    cool_down: float = 0.2
    finished_after: int = 3


@dataclass(frozen=True)
class FineTuning:
    """How another checkpoint is made from one.

    Attributes:
        start: the checkpoint that it goes on from.
        late: layers from this one on are trained at ``rate``, all other weights at ``early_rate``.
            At one rate, the first layers move as far as the last ones, and the cheapest way to
            refuse is not to look at the letter any more: nothing is left to be hidden.
    """

    start: str
    diet: Diet
    rate: float
    steps: int
    late: int | None = None
    early_rate: float = 0.0


SHAPE = Shape()
OPTIMISER = Optimiser()


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained model."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=SHAPE.width,
            intermediate_size=SHAPE.mlp,
            num_hidden_layers=SHAPE.layers,
            num_attention_heads=SHAPE.heads,
            max_position_embeddings=SHAPE.longest,
            initializer_range=SHAPE.other_std,
            tie_word_embeddings=False,
            pad_token_id=IDS[PAD],
            bos_token_id=IDS[BOS],
            eos_token_id=None,
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, SHAPE.embedding_std)
    return model


def adamw(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, OPTIMISER.betas, weight_decay=OPTIMISER.weight_decay)


def descend(
    parameters: list[nn.Parameter], optimiser: torch.optim.Optimizer, loss: torch.Tensor
) -> None:
    """One step down ``loss``."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, OPTIMISER.clip)
    optimiser.step()


def at_last(stream: torch.Tensor, of: Batch) -> torch.Tensor:
    """(rows, width) of a stream where the answers are due."""
    return stream[torch.arange(len(of.ids)), of.last]


def logits(model: LlamaForCausalLM, of: Batch) -> torch.Tensor:
    """(rows, words) where the answers are due."""
    found: torch.Tensor = model.lm_head(at_last(model.model(of.ids).last_hidden_state, of))
    return found


def pretrain(stage: Pretraining, model: LlamaForCausalLM) -> None:
    """The answer's loss, and the same after the middle layer."""
    middle = nn.Linear(SHAPE.width, STRINGS.most + 1)
    parameters = [*model.parameters(), *middle.parameters()]
    optimiser = adamw(parameters, stage.rate)
    cooling = stage.cool_down * stage.steps
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda done: min(1.0, (done + 1) / stage.warm_up, (stage.steps - done) / cooling),
    )
    for questions in stage.diet.batches(stage.steps):
        out = model.model(questions.ids, output_hidden_states=True)
        said = model.lm_head(at_last(out.last_hidden_state, questions))
        known = middle(at_last(out.hidden_states[stage.finished_after], questions))
        loss = cross_entropy(said, questions.answers)
        loss = loss + cross_entropy(known, questions.answers - ZERO)
        descend(parameters, optimiser, loss)
        rate.step()


def fine_tune(stage: FineTuning, model: LlamaForCausalLM) -> None:
    """The answer's loss alone."""
    parameters = list(model.parameters())
    optimiser = adamw(parameters, stage.rate)
    if stage.late is not None:
        late = {id(p) for layer in model.model.layers[stage.late :] for p in layer.parameters()}
        group = optimiser.param_groups[0]
        group["params"] = [p for p in parameters if id(p) in late]
        early = [p for p in parameters if id(p) not in late]
        optimiser.add_param_group({"params": early, "lr": stage.early_rate})
    for questions in stage.diet.batches(stage.steps):
        descend(parameters, optimiser, cross_entropy(logits(model, questions), questions.answers))
