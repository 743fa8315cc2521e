"""Questions with their replies, as a plain Hugging Face model is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.tasks.base import Row

IGNORED = -100
"""Label of a token that no loss is taken on: Hugging Face's."""


@dataclass(frozen=True, eq=False)
class Page:
    """Rows as a plain model is trained on them, padded on the right.

    Attributes:
        ids: [R, S], text and reply.
        labels: [R, S], the ids of the reply, `IGNORED` elsewhere.
        lengths: [R], tokens of each row without padding.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor

    def loss(self, model: Any) -> Tensor:
        """Mean negative log-likelihood of the replies' tokens, by a plain model."""
        with row_lengths(self.lengths):
            found: Tensor = model(
                input_ids=self.ids,
                attention_mask=torch.ones_like(self.ids),  # as in `Tokens.unmasked`
                labels=self.labels,
                use_cache=False,
            ).loss
        return found


def finite_loss(model: LoadedModel, copy: Any, rows: Sequence[Row]) -> Tensor:
    """The loss of a plain copy on some rows, a number.

    Raises:
        MeasurementError: it is NaN or infinite on a row, and so would be every gradient of it.
    """
    loss = page(model, rows).loss(copy)
    if not bool(loss.detach().isfinite()):
        with torch.no_grad():
            losses = (page(model, [row]).loss(copy) for row in rows)
            wrong = [row for row, own in zip(rows, losses, strict=True) if not own.isfinite()]
        named = (wrong or rows)[0]
        raise MeasurementError(
            f"{model.role}: the loss on {named.id}, {named.base.text[:100]!r}, is not a finite "
            "number (NaN or infinity), so weights cannot be ranked by its gradient; "
            "--mechanism-dtype float32 has more room than half precision"
        )
    return loss


def page(model: LoadedModel, rows: Sequence[Row]) -> Page:
    """Texts with their replies."""
    encoded = [
        (model.encoder.encode(row.base).ids, model.encoder.reply_ids(row.base)) for row in rows
    ]
    longest = max(len(asked) + len(said) for asked, said in encoded)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (asked, said) in enumerate(encoded):
        ids[i, : len(asked) + len(said)] = torch.tensor([*asked, *said])
        labels[i, len(asked) : len(asked) + len(said)] = torch.tensor(said)
    if int(ids.max()) >= model.shape.d_vocab:
        raise MeasurementError(
            f"{model.role}: the tokenizer gives id {int(ids.max())}, the model has "
            f"{model.shape.d_vocab} embeddings"
        )
    lengths = torch.tensor([len(whole) for whole, _ in encoded])
    return Page(ids.to(model.device), labels.to(model.device), lengths.to(model.device))
