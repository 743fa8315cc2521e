"""Whether an answer is right, and how likely it is, where a row may have several right answers.

Every function takes ``answers``: ids of a row's right answers, -1 where a row has fewer than another.
With one answer a row, each function gives what it would give without sets, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from jaxtyping import Bool, Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Outcome


def correct(
    logits: Float[Tensor, "rows words"], answers: Int[Tensor, "rows answers"]
) -> Bool[Tensor, " rows"]:
    """Whether the likeliest word is a right answer."""
    return (logits.argmax(-1)[:, None] == answers).any(-1)


def log_probability(
    logits: Float[Tensor, "*branches rows words"], answers: Int[Tensor, "rows answers"]
) -> Float[Tensor, "*branches rows"]:
    """Log-probability that some right answer comes next."""
    return log_sum_exp(logits.log_softmax(-1), answers)


def log_probabilities(
    outcomes: Iterable[Outcome], answers: Int[Tensor, "rows answers"]
) -> Iterator[Float[Tensor, " rows"]]:
    """`log_probability` of every outcome of a run's branches, in order: of those whose logits were
    computed together, in one go."""
    waiting: list[Tensor] = []
    for outcome in outcomes:
        if not waiting:
            together = outcome.logits[None] if outcome.together is None else outcome.together
            waiting = [*log_probability(together, answers).unbind()][::-1]
            del together  # many large vocabularies, of which the next pack needs the memory
        yield waiting.pop()


def logit_difference(
    logits: Float[Tensor, "rows words"],
    answers: Int[Tensor, "rows answers"],
    others: Int[Tensor, "rows others"],
) -> Float[Tensor, " rows"]:
    """Logit of the answer minus the mean logit of the prompt's other options (Wang et al. 2022, section 2,
    where the only other option is the subject). 0 for a model that prefers none of them.

    Args:
        logits: at the last token.
        answers: the right answers.
        others: the options that are no right answer, -1 where a row has fewer.
    """
    known = others >= 0
    of_others = (logits.gather(1, others.clamp(min=0)) * known).sum(-1) / known.sum(-1)
    return log_sum_exp(logits, answers) - of_others


def log_sum_exp(
    scores: Float[Tensor, "*branches rows words"], answers: Int[Tensor, "rows answers"]
) -> Float[Tensor, "*branches rows"]:
    """Log of the summed exponentials of the right answers' scores; of one answer, its score."""
    chosen = scores.gather(-1, answers.clamp(min=0).expand(*scores.shape[:-1], -1))
    if answers.shape[1] == 1:
        return chosen[..., 0]
    return chosen.masked_fill(answers < 0, -math.inf).logsumexp(-1)
