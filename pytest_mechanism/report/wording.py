"""The words of a conclusion: counts, names and reasons as parts of sentences, and sentences about heads.

Which of them a run needs is decided in `conclusion`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.moved_work import called, gainer, largest_first, verb
from pytest_mechanism.report.run_report import ClaimResult, RunReport
from pytest_mechanism.types import MemberChange

SHOWN = 3
"""Claims that a sentence names."""

LONGEST = 200
"""Characters of a claim's reason that a sentence quotes."""


def claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"


def red_claims(count: int) -> str:
    return "red claim" if count == 1 else f"{count} red claims"


def were(count: int) -> str:
    return "was" if count == 1 else "were"


def role(result: ClaimResult) -> str:
    """The role of a claim, in words."""
    return "both models" if result.role == "pair" else result.role


def names(results: Sequence[ClaimResult], *, role: bool = True) -> str:
    """The names of a few claims."""
    listed = list(
        dict.fromkeys(
            f"{r.claim} on {r.role}" if role and r.role != "pair" else r.claim for r in results
        )
    )
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def reason(result: ClaimResult) -> str:
    """A claim's reason as the end of a sentence."""
    return short(result.reason)


def short(text: str) -> str:
    """The beginning of a long text, without its full stop."""
    text = text.rstrip(". ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rstrip()}…"


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def never_ran(report: RunReport) -> str:
    """The sentence about selected claims without a result."""
    count = len(report.not_run)
    return f"{claims(count)} never ran, so the run is incomplete."


def warned(warnings: Sequence[ClaimResult]) -> str:
    """The sentence about claims that do not hold and do not block."""
    does = "does" if len(warnings) == 1 else "do"
    return f"Warning: {names(warnings)} {does} not hold (severity: warn, so not red)."


def others_red(reds: Sequence[ClaimResult], broken: Sequence[ClaimResult]) -> str:
    """The red claims that are not refuted, counted."""
    others = [result for result in reds if result not in broken]
    unjudged = sum(result.verdict == "error" for result in others)
    counts = ((len(others) - unjudged, "undecided"), (unjudged, "not judged"))
    return "".join(
        f", {count} more {'is' if count == 1 else 'are'} {what}" for count, what in counts if count
    )


def baseline_sentence(reds: Sequence[ClaimResult]) -> str:
    """What the comparison with accepted scores says."""
    cause = reds[0].cause
    if cause is Cause.MOVED:
        return "Scores moved on unchanged checkpoints: a library, the machine or this tool changed, not the model"
    if cause is Cause.FELL_BEHIND:
        return "Every threshold holds, but scores are significantly worse than their baselines"
    return "Every threshold holds, but the run requires accepted scores and some have none"


def first_member(reds: Sequence[ClaimResult]) -> list[str]:
    """The heads behind the red claims, in the words that the sweep found for them: what changed most, and who
    does its work now; and where the weights of a few parts stand out."""
    for result in reds:
        if lines := moved(result):
            return [f"{sentence_case(lines[0])}; the spec's numbers name other heads there."]
        if result.located is not None and result.located.members:
            work = sentence_case(work_moved(result.located.members))
            return ["; ".join((work, *edited(result))) + "."]
    weights = [line for result in reds for line in edited(result)]
    return [f"{sentence_case(line)}." for line in weights[:1]]


def edited(result: ClaimResult) -> Sequence[str]:
    """What the report says first of the weights: a few parts of the model have other weights, or none has."""
    lines = () if result.located is None else result.located.lines[:1]
    return [line for line in lines if "weight" in line[:20]]


def work_moved(members: Sequence[MemberChange]) -> str:
    """Who lost most, and who gained it."""
    first, *_ = largest_first(
        [m for m in members if abs(m.now) < abs(m.before)] or members, members
    )
    taker = gainer([first], members)
    of = f" of {first.group}" if first.group else ", in no group,"
    sentence = (
        f"{called(first.member)}{of} {verb(first, members)} towards {first.readers} ({first.before:.2f} -> "
        f"{abs(first.now) if round(first.now, 2) == 0 else first.now:.2f} of the answer's logit)"
    )
    if taker is None:
        return sentence
    where = f" of {taker.group}" if taker.group else ""
    return f"{sentence}, and {called(taker.member)}{where} {verb(taker, members)}"


def moved(result: ClaimResult) -> Sequence[str]:
    """What a sweep says about heads that are in another place."""
    lines = () if result.located is None else result.located.lines
    return [line for line in lines if "in another order" in line]
