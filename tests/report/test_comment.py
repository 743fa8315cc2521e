"""A run as the comment on a pull request, as a badge, as a section of a model card, and as annotations."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_mechanism.cli import main
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.annotations import workflow_commands
from pytest_mechanism.report.badge import AMBER, GREEN, GREY, RED, badge, judgement
from pytest_mechanism.report.card import card
from pytest_mechanism.report.comment import LONGEST, comment, marker
from pytest_mechanism.report.conclusion import conclude
from pytest_mechanism.report.from_json import read_report
from pytest_mechanism.report.json_file import JsonFile
from pytest_mechanism.report.run_report import RunReport
from tests.report.pages import HOSTILE, claim, report_of

GREEN_RUN = report_of(claim(verdict="pass"), exit_code=0)
RED_RUN = report_of(claim(), claim("other", "pass"))
INTERRUPTED = report_of(claim(verdict="pass"), exit_code=2, not_run=("circuits/x.yaml::b::ft",))
EMPTY = report_of(exit_code=5)
NOT_FINE = [RED_RUN, INTERRUPTED, EMPTY, replace(GREEN_RUN, exit_code=3)]


def written(report: RunReport) -> str:
    return comment(report, conclude(report))


def test_a_comment_begins_with_its_marker_and_the_conclusion() -> None:
    """A workflow finds it by the marker; the table of a green run is folded."""
    lines = written(GREEN_RUN).splitlines()
    assert lines[0] == marker()
    assert lines[1] == "### ✅ pytest-mechanism: released+candidate"
    assert lines[3].startswith("The claim holds")
    assert "<details><summary>The result</summary>" in lines


def test_a_comment_names_the_red_claims_and_their_reasons() -> None:
    """Each in a line; claims that hold stand in the table only."""
    lines = [line for line in written(RED_RUN).splitlines() if line.startswith("- **")]
    assert lines == ["- **fail** text.solves on ft: text"]


@pytest.mark.parametrize("report", NOT_FINE)
def test_a_run_that_is_red_or_incomplete_looks_green_nowhere(report: RunReport) -> None:
    """Neither in the comment nor on the badge."""
    assert "✅" not in written(report).splitlines()[1]
    assert judgement(report, conclude(report))[1] != GREEN


def test_hostile_text_in_a_comment_stays_text() -> None:
    """No markup, no end of the folded part, no mention comes of it."""
    text = written(report_of(claim(text=HOSTILE + "</details> @somebody `x`")))
    assert text.count("</details>") == 1
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"(?<!\\)@", text)


def test_a_comment_is_never_too_long_and_says_what_it_leaves_out() -> None:
    """GitHub refuses longer ones."""
    text = written(report_of(*[claim(f"claim_{i}", reason="x" * 900) for i in range(300)]))
    assert len(text) <= LONGEST
    assert "red claims only" in text


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (GREEN_RUN, ("1 claim holds", GREEN)),
        (RED_RUN, ("1 of 2 claims red", RED)),
        (report_of(claim(verdict="inconclusive")), ("undecided", AMBER)),
        (EMPTY, ("not judged", GREY)),
        (report_of(claim(verdict="skipped"), exit_code=0), ("not judged", GREY)),
        (replace(GREEN_RUN, deselected=("x.yaml::a::ft",)), ("1 claim holds, 1 left out", AMBER)),
        (replace(GREEN_RUN, deselected=("x.yaml::a::base",)), ("1 claim holds, 1 left out", GREEN)),
    ],
)
def test_a_badge_says_how_many_claims_hold(report: RunReport, expected: tuple[str, str]) -> None:
    """Or why there is no such number."""
    assert judgement(report, conclude(report)) == expected


def test_a_badge_is_an_svg_whatever_its_label() -> None:
    """It parses, and its title says what it shows."""
    picture = ET.fromstring(badge(GREEN_RUN, conclude(GREEN_RUN), "<a> & b"))  # noqa: S314 - ours
    assert picture[0].text == "<a> & b: 1 claim holds"


def test_a_card_has_every_judged_score_in_the_format_of_the_hub() -> None:
    """huggingface_hub reads back what was measured."""
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import model_index_to_eval_results

    text = card(RED_RUN, conclude(RED_RUN), "my-model", "1.0")
    metadata = yaml.safe_load(text.split("---")[1])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "my-model"
    assert [(r.dataset_config, r.metric_type, r.metric_value) for r in results] == [
        ("circuits/x.yaml::solves::ft", "score", 0.4),
        ("circuits/x.yaml::other::ft", "score", 0.4),
    ]
    assert ModelCardData(**metadata).eval_results
    assert "❌" in text


def test_a_run_that_judged_nothing_has_no_card() -> None:
    """It would claim what nobody measured."""
    with pytest.raises(MechanismError, match="no card: Nothing was judged"):
        card(EMPTY, conclude(EMPTY), "my-model", "1.0")


# -- annotations

JOB = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": "/repository"}


def test_a_red_claim_is_an_error_at_its_line_of_the_spec() -> None:
    """The path begins at the workspace, which may lie above pytest's root."""
    assert list(workflow_commands(RED_RUN, Path("/repository/sub"), JOB)) == [
        "::error file=sub/circuits/x.yaml,line=7,title=text.solves on ft%3A fail::text"
    ]


def test_a_spec_outside_the_workspace_has_an_error_without_a_place() -> None:
    """GitHub could not show it in the diff."""
    (line,) = workflow_commands(RED_RUN, Path("/elsewhere"), JOB)
    assert line == "::error title=text.solves on ft%3A fail::text"


