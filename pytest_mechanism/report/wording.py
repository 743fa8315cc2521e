"""The words of a conclusion: counts, names and reasons as parts of sentences, and sentences about heads.

Which of them a run needs is decided in `conclusion`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_mechanism.causes import BROKEN, Cause
from pytest_mechanism.claims.moved_work import (
    OF_WHAT,
    called,
    gainer,
    largest_first,
    owner,
    shares,
    verb,
)
from pytest_mechanism.report.rows import BASELINE_CAUSES
from pytest_mechanism.report.run_report import CheckpointEntry, ClaimResult, RunReport
from pytest_mechanism.types import MemberChange

SHOWN = 3
"""Claims that a sentence names."""

LONGEST = 200
"""Characters of a claim's reason that a sentence quotes."""


def claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"


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


NEEDED = re.compile(r"about ([\d,]+) rows in all would decide")
"""The number of rows in the reason of an undecided claim, which `statistics.verdicts.settle` writes."""


def more_rows(first: ClaimResult, undecided: Sequence[ClaimResult]) -> str:
    """The sentence about another undecided claim of the same spec that needs more rows than the one that is quoted;
    empty where none does."""

    def needed(result: ClaimResult) -> int:
        found = NEEDED.search(result.reason)
        return int(found[1].replace(",", "")) if found else 0

    most = max((r for r in undecided if r.spec == first.spec), key=needed, default=first)
    if not 0 < needed(first) < needed(most):
        return ""
    return f" {most.claim} on {role(most)} needs more: about {needed(most):,} rows would decide all of them."


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


OUTCOMES = {
    "broke": ("broke", "broke"),
    "base": ("does not hold on base", "do not hold on base"),
    "undecided": ("is undecided", "are undecided"),
    "not judged": ("was not judged", "were not judged"),
    "baseline": ("is red by its baseline alone", "are red by their baselines alone"),
    "warn": ("only warns", "only warn"),
}
"""What becomes of a claim that does not hold -> the words for one and for several."""


def outcome(result: ClaimResult) -> str:
    """Which of the `OUTCOMES` a claim has that does not hold."""
    if result.verdict in ("warn", "error"):
        return "warn" if result.verdict == "warn" else "not judged"
    if result.cause in BASELINE_CAUSES:
        return "baseline"
    if result.verdict == "fail" and result.cause is Cause.REFERENCE_FAILS:
        return "base"
    return "broke" if result.verdict == "fail" or result.cause in BROKEN else "undecided"


def tally(results: Iterable[ClaimResult], more: str = "") -> str:
    """Claims that do not hold, counted: ``5 broke, 1 is undecided``.

    Args:
        results: the claims.
        more: between each number and its verb, such as "more".
    """
    counts = Counter(map(outcome, results))
    return ", ".join(
        f"{counts[key]} {f'{more} ' if more else ''}{words[counts[key] > 1]}"
        for key, words in OUTCOMES.items()
        if counts[key]
    )


def others_red(reds: Sequence[ClaimResult], told: Sequence[ClaimResult]) -> str:
    """The red claims that a sentence has not told of, counted, to go on with it."""
    counted = tally((result for result in reds if result not in told), "more")
    return f", {counted}" if counted else ""


def may_follow(reds: Sequence[ClaimResult], first: ClaimResult) -> str:
    """The sentence about all red claims but the one that may explain them; empty without others."""
    others = [result for result in reds if result is not first]
    if not others:
        return ""
    counted = tally(others, "more")
    noun = "claim" if counted.startswith("1 ") else "claims"
    counted = counted.replace("more", f"more {noun}", 1)
    return f" {counted}; {'it' if len(others) == 1 else 'they'} may follow from it."


