"""How a training descends: its optimiser, and how the learning rate rises and falls.

The learning rate at step s of S (from 1), with W steps of warm-up, is a share of the highest:

    s / W                                    up to step W
    (1 + cos(pi (s - W) / (S - W))) / 2      after it, with cosine decay (Loshchilov and Hutter 2017)
    1                                        after it, without

so that it is highest at step W and zero at step S. Jain et al., ICLR 2024 (arXiv 2311.12786), train
compiled models by SGD with momentum, with warm-up and cosine decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

OptimiserName = Literal["adamw", "sgd"]
Decay = Literal["none", "cosine"]


@dataclass(frozen=True)
class Descent:
    """The optimiser of a training, and the schedule of its learning rate.

    Attributes:
        optimiser: AdamW, or stochastic gradient descent.
        momentum: of SGD, 0 or more and below 1.
        warm_up: steps over which the learning rate rises from zero.
        decay: how the learning rate falls after the warm-up.
    """

    optimiser: OptimiserName = "adamw"
    momentum: float = 0.0
    warm_up: int = 0
    decay: Decay = "none"

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.warm_up > 0 or self.decay != "none"

    def share(self, step: int, steps: int) -> float:
        """The share of the learning rate at a step, counted from 1, of a training of ``steps``."""
        if step <= self.warm_up:
            return step / self.warm_up
        if self.decay == "cosine":
            progress = (step - self.warm_up) / (steps - self.warm_up)
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    def full_steps(self, steps: int) -> float:
        """How many steps at the highest learning rate move as far as ``steps`` steps: the sum of their
        shares, in closed form."""
        rising = (self.warm_up + 1) / 2 if self.warm_up else 0.0
        after = steps - self.warm_up
        return rising + (after if self.decay == "none" else (after - 1) / 2)

    @property
    def state_copies(self) -> int:
        """How often the optimiser holds a number for each weight."""
        if self.optimiser == "adamw":
            return 2  # the moments of the gradient
        return 1 if self.momentum else 0

    def __str__(self) -> str:
        """``SGD with momentum 0.9, 20 steps of warm-up and cosine decay``."""
        name = "AdamW" if self.optimiser == "adamw" else "SGD"
        extras = [
            *([f"momentum {self.momentum:g}"] if self.momentum else []),
            *([f"{self.warm_up} steps of warm-up"] if self.warm_up else []),
            *([f"{self.decay} decay"] if self.decay != "none" else []),
        ]
        if not extras:
            return name
        *first, last = extras
        return f"{name} with {', '.join(first)}{' and ' if first else ''}{last}"


ADAMW = Descent()
"""AdamW at a constant learning rate."""

MOMENTUM = 0.9
"""Of SGD, unless the user names another."""

MOVES = 1e-5
"""How far AdamW must be able to move a weight in all."""

SGD_MOVES = 1e-2
"""How far SGD must be able to move all weights together, as a Euclidean norm."""


def make_descent(
    optimiser: OptimiserName, momentum: float | None, warm_up: int, decay: Decay, steps: int
) -> Descent:
    """The descent that a user asks for.

    Args:
        optimiser: see `Descent`.
        momentum: of SGD; None for the usual one.
        warm_up: see `Descent`.
        decay: see `Descent`.
        steps: of the training.

    Raises:
        ValueError: the settings do not fit together; one line, which begins with the field at fault.
    """
    if optimiser == "adamw" and momentum is not None:
        raise ValueError("momentum: only SGD takes it; valid with optimiser sgd")
    if warm_up >= steps:
        raise ValueError(
            f"warm_up: {warm_up} of {steps} steps never reach the learning rate; valid: less than steps"
        )
    if optimiser == "sgd" and momentum is None:
        momentum = MOMENTUM
    descent = Descent(optimiser, momentum or 0.0, warm_up, decay)
    if not descent.full_steps(steps):
        raise ValueError("decay: the last step has a learning rate of 0; valid: 2 steps or more")
    return descent


def too_gentle(descent: Descent, rate: float, steps: int) -> str | None:
    """Why a training changes no model, so that no claim about it could fail; None if it may change it.

    AdamW moves each weight by about its learning rate in each step. SGD, whose gradients are clipped at
    norm 1, moves all weights together by no more than rate / (1 - momentum), and so lowers the loss by
    no more than about as many nats.
    """
    moved = rate * descent.full_steps(steps)
    if descent.optimiser == "adamw":
        least, what = MOVES, "no weight by more than"
    else:
        moved /= 1 - descent.momentum
        least, what = SGD_MOVES, "all weights together, by SGD, by no more than"
    needed = rate * least / moved
    if rate >= needed * (1 - 1e-9):  # 10 steps at 1e-6 are 1e-5, whatever the rounding
        return None
    return (
        f"{steps} steps at {rate:g} move {what} {moved:.0e}, which changes no model; valid: a rate from "
        f"{one_digit_up(max(needed, 1e-7)):.0e}, or more steps"
    )


def one_digit_up(number: float) -> float:
    """A number with one significant digit, rounded up."""
    unit: float = 10.0 ** math.floor(math.log10(number))
    return math.ceil(number / unit * (1 - 1e-9)) * unit
