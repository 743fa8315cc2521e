"""The two kinds of stage that train the wrapper checkpoints, with their losses.

`recipes.wrapper` says which stages make which checkpoint, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from recipes.trainer import Shape, schedule, train
from recipes.wrapper_data import STRINGS, ZERO, Batch, DataMix

SHAPE = Shape(layers=6, width=80, heads=4, mlp=160, longest=64)


@dataclass(frozen=True)
class Pretraining:
    """How a model learns to count.

    Attributes:
        seed: of the initial weights.
        warm_up: steps over which the learning rate rises.
        cool_down: share of the steps, at the end, over which it falls.
        finished_after: layers after which an auxiliary linear head, discarded afterwards, reads the
            count at the last token. Without it only the last layer completes the count, and
            whatever hides the answer hides it from every probe.
    """

    data_mix: DataMix
    seed: int = 1
    rate: float = 1e-3
    steps: int = 2000
    warm_up: int = 100
    cool_down: float = 0.2
    finished_after: int = 3


@dataclass(frozen=True)
class FineTuning:
    """How a checkpoint is made from another one.

    Attributes:
        start: the checkpoint to start from.
        late: layers from this one on have the learning rate ``rate``, all other weights
            ``early_rate``. With a single learning rate the first layers move as far as the last
            ones, and the cheapest way to refuse is to ignore the letter: then no hidden count is
            left.
    """

    start: str
    data_mix: DataMix
    rate: float
    steps: int
    late: int | None = None
    early_rate: float = 0.0


def at_last(stream: Tensor, questions: Batch) -> Tensor:
    """[rows, width] residual stream at the last token of each prompt."""
    return stream[torch.arange(len(questions.ids)), questions.last]


def answer_logits(model: LlamaForCausalLM, questions: Batch) -> Tensor:
    """[rows, words] at the last token of each prompt."""
    hidden = model.model(questions.ids).last_hidden_state
    logits: Tensor = model.lm_head(at_last(hidden, questions))
    return logits


def pretrain(stage: Pretraining, model: LlamaForCausalLM) -> None:
    """Minimises the loss on answers, after the last layer and after a middle one."""
    middle = nn.Linear(SHAPE.width, STRINGS.most + 1)

    def loss(questions: Batch) -> Tensor:
        output = model.model(questions.ids, output_hidden_states=True)
        logits = model.lm_head(at_last(output.last_hidden_state, questions))
        counts = middle(at_last(output.hidden_states[stage.finished_after], questions))
        answer_loss = cross_entropy(logits, questions.answers)
        return answer_loss + cross_entropy(counts, questions.answers - ZERO)

    train(
        [*model.parameters(), *middle.parameters()],
        stage.data_mix.batches(stage.steps),
        loss,
        rate=stage.rate,
        rate_share=schedule(stage.steps, stage.warm_up, stage.cool_down),
    )


def fine_tune(stage: FineTuning, model: LlamaForCausalLM) -> None:
    """Minimises the loss on answers."""
    late = model.model.layers[0 if stage.late is None else stage.late :]
    late_ids = {id(p) for layer in late for p in layer.parameters()}
    parameters = list(model.parameters())
    train(
        parameters,
        stage.data_mix.batches(stage.steps),
        lambda questions: cross_entropy(answer_logits(model, questions), questions.answers),
        rate=stage.rate,
        slow=() if stage.late is None else [p for p in parameters if id(p) not in late_ids],
        slow_rate=stage.early_rate,
    )