def test_hostile_text_begins_no_other_command() -> None:
    """Line breaks, commas and colons are escaped as GitHub asks."""
    red = claim(text="a,b::c", reason="50% \r\n::set-env::x")
    (line,) = workflow_commands(report_of(red), Path("/repository"), JOB)
    assert "\n" not in line
    assert line.endswith("title=a%2Cb%3A%3Ac.solves on ft%3A fail::50%25 %0D%0A::set-env::x")


def test_only_the_first_ten_errors_are_written() -> None:
    """GitHub shows no more of a step; a notice counts the others."""
    lines = list(workflow_commands(report_of(*[claim(f"c{i}") for i in range(13)]), Path("/"), JOB))
    assert [line.split("::")[1].split()[0] for line in lines] == ["error"] * 10 + ["notice"]
    assert "3 more" in lines[-1]


def test_a_run_that_is_red_without_a_red_claim_has_an_error() -> None:
    """Its reasons, and claims that never ran."""
    lines = list(workflow_commands(INTERRUPTED, Path("/repository"), JOB))
    assert lines == ["::error title=pytest-mechanism::1 selected claims never ran"]


# -- the commands


def result_file(folder: Path, report: RunReport) -> str:
    path = folder / "result.json"
    JsonFile(path).write(replace(report, conclusion=conclude(report)))
    return str(path)


@pytest.mark.parametrize("command", ["comment", "badge", "card", "metrics"])
def test_a_command_writes_what_the_run_says(command: str, tmp_path: Path, capsys: Any) -> None:
    """To standard output, or to a file."""
    path = result_file(tmp_path, RED_RUN)
    assert main([command, path]) == 0
    printed = capsys.readouterr().out
    assert main([command, path, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text("utf-8") == printed


@pytest.mark.parametrize(
    ("command", "again"), [("comment", 0), ("badge", 0), ("metrics", 0), ("card", 2)]
)
def test_a_command_replaces_no_other_file(
    command: str, again: int, tmp_path: Path, capsys: Any
) -> None:
    """Only what it wrote before; a card not even that, since a model card has text of its author."""
    path = result_file(tmp_path, RED_RUN)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nmine")
    kept = {name: (tmp_path / name).read_text() for name in ("README.md", "result.json")}
    for name in kept:
        assert main([command, path, "--out", str(tmp_path / name)]) == 2
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert capsys.readouterr().err.count("so it is not replaced") == 2
    assert main([command, path, "--out", str(tmp_path / "out")]) == 0
    assert main([command, path, "--out", str(tmp_path / "out")]) == again


@pytest.mark.parametrize("command", ["comment", "badge", "card", "metrics"])
def test_a_state_of_a_later_version_is_concluded_again(
    command: str, tmp_path: Path, capsys: Any
) -> None:
    """From the verdicts, by the rules of this version."""
    path = Path(result_file(tmp_path, RED_RUN))
    assert main([command, str(path)]) == 0
    known = capsys.readouterr().out
    path.write_text(path.read_text("utf-8").replace('"state": "accuracy"', '"state": "newer"'))
    assert main([command, str(path)]) == 0
    assert capsys.readouterr().out == known


def test_a_result_file_of_an_earlier_version_is_not_about_behaviour(tmp_path: Path) -> None:
    """It has neither conclusion nor groups nor order; a claim about a circuit stays one."""
    path = Path(result_file(tmp_path, report_of(claim(kind="faithfulness"))))
    data = json.loads(path.read_text("utf-8"))
    del data["conclusion"]
    for result in data["claims"]:
        del result["groups"], result["order"]
    path.write_text(json.dumps(data))
    report, _ = read_report(path)
    assert report.conclusion is not None
    assert report.conclusion.state == "broken"


def test_a_comment_has_the_name_of_its_gate(tmp_path: Path, capsys: Any) -> None:
    """In its marker; a name that could end the marker is refused."""
    path = result_file(tmp_path, RED_RUN)
    assert main(["comment", path, "--key", "nightly-4_bits"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "<!-- pytest-mechanism: nightly-4_bits -->"
    for name in ("a -->", "a--b", "-a", "a\n", '"'):
        with pytest.raises(SystemExit) as ended:
            main(["comment", path, f"--key={name}"])
        assert ended.value.code == 2
        assert "is no name: letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["comment", "badge", "card", "metrics"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "result.json"),
        ('{"mechanism_json": 99}', "install the release that wrote it"),
        ('{"mechanism_json": 1}', "is a damaged result file"),
        ("[]", "is no result file"),
    ],
)
def test_a_file_that_is_no_result_is_one_line(
    command: str, content: str, problem: str, tmp_path: Path, capsys: Any
) -> None:
    """And exit code 2."""
    (tmp_path / "result.json").write_text(content)
    assert main([command, str(tmp_path / "result.json")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert problem in printed.err


@pytest.mark.parametrize(
    ("command", "option"),
    [("comment", "--out"), ("badge", "--out"), ("metrics", "--out"), ("report", "--html")],
)
def test_without_a_result_no_output_of_an_earlier_run_stays(
    command: str, option: str, tmp_path: Path
) -> None:
    """A badge that is still green would stand for a run that wrote nothing."""
    path, out = result_file(tmp_path, GREEN_RUN), tmp_path / "out.html"
    assert main([command, path, option, str(out)]) == 0
    Path(path).unlink()
    assert main([command, path, option, str(out)]) == 2
    assert not out.exists()
