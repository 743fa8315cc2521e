"""Why a claim is red, and the sentence that says what follows from it.

The cause is set where a verdict is made, by the helpers of `statistics.verdicts`, and by the
comparison with the accepted score. It is never read off a text, and the sentence is chosen by it
alone: a claim that holds and fell behind its accepted score has not been refuted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Cause(StrEnum):
    """What made a claim red.

    Attributes:
        REFUTED: the whole interval lies on the wrong side of what is claimed.
        UNSETTLED: the interval spans the bound.
        NO_CONTROL: there is nothing that should not work to compare with.
        CONTROL_AS_GOOD: what should not work does as well.
        AT_CHANCE: the model under test does not do the task, so nothing can be said about how.
        ACCURACY_LOSS: the full model already lacks the accuracy that its circuit is asked for.
        NO_DIFFERENCE: two models that do not differ have no difference to explain.
        NOT_COMPARABLE: the parts of two models that are set against each other do not correspond.
        MODEL_MISSING: the run lacks a model that the claim compares with.
        MODEL_BROKEN: training destroyed the copy that the claim looks at.
        UNDECIDED: nothing can be said, for a reason that the verdict gives.
        REFERENCE_FAILS: the reference model itself does not meet the spec.
        FELL_BEHIND: the claim holds, and its score is worse than the accepted one.
        MOVED: the checkpoints are unchanged and the score is not.
        REDEFINED: the accepted score was measured under another definition.
        NOT_ACCEPTED: nobody accepted a score, where the run requires it.
        NOT_JUDGED: something kept the claim from being judged.
    """

    REFUTED = "refuted"
    UNSETTLED = "unsettled"
    NO_CONTROL = "no_control"
    CONTROL_AS_GOOD = "control_as_good"
    AT_CHANCE = "at_chance"
    ACCURACY_LOSS = "accuracy_loss"
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


MEANING: Mapping[Cause, str] = {
    Cause.UNSETTLED: "neither shown nor refuted: these rows do not tell which side of the bound "
    "the score lies on",
    Cause.NO_CONTROL: "the score reaches the bound, but there is nothing that should not work to "
    "compare it with, so it shows nothing about these parts",
    Cause.CONTROL_AS_GOOD: "the score reaches the bound, but what should not work does as well, so "
    "it shows nothing about what the claim names",
    Cause.AT_CHANCE: "the model does not do the task, so nothing can be said about how it does it: "
    "look at what it was trained on first",
    Cause.ACCURACY_LOSS: "the model as a whole lost accuracy, and its circuit with it: no finding "
    "about the mechanism",
    Cause.NO_DIFFERENCE: "the two models do not differ in what the claim is to explain, so there is "
    "nothing to explain: no finding about the mechanism",
    Cause.NOT_COMPARABLE: "the parts of the two models that are set against each other do not "
    "correspond: no finding about the mechanism",
    Cause.MODEL_MISSING: "the run lacks a model to compare with, so the claim cannot be judged",
    Cause.MODEL_BROKEN: "training destroyed the copy that was looked at, so nothing that it does "
    "not say shows anything",
    Cause.UNDECIDED: "nothing can be concluded, for or against the claim",
    Cause.REFERENCE_FAILS: "this spec does not hold on your base model: no conclusion about the "
    "candidate",
    Cause.FELL_BEHIND: "the claim still holds; the score is worse than the accepted one by more "
    "than the claim's drift allows. Find what changed, or accept the new score with "
    "--snapshot-update",
    Cause.MOVED: "the checkpoints are those that were accepted, so the models did not change: a "
    "library, the machine or this tool did",
    Cause.REDEFINED: "the claim holds, and the accepted score was measured under another "
    "definition: nothing to compare with until you accept this one with --snapshot-update",
    Cause.NOT_ACCEPTED: "the claim holds, and nobody has accepted a score for it: accept this one "
    "with --snapshot-update",
    Cause.NOT_JUDGED: "something kept the claim from being judged: no finding about the model",
}
"""What follows from a cause; of a refuted claim, its kind says that (`Claim.if_red`)."""


def meaning(cause: Cause | None, if_red: str) -> str:
    """The sentence for somebody who knows no interpretability; nothing where nothing is red."""
    if cause is None:
        return ""
    if cause is Cause.REFUTED:
        return if_red or "the claim does not hold of this model"
    return MEANING[cause]
