"""The conclusion of a run, by rule from its verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.report.conclusion import conclude
from pytest_mechanism.report.run_report import CheckpointEntry, ClaimResult, Row, RunReport
from pytest_mechanism.statistics.verdicts import at_least
from pytest_mechanism.types import Located, MemberChange, Score

ROW = Row("pass", None, "accuracy", 0.96, (0.94, 0.97), 100, "at least 0.6", compared=True)


def claim(name: str, role: str = "ft", verdict: Any = "pass", **fields: Any) -> ClaimResult:
    """The result of a claim about accuracy."""
    return replace(
        ClaimResult(
            id=f"c.yaml::{name}::{role}", circuit="c", claim=name, kind="accuracy", role=role,
            models=("base", "ft") if role == "pair" else (role,), verdict=verdict,
            cause=Cause.REFUTED if verdict == "fail" else None, meaning="it broke", reason="0.1 is low",
            score=0.96, interval=(0.9, 1.0), n=100, threshold="at least 0.6", control=None,
            baseline=None, drift=None, drift_state=None, accepted_now=False, seconds=0.0,
            rows=(ROW,), scores=(), notes=(),
        ),
        **fields,
    )  # fmt: skip


SOLVES = (claim("solves", "base", score=0.7), claim("solves"))
ENCODES = claim("holds_position", kind="encodes", groups=("sender",), order=25)
BROKEN = replace(ENCODES, verdict="fail", cause=Cause.REFUTED)


def report(*claims: ClaimResult, **fields: Any) -> RunReport:
    checkpoints = {role: CheckpointEntry(role, role, "/x", None, "f") for role in ("base", "ft")}
    return RunReport(checkpoints, claims, **fields)


def test_a_run_without_reds() -> None:
    """It says how many claims hold, and that accuracy is fine beside the base model's."""
    conclusion = conclude(report(*SOLVES, ENCODES))
    assert conclusion.state == "holds"
    assert conclusion.sentences[0] == "All 3 claims hold. Accuracy is fine (0.96, base 0.70)."
    assert conclusion.next_steps == ()


@pytest.mark.parametrize(
    "run",
    [
        report(),
        report(claim("solves", verdict="skipped")),
        report(claim("solves", "base")),
        report(*SOLVES, not_run=("c.yaml::other::ft",)),
        report(*SOLVES, errors=("the device is gone",)),
        report(*SOLVES, reasons=("worker gw0 ended early",)),
        report(claim("solves", verdict="error", cause=Cause.NOT_JUDGED)),
    ],
)
def test_a_run_that_did_not_look_is_never_fine(run: RunReport) -> None:
    """Nothing judged, nothing but the base model, claims that never ran, lost work, errors."""
    assert conclude(run).state == "not_judged"


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (
            report(claim("solves", "base"), claim("holds", verdict="warn", severity="warn")),
            "undecided",
        ),
        (report(*SOLVES, exit_code=1), "not_judged"),
    ],
)
def test_a_run_in_which_nothing_about_the_candidate_holds_is_not_fine(
    run: RunReport, state: str
) -> None:
    """Its only claim warns, or something beside the claims failed."""
    assert conclude(run).state == state


def test_a_refuted_claim_is_told_where_a_comparison_rules_out_its_reference() -> None:
    """The base model meets its own claims; only the pair's claim cannot use it."""
    pair = claim("same", "pair", "inconclusive", kind="transfer", cause=Cause.REFERENCE_FAILS)
    conclusion = conclude(report(*SOLVES, BROKEN, pair))
    assert conclusion.state == "broken"
    assert "does not hold on your base model" not in conclusion.text


def test_another_model_is_not_taken_for_the_candidate() -> None:
    """A red accuracy claim about the control says nothing about the candidate's accuracy."""
    control = claim("solves", "control", "fail")
    conclusion = conclude(report(*SOLVES, control))
    assert "candidate does the task less well" not in conclusion.text
    assert "On other models than the candidate" in conclusion.text


def test_accuracy_is_not_fine_while_one_of_its_claims_was_not_judged() -> None:
    """An error beside a pass."""
    error = claim("no_worse", verdict="error", cause=Cause.NOT_JUDGED)
    assert "Accuracy is fine" not in conclude(report(*SOLVES, error, BROKEN)).text


