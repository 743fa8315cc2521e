"""The conclusion of a run: one to three sentences, by rule, from the verdicts of its claims.

Rules, in this order:

1. Nothing was judged, or claims never ran: the run says nothing, and is not fine.
2. Claims fail on the reference model: the spec does not fit it, so its claims say nothing about the candidate.
3. Otherwise the claims about the candidate speak. Of several red claims, those that explain others come first:
   accuracy, what the model refuses, equivalence, groups from the input to the answer, the whole circuit, transfer,
   cmap (`ClaimResult.order`).

A refuted claim says that something broke. A red claim that is not refuted (undecided, without a control, behind its
baseline) says only that, and the sentence never claims more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pytest_mechanism.causes import BROKEN, Cause
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.report.next_steps import ACCURACY, BEHAVIOUR, next_steps
from pytest_mechanism.report.paragraphs import first_sentence
from pytest_mechanism.report.rows import BASELINE_CAUSES, UNACCEPTED
from pytest_mechanism.report.run_report import (
    JUDGED,
    ClaimResult,
    Conclusion,
    ConclusionState,
    RunReport,
)
from pytest_mechanism.report.table import with_circuits
from pytest_mechanism.report.wording import (
    baseline_sentence,
    claims,
    first_member,
    first_weights,
    first_work,
    may_follow,
    more_rows,
    moved,
    names,
    never_ran,
    others_red,
    reason,
    role,
    short,
    task_lost,
    told_apart,
    warned,
    were,
)

CANDIDATE = "ft"
MOST_SENTENCES = 3
"""Of a conclusion."""


def concluded(report: RunReport) -> RunReport:
    """The report with its conclusion, if it has none."""
    if report.conclusion is not None:
        return report
    return replace(report, conclusion=conclude(report))


def conclude(report: RunReport) -> Conclusion:
    """See the module."""
    report = replace(report, claims=with_circuits(report.claims))
    reds = explaining_first(result for result in report.claims if result.red)
    warnings = explaining_first(result for result in report.claims if result.verdict == "warn")
    state, sentences, lead = judgement(report, reds)
    if reds and {"base", "ft"} <= {*report.checkpoints}:
        sentences[0] = told_apart(report, sentences[0])
    if warnings and len(sentences) < MOST_SENTENCES:
        sentences.append(warned(warnings))
    return Conclusion(
        state,
        tuple(sentences),
        next_steps(report, state, reds, lead),
        tuple(result.id for result in reds),
        tuple(result.id for result in warnings),
    )


def explaining_first(results: Iterable[ClaimResult]) -> list[ClaimResult]:
    """Claims in the order in which one explains the next; those on the reference model come before the same
    claims on the candidate, and after its accuracy."""
    return sorted(
        results, key=lambda result: (result.order > 0, not on_reference(result), result.order)
    )


def on_reference(result: ClaimResult) -> bool:
    """Whether a red claim says that the spec does not fit the reference model."""
    return result.cause is Cause.REFERENCE_FAILS


def judgement(
    report: RunReport, reds: Sequence[ClaimResult]
) -> tuple[ConclusionState, list[str], ClaimResult | None]:
    """The state of a run, the sentences about it, and the red claim that they are about."""
    judged = [result for result in report.claims if result.verdict in JUDGED]
    if not judged:
        return "not_judged", [nothing_judged(report)], reds[0] if reds else None
    about_candidate = [result for result in judged if CANDIDATE in result.models]
    if not reds:
        return *without_reds(report, judged, about_candidate), None
    foreign = [result for result in reds if on_reference(result) and result.role == REFERENCE]
    unfit = {result.spec for result in foreign}
    own = [result for result in reds if result.spec not in unfit]
    sentences: list[str] = []
    state: ConclusionState = "reference"
    lead = foreign[0] if foreign else None
    if foreign:
        sentences += unfit_spec(report, foreign)
    if own:
        state, about, lead = about_reds(report, own, judged)
        sentences += about[: MOST_SENTENCES - len(sentences)]
    if report.not_run:
        sentences[MOST_SENTENCES - 1 :] = [never_ran(report)]
    return state, sentences, lead


# -- nothing red


def nothing_judged(report: RunReport) -> str:
    """Why a run without a verdict says nothing."""
    if not report.claims:
        return "Nothing was judged: no claim ran, so this run says nothing about the candidate."
    counts = {
        "were skipped": sum(result.verdict == "skipped" for result in report.claims),
        "could not be judged": sum(result.verdict == "error" for result in report.claims),
    }
    parts = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    why = next((result.reason for result in report.claims if result.verdict == "error"), "")
    first = f" ({short(why)})" if why else ""
    return f"Nothing was judged: {parts}{first}, so this run says nothing about the candidate."


def not_fine(report: RunReport, passed: int, about_candidate: Sequence[ClaimResult]) -> str | None:
    """Why a run without a red claim says nothing all the same, or None."""
    if not about_candidate:
        return (
            f"No claim judged the candidate ({claims(passed)} about other models passed): this run says nothing "
            "about it."
        )
    if report.not_run:
        return f"{claims(passed)} passed, but {never_ran(report)}"
    if report.errors or report.reasons:
        why = short([*report.errors, *report.reasons][0])
        return f"{claims(passed)} passed, but the run is red: {why}."
    if report.exit_code:
        return (
            f"{claims(passed)} passed, but pytest ended with exit code {report.exit_code}: something else in this run "
            "failed, such as a spec that could not be read."
        )
    return None


def without_reds(
    report: RunReport, judged: Sequence[ClaimResult], about_candidate: Sequence[ClaimResult]
) -> tuple[ConclusionState, list[str]]:
    """A run without a red claim, which is fine only if the candidate was judged and nothing is missing."""
    passed = sum(result.verdict == "pass" for result in judged)
    if (why := not_fine(report, passed, about_candidate)) is not None:
        return "not_judged", [why]
    if not any(result.verdict == "pass" for result in about_candidate):
        return "undecided", [
            "No claim about the candidate holds, and none of them blocks a release (severity: warn)."
        ]
    new = sum(result.drift_state == "new" and not result.accepted_now for result in judged)
    blocking = sum(result.verdict == "pass" and result.severity == "block" for result in judged)
    sentences = [f"All {claims(blocking)} that block hold." if blocking > 1 else "The claim holds."]
    if not blocking:
        sentences = [f"No claim blocks a release; {claims(passed)} hold."]
    if passed == len(judged) and passed > 1:
        sentences = [f"All {claims(passed)} hold."]
    if (fine := accuracy_is_fine(report)) is not None:
        sentences = [f"{sentences[0][:-1]}. {fine}"]
    if new:
        sentences.append(
            f"{new} of {len(judged)} scores had no baseline to be compared with: --snapshot-update accepts them."
        )
    if unseen := not_looked_at(report, len(report.claims) - len(judged)):
        sentences.append(unseen)
    return "holds", sentences


def not_looked_at(report: RunReport, skipped: int) -> str:
    """The sentence about claims that the run did not look at; empty where there are none."""
    left_out = len(report.deselected)
    if not left_out:
        return f"{claims(skipped)} {were(skipped)} skipped." if skipped else ""
    by = " and ".join(report.left_out_by or ("an option or a hook",))
    if not skipped:
        return f"{by[0].upper()}{by[1:]} left out {claims(left_out)}."
    return f"{claims(skipped)} {were(skipped)} skipped, and {by} left out {left_out}."


# -- something red


def unfit_spec(report: RunReport, foreign: Sequence[ClaimResult]) -> list[str]:
    """A spec that the reference model does not meet, and whether that model does the task at all."""
    named = names(
        [result for result in foreign if result.role == REFERENCE] or list(foreign), role=False
    )
    specs = dict.fromkeys(result.circuit for result in foreign)
    several = len({result.circuit for result in report.claims if result.verdict in JUDGED}) > 1
    which = f"The spec {' and '.join(specs)}" if several else "This spec"
    if all(result.verdict == "inconclusive" for result in foreign):
        first = foreign[0]
        return [
            f"{which} is not shown to hold on your base model ({named} undecided): no conclusion about the candidate.",
            f"First, {first.claim} on base: {reason(first)}.{more_rows(first, foreign)}",
        ]
    said = [
        f"{which} does not hold on your base model ({named}): no conclusion about the candidate."
    ]
    if useless := [r for r in foreign if r.kind in ACCURACY and r.verdict == "fail"]:
        place = report.checkpoints[REFERENCE].reference
        said.append(
            f"The base model itself does not do the task ({reason(useless[0])}): is {place} the checkpoint that you "
            "mean?"
        )
    return said


def about_reds(
    report: RunReport, reds: Sequence[ClaimResult], judged: Sequence[ClaimResult]
) -> tuple[ConclusionState, list[str], ClaimResult]:
    """The sentences about red claims of specs that the reference model meets, and the claim that explains most."""
    total = len(judged) + sum(result.verdict == "error" for result in report.claims)
    broken = [result for result in reds if result.cause in BROKEN]
    accuracy = [r for r in broken if r.kind in ACCURACY and CANDIDATE in r.models]
    share = f"{len(reds)} of {claims(total)}"
    if accuracy and accuracy[0] is next(r for r in broken if CANDIDATE in r.models):
        first = next((result for result in accuracy if result.kind == "accuracy"), accuracy[0])
        sentence = f"{task_lost(accuracy, first)}.{may_follow(reds, first)}"
        about = [sentence, *doubtful_words(reds), *first_member(reds)]
        return "accuracy", about[:MOST_SENTENCES], first
    guessing = [result for result in reds if result.cause is Cause.AT_CHANCE]
    specs = {result.spec for result in guessing}
    if guessing and all(result.spec in specs for result in broken):
        sentence = f"There is no mechanism to examine, because a model does not solve the task: {reason(guessing[0])}."
        return "accuracy", [sentence, *first_member(reds)], guessing[0]
    fine = accuracy_is_fine(report)
    lead = [fine] if fine else []
    if broken:
        first = broken[0]
        behaviour = all(not result.groups and result.order <= BEHAVIOUR for result in broken)
        what = "The mechanism changed: "
        if behaviour:
            what = ""
        elif any(moved(result) for result in reds):
            what = "Heads are in other places: "
        if not any(CANDIDATE in result.models for result in broken):
            what = "On other models than the candidate: "
        sentence = f"{what}{len(broken)} of {claims(total)} broke{others_red(reds, broken)}."
        detail = first_work(reds) or [
            f"First, {first.claim} on {role(first)}: {first_sentence(first.meaning or '')} ({reason(first)}).",
            *first_weights(reds),
        ]
        named = (result for result in broken if result.located and result.located.members)
        return (
            "behaviour" if behaviour else "broken",
            [*lead, sentence, *detail][:MOST_SENTENCES],
            next(named, first),
        )
    if behind := [result for result in reds if result.cause in BASELINE_CAUSES]:
        new = all(result.cause is Cause.NOT_ACCEPTED for result in reds)
        # accepting scores would not cure what is wrong with the others
        first = next((result for result in reds if result.cause not in UNACCEPTED), behind[0])
        example = f"First, {first.claim} on {role(first)}: {reason(first)}."
        compared = f"{baseline_sentence(behind)} ({share} red)."
        if len({result.cause for result in reds}) > 1:
            compared = (
                f"{len(behind)} of {claims(total)} fell behind, moved or lack an accepted score"
                f"{others_red(reds, behind)}."
            )
        return "baseline", [*lead, compared, *(() if new else (example,))], first
    if unjudged := [result for result in reds if result.verdict == "error"]:
        state: ConclusionState = "not_judged" if len(unjudged) == len(reds) else "undecided"
        sentence = f"{share} could not be judged, so there is no conclusion: {names(unjudged)}: {reason(unjudged[0])}."
        return state, [*lead, sentence], unjudged[0]
    sentences = [
        *lead,
        f"{share} {'is' if len(reds) == 1 else 'are'} undecided, which counts as red: nothing is shown to have "
        f"broken, and nothing to be intact. First, {reds[0].claim} on {role(reds[0])}: {reason(reds[0])}."
        f"{more_rows(reds[0], reds)}",
        *first_member(reds),
    ]
    return "undecided", sentences[:MOST_SENTENCES], reds[0]


WORST_WORDS = re.compile(r"worst of .*, ([^,]+: accuracy .*?) does not show")


def doubtful_words(reds: Sequence[ClaimResult]) -> list[str]:
    """Where a model is worst, if an undecided claim about single words, labels and places says so."""
    undecided = [r for r in reds if r.kind == "coverage" and r.verdict == "inconclusive"]
    found = [WORST_WORDS.search(result.reason) for result in undecided]
    return [f"Look first at {match[1]}, too few rows to be sure." for match in found if match][:1]


def accuracy_is_fine(report: RunReport) -> str | None:
    """The sentence about a candidate whose claims about accuracy all hold; None where some do not, or there are
    none."""
    about = [r for r in report.claims if r.kind in ACCURACY and CANDIDATE in r.models]
    about = [r for r in about if r.verdict != "skipped"]
    if not about or any(result.verdict != "pass" for result in about):
        return None
    shown = next(
        (r for r in about if r.role == CANDIDATE and r.rows and r.rows[0].name == "accuracy"), None
    )
    if shown is None or shown.score is None:
        return "Accuracy is fine."
    parts = [f"{shown.rows[0].score or 0:.2f}"]
    before = next(
        (
            r
            for r in report.claims
            if (r.spec, r.claim, r.role) == (shown.spec, shown.claim, REFERENCE)
        ),
        None,
    )
    if before is not None and before.score is not None:
        parts.append(f"base {before.score:.2f}")
    if shown.baseline is not None:
        parts.append(f"baseline {shown.baseline:.2f}")
    return f"Accuracy is fine ({', '.join(parts)})."
