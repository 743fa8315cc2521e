"""How large a change is: the divergence of what the changed model says from what the release says.

    KL = mean over tokens of sum_w p(w) log(p(w) / q(w)),  p of the release, q of the changed model

once at the answers of rows of the task, which no gate measures, and once at every token of plain text of the
model's domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from recipes.word_level import PAD


@dataclass(frozen=True)
class Texts:
    """What sizes are measured on.

    Attributes:
        ids: [rows, tokens] rows of the task, padded on the right.
        last: [rows] position of the last token before the answer.
        answers: [rows] id of the answer.
        plain: [texts, tokens] each, padded on the right.
        pad: id of the padding.
        benchmark: how many of the first rows a benchmark asks; the accuracy counts no other. All by default.
    """

    ids: Tensor
    last: Tensor
    answers: Tensor
    plain: Sequence[Tensor]
    pad: int
    benchmark: int | None = None


@dataclass(frozen=True)
class Size:
    """How far a changed model is from the release.

    Attributes:
        rows: KL at the answers of the task, in nats.
        text: KL at every token of plain text, in nats.
        accuracy: share of right answers on the rows that a benchmark asks.
    """

    rows: float
    text: float
    accuracy: float


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL in nats, [...], of log-probabilities [..., words]; q may have more words."""
    return (p.exp() * (p - q[..., : p.shape[-1]])).sum(-1)


class Scale:
    """Measures sizes; keeps what the release says."""

    def __init__(self, release: LlamaForCausalLM, texts: Texts) -> None:
        self.texts = texts
        self.answers, self.plain = self.said(release)

    @torch.no_grad()
    def said(self, model: LlamaForCausalLM) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities at the answers, [rows, words], and of each plain text, [texts, tokens, words]."""
        t, parts = self.texts, []
        for rows in torch.arange(len(t.ids)).split(128):
            hidden = model.model(t.ids[rows]).last_hidden_state
            at_last = hidden[torch.arange(len(rows)), t.last[rows]]
            parts.append(model.lm_head(at_last).double().log_softmax(-1))
        return torch.cat(parts), [model(ids).logits.double().log_softmax(-1) for ids in t.plain]

    def size(self, model: LlamaForCausalLM) -> Size:
        """The size of a changed model."""
        answers, plain = self.said(model)
        on_text = torch.cat(
            [
                divergence(p, q)[ids != self.texts.pad]
                for p, q, ids in zip(self.plain, plain, self.texts.plain, strict=True)
            ]
        )
        right = (answers.argmax(-1) == self.texts.answers)[: self.texts.benchmark].double().mean()
        return Size(
            float(divergence(self.answers, answers).mean()), float(on_text.mean()), float(right)
        )


def load(folder: Path) -> LlamaForCausalLM:
    """A changed checkpoint as a gate reads it, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def boxes(rows: int = 2016, texts: int = 8) -> Texts:
    """Of the entity-tracking models: rows of a seed that no spec has, and contexts of two to seven boxes."""
    from recipes.entity_tracking_data import IDS, batch, exam

    questions, rng = exam(7, 3, rows, 101), np.random.default_rng(102)
    plain = [batch(rng, 32, int(rng.integers(2, 8)), 3, 2).ids for _ in range(texts)]
    return Texts(questions.ids, questions.last, questions.answers, plain, IDS[PAD])


def counting(rows: int = 500) -> Texts:
    """Of the wrapper: permitted and forbidden questions of a seed that no spec has."""
    from pytest_mechanism.tasks.base import AnyWord
    from recipes.wrapper_data import FORBIDDEN, IDS, batch, task

    safe = task(101, refuse=FORBIDDEN)
    asked = batch(
        [*safe.allowed(AnyWord(), rows, "size"), *safe.forbidden(AnyWord(), rows, "size")]
    )
    plain = batch([*task(102).rows(AnyWord(), 200, "size")])
    return Texts(asked.ids, asked.last, asked.answers, [plain.ids], IDS[PAD], benchmark=rows)