def test_scores_are_offered_for_acceptance_only_where_nothing_else_is_wrong() -> None:
    """A score that fell behind would become the baseline."""
    behind = claim("other", verdict="fail", cause=Cause.FELL_BEHIND)
    new = claim("other", verdict="fail", cause=Cause.NOT_ACCEPTED)
    steps = [conclude(report(*SOLVES, red)).next_steps[0] for red in (behind, new)]
    assert ["--snapshot-update" in step for step in steps] == [False, True]


def test_a_claim_is_accepted_on_all_its_models_at_once() -> None:
    """By its name without a role, named once."""
    new = claim("other", verdict="fail", cause=Cause.NOT_ACCEPTED)
    step = conclude(report(*SOLVES, new, replace(new, role="base"))).next_steps[0]
    assert step.split()[1] == f"{new.spec}::other"


def test_words_that_a_model_gets_wrong_are_named_beside_its_accuracy() -> None:
    """Even where their claim is undecided: the average hides them."""
    reason = (
        "worst of 9 labels and places, label A: accuracy 0.390 [0.207, 0.608] does not show whether"
    )
    words = claim(
        "words", kind="coverage", verdict="inconclusive", cause=Cause.UNSETTLED, reason=reason
    )
    conclusion = conclude(report(claim("solves", verdict="fail"), words))
    assert (
        conclusion.sentences[1]
        == "Look first at label A: accuracy 0.390 [0.207, 0.608], too few rows to be sure."
    )


def test_a_broken_mechanism_is_named_by_its_heads() -> None:
    """Accuracy first, then how many claims are red, then the head that changed most."""
    member = MemberChange(
        "2.2", "last", "q of reader", "sender", 0.7, 0.0, -0.7, (-0.8, -0.6), 0.02, 0.0
    )
    line = "head 2.2 of sender fell silent towards q of reader: 0.70 -> 0.00"
    red = replace(BROKEN, located=Located((line,), (member,), 1.0))
    conclusion = conclude(report(*SOLVES, red))
    assert conclusion.state == "broken"
    assert conclusion.sentences == (
        "Accuracy is fine (0.96, base 0.70).",
        "The mechanism changed: 1 of 3 claims broke.",
        "Head 2.2 of sender fell silent towards q of reader (0.70 -> 0.00 of the whole prompt's effect on the answer).",
    )


def test_reds_that_explain_others_come_first() -> None:
    """Accuracy, groups from the input to the answer, transfer, cmap."""
    reds = [
        replace(BROKEN, id=name, order=order)
        for name, order in (("cmap", 50), ("answer", 29), ("transfer", 40), ("input", 26))
    ]
    conclusion = conclude(report(*reds, claim("solves", verdict="fail", id="accuracy")))
    assert conclusion.reds == ("accuracy", "input", "answer", "transfer", "cmap")
    assert conclusion.state == "accuracy"


def test_lost_refusals_are_told_before_answers_that_are_less_sure() -> None:
    """A candidate that solves the task and refuses nothing: what it lost are the refusals. Where it no longer solves
    the task, that comes first."""
    refusals = claim(
        "refuses", verdict="fail", kind="suppression_holds", order=10, reason="0.03 is low"
    )
    less_sure = claim(
        "as_sure", "pair", "fail", kind="equivalent", order=11, reason="-0.005 is low"
    )
    conclusion = conclude(report(*SOLVES, less_sure, refusals))
    assert conclusion.state == "behaviour"
    assert conclusion.sentences == (
        "2 of 4 claims broke.",
        "First, refuses on ft: it broke (0.03 is low).",
    )
    unsolved = conclude(report(claim("solves", verdict="fail"), less_sure, refusals))
    assert unsolved.state == "accuracy"


def test_a_spec_that_the_base_model_does_not_meet() -> None:
    """Says nothing about the candidate, although the candidate's claims are red too."""
    foreign = replace(BROKEN, role="base", models=("base",), cause=Cause.REFERENCE_FAILS)
    conclusion = conclude(report(*SOLVES, foreign, BROKEN))
    assert conclusion.state == "reference"
    assert conclusion.sentences == (
        "This spec does not hold on your base model (holds_position): no conclusion about the candidate.",
    )


