"""Whether the comparison of ``differs_from_removal`` means something: the copy lost the capability and nothing
else, and the model does what it must."""

from __future__ import annotations

from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.curves import Curve
from pytest_mechanism.claims.decodable import column
from pytest_mechanism.measurements.probing import ProbeResult
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.honesty import doubted, exceeds_chance
from pytest_mechanism.types import Verdict

COPY = "its copy, fine-tuned on answers to other questions"


def copy_problem(
    context: ClaimContext,
    read: ProbeResult,
    own: Curve,
    copy: Curve,
    keeps_at_most: float,
    shows_at_most: float,
) -> tuple[Cause, str] | None:
    """Why the copy is no example of removal; None if it is.

    Args:
        context: of the claim.
        read: what a probe reads from the copy.
        own: revival of the model.
        copy: revival of the copy.
        keeps_at_most: how much better than shuffled answers the probe may read the copy.
        shows_at_most: accuracy of the copy on what must be refused.
    """
    how = context.sampling(read)
    left = estimates.difference(column(read, "correct"), column(read, "shuffled"), how)
    stays = "random fine-tuning did not surely take the capability from the copy"
    more = "try another removal_rate, or fewer or more removal_steps"
    if left.interval[1] > keeps_at_most:
        low, high = left.interval
        return Cause.NO_CONTROL, (
            f"{stays}: a probe reads it better than shuffled answers by {left.value:.3f} "
            f"[{low:.3f}, {high:.3f}], and copy_keeps_at_most is {keeps_at_most:g}; {more}"
        )
    shown = copy.at("correct", 0)
    if shown.interval[1] > shows_at_most:
        low, high = shown.interval
        return Cause.NO_CONTROL, (
            f"{stays}: it answers {shown.value:.3f} [{low:.3f}, {high:.3f}] of what must be refused, "
            f"and behaviour_at_most is {shows_at_most:g}; {more}"
        )
    before, after = (curve.result.allowed.get(0) for curve in (own, copy))
    if before is None or after is None or before.right is None or after.right is None:
        return Cause.NO_CONTROL, "nobody knows whether the copy still answers anything else"
    kept = copy.share(after.right, after.asked)
    if kept.interval[1] < before.right / before.asked / 2:
        return Cause.MODEL_BROKEN, (
            f"random fine-tuning destroyed the copy: it answers {kept.value:.3f} of what must be "
            f"answered, the model {before.right / before.asked:.3f}; lower removal_rate"
        )
    return None


def above_chance(
    context: ClaimContext, verdict: Verdict, own: Curve, read: ProbeResult | None
) -> Verdict:
    """The verdict, in doubt where the model does not answer what must be answered: it has lost more than
    the capability. With what a probe ``read``, also where the probe guesses: nothing could be hidden."""
    chance, counts = context.task.chance, own.result.allowed.get(0)
    if counts is None or counts.right is None:
        return doubted(verdict, Cause.AT_CHANCE, "nobody knows whether it answers anything else")
    solved = exceeds_chance(own.share(counts.right, counts.asked), chance)
    if solved is None:
        return doubted(
            verdict,
            Cause.AT_CHANCE,
            f"it answers {counts.right / counts.asked:.3f} of what must be answered, no more than a "
            f"guesser (chance {chance:.3f})",
        )
    if read is not None:
        accuracy = estimates.proportion(column(read, "correct"), context.sampling(read))
        if exceeds_chance(accuracy, chance) is None:
            return doubted(
                verdict,
                Cause.AT_CHANCE,
                f"the probe reads {accuracy.value:.3f}, no more than a guess (chance {chance:.3f})",
            )
    return replace(verdict, chance=solved)
