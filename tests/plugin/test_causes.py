"""A red claim says why: each cause has its sentence, in the failure and in the result file."""

import json
from types import SimpleNamespace

import pytest

from pytest_mechanism.causes import MEANING, Cause, meaning

REFUTED = "the number in the file is lower than claimed"


def red(project, *arguments, role="ft"):
    """What a run says of the claim on one role: its entry, its meaning as shown, the output."""
    result = project.run("-v", "--mechanism-json", "out.json", *arguments)
    claims = json.loads((project.path / "out.json").read_text())["claims"]
    (claim,) = (c for c in claims if c["role"] == role)
    # the conclusion above names the claim, too
    failures = result.stdout.str().partition("= FAILURES =")[2]
    parts = failures.split(f"good on {role}: ")
    shown = [line.strip() for line in parts[1].split("\n")] if len(parts) > 1 else []
    (text,) = [line[10:] for line in shown if line.startswith("meaning   ")][:1] or [None]
    return SimpleNamespace(claim=claim, cause=claim["cause"], said=text, output=result.stdout.str())


@pytest.fixture
def accepted(project):
    """A claim on both roles whose score 0.9 is accepted."""
    project.spec("good: {at_least: 0.5}")
    project.values(good=0.9)
    project.accept()
    return project


# -- what a claim's judgement finds


def test_refuted(accepted):
    """The interval lies on the wrong side: the sentence is the claim kind's own, although the score
    fell behind the accepted one as well."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.1})

    result = red(accepted)

    assert (result.cause, result.said, result.claim["meaning"]) == ("refuted", REFUTED, REFUTED)


def test_not_settled(accepted):
    """The interval spans the bound: nothing is refuted."""
    accepted.values(good={"base": 0.9, "ft": 0.5})
    assert red(accepted).said == MEANING[Cause.UNSETTLED]


@pytest.mark.parametrize(
    ("helper", "cause"),
    [("no_control", Cause.NO_CONTROL), ("control_as_good", Cause.CONTROL_AS_GOOD)],
)
def test_a_score_that_its_control_takes_back(accepted, helper, cause):
    """The bound is reached, and the sentence is about the control."""
    accepted.values(good={"base": 0.9, "ft": [0.9, helper]})

    result = red(accepted)

    assert (result.cause, result.said) == (cause, MEANING[cause])
    assert result.claim["verdict"] == "inconclusive"


def test_a_kind_whose_author_forgot_its_control(accepted):
    """A pass without any comparison becomes inconclusive, and the line names the kind."""
    accepted.values(good={"base": 0.9, "ft": [0.9, "forgets its control"]})

    result = red(accepted)

    assert (result.claim["verdict"], result.cause) == ("inconclusive", "no_control")
    assert "claim kind 'fixed' neither compares the score" in result.claim["reason"]


@pytest.mark.parametrize(
    "helper", ["at_chance", "reference_fails", "no_difference", "not_comparable", "model_missing"]
)
def test_nothing_to_conclude(accepted, helper):
    """Each says that there is no finding; no score is compared or lost."""
    before = accepted.score_file().read_bytes()
    accepted.values(good={"base": 0.9, "ft": helper})

    result = red(accepted, "--snapshot-update")

    assert (result.cause, result.said) == (helper, MEANING[Cause(helper)])
    assert accepted.score_file().read_bytes() == before


def test_not_judged(accepted):
    """What kept a claim from being judged is no finding about the model."""
    accepted.values(good={"base": 0.9, "ft": "error"})
    assert red(accepted).said == MEANING[Cause.NOT_JUDGED]


@pytest.mark.parametrize("value", [0.1, 0.5, [0.9, "no_control"], "at_chance"])
def test_the_reference_does_not_meet_the_spec(accepted, value):
    """Any red claim on the base model means no conclusion about the candidate; a line below the table names
    these claims."""
    accepted.checkpoint("base", "other weights")
    accepted.values(good={"base": value, "ft": 0.9})

    result = red(accepted, role="base")

    text = "this spec does not hold on your base model: no conclusion about the candidate"
    assert (result.cause, result.said) == ("reference_fails", text)
    assert "circuit: good does not hold on your base model" in result.output


def test_a_base_that_cannot_be_judged_is_no_finding_about_it(accepted):
    """An error on the base is an error, not a spec that does not hold."""
    accepted.values(good={"base": "error", "ft": 0.9})
    result = red(accepted, role="base")
    assert result.cause == "not_judged"
    assert "does not hold on your base model" not in result.output


# -- what the comparison with the accepted score finds


@pytest.mark.parametrize("role", ["base", "ft"])
def test_fell_behind_the_accepted_score(accepted, role):
    """The claim holds, so nothing is refuted: not of the candidate and not of the base."""
    accepted.checkpoint(role, "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.9} | {role: 0.7})

    result = red(accepted, role=role)

    assert (result.cause, result.said) == ("fell_behind", MEANING[Cause.FELL_BEHIND])
    assert result.claim["reason"] == ("0.200 below the baseline 0.900 (allowed 0.05, significant)")
    assert REFUTED not in result.output


def test_moved(accepted):
    """The same checkpoints give another score: the models did not change."""
    accepted.values(good={"base": 0.9, "ft": 0.8})
    assert red(accepted).said == MEANING[Cause.MOVED]


def test_measured_under_another_definition(accepted):
    """With accepted scores required: the score is there, of another definition."""
    path = accepted.path / "circuit.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))

    result = red(accepted, "--mechanism-require-accepted")

    assert (result.cause, result.claim["meaning"]) == ("redefined", MEANING[Cause.REDEFINED])
    assert result.claim["reason"] == (
        "the baseline has another definition and cannot be compared; --snapshot-update accepts this "
        "score (--mechanism-require-accepted)"
    )


def test_an_accepted_score_of_another_quantity_is_named_in_one_line(accepted):
    """A score file from before a claim compared something else: both are named, none is compared."""
    path = accepted.score_file()
    path.write_text(path.read_text().replace('"fixed score"', '"an older score"'))

    result = red(accepted, "--mechanism-require-accepted")

    assert (result.cause, result.claim["drift"]) == ("redefined", None)
    assert result.claim["reason"] == (
        "the baseline measures 'an older score', not 'fixed score'; --snapshot-update accepts this "
        "score (--mechanism-require-accepted)"
    )


def test_redefined_scores_that_pass_are_counted_below_the_table(accepted):
    """Nobody takes them for scores that were compared."""
    path = accepted.path / "circuit.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    accepted.run().stdout.fnmatch_lines(
        ["2 of 2 scores pass, and their baselines have another definition: no comparison until*"]
    )


def test_not_accepted(project):
    """Required, and nobody accepted one."""
    project.spec("good")
    project.values(good=0.9)
    assert red(project, "--mechanism-require-accepted").cause == "not_accepted"


def test_what_is_not_red_has_no_cause(accepted):
    """Null in the file, for cause and meaning."""
    claim = red(accepted).claim
    assert (claim["verdict"], claim["cause"], claim["meaning"]) == ("pass", None, None)


def test_every_cause_has_a_sentence():
    """Of a refuted claim whose kind says nothing, too."""
    assert all(meaning(cause, "") for cause in Cause)
    assert {*Cause} - {*MEANING} == {Cause.REFUTED}


# -- a row for each threshold


@pytest.fixture
def two(project):
    """A claim of two thresholds, of which ft meets one."""
    project.spec("good: {at_least: 0.5, near_at_most: 0.8}")
    project.values(good={"base": 0.7, "ft": 0.9})
    return project


def test_the_table_has_a_row_a_threshold(two):
    """Each row has its own verdict and bound; the compared score's row has the baseline."""
    two.accept()
    two.run().stdout.fnmatch_lines(
        [
            "verdict  claim         role  score  interval *  claimed             baseline",
            "pass     circuit.good  base  0.700  *0.637, 0.762*  at least 0.5        same",
            "pass     circuit.good  base  0.700  *0.637, 0.762*  between -1 and 0.8",
            "pass     circuit.good  ft    0.900  *0.838, 0.963*  at least 0.5        same",
            "fail     circuit.good  ft    0.900  *0.838, 0.963*  between -1 and 0.8",
        ]
    )