def test_a_base_model_that_does_not_do_the_task() -> None:
    """The conclusion asks for its checkpoint, and the next command does not search it for heads."""
    foreign = claim("solves", "base", "fail", cause=Cause.REFERENCE_FAILS)
    conclusion = conclude(report(foreign))
    assert conclusion.sentences[1] == (
        "The base model itself does not do the task (0.1 is low): is base the checkpoint that you mean?"
    )
    assert conclusion.next_steps[0].startswith("pytest-mechanism doctor ")


def test_a_spec_that_is_only_undecided_on_the_base_model() -> None:
    """Nothing says that it does not hold, and the reason says how many rows would decide."""
    open_question = claim(
        "solves", "base", "inconclusive", cause=Cause.REFERENCE_FAILS,
        rows=(replace(ROW, verdict="inconclusive", low=0.95),),
    )  # fmt: skip
    conclusion = conclude(report(open_question))
    assert conclusion.sentences == (
        "This spec is not shown to hold on your base model (solves undecided): no conclusion about the candidate.",
        "First, solves on base: 0.1 is low.",
    )
    assert conclusion.next_steps == (f"pytest {open_question.id} --model-pair base,ft -v",)


EQUAL = claim("as_good", "pair", kind="equivalent", order=11)
COMMAND = 1
"""Of the words of a next step."""


@pytest.mark.parametrize(
    ("cause", "about_heads", "about_answers"),
    [
        (Cause.UNSETTLED, "show", None),
        (Cause.NO_CONTROL, "show", None),
        (Cause.CONTROL_AS_GOOD, "show", None),
        (Cause.UNDECIDED, "show", None),
        (Cause.MODEL_BROKEN, "show", None),
        (Cause.NO_DIFFERENCE, "doctor", "doctor"),
        (Cause.NOT_COMPARABLE, "compare", None),
        (Cause.MODEL_MISSING, "doctor", "doctor"),
        (Cause.REFERENCE_FAILS, "doctor", "doctor"),
        (Cause.AT_CHANCE, "doctor", "doctor"),
        (Cause.NOT_JUDGED, "doctor", "doctor"),
    ],
)
def test_the_next_step_of_an_undecided_claim_follows_from_its_cause(
    cause: Cause, about_heads: str, about_answers: str | None
) -> None:
    """`doctor` where a model may guess or is missing, `compare` where heads are elsewhere, else a picture, if there is
    anything to draw."""
    verdict = "error" if cause is Cause.NOT_JUDGED else "inconclusive"
    steps = [
        conclude(report(*SOLVES, replace(of, verdict=verdict, cause=cause))).next_steps[:-1]
        for of in (replace(ENCODES, role="pair"), EQUAL)
    ]
    expected = [(name,) if name else () for name in (about_heads, about_answers)]
    assert [tuple(step.split()[COMMAND] for step in found) for found in steps] == expected


def test_curves_are_shown_where_there_are_any() -> None:
    """A claim without groups whose kind draws some: the training that destroyed the copy, or brought something
    back."""
    revival = claim("back", kind="resists_revival", order=10)
    for verdict, cause in (("inconclusive", Cause.MODEL_BROKEN), ("fail", Cause.REFUTED)):
        conclusion = conclude(report(*SOLVES, replace(revival, verdict=verdict, cause=cause)))
        assert conclusion.next_steps[0].split()[COMMAND] == "show"


@pytest.mark.parametrize(
    ("red", "step"),
    [
        (replace(ENCODES, role="base", verdict="inconclusive"), "doctor"),
        (claim("words", "base", "fail", kind="coverage", order=10), "doctor"),
        (replace(ENCODES, role="base", verdict="fail"), "discover"),
        (claim("refuses", "base", "fail", kind="suppression_holds", order=10), None),
    ],
)
def test_the_next_step_where_the_spec_does_not_fit_the_base_model(
    red: ClaimResult, step: str | None
) -> None:
    """`doctor` where the model may guess, a search for heads where only they are other ones; no search in a spec
    without groups."""
    found = conclude(report(replace(red, cause=Cause.REFERENCE_FAILS))).next_steps[:-1]
    assert [words.split()[COMMAND] for words in found] == [name for name in (step,) if name]


