"""What a red run prints in a CI log of 80 columns: a conclusion, a few lines a claim, and the conclusion again."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.types import Evidence, Example, Located, MemberChange

PYTESTS = ("FAILED ", "rootdir", "plugins")
"""Lines that pytest writes, with names and paths of any length."""

LONG = "a_claim_with_a_long_name_about_the_transmitter"


@pytest.fixture
def five_red(project, monkeypatch):
    """Five claims that fail on ft, three that hold, and a failing one on both."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"{LONG}_{i}" for i in range(5)]
    project.spec(*(f"{name}: {{at_least: 0.75}}" for name in (*names, "one", "two", "three")))
    project.values(
        **{name: {"base": 0.9, "ft": 0.25} for name in names}, one=0.9, two=0.9, three=0.9
    )
    return project


def test_a_red_run_fits_on_a_screen(five_red):
    """At most 60 lines, none of ours longer than 80 columns, a line a claim in pytest's summary."""
    lines = five_red.run().outlines
    assert len(lines) <= 60
    own = [
        line
        for line in lines
        if not line.startswith((*PYTESTS, "Next: ", "mechanism: base =", "mechanism: ft ="))
    ]
    assert [line for line in own if len(line) > 80] == []
    assert len([line for line in lines if line.startswith("FAILED ")]) == 5


PROMPT = (
    "The fish is in Box A, the knife is in Box F, the coat is in Box K, the tea is in Box M, the bell is in Box R, "
    "the pot is in Box T, the ring is in Box Z. Box F contains the"
)
ROWS = tuple(
    Example(f"row {i}", PROMPT, "knife", {"base": "knife", "ft": "pot"}, {"base": -0.0071, "ft": -8.2143})
    for i in range(3)
)  # fmt: skip
EVIDENCE = Evidence(
    "the worst 3 of 500 prompts: base answers them right and ft does not",
    "log-probability of the right answer; 0 is certain",
    ROWS,
)
LOST = MemberChange(
    "2.2", "last", "q of value_fetcher", "pos_transmitter", 0.71, 0.0, -0.71, (-0.76, -0.65), 0.03, 0.0
)  # fmt: skip
GAINED = replace(LOST, member="2.1", group=None, before=0.0, now=0.74, change=0.74)
LINE = (
    "weights changed in head 0.0 (48.1% of its norm), head 0.2 (45.4%), head 0.1 (44.8%), head 0.3 (42.1%), and "
    "nowhere else"
)


def test_a_red_run_with_prompts_heads_and_baselines_fits_on_a_screen(five_red, monkeypatch):
    """Three prompts, a conclusion of five lines, and scores below their baselines."""
    names = [f"{LONG}_{i}" for i in range(5)]
    five_red.values(**dict.fromkeys(names, 0.9))
    five_red.accept()
    five_red.values(**{name: {"base": 0.9, "ft": 0.25} for name in names})
    located = Located((LINE,), (LOST, GAINED), 28.0)
    monkeypatch.setattr(ClaimEvaluator, "evidence", lambda *_: EVIDENCE)
    monkeypatch.setattr(ClaimEvaluator, "locate", lambda *_: located)
    lines = five_red.run().outlines
    assert sum("knife; base: knife (-0.007)" in line for line in lines) == 3
    assert " ".join(" ".join(lines).split()).count("0.650 below the baseline 0.900") == 5
    assert len(lines) <= 60
    said = next(i for i, line in enumerate(lines) if line.startswith("5 of 16 claims broke"))
    assert said < 24  # the first screen


def test_the_conclusion_comes_first_and_last(five_red):
    """Above pytest's failures, and below everything that pytest writes, with the next command."""
    lines = five_red.run().outlines
    section = next(i for i, line in enumerate(lines) if "mechanism: base+ft" in line)
    said = "5 of 16 claims broke. First, "
    assert said in " ".join(lines[section + 1 : section + 4])
    assert section < next(i for i, line in enumerate(lines) if "= FAILURES =" in line)
    assert said in " ".join(lines[-5:])
    assert lines[-1].startswith("Next: pytest ")


def test_no_text_comes_twice(five_red):
    """Only the reason, in the block of a claim and in pytest's summary, and the conclusion."""
    output = " ".join(five_red.run().stdout.str().split())
    assert output.count("the number in the file is lower than claimed") == 5 + 2
    assert output.count("FAILED circuit.yaml") == 5


def test_everything_is_there_with_v(five_red):
    """The YAML, each score with its control, and the claims that hold."""
    output = five_red.run("-v").stdout.str()
    assert output.count("control   a coin") == 5
    assert "one base" in output


def test_a_worker_sends_the_same(five_red):
    """With xdist, pytest's summary has one line a claim too."""
    lines = five_red.run_on_a_worker().outlines
    reasons = [line for line in lines if line.startswith("FAILED ")]
    assert len(reasons) == 5
    assert all("fixed score 0.250" in line for line in reasons)
    assert len(lines) <= 64


def test_a_warning_is_shown_and_is_not_red(five_red):
    """In the terminal, the result file, the JUnit file and the conclusion; the exit code is 0."""
    five_red.spec("good: {at_least: 0.75}", "soft: {at_least: 0.75, severity: warn}")
    five_red.values(good=0.9, soft={"base": 0.9, "ft": 0.25})
    result = five_red.run("--mechanism-json", "out.json", "--junit-xml", "out.xml")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3, xfailed=1)
    content = json.loads((five_red.path / "out.json").read_text())
    soft = next(c for c in content["claims"] if c["id"].endswith("soft::ft"))
    assert (soft["verdict"], soft["severity"], soft["cause"]) == ("warn", "warn", "refuted")
    assert content["conclusion"]["warnings"] == ["circuit.yaml::soft::ft"]
    assert "Warning: soft on ft does not hold" in " ".join(content["conclusion"]["sentences"])
    result.stdout.fnmatch_lines(["warning: soft on ft: fixed score 0.250*"])
    (skipped,) = ET.parse(five_red.path / "out.xml").iter("skipped")  # noqa: S314
    assert "soft on ft: fixed score 0.250" in skipped.get("message")


def test_a_warning_that_could_not_be_judged_is_red(five_red):
    """Nobody has looked, whatever the severity; nor has anybody accepted a score that a run requires."""
    five_red.spec("soft: {at_least: 0.75, severity: warn}")
    five_red.values(soft="error")
    assert five_red.run().ret == pytest.ExitCode.TESTS_FAILED
    five_red.values(soft=0.9)
    assert five_red.run("--mechanism-require-accepted").ret == pytest.ExitCode.TESTS_FAILED
    assert five_red.run().ret == pytest.ExitCode.OK


def test_severity_leaves_the_accepted_score_as_it_is(five_red):
    """It is no part of the definition, and a warning's score is compared and updated like any other."""
    five_red.spec("soft: {at_least: 0.75}")
    five_red.values(soft={"base": 0.9, "ft": 0.25})
    five_red.accept()
    before = five_red.score_file().read_text()
    five_red.spec("soft: {at_least: 0.75, severity: warn}")
    five_red.accept()
    assert five_red.score_file().read_text() == before
    five_red.values(soft={"base": 0.9, "ft": 0.125})
    five_red.accept()
    assert five_red.accepted()["soft.ft"] == 0.125
