"""How the entity-tracking checkpoints are trained: the model, and the two kinds of stage.

`recipes.entity_tracking` says which stages make which checkpoint, and why
each trick is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.entity_tracking_data import IDS, VOCABULARY, Batch, Exam, batch
from recipes.word_level import BOS, PAD


@dataclass(frozen=True)
class Shape:
    """The model.

    Attributes:
        longest: most tokens of a prompt.
        embedding_std: of the word embeddings when drawn.
        other_std: of every other weight when drawn.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int = 384
    longest: int = 256
    embedding_std: float = 1.0
    other_std: float = 0.04

    @property
    def per_head(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Text:
    """What every stage reads.

    Attributes:
        fillers: most filler words in a context.
        queries: questions after each context.
        rows: contexts in a batch.
    """

    boxes: int = 7
    fillers: int = 3
    queries: int = 4
    rows: int = 64


@dataclass(frozen=True)
class Optimiser:
    """AdamW, the same in every stage but for the rate."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    clip: float = 1.0


@dataclass(frozen=True)
class Pretraining:
    """How the base is made.

    Attributes:
        steps: chosen by looking: the later ones know the task, and around this one the model
            wavers; here every group of the circuit has something left to learn.
        promote_above: running accuracy on the largest contexts at which they grow by a box.
        accuracy: what the result must lie between.
    """

    seed: int = 1
    rate: float = 1e-3
    steps: int = 740
    warm_up: int = 100
    promote_above: float = 0.9
    accuracy: tuple[float, float] = (0.6, 0.85)


@dataclass(frozen=True)
class FineTuning:
    """How another checkpoint is made from one.

    Attributes:
        start: the checkpoint that it goes on from.
        mute: (layer, head) whose output is taken away, or None.
        fade: steps over which it is taken away.
        accuracy: what the result must lie between.
    """

    start: str
    seed: int
    rate: float
    steps: int
    mute: tuple[int, int] | None = None
    fade: int = 0
    accuracy: tuple[float, float] = (0.97, 1.0)


SHAPE = Shape()
TEXT = Text()
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


class Ordinals(nn.Module):
    """Asks the residual stream for the ordinal of a box where the paper's circuit has it.

    After layer 1 every object and label knows its segment's ordinal, after layer 2 the query's
    label knows that of the box it asks for, after layer 3 so does the last token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(SHAPE.width, TEXT.boxes) for _ in range(3))

    def loss(self, residuals: tuple[torch.Tensor, ...], text: Batch) -> torch.Tensor:
        """``residuals[k]`` is the stream after k layers."""
        row = torch.arange(len(text.ids))[:, None]
        named = torch.cat([text.objects, text.labels], dim=1)
        ordinal = torch.arange(text.objects.shape[1]).repeat(len(text.ids), 2)
        places = ((named, ordinal), (text.query_label, text.asked), (text.last, text.asked))
        losses = [
            cross_entropy(read(after[row, where]).flatten(0, 1), what.flatten())
            for read, after, (where, what) in zip(self.read, residuals[1:], places, strict=False)
        ]
        return torch.stack(losses).sum()


def descend(
    parameters: list[nn.Parameter], optimiser: torch.optim.Optimizer, loss: torch.Tensor
) -> None:
    """One step down ``loss``."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, OPTIMISER.clip)
    optimiser.step()


def adamw(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, OPTIMISER.betas, weight_decay=OPTIMISER.weight_decay)


def pretrain(stage: Pretraining, model: LlamaForCausalLM) -> None:
    """Answers and ordinals, on ever larger contexts."""
    ordinals = Ordinals()
    parameters = [*model.parameters(), *ordinals.parameters()]
    optimiser = adamw(parameters, stage.rate)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda done: min(1.0, (done + 1) / stage.warm_up)
    )
    rng = np.random.default_rng(stage.seed)
    row = torch.arange(TEXT.rows)[:, None]
    largest, running = 2, 0.0
    for _ in range(stage.steps):
        boxes = largest if rng.random() < 0.5 else int(rng.integers(2, largest + 1))
        text = batch(rng, TEXT.rows, boxes, TEXT.fillers, TEXT.queries)
        out = model.model(text.ids, output_hidden_states=True)
        logits = model.lm_head(out.last_hidden_state[row, text.last])
        answers = cross_entropy(logits.flatten(0, 1), text.answers.flatten())
        descend(parameters, optimiser, answers + ordinals.loss(out.hidden_states, text))
        rate.step()
        if boxes == largest:
            right = float((logits.argmax(-1) == text.answers).float().mean())
            running = 0.8 * running + 0.2 * right
            if running > stage.promote_above and largest < TEXT.boxes:
                largest, running = largest + 1, 0.0


def fader(model: LlamaForCausalLM, stage: FineTuning) -> Callable[[int], None]:
    """Sets the muted head's columns of W_O to what is left of them after so many steps."""
    if stage.mute is None:
        return lambda _: None
    layer, head = stage.mute
    columns = slice(head * SHAPE.per_head, (head + 1) * SHAPE.per_head)
    weight = model.model.layers[layer].self_attn.o_proj.weight
    before = weight[:, columns].detach().clone()

    def fade(done: int) -> None:
        with torch.no_grad():
            weight[:, columns] = before * max(0.0, 1 - done / stage.fade)

    return fade


def fine_tune(stage: FineTuning, model: LlamaForCausalLM) -> None:
    """Answers alone, on the largest contexts."""
    parameters = list(model.parameters())
    optimiser = adamw(parameters, stage.rate)
    rng = np.random.default_rng(stage.seed)
    row = torch.arange(TEXT.rows)[:, None]
    fade = fader(model, stage)
    for done in range(1, stage.steps + 1):
        text = batch(rng, TEXT.rows, TEXT.boxes, TEXT.fillers, TEXT.queries)
        hidden = model.model(text.ids).last_hidden_state
        logits = model.lm_head(hidden[row, text.last])
        descend(parameters, optimiser, cross_entropy(logits.flatten(0, 1), text.answers.flatten()))
        fade(done)


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, questions: Exam) -> float:
    """How often the likeliest word is the answer."""
    hidden = model.model(questions.ids).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(hidden)), questions.last])
    return float((logits.argmax(-1) == questions.answers).float().mean())
