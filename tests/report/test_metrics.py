"""A run as an OpenMetrics file."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_mechanism.report.conclusion import conclude
from pytest_mechanism.report.metrics import escaped, metrics
from pytest_mechanism.report.run_report import RunReport
from tests.report.pages import HOSTILE, claim, report_of

GREEN = report_of(claim(verdict="pass"), exit_code=0)
VALUE = re.compile(r'(mechanism_\w+)(\{(?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (-?[\d.e+-]+)')


def written(report: RunReport) -> dict[str, float]:
    """Name and labels -> value; every line is a value, a type, a help or the end of the file."""
    values: dict[str, float] = {}
    *lines, end, empty = metrics(report, conclude(report)).split("\n")
    assert (end, empty) == ("# EOF", "")
    for line in lines:
        if line.startswith(("# TYPE mechanism_", "# HELP mechanism_")):
            continue
        match = VALUE.fullmatch(line)
        assert match, line
        key = match[1] + (match[2] or "")
        assert key not in values
        values[key] = float(match[3])
    return values


def test_a_score_has_its_interval() -> None:
    """By the claim's id and the score's name."""
    values = written(GREEN)
    labels = '{claim="circuits/x.yaml::solves::ft",score="score"}'
    assert {key: value for key, value in values.items() if "_score" in key} == {
        f"mechanism_score{labels}": 0.4,
        f"mechanism_score_low{labels}": 0.35,
        f"mechanism_score_high{labels}": 0.45,
    }
    assert values['mechanism_claims{verdict="pass"}'] == 1


@pytest.mark.parametrize(
    ("report", "complete", "green"),
    [
        (GREEN, 1, 1),
        (report_of(claim()), 1, 0),
        (replace(GREEN, exit_code=1), 1, 0),
        (replace(GREEN, exit_code=2, not_run=("x.yaml::b::ft",)), 0, 0),
        (replace(GREEN, not_run=("x.yaml::b::ft",)), 0, 0),
        (report_of(exit_code=5), 0, 0),
        (report_of(claim(verdict="skipped"), exit_code=0), 1, 0),
    ],
)
def test_only_a_complete_run_whose_claims_hold_is_green(
    report: RunReport, complete: int, green: int
) -> None:
    """Interrupted, red, empty and skipped runs are not."""
    values = written(report)
    assert (values["mechanism_run_complete"], values["mechanism_run_green"]) == (complete, green)


def test_hostile_names_stay_inside_their_label() -> None:
    """Quotes and backslashes are escaped; equal labels come once."""
    assert escaped('a"\\\n') == 'a\\"\\\\\\n'
    hostile = claim(HOSTILE, "pass")
    assert written(report_of(hostile, hostile))