def test_the_result_file_has_a_row_a_threshold(two):
    """`claims` stays one entry a test; its verdict is that of the worst row."""
    base, ft = two.result()["claims"]
    assert (base["verdict"], ft["verdict"]) == ("pass", "fail")
    assert [(r["verdict"], r["cause"], r["name"], r["threshold"]) for r in ft["rows"]] == [
        ("pass", None, "fixed score", "at least 0.5"),
        ("fail", "refuted", "a score near by", "between -1 and 0.8"),
    ]


def test_the_summary_page_has_a_row_a_threshold(two, monkeypatch):
    """As the terminal has."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(two.path / "summary.md"))
    two.run()
    text = (two.path / "summary.md").read_text()
    lines = [line for line in text.split("\n") if line.startswith(("| ✅", "| ❌"))]
    assert [(line.split(" | ")[0], line.split(" | ")[5]) for line in lines] == [
        ("| ✅ pass", "at least 0.5"),
        ("| ✅ pass", "between -1 and 0.8"),
        ("| ✅ pass", "at least 0.5"),
        ("| ❌ fail", "between -1 and 0.8"),
    ]


@pytest.mark.parametrize(
    ("value", "row"),
    [([0.7, "no_control"], "better than its control"), ([0.7, "control_as_good"], "better than*")],
)
def test_no_table_is_green_about_a_red_claim(two, value, row):
    """If each threshold holds and the claim is red, a further row gives the reason."""
    two.values(good={"base": 0.7, "ft": value})
    two.run().stdout.fnmatch_lines(
        [
            "pass *  ft  *  at least 0.5 *",
            "pass *  ft  *  between -1 and 0.8",
            f"inconclusive *  ft  *  {row}",
        ]
    )


def test_the_row_that_fell_behind_is_the_red_one(two):
    """A threshold that has nothing to do with it stays green."""
    two.values(good=0.7)
    two.accept()
    two.checkpoint("ft", "other weights")
    two.values(good={"base": 0.7, "ft": 0.57})
    two.run("-k", "ft", "--mechanism-json", "out.json")
    (claim,) = json.loads((two.path / "out.json").read_text())["claims"]
    assert [(r["verdict"], r["cause"]) for r in claim["rows"]] == [
        ("fail", "fell_behind"),
        ("pass", None),
    ]
