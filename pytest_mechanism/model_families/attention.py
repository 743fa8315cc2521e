"""Models whose tokens attend to later tokens, and what that means for padding.

Nearly every model here is causal: no token attends to the padding behind its row, so padding need not
be masked. In a model that is not causal (a compiled program, `tracr`), padding must be.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


def attends_ahead(model: Any) -> bool:
    """Whether tokens of a plain Hugging Face model attend to later tokens."""
    return getattr(model.config, "causal", True) is False


def attention_mask(
    model: Any, ids: Int[Tensor, "rows tokens"], lengths: Int[Tensor, " rows"]
) -> Int[Tensor, "rows tokens"]:
    """The mask that a plain model gets with rows that are padded on the right.

    Ones for a causal model. Were padding masked there, a sliding window could leave a padding token
    nothing to attend to, and some models make NaN of the whole row then.

    Args:
        model: the plain model.
        ids: token ids.
        lengths: tokens of each row that others may attend to.
    """
    if not attends_ahead(model):
        return torch.ones_like(ids)
    places = torch.arange(ids.shape[1], device=ids.device)
    return (places < lengths[:, None].to(ids.device)).long()
