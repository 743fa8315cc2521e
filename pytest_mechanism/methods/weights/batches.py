"""Training batches of a plain Hugging Face model: prompts with their replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.model_families.attention import attention_mask
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.tasks.base import Row

IGNORED = -100
"""Hugging Face's label of a token without a loss."""


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Training rows, padded on the right.

    Attributes:
        ids: prompts and replies.
        labels: the ids of the replies, `IGNORED` elsewhere.
        lengths: tokens of each row without padding.
    """

    ids: Int[Tensor, "rows tokens"]
    labels: Int[Tensor, "rows tokens"]
    lengths: Int[Tensor, " rows"]

    @property
    def read(self) -> Int[Tensor, " rows"]:
        """Tokens of each row that a model whose attention looks ahead may read: all but the reply."""
        return (self.labels == IGNORED).long().cumprod(1).sum(1)

    def loss(self, model: Any) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the replies' tokens."""
        with row_lengths(self.lengths):
            loss: Tensor = model(
                input_ids=self.ids,
                attention_mask=attention_mask(model, self.ids, self.read),
                labels=self.labels,
                use_cache=False,
            ).loss
        return loss


def finite_loss(model: LoadedModel, copy: Any, rows: Sequence[Row]) -> Float[Tensor, ""]:
    """The loss of a plain copy on some rows.

    Raises:
        MeasurementError: it is NaN or infinite, and so would be its gradients.
    """
    loss = make_batch(model, rows).loss(copy)
    if not bool(loss.detach().isfinite()):
        with torch.no_grad():
            losses = (make_batch(model, [row]).loss(copy) for row in rows)
            bad = [row for row, own in zip(rows, losses, strict=True) if not own.isfinite()]
        first = (bad or rows)[0]
        raise MeasurementError(
            f"{model.role}: the loss on {first.id}, {first.base.text[:100]!r}, is not a finite "
            "number (NaN or infinity), so its gradient cannot rank weights; use --mechanism-dtype float32"
        )
    return loss


def make_batch(model: LoadedModel, rows: Sequence[Row]) -> TrainingBatch:
    """Encodes prompts with their replies."""
    encoded = [
        (model.encoder.encode(row.base).ids, model.encoder.reply_ids(row.base)) for row in rows
    ]
    longest = max(len(prompt) + len(reply) for prompt, reply in encoded)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (prompt, reply) in enumerate(encoded):
        ids[i, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
        labels[i, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    if int(ids.max()) >= model.shape.d_vocab:
        raise MeasurementError(
            f"{model.role}: the tokenizer gives id {int(ids.max())}, but the model has "
            f"{model.shape.d_vocab} embeddings"
        )
    lengths = torch.tensor([len(prompt) + len(reply) for prompt, reply in encoded])
    return TrainingBatch(ids.to(model.device), labels.to(model.device), lengths.to(model.device))
