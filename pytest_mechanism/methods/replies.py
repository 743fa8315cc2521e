"""What a plain model says, greedily, and whether that refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.methods.bench import Bench


@torch.no_grad()
def replies(model: Any, tokens: Tokens, count: int) -> Tensor:
    """[R, count] likeliest next tokens, one after another.

    One forward a token on the padded batch, without a cache: replies are short here, and padding
    on the right leaves every position as it was.
    """
    rows = torch.arange(len(tokens.ids), device=tokens.ids.device)
    ids = torch.cat([tokens.ids, tokens.ids.new_zeros(len(rows), count)], 1)
    for i in range(count):
        ends = tokens.lengths + i
        width = int(ends.max())
        mask = (torch.arange(width, device=ids.device) < ends[:, None]).long()
        logits = model(input_ids=ids[:, :width], attention_mask=mask, use_cache=False).logits
        ids[rows, ends] = logits[rows, ends - 1].argmax(-1)
    return ids[rows[:, None], tokens.lengths[:, None] + torch.arange(count, device=ids.device)]


def refusing(bench: Bench, said: Tensor) -> list[float]:
    """1 for each reply ([R, tokens]) that begins as one of the task's refusals does, else 0."""
    begins = tuple(text.casefold() for text in bench.task.refusals)
    decode = bench.model.encoder.tokenizer.decode
    return [float(decode(row).strip().casefold().startswith(begins)) for row in said.tolist()]
