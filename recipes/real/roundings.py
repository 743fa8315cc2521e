"""The real model with its weights rounded to 8 and to 4 bits.

    python -m recipes.real.roundings [smollm2_8bit] [smollm2_4bit]

Each row of a matrix has its own step size: its largest entry is 127 steps from zero (8 bits) or 7 steps
(4 bits). This is the simplest rounding that serving engines use: symmetric, per row, without groups,
calibration or separate outliers. The folders hold the rounded numbers in float32, so a gate needs no
integer kernels. The model itself is already rounded to 4 bits in groups of 32 (Q4_1), so these
checkpoints are rounded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.real.folders import base_model, command, save

BITS = {"smollm2_8bit": 8, "smollm2_4bit": 4}


def rounded(matrix: Tensor, bits: int) -> Tensor:
    """[n, m], each row rounded to ``2 ** bits - 1`` equidistant numbers around zero."""
    steps = 2 ** (bits - 1) - 1
    step = matrix.abs().amax(1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny) / steps
    nearest: Tensor = (matrix / step).round() * step
    return nearest


@torch.no_grad()
def make(bits: int, target: Path) -> Mapping[str, Any]:
    """Writes the rounded model; norms stay as they are."""
    model = base_model()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.copy_(rounded(parameter, bits))
    save(model, target)
    return {"bits": bits}


VARIANTS = {name: partial(make, bits) for name, bits in BITS.items()}

if __name__ == "__main__":
    command("Round the real model's weights.", VARIANTS, "recipes.real.roundings")
