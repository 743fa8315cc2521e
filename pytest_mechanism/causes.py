"""Why a claim is red, and the sentence that says what follows from it.

The function that makes a verdict also sets its cause (`statistics.verdicts`, `statistics.honesty`),
and so does the comparison with the baseline. Reports choose their sentence by the cause alone,
never by the text of a reason: a claim that holds and fell behind its baseline has not been refuted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Cause(StrEnum):
    """What made a claim red.

    Attributes:
        REFUTED: the whole confidence interval lies on the wrong side of the threshold.
        UNSETTLED: the confidence interval contains the threshold.
        NO_CONTROL: there is no control to compare the score with.
        CONTROL_AS_GOOD: the control's score is as good.
        AT_CHANCE: the model under test does the task no better than by guessing.
        ACCURACY_LOSS: the full model already lacks the accuracy that the claim asks of its circuit.
        NO_HEADS: the search found no heads of this model for a group that the claim is about.
        NO_DIFFERENCE: the two models do not differ in what the claim is to explain.
        NOT_COMPARABLE: the parts of the two models that the claim compares do not correspond.
        MODEL_MISSING: the run lacks a model that the claim compares with.
        MODEL_BROKEN: training destroyed the copy that the claim examines.
        UNDECIDED: nothing can be concluded, for the reason that the verdict gives.
        REFERENCE_FAILS: the reference model itself does not meet the spec.
        FELL_BEHIND: the claim holds, and its score is worse than the baseline.
        MOVED: the score of unchanged checkpoints changed.
        REDEFINED: the baseline has another definition.
        NOT_ACCEPTED: the score has no baseline, and the run requires one.
        NOT_JUDGED: the claim could not be judged.
    """

    REFUTED = "refuted"
    UNSETTLED = "unsettled"
    NO_CONTROL = "no_control"
    CONTROL_AS_GOOD = "control_as_good"
    AT_CHANCE = "at_chance"
    ACCURACY_LOSS = "accuracy_loss"
    NO_HEADS = "no_heads"
    NO_DIFFERENCE = "no_difference"
    NOT_COMPARABLE = "not_comparable"
    MODEL_MISSING = "model_missing"
    MODEL_BROKEN = "model_broken"
    UNDECIDED = "undecided"
    REFERENCE_FAILS = "reference_fails"
    FELL_BEHIND = "fell_behind"
    MOVED = "moved"
    REDEFINED = "redefined"
    NOT_ACCEPTED = "not_accepted"
    NOT_JUDGED = "not_judged"


BROKEN = (Cause.REFUTED, Cause.ACCURACY_LOSS, Cause.NO_HEADS)
"""Causes that say something about the model under test: the others say that nothing can be concluded."""

MEANING: Mapping[Cause, str] = {
    Cause.UNSETTLED: "neither shown nor refuted: the confidence interval contains the threshold",
    Cause.NO_CONTROL: "the score meets the threshold, but there is no control (the same score for "
    "random or unrelated parts) to compare it with, so it shows nothing about what the claim names",
    Cause.CONTROL_AS_GOOD: "the score meets the threshold, but its control (the same score for random or "
    "unrelated parts) is as good, so it shows nothing about what the claim names",
    Cause.AT_CHANCE: "the model does not solve the task, so there is no mechanism to examine: look at "
    "its training first",
    Cause.ACCURACY_LOSS: "no finding about the mechanism: the whole model lost accuracy, and its circuit "
    "lost it too",
    Cause.NO_HEADS: "the search found no heads in this model that do what the claim is about: that part of "
    "the mechanism is gone, or spread over heads that can replace each other. Compare with the release",
    Cause.NO_DIFFERENCE: "the two models do not differ in what the claim is to explain: no finding "
    "about the mechanism",
    Cause.NOT_COMPARABLE: "no finding about the mechanism: the parts of the two models that the claim "
    "compares do not correspond",
    Cause.MODEL_MISSING: "the run lacks a model to compare with, so the claim cannot be judged",
    Cause.MODEL_BROKEN: "training destroyed the copy that the claim examines, so the copy's failures "
    "show nothing about the model",
    Cause.UNDECIDED: "nothing can be concluded: neither for nor against the claim",
    Cause.REFERENCE_FAILS: "this spec does not hold on your base model: no conclusion about the "
    "candidate",
    Cause.FELL_BEHIND: "the claim holds, but its score fell behind the baseline. Find what changed, or "
    "accept the new score with --snapshot-update",
    Cause.MOVED: "the checkpoints are the same as those of the baseline, so the models did not "
    "change: an option, a library, the machine or this tool did",
    Cause.REDEFINED: "the claim holds, but its baseline has another definition and cannot be "
    "compared: accept this score with --snapshot-update",
    Cause.NOT_ACCEPTED: "the claim holds, but its score has no baseline: accept it with "
    "--snapshot-update",
    Cause.NOT_JUDGED: "the claim could not be judged: no finding about the model",
}
"""What follows from each cause. What a refuted claim means, its kind says (`Claim.if_red`)."""


def meaning(cause: Cause | None, if_red: str) -> str:
    """The sentence for a reader who knows no interpretability; empty if nothing is red."""
    if cause is None:
        return ""
    if cause is Cause.REFUTED:
        return if_red or "the claim does not hold of this model"
    return MEANING[cause]
