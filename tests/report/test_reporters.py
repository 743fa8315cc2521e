"""Reporters read one typed report of a run, in the process that ran the claims or in another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report import junit
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.from_json import read_report, result_from
from pytest_mechanism.report.json_file import JsonFile
from pytest_mechanism.report.reporters import Reporter, file_reporters
from pytest_mechanism.report.result import claim_result
from pytest_mechanism.report.run_report import CheckpointEntry, ClaimResult, Note, RunReport
from pytest_mechanism.report.terminal import TerminalSection
from pytest_mechanism.statistics.drift import Drift
from pytest_mechanism.types import Control, Judged, Score, Setting, Verdict
from tests.report.pages import stub_claim, stub_spec


def refuted(*, control: bool = True) -> ClaimResult:
    """A claim with two thresholds, one of which fails."""
    score = Score(
        "accuracy", 1 / 3, (0.25, 0.4), 0.95, 100, 20, 0.03125, "share of right answers", "higher",
        Setting(0, "float32", "cpu", "branch", fingerprints={"ft": "f"}, versions={"torch": "2"}),
        Control("guessing", 0.125, (0.0, 0.25)) if control else None,
    )  # fmt: skip
    parts = (
        Verdict("pass", "holds", "at least 0.2", (score,), (Judged(score, 0.2, None),)),
        Verdict("fail", "too low", "at least 0.5", (score,), (Judged(score, 0.5, None),)),
    )
    verdict = Verdict("fail", "too low", "both", (score,), parts=parts)
    document = SimpleNamespace(
        line=lambda _: 2, quoted=lambda _: [(2, "  solves: {kind: accuracy}")]
    )
    spec, claim = stub_spec("induction", document), stub_claim("accuracy", "it is worse")
    drift = Drift("worse", -0.25, 0.05, "0.250 below the baseline 0.583")
    notes = [Note("said of a model"), Note("said of a circuit", "induction")]
    nodeid = "circuits/x.yaml::solves::ft"
    return claim_result(
        nodeid, spec, "solves", claim, "ft", verdict, drift, 0.5833, 1.5, notes
    )  # fmt: skip


RESULTS = [
    refuted(),
    refuted(control=False),
    refuted().overruled("error", "a fixture failed"),
    replace(refuted(), score=None, interval=None, n=None, scores=(), rows=()),
]


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_crosses_from_process_to_process(result: ClaimResult) -> None:
    """As plain JSON: what a worker of xdist sends is what the controller reports."""
    assert result_from(json.loads(json.dumps(asdict(result)))) == result


def test_scores_are_rounded() -> None:
    """To six digits, so that files do not differ in noise."""
    result = refuted()
    assert (result.score, result.rows[0].score, result.scores[0].value) == (0.333333,) * 3


def test_an_overruled_result_has_a_row_for_the_error() -> None:
    """The thresholds of a claim that holds stay green, so a further row is not."""
    result = replace(refuted(), verdict="pass", cause=None).overruled("error", "a fixture failed")
    assert (result.red, result.cause, result.rows[-1].cause) == (True, *(Cause.NOT_JUDGED,) * 2)
    assert result.rows[-1].verdict == "error"


def test_a_skipped_result_has_no_cause() -> None:
    result = refuted().overruled("skipped", "expected")
    assert (result.red, result.cause, result.meaning, len(result.rows)) == (False, None, None, 2)


def test_junit_properties_are_plain_values() -> None:
    """pytest hands them to other plugins and processes."""
    assert junit.properties(refuted()) == [
        ("mechanism_verdict", "fail"),
        ("mechanism_cause", "refuted"),
        ("mechanism_score", 0.333333),
        ("mechanism_n", 100),
        ("mechanism_threshold", "both"),
        ("mechanism_baseline", 0.5833),
        ("mechanism_drift", -0.25),
        ("mechanism_interval_low", 0.25),
        ("mechanism_interval_high", 0.4),
    ]
    assert {type(value) for _, value in junit.properties(refuted())} == {str, float, int}


class Terminal:
    """Collects what is written, instead of pytest's terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str, **_: bool) -> None:
        self.text += text

    def write_line(self, line: str, **_: bool) -> None:
        self.text += f"{line}\n"

    def write_sep(self, sep: str, title: str) -> None:
        self.write_line(f"{sep} {title}")

    def hasopt(self, _: str) -> bool:
        return False


def run_report(**fields: Any) -> RunReport:
    checkpoints = {role: CheckpointEntry(role, role, "/x", None, "f") for role in ("base", "ft")}
    return RunReport(checkpoints, (refuted(),), **fields)


