"""Optimisers of trainings, of the product's and of the recipes': AdamW, and SGD with momentum.

SGD (Polyak 1964, as torch has it), with the gradient g, the momentum m and the learning rate r:

    v <- m v + g,    w <- w - r v
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pytest_mechanism.measurements.descent import Descent


def make_optimiser(
    groups: Sequence[dict[str, Any]],
    descent: Descent,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """The optimiser of a training.

    Args:
        groups: parameters (``params``) with their highest learning rate (``lr``).
        descent: which optimiser, with which momentum; its schedule is the caller's (`set_rates`).
        betas: of AdamW.
        weight_decay: of AdamW; SGD has none.
    """
    groups = [{**group, "highest": group["lr"]} for group in groups]
    if descent.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=descent.momentum)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=weight_decay)


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Sets the learning rates for the next step, as a share of the highest."""
    for group in optimiser.param_groups:
        group["lr"] = group["highest"] * share


def state_names(descent: Descent) -> tuple[str, ...]:
    """What the optimiser remembers of each parameter after a step, by torch's names."""
    if descent.optimiser == "adamw":
        return ("step", "exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if descent.momentum else ()


def descend(
    loss: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[torch.nn.Parameter],
    clip: float,
) -> None:
    """One optimiser step down the gradient of ``loss``, clipped at the norm ``clip``."""
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
