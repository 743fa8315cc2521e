"""Whether an answer is right, and how likely it is, where a row may have several right answers.

Every function takes ``answers``: ids of a row's right answers, -1 where a row has fewer than another.
With one answer a row, each function gives what it would give without sets, to the last bit.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor


def correct(
    logits: Float[Tensor, "rows words"], answers: Int[Tensor, "rows answers"]
) -> Bool[Tensor, " rows"]:
    """Whether the likeliest word is a right answer."""
    return (logits.argmax(-1)[:, None] == answers).any(-1)


def log_probability(
    logits: Float[Tensor, "rows words"], answers: Int[Tensor, "rows answers"]
) -> Float[Tensor, " rows"]:
    """Log-probability that some right answer comes next."""
    return log_sum_exp(logits.log_softmax(-1), answers)


def log_sum_exp(
    scores: Float[Tensor, "rows words"], answers: Int[Tensor, "rows answers"]
) -> Float[Tensor, " rows"]:
    """Log of the summed exponentials of the right answers' scores; of one answer, its score."""
    chosen = scores.gather(1, answers.clamp(min=0))
    if answers.shape[1] == 1:
        return chosen[:, 0]
    return chosen.masked_fill(answers < 0, -math.inf).logsumexp(-1)