def test_each_destination_gets_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, summary page and terminal name the claim, its pair and its verdict."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    terminal: Any = Terminal()
    reporters: list[Reporter] = [
        *file_reporters(tmp_path / "out.json"),
        TerminalSection(terminal, width=200),
    ]
    for reporter in reporters:
        reporter.write(run_report(exit_code=1))
    result_file = json.loads((tmp_path / "out.json").read_text())
    assert (result_file["exit_code"], list(result_file["pair"])) == (1, ["base", "ft"])
    assert [claim["verdict"] for claim in result_file["claims"]] == ["fail"]
    assert result_file["claims"][0]["notes"] == ["said of a model", "induction: said of a circuit"]
    for text in ((tmp_path / "summary.md").read_text(), terminal.text):
        assert "base+ft" in text
        assert "induction.solves" in text
        assert "fail" in text


def test_no_report_is_written_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable asks for none."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
    assert file_reporters(None) == []


def test_the_terminal_says_what_makes_a_run_red_without_a_claim() -> None:
    """Errors first, reasons last; without a pair there is no section."""
    terminal: Any = Terminal()
    TerminalSection(terminal).write(RunReport({}, errors=("no disk",), reasons=("no claim ran",)))
    assert terminal.text == "ERROR: no disk\nno claim ran\n"


def test_a_result_file_read_back_is_the_report(tmp_path: Path) -> None:
    """Everything that it holds; only the circuit in front of a note has become text."""
    written = concluded(
        run_report(reasons=("a reason",), measurements={"done": 1, "from_store": 0})
    )
    JsonFile(tmp_path / "r.json").write(written)
    report, versions = read_report(tmp_path / "r.json")
    notes = tuple(Note(str(note)) for note in written.claims[0].notes)
    assert report == replace(written, claims=(replace(written.claims[0], notes=notes),))
    assert "torch" in versions


def written(path: Path, change: Callable[[Any], None]) -> Path:
    """A result file, with a change of its content."""
    JsonFile(path / "r.json").write(concluded(run_report()))
    data = json.loads((path / "r.json").read_text())
    change(data)
    (path / "r.json").write_text(json.dumps(data))
    return path / "r.json"


def test_fields_of_a_later_release_are_left_out(tmp_path: Path) -> None:
    """Within version 1 of the format, fields may be added anywhere."""

    def change(data: Any) -> None:
        (claim,) = data["claims"]
        for place in (
            *(data, data["pair"]["base"], data["conclusion"], claim, claim["control"]),
            *(claim["rows"][0], claim["scores"][0], claim["scores"][0]["control"]),
        ):
            place["added"] = {"later": 1}

    expected, _ = read_report(written(tmp_path, lambda _: None))
    assert read_report(written(tmp_path, change))[0] == expected


def test_a_cause_of_a_later_release_is_the_most_general_one(tmp_path: Path) -> None:
    """Its meaning is that of the file."""

    def change(data: Any) -> None:
        data["claims"][0] |= {"cause": "eclipsed", "meaning": "the moon", "verdict": "inconclusive"}
        data["claims"][0]["rows"][0] |= {"cause": "eclipsed", "verdict": "fail"}

    (claim,) = read_report(written(tmp_path, change))[0].claims
    assert (claim.cause, claim.meaning) == (Cause.UNDECIDED, "the moon")
    assert claim.rows[0].cause == Cause.REFUTED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": "high"}, r"claims\.0\.score: Input should be a valid number"),
        ({"role": None}, r"claims\.0\.role: Input should be a valid string"),
        ({"interval": [1]}, r"claims\.0\.interval\.1: Field required"),
        ({"score": 10**400}, r"claims\.0\.score: Input should be a valid number"),
        ({"verdict": "perhaps"}, r"claims\.0\.verdict: Input should be 'pass'"),
    ],
)
def test_a_damaged_field_is_named(tmp_path: Path, change: Any, said: str) -> None:
    """In one line, before any report is made of it."""
    path = written(tmp_path, lambda data: data["claims"][0].update(change))
    with pytest.raises(MechanismError, match=f"is a damaged result file \\({said}") as problem:
        read_report(path)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"mechanism_json": 2}', "is a result file of version 2, .* install the release"),
        ("{}", "is no result file"),
        ("[1]", "is no result file"),
        ('{"mechanism_json": 1}', "is a damaged result file"),
        ('{"mechanism_json": 1, "pair": {}, "claims": [{}]}', "is a damaged result file"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_another_file_is_no_result_file(tmp_path: Path, text: str, said: str) -> None:
    """One line says so."""
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(MechanismError, match=said):
        read_report(tmp_path / "r.json")
