"""The rules that keep a passing verdict from meaning nothing.

A claim passes only if its score beats a control (something that should not work), and only if the
models that it is measured on do the task better than chance. A claim kind names what it compares;
the functions here apply the rules and record them in `Verdict.control` and `Verdict.chance`. A kind
that needs no comparison says why (`not_needed`). `require_safeguards` refuses a pass without
either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_mechanism.causes import Cause
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Check, Safeguard, Score, Verdict


def not_needed(why: str) -> Safeguard:
    """The safeguard of a claim that needs no such comparison."""
    return Safeguard(why, compared=False)


UPPER_BOUND = not_needed("an upper bound claims that something does not work")
"""The control of a claim that a score is low: what works less than claimed needs nothing to beat."""

PAIRED = not_needed("the score is a comparison with another model on the same rows")
"""The control of a claim that a model is no worse than another one."""


# -- the control


def beats_control(
    verdict: Verdict, control: str, gap: Estimate | None, as_good: str, better: int = 1
) -> Verdict:
    """Pass only if the score is significantly better than its control.

    Args:
        verdict: on the score alone.
        control: what the control is; where there is none, why.
        gap: the score minus its control, on the same rows; None where there is no control.
        as_good: what to say of a control that does as well.
        better: 1 where higher is better, -1 where lower is.

    The comparison is kept in `Verdict.checks`, because the chance to pass depends on it.
    """
    if gap is None:
        return no_control(verdict, control)
    check = Check("ahead of its control", better * gap.value, gap.standard_error, gap.n, gap.method)
    ahead = gap.interval[0] > 0 if better > 0 else gap.interval[1] < 0
    checked = beats(verdict, control, as_good, ahead=ahead)
    return replace(checked, checks=(*checked.checks, check))


def beats(
    verdict: Verdict,
    control: str,
    as_good: str,
    *,
    ahead: bool,
    cause: Cause = Cause.CONTROL_AS_GOOD,
) -> Verdict:
    """Pass only if ``ahead``: for a comparison with a control that is no paired difference."""
    checked = verdict if ahead else doubted(verdict, cause, as_good)
    return replace(checked, control=Safeguard(control))


def no_control(verdict: Verdict, why: str) -> Verdict:
    """Make a passing verdict inconclusive, because a score without a control shows nothing."""
    return doubted(verdict, Cause.NO_CONTROL, f"there is no control: {why}")


def control_as_good(verdict: Verdict, why: str) -> Verdict:
    """Make a passing verdict inconclusive, because a control is as good; ``why`` names the control."""
    return doubted(verdict, Cause.CONTROL_AS_GOOD, why)


def doubted(verdict: Verdict, cause: Cause, why: str) -> Verdict:
    """A verdict that would have passed, made inconclusive; any other stays as it is."""
    if verdict.status != "pass":
        return verdict
    return replace(
        verdict, status="inconclusive", reason=f"{verdict.reason}, but {why}", cause=cause
    )


# -- chance


def exceeds_chance(accuracy: Estimate | Score, chance: float) -> Safeguard | None:
    """The safeguard of a model that is significantly better than guessing; None of one that is not.

    A claim about how a model does a task means nothing where the model guesses.
    """
    return Safeguard(f"guessing ({chance:.3f})") if accuracy.interval[0] > chance else None


def exceeds_other_rows(gap: Estimate, elsewhere: float, guessing: Safeguard) -> Safeguard | None:
    """The safeguard of a model whose answers fit their own rows better than other rows; else None.

    Args:
        gap: accuracy minus the accuracy of the same answers on other rows.
        elsewhere: the latter.
        guessing: the safeguard against guessing, which it has already.
    """
    if gap.interval[0] <= 0:
        return None
    return Safeguard(f"{guessing.text} and its own answers on other rows ({elsewhere:.3f})")


# -- enforcement


def require_safeguards(verdict: Verdict, kind: str) -> Verdict:
    """The verdict of a claim kind; inconclusive where it would pass with a rule left out."""
    author = f"claim kind {kind!r}"
    if verdict.control is None:
        return no_control(
            verdict, f"{author} neither compares the score with one nor says why it needs none"
        )
    if verdict.chance is None:
        why = f"{author} neither compares the model with chance nor says why it need not"
        return doubted(verdict, Cause.UNDECIDED, why)
    return verdict


def joint(safeguards: Sequence[Safeguard | None]) -> Safeguard | None:
    """The safeguard of several verdicts together; None where one of them has none."""
    known = [safeguard for safeguard in safeguards if safeguard is not None]
    if not known or len(known) < len(safeguards):
        return None
    texts = dict.fromkeys(safeguard.text for safeguard in known)
    return Safeguard(" and ".join(texts), any(safeguard.compared for safeguard in known))
