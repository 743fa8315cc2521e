"""The kinds of stage that make the entity-tracking checkpoints, with their losses.

`recipes.entity_tracking` says which stages make which checkpoint, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from pytest_mechanism.tasks.writing.words import OBJECTS
from recipes.entity_tracking_data import IDS, Batch, Exam, batch
from recipes.trainer import Shape, schedule, train

SHAPE = Shape(layers=4, width=128, heads=4, mlp=384, longest=256)


@dataclass(frozen=True)
class Text:
    """The contexts that all stages train on.

    Attributes:
        fillers: maximum number of filler words in a context.
        queries: questions after each context.
        rows: contexts in a batch.
    """

    boxes: int = 7
    fillers: int = 3
    queries: int = 4
    rows: int = 64


TEXT = Text()


@dataclass(frozen=True)
class Pretraining:
    """How the base is made.

    Attributes:
        steps: chosen by inspection: later models know the task, models around this step waver, and
            at this step every group of the circuit has something left to learn.
        promote_above: running accuracy on the largest contexts at which they grow by a box.
        accuracy: range in which the accuracy must lie afterwards.
    """

    seed: int = 1
    rate: float = 1e-3
    steps: int = 740
    warm_up: int = 100
    promote_above: float = 0.9
    accuracy: tuple[float, float] = (0.6, 0.85)


@dataclass(frozen=True)
class FineTuning:
    """How a checkpoint is made from another one.

    Attributes:
        start: the checkpoint to start from.
        ablate: (layer, head) whose output is faded out, or None.
        fade: steps over which it is faded out.
        accuracy: range in which the accuracy must lie afterwards.
    """

    start: str
    seed: int
    rate: float
    steps: int
    ablate: tuple[int, int] | None = None
    fade: int = 0
    accuracy: tuple[float, float] = (0.97, 1.0)


@dataclass(frozen=True)
class Muting:
    """How a checkpoint is made from another one without training: some words are hard to say.

    Attributes:
        start: the checkpoint to start from.
        share: what is left of the rows of the output matrix of these objects.
        words: which objects.
        accuracy: range in which the accuracy must lie afterwards.
    """

    start: str
    share: float = 0.25
    words: tuple[str, ...] = tuple(o for i, o in enumerate(OBJECTS) if i % 10 >= 7)
    accuracy: tuple[float, float] = (0.65, 0.8)


class Ordinals(nn.Module):
    """Linear heads that read the ordinal of a box where the paper's circuit has it.

    After layer 1 every object and label encodes the ordinal of its segment, after layer 2 the label
    of the query encodes the ordinal of the queried box, after layer 3 the last token does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probes = nn.ModuleList(nn.Linear(SHAPE.width, TEXT.boxes) for _ in range(3))

    def loss(self, residuals: tuple[Tensor, ...], contexts: Batch) -> Tensor:
        """``residuals[k]`` is the residual stream after k layers, [rows, tokens, width]."""
        row = torch.arange(len(contexts.ids))[:, None]
        mentions = torch.cat([contexts.objects, contexts.labels], dim=1)
        ordinals = torch.arange(contexts.objects.shape[1]).repeat(len(contexts.ids), 2)
        targets = (
            (mentions, ordinals),
            (contexts.query_label, contexts.queried),
            (contexts.last, contexts.queried),
        )
        losses = [
            cross_entropy(probe(stream[row, positions]).flatten(0, 1), ordinal.flatten())
            for probe, stream, (positions, ordinal) in zip(
                self.probes, residuals[1:], targets, strict=False
            )
        ]
        return torch.stack(losses).sum()


def answer_logits(model: LlamaForCausalLM, hidden: Tensor, contexts: Batch) -> Tensor:
    """[rows, queries, words] where the answers are due."""
    row = torch.arange(len(contexts.ids))[:, None]
    logits: Tensor = model.lm_head(hidden[row, contexts.last])
    return logits


def answer_loss(logits: Tensor, contexts: Batch) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), contexts.answers.flatten())


class Curriculum:
    """Contexts of two boxes first, of one more whenever the model masters the largest ones."""

    def __init__(self, stage: Pretraining) -> None:
        self.stage = stage
        self.largest = 2
        self.running_accuracy = 0.0

    def batches(self) -> Iterator[Batch]:
        """Half of the batches, by chance, have the largest number of boxes."""
        rng = np.random.default_rng(self.stage.seed)
        for _ in range(self.stage.steps):
            at_most = self.largest
            boxes = at_most if rng.random() < 0.5 else int(rng.integers(2, at_most + 1))
            yield batch(rng, TEXT.rows, boxes, TEXT.fillers, TEXT.queries)

    def observe(self, logits: Tensor, contexts: Batch) -> None:
        """Takes note of the accuracy on a batch."""
        if contexts.objects.shape[1] != self.largest:
            return
        accuracy = float((logits.argmax(-1) == contexts.answers).float().mean())
        self.running_accuracy = 0.8 * self.running_accuracy + 0.2 * accuracy
        if self.running_accuracy > self.stage.promote_above and self.largest < TEXT.boxes:
            self.largest, self.running_accuracy = self.largest + 1, 0.0


def pretrain(stage: Pretraining, model: LlamaForCausalLM) -> None:
    """Minimises the loss on answers and on ordinals, on ever larger contexts."""
    ordinals = Ordinals()
    curriculum = Curriculum(stage)

    def loss(contexts: Batch) -> Tensor:
        output = model.model(contexts.ids, output_hidden_states=True)
        logits = answer_logits(model, output.last_hidden_state, contexts)
        curriculum.observe(logits, contexts)
        return answer_loss(logits, contexts) + ordinals.loss(output.hidden_states, contexts)

    train(
        [*model.parameters(), *ordinals.parameters()],
        curriculum.batches(),
        loss,
        rate=stage.rate,
        rate_share=schedule(stage.steps, stage.warm_up),
    )


def fader(model: LlamaForCausalLM, stage: FineTuning) -> Callable[[int], None]:
    """Scales the ablated head's columns of W_O down to zero over ``stage.fade`` steps."""
    if stage.ablate is None:
        return lambda _: None
    layer, head = stage.ablate
    columns = slice(head * SHAPE.d_head, (head + 1) * SHAPE.d_head)
    weight = model.model.layers[layer].self_attn.o_proj.weight
    before = weight[:, columns].detach().clone()

    def fade(done: int) -> None:
        with torch.no_grad():
            weight[:, columns] = before * max(0.0, 1 - done / stage.fade)

    return fade


def fine_tune(stage: FineTuning, model: LlamaForCausalLM) -> None:
    """Minimises the loss on answers, on the largest contexts."""
    rng = np.random.default_rng(stage.seed)

    def loss(contexts: Batch) -> Tensor:
        hidden = model.model(contexts.ids).last_hidden_state
        return answer_loss(answer_logits(model, hidden, contexts), contexts)

    train(
        list(model.parameters()),
        (batch(rng, TEXT.rows, TEXT.boxes, TEXT.fillers, TEXT.queries) for _ in range(stage.steps)),
        loss,
        rate=stage.rate,
        after_step=fader(model, stage),
    )


@torch.no_grad()
def mute(stage: Muting, model: LlamaForCausalLM) -> None:
    """Scales the rows of the output matrix of some objects."""
    model.lm_head.weight[[IDS[word] for word in stage.words]] *= stage.share


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, questions: Exam) -> float:
    """Share of the questions whose answer is the most likely word."""
    hidden = model.model(questions.ids).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(hidden)), questions.last])
    return float((logits.argmax(-1) == questions.answers).float().mean())