def task_lost(refuted: Sequence[ClaimResult], first: ClaimResult) -> str:
    """What refuted claims about the task say of the candidate, and the words that it is wrong about.

    Args:
        refuted: all refuted claims about the task.
        first: of them, the one to tell.
    """
    if first.kind == "coverage":
        return f"The candidate is {reason(first)}"
    row = next((row for row in first.rows if row.verdict == "fail"), None)
    low = row is not None and row.low is not None and (row.score or 0.0) < row.low
    what = "The candidate does the task less well" if low else "Accuracy is not as claimed"
    if row is not None and (row.name or "").startswith("log-probability"):
        what = f"The candidate is {'less' if low else 'more'} sure of the right answers"
    wrong = next((r.reason.partition(": ")[0] for r in refuted if r.kind == "coverage"), "")
    return f"{what}: {reason(first)}{f'; it is {wrong}' if wrong else ''}"


def told_apart(report: RunReport, sentence: str) -> str:
    """The first sentence of a red run, which says what the candidate is where the names of the models mislead:
    one is called ``ft`` and is the base, or the other way round."""
    base, candidate = report.checkpoints["base"], report.checkpoints["ft"]

    def last(entry: CheckpointEntry) -> str:
        return re.split(r"[/:]", entry.reference.rstrip("/"))[-1]

    if last(base) != "ft" and last(candidate) != "base":
        return sentence
    named = f"ft = {candidate.reference}"
    if "candidate" in sentence:
        return sentence.replace("candidate", f"candidate ({named})", 1)
    return f"{named}. {sentence}"


def baseline_sentence(reds: Sequence[ClaimResult]) -> str:
    """What the comparison with accepted scores says."""
    cause = reds[0].cause
    if cause is Cause.MOVED:
        return (
            "Scores moved on unchanged checkpoints: an option, a library, the machine or this tool changed, "
            "not the model"
        )
    if cause is Cause.FELL_BEHIND:
        return "Every threshold holds, but scores are significantly worse than their baselines"
    one = len(reds) == 1
    return (
        f"Nothing broke: every threshold holds. {claims(len(reds))} {'has' if one else 'have'} no accepted score to be "
        f"compared with, which this run requires: look at the {'score' if one else 'scores'}, and accept "
        f"{'it' if one else 'them'}"
    )


def first_member(reds: Sequence[ClaimResult]) -> list[str]:
    """The heads behind the red claims, in the words that the sweep found for them: what changed most, and who
    does its work now. Where the weights of a few parts stand out, these come first."""
    return first_work(reds) or first_weights(reds)


def first_work(reds: Sequence[ClaimResult]) -> list[str]:
    """What `first_member` says of work that changed, if any did."""
    for result in reds:
        if lines := moved(result):
            return [f"{sentence_case(lines[0])}; the spec's numbers name other heads there."]
        if result.located is not None and result.located.members:
            own = [m for m in result.located.members if m.member in result.located.edited]
            if own and "was changed (" in (line := result.located.lines[0]):
                return [f"{sentence_case(line)}."]  # the weights of one member, and what it does
            if lines := restored(result):
                return [f"{sentence_case(line)}." for line in lines]
            work = work_moved(own or result.located.members)
            return [sentence_case("; ".join((*edited(result), work))) + "."]
    return []


def restored(result: ClaimResult) -> Sequence[str]:
    """The report's line about the base's members that restore the candidate's answers, if it has one."""
    if result.located is None or not result.located.restored:
        return ()
    return [line for line in result.located.lines if line.startswith("with ")][:1]


def first_weights(reds: Sequence[ClaimResult]) -> list[str]:
    """What `first_member` says of weights alone, which does not say what broke."""
    said = [line for result in reds for line in (edited(result) or restored(result))]
    return [f"{sentence_case(line)}." for line in said[:1]]


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
    sentence = (
        f"{called(first.member)}{owner(first)} {verb(first, members)} towards {first.readers} "
        f"({shares(first)} {OF_WHAT})"
    )
    if taker is None:
        return sentence
    return f"{sentence}, and {called(taker.member)}{owner(taker)} {verb(taker, members)}"


def moved(result: ClaimResult) -> Sequence[str]:
    """What a sweep says about heads that are in another place."""
    lines = () if result.located is None else result.located.lines
    return [line for line in lines if "in another order" in line]
