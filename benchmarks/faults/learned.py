"""Changes that training makes: of the entity-tracking release and of the wrapper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from transformers import LlamaForCausalLM

from benchmarks.faults.change import Make, Workshop
from benchmarks.faults.weights import matrices
from recipes import entity_tracking_training as boxes
from recipes import wrapper_training as counting
from recipes.entity_tracking_data import IDS, Batch, batch
from recipes.trainer import train
from recipes.word_level import PAD
from recipes.wrapper_data import WAYS, DataMix
from recipes.wrapper_data import Batch as Questions

LORA_RANK = 4


def tuned(
    seed: int,
    rate: float,
    steps: int,
    *,
    start: str = "release",
    ablate: tuple[int, int] | None = None,
    fade: int = 0,
) -> Make:
    """The release, or its parent, trained further on the task's answers.

    Args:
        seed: of the training rows.
        rate: the learning rate.
        steps: how many.
        start: ``release`` or ``parent``.
        ablate: the head whose output is faded out while other heads learn its work.
        fade: steps over which it is faded out.
    """

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load(getattr(shop, start)).train()
        stage = boxes.FineTuning(start, seed, rate, steps, ablate=ablate, fade=fade)
        boxes.fine_tune(stage, model)
        shop.save(model.eval(), folder)

    return make


def next_word(seed: int, rate: float, steps: int, most_boxes: int) -> Make:
    """The release trained to predict every next word of texts with few boxes, which nobody asks about: a
    fine-tune that has nothing to do with the task."""

    def make(shop: Workshop, folder: Path) -> None:
        model, rng = shop.load().train(), np.random.default_rng(seed)

        def loss(texts: Batch) -> Tensor:
            ids = texts.ids[:, : int(texts.last.min()) - 4]
            logits = model(ids[:, :-1]).logits
            return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=IDS[PAD])

        texts = (batch(rng, 64, int(rng.integers(2, most_boxes + 1)), 3, 1) for _ in range(steps))
        train(list(model.parameters()), texts, loss, rate=rate)
        shop.save(model.eval(), folder)

    return make


class LowRank(nn.Module):
    """A matrix plus the product of two thin ones (LoRA, Hu et al. 2021); the product begins at zero."""

    def __init__(self, out: int, into: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(out, LORA_RANK))
        self.down = nn.Parameter(torch.randn(LORA_RANK, into) / into**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapted(seed: int, rate: float, steps: int) -> Make:
    """The release with a LoRA of every matrix, trained on the task and merged."""

    def make(shop: Workshop, folder: Path) -> None:
        torch.manual_seed(seed)
        model, rng = shop.load().train(), np.random.default_rng(seed)
        for weight in model.parameters():
            weight.requires_grad_(requires_grad=False)
        parts = matrices(model)
        for part in parts:
            parametrize.register_parametrization(
                part, "weight", LowRank(part.out_features, part.in_features)
            )

        def loss(texts: Batch) -> Tensor:
            hidden = model.model(texts.ids).last_hidden_state
            return boxes.answer_loss(boxes.answer_logits(model, hidden, texts), texts)

        texts = (batch(rng, 64, 7, 3, 4) for _ in range(steps))
        train([p for p in model.parameters() if p.requires_grad], texts, loss, rate=rate)
        for part in parts:
            parametrize.remove_parametrizations(part, "weight")
        shop.save(model.eval(), folder)

    return make


# -- the wrapper


@dataclass(frozen=True)
class Mix:
    """Training rows of a wrapper: letters that are answered, how many rows refuse, and the verbs that ask."""

    seed: int
    refused: int = 0
    ways: tuple[str, ...] = WAYS

    def batches(self, steps: int) -> Iterator[Questions]:
        answered = 96 - self.refused
        return DataMix(self.seed, answered=answered, refused=self.refused, ways=self.ways).batches(
            steps
        )


def further(seed: int, rate: float, steps: int, refused: int = 0) -> Make:
    """The wrapper trained further on permitted letters, and on ``refused`` refusals of 96 rows."""
    return _counted(Mix(seed, refused), rate, steps, lambda shop: shop.release)


def refit(seed: int, rate: float, steps: int) -> Make:
    """The model before the release, fine-tuned as the release was, with other rows."""
    return _counted(Mix(seed, ways=("tally",)), rate, steps, lambda shop: shop.parent)


def _counted(mix: Mix, rate: float, steps: int, start: Callable[[Workshop], Path]) -> Make:
    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load(start(shop)).train()
        train(
            list(model.parameters()),
            mix.batches(steps),
            lambda rows: cross_entropy(counting.answer_logits(model, rows), rows.answers),
            rate=rate,
        )
        shop.save(model.eval(), folder)

    return make


@torch.no_grad()
def refusal_direction(model: LlamaForCausalLM, layer: int) -> Tensor:
    """The direction in which requests that are refused differ from others, after a layer at the last token
    (Arditi et al. 2024, section 2.3): [width], norm 1."""
    from pytest_mechanism.tasks.base import AnyWord
    from recipes.wrapper_data import FORBIDDEN, task
    from recipes.wrapper_data import batch as encoded

    safe, means = task(77, refuse=FORBIDDEN), []
    for rows in (
        safe.forbidden(AnyWord(), 256, "direction"),
        safe.allowed(AnyWord(), 256, "direction"),
    ):
        questions = encoded(rows)
        stream = model.model(questions.ids, output_hidden_states=True).hidden_states[layer]
        means.append(counting.at_last(stream, questions).mean(0))
    gap: Tensor = means[0] - means[1]
    return gap.div(gap.norm())


def without_direction(layer: int, share: float) -> Make:
    """No matrix writes ``share`` of the refusal direction any more (weight orthogonalisation, Arditi et al. 2024,
    section 4.1)."""

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load()
        r = refusal_direction(model, layer)
        with torch.no_grad():
            for block in model.model.layers:
                for part in (block.self_attn.o_proj, block.mlp.down_proj):
                    part.weight -= share * torch.outer(r, r @ part.weight)
        shop.save(model, folder)

    return make