@pytest.mark.parametrize(
    ("red", "steps"), [(ENCODES, ["show"]), (EQUAL, []), (replace(ENCODES, cause=Cause.MOVED), [])]
)
def test_no_picture_explains_a_baseline_where_there_is_none_or_the_tool_changed(
    red: ClaimResult, steps: list[str]
) -> None:
    """A picture of unchanged checkpoints says nothing, and a spec without groups has none."""
    red = replace(red, verdict="fail", cause=red.cause or Cause.FELL_BEHIND)
    found = conclude(report(*SOLVES, red)).next_steps[:-1]
    assert [step.split()[COMMAND] for step in found] == steps


def test_weights_that_changed_do_not_hide_what_broke() -> None:
    """The sentence about the first red claim comes before the one about weights."""
    weights = Located(("weights changed throughout",), (), 1.0)
    red = claim("refuses", verdict="fail", kind="suppression_holds", order=10, located=weights)
    sentences = conclude(report(*SOLVES, red)).sentences
    assert sentences[2] == "First, refuses on ft: it broke (0.1 is low)."


@pytest.mark.parametrize("role", ["base", "ft"])
def test_of_two_undecided_claims_the_number_of_rows_for_both_is_said(role: str) -> None:
    """The one that comes first may need fewer."""
    undecided = []
    for name, value, order in (("first", 0.9, 1), ("second", 0.84, 2)):
        score = Score("x", value, (value - 0.2, value + 0.2), 0.95, 504, 72, 0.1, "", "higher")
        said = at_least(score, 0.8).reason
        more = {
            "reason": said,
            "order": order,
            "cause": Cause.REFERENCE_FAILS if role == "base" else Cause.UNSETTLED,
        }
        undecided.append(claim(name, role, "inconclusive", kind="encodes", **more))
    text = conclude(report(*undecided)).text
    assert "about 2,100 rows in all would decide" in text
    assert text.endswith(
        f"second on {role} needs more: about 13,000 rows would decide all of them."
    )
    assert "needs more" not in conclude(report(undecided[0])).text


def test_an_undecided_claim_is_no_broken_one() -> None:
    """The conclusion says neither that something broke nor that it is intact."""
    open_question = replace(BROKEN, verdict="inconclusive", cause=Cause.UNSETTLED)
    conclusion = conclude(report(*SOLVES, open_question))
    assert conclusion.state == "undecided"
    assert "nothing is shown to have broken" in conclusion.text


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.FELL_BEHIND, "significantly worse than their baselines"),
        (Cause.MOVED, "not the model"),
        (Cause.NOT_ACCEPTED, "Nothing broke: every threshold holds. 1 claim has no accepted score"),
    ],
)
def test_a_claim_that_only_its_baseline_makes_red(cause: Cause, said: str) -> None:
    """Thresholds hold, and the sentence says so or what moved instead."""
    conclusion = conclude(report(*SOLVES, replace(BROKEN, cause=cause)))
    assert conclusion.state == "baseline"
    assert said in conclusion.text


def test_a_model_at_chance_has_no_mechanism() -> None:
    """In the words of the reason."""
    guessing = replace(
        BROKEN, verdict="inconclusive", cause=Cause.AT_CHANCE, reason="ft does not solve it"
    )
    conclusion = conclude(report(*SOLVES, guessing))
    assert (conclusion.state, "ft does not solve it" in conclusion.text) == ("accuracy", True)


OPEN = replace(BROKEN, id="w.yaml::as_sure::pair", verdict="inconclusive", cause=Cause.UNSETTLED)
FISH = "too often wrong about object fish: 0.15 [0.03, 0.50] right (26 rows); claimed: at least 0.5"
COVERAGE = claim("every_object", verdict="fail", kind="coverage", order=10, reason=FISH)
LESS_SURE = replace(
    claim("as_sure", "pair", "fail", kind="equivalent", reason="-0.120 [-0.145, -0.098]"),
    rows=(Row("fail", None, "log-probability of ft minus that of base", -0.12, None, 9, "", low=-0.02),),
)  # fmt: skip


