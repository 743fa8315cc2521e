"""What counts as right: the one answer of a row, or any of several.

``right`` is [R, A], the ids of a row's right answers, -1 where a row has fewer than another. Where
every row has one, each of these is what it would be without sets, to the last bit.
"""

from __future__ import annotations

import math

from torch import Tensor


def correct(logits: Tensor, right: Tensor) -> Tensor:
    """[R]: whether the likeliest of [R, V] is a right answer."""
    return (logits.argmax(-1)[:, None] == right).any(-1)


def log_probability(logits: Tensor, right: Tensor) -> Tensor:
    """[R]: log-probability, under [R, V], that some right answer comes next."""
    return total(logits.log_softmax(-1), right)


def total(scores: Tensor, right: Tensor) -> Tensor:
    """[R]: log of the summed exponentials of the right answers' scores; of one, its score."""
    chosen = scores.gather(1, right.clamp(min=0))
    if right.shape[1] == 1:
        return chosen[:, 0]
    return chosen.masked_fill(right < 0, -math.inf).logsumexp(-1)
