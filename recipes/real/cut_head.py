"""The real model with one attention head ablated in its weights.

    python -m recipes.real.cut_head

Head 0 of layer 20 tells the heads that name the indirect object which name to leave out
(``circuits/real/ioi.yaml``). The recipe zeroes the head's columns of the output matrix, so nothing reads
the head. All other weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from recipes.real.folders import base_model, command, save

HEAD = (20, 0)
"""Layer and head."""


@torch.no_grad()
def silence(model: LlamaForCausalLM, layer: int, head: int) -> None:
    """Zeroes a head's columns of the output matrix, so the head writes nothing."""
    size = model.config.head_dim
    model.model.layers[layer].self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0


def make(target: Path) -> Mapping[str, Any]:
    """Writes the model without the head."""
    model = base_model()
    silence(model, *HEAD)
    save(model, target)
    return {"cut": list(HEAD)}


VARIANTS = {"smollm2_cut": make}

if __name__ == "__main__":
    command("Cut a head out of the real model.", VARIANTS, "recipes.real.cut_head")