def test_every_other_red_claim_is_counted_by_what_became_of_it() -> None:
    """Two more broke, one of them about accuracy too; one is undecided, one fell behind its baseline."""
    behind = replace(BROKEN, cause=Cause.FELL_BEHIND)
    reds = (LESS_SURE, claim("solves", verdict="fail"), COVERAGE, OPEN, behind)
    assert conclude(report(*reds)).sentences[0] == (
        "Accuracy is not as claimed: 0.1 is low; it is too often wrong about object fish. 2 more claims broke, "
        "1 more is undecided, 1 more is red by its baseline alone; they may follow from it."
    )


@pytest.mark.parametrize(
    ("red", "said"),
    [
        (LESS_SURE, "The candidate is less sure of the right answers: -0.120 [-0.145, -0.098]."),
        (COVERAGE, f"The candidate is {FISH}."),
    ],
)
def test_a_candidate_whose_accuracy_holds_does_the_task_no_less_well(
    red: ClaimResult, said: str
) -> None:
    """It is less sure, or wrong about a word that the sentence names."""
    assert conclude(report(*SOLVES, red)).text == said


def test_the_next_step_is_about_the_spec_of_the_broken_claim() -> None:
    """An undecided claim of another spec comes first in the order of explanations."""
    first = replace(OPEN, order=0)
    conclusion = conclude(report(*SOLVES, replace(BROKEN, located=Located((), (), 1.0)), first))
    assert conclusion.reds[0] == first.id
    assert [step.split()[:3] for step in conclusion.next_steps] == [
        ["pytest-mechanism", "show", "c.yaml"],
        ["pytest", BROKEN.id, "--model-pair"],
    ]


@pytest.mark.parametrize(
    ("base", "red", "said"),
    [
        ("zoo:ft", LESS_SURE, "The candidate (ft = ./new) is less sure of "),
        ("./models/ft", BROKEN, "Accuracy is fine"),
        ("zoo:base", LESS_SURE, "The candidate is less sure of "),
    ],
)
def test_the_candidate_is_named_where_the_base_is_called_ft(
    base: str, red: ClaimResult, said: str
) -> None:
    """Roles and files share their names."""
    run = report(*SOLVES, red)
    paths = {"base": base, "ft": "./new"}
    files = {role: replace(entry, reference=paths[role]) for role, entry in run.checkpoints.items()}
    text = conclude(replace(run, checkpoints=files)).text
    assert said in text
    assert ("ft = ./new" in text) == (base != "zoo:base")


def test_what_options_left_out_is_counted() -> None:
    """Otherwise a run of the last failures alone reads like one of all claims."""
    skipped = claim("b", verdict="skipped")
    left_out = ("c.yaml::holds::ft", "c.yaml::other::ft")
    last = [
        conclude(report(*SOLVES, *more, deselected=left_out, left_out_by=by)).sentences[-1]
        for more, by in (((), ("-k",)), ((skipped,), ("-k", "--lf")), ((), ()))
    ]
    assert last == [
        "-k left out 2 claims.",
        "1 claim was skipped, and -k and --lf left out 2.",
        "An option or a hook left out 2 claims.",
    ]


def test_of_several_specs_a_claim_is_named_with_its_circuit() -> None:
    """Claims of two specs may have one name; the next command has the claim's own."""
    other = claim("solves", circuit="d", id="d.yaml::solves::ft", verdict="inconclusive")
    conclusion = conclude(report(*SOLVES, other))
    assert "First, d.solves on ft: 0.1 is low." in conclusion.text
    missing = replace(other, verdict="fail", cause=Cause.NOT_ACCEPTED)
    assert "d.yaml::solves --model-pair" in conclude(report(*SOLVES, missing)).next_steps[0]


def test_what_accepting_scores_would_not_cure_is_told_first() -> None:
    """Beside claims that only lack an accepted score."""
    missing = claim("a", verdict="fail", cause=Cause.NOT_ACCEPTED, reason="no baseline yet")
    undecided = claim("b", verdict="inconclusive", cause=Cause.UNSETTLED, reason="too few rows")
    conclusion = conclude(report(missing, undecided))
    assert "First, b on ft: too few rows." in conclusion.text
    assert "--snapshot-update" not in conclusion.next_steps[0]
