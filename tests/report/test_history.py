"""Runs over time: the folder of their result files, each score over the runs, and two runs compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.cli import main
from pytest_mechanism.report.conclusion import conclude
from pytest_mechanism.report.history.comparison import (
    ALPHA,
    Goodness,
    compare_runs,
    goodness,
    p_of_loss,
)
from pytest_mechanism.report.history.folder import HistoryFolder, read_history
from pytest_mechanism.report.history.page import rendered
from pytest_mechanism.report.history.timeline import timelines
from pytest_mechanism.report.json_file import JsonFile
from pytest_mechanism.report.run_report import ClaimResult, RunReport
from pytest_mechanism.types import Score
from tests.report.pages import HOSTILE, claim, report_of


def scored(value: float, name: str = "solves", **more: Any) -> ClaimResult:
    """A claim that passes with this score, of a standard error of 0.02."""
    score = replace(claim().scores[0], value=value, interval=(value - 0.04, value + 0.04))
    row = replace(claim().rows[0], verdict="pass", cause=None, score=value, interval=score.interval)
    fields = {"verdict": "pass", "scores": (score,), "rows": (row,), "definition": "d"}
    return claim(name, **fields | more)


def run(*claims: ClaimResult, day: int = 1, **more: Any) -> RunReport:
    report = report_of(*claims, finished=f"2026-01-0{day}T00:00:00+00:00", exit_code=0, **more)
    return replace(report, conclusion=conclude(report))


def test_runs_are_read_back_in_the_order_of_their_time(tmp_path: Path) -> None:
    """Whatever the order in which they were written; two of the same second are two."""
    for day in (3, 1, 2, 2):
        HistoryFolder(tmp_path / "new").write(run(scored(0.5), day=day))
    runs, notes = read_history(tmp_path / "new")
    assert [r.finished[8:10] for r in runs] == ["01", "02", "02", "03"]
    assert notes == []


def test_a_damaged_file_is_left_out_and_named(tmp_path: Path) -> None:
    """The others are shown."""
    HistoryFolder(tmp_path).write(run(scored(0.5)))
    (tmp_path / "broken.json").write_text('{"mechanism_json": 1, "claims": 3}')
    runs, notes = read_history(tmp_path)
    assert len(runs) == 1
    assert [("left out" in note, "broken.json" in note) for note in notes] == [(True, True)]


def test_a_timeline_marks_a_change_of_definition_and_missing_runs(tmp_path: Path) -> None:
    """Scores before and after the change measure different things."""
    for day, report in enumerate(
        [run(scored(0.5)), run(scored(0.6)), run(scored(0.9, definition="e")), run()], start=1
    ):
        HistoryFolder(tmp_path).write(replace(report, finished=f"2026-01-0{day}T00:00:00+00:00"))
    (line,) = timelines(read_history(tmp_path)[0])
    assert [(p.row.score, p.redefined) for p in line.points if p.row] == [
        (0.5, False), (0.6, False), (0.9, True),
    ]  # fmt: skip
    assert line.missing == 1


def test_a_claim_that_is_red_although_a_score_holds_is_red_in_its_history(tmp_path: Path) -> None:
    """A further row of the same score names the control that is as good."""
    first = scored(0.5).rows[0]
    further = replace(first, verdict="inconclusive", threshold="better than its control")
    HistoryFolder(tmp_path).write(run(scored(0.5, verdict="inconclusive", rows=(first, further))))
    (line,) = timelines(read_history(tmp_path)[0])
    assert [point.red for point in line.points] == [True]


def test_a_share_without_a_spread_has_the_error_of_its_interval() -> None:
    """All of 504 right, then 500: an unpaired test does not show a loss."""
    all_right = replace(
        claim().scores[0], value=1.0, interval=(0.9927, 1.0), standard_error=0.0, n=504
    )
    later = replace(all_right, value=500 / 504, interval=(0.9798, 0.9969), standard_error=0.00395)
    old, new = (run(scored(0.5, scores=(score,))) for score in (all_right, later))
    assert changes(old, new) == [("score", "no clear change")]


def test_the_page_of_a_history_shows_hostile_names_as_text(tmp_path: Path) -> None:
    """And has a picture for each score."""
    HistoryFolder(tmp_path).write(run(scored(0.5, name=HOSTILE), label=HOSTILE))
    page = rendered(HOSTILE, *read_history(tmp_path))
    assert page.count('<svg class="spark"') == 1
    assert "<script>alert" not in page
    assert "<img" not in page


def changes(old: RunReport, new: RunReport) -> list[tuple[str, str]]:
    return [(entry.score, entry.change) for entry in compare_runs(old, new)]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.4, "worse"), (0.47, "no clear change"), (0.6, "better")]
)
def test_two_runs_are_compared_with_confidence(value: float, expected: str) -> None:
    """The difference has a standard error of 0.028, so 0.1 is clear and 0.03 is not."""
    assert changes(run(scored(0.5)), run(scored(value))) == [("score", expected)]


def proportion(right: int, n: int) -> Score:
    """An accuracy with its Wilson interval."""
    from scipy import stats

    found = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    error = (right / n * (1 - right / n) / n) ** 0.5
    return replace(
        claim().scores[0], value=right / n, interval=(found.low, found.high), standard_error=error
    )


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_an_unchanged_accuracy_is_rarely_called_worse(n: int, accuracy: float) -> None:
    """The probability over all pairs of counts, exactly: about 2.5 % at most, at the edge of the range too."""
    from scipy import stats

    chance = stats.binom.pmf(range(n + 1), n, accuracy)
    sides = [goodness(proportion(right, n), "higher") for right in range(n + 1)]
    alarms = sum(
        chance[a] * chance[b]
        for a in range(n + 1)
        for b in range(a)
        if p_of_loss(sides[a], sides[b]) < ALPHA
    )
    assert alarms < 0.035


def test_a_perfect_score_of_few_rows_has_an_error() -> None:
    """7 of 10 after 10 of 10 is no clear loss (Fisher's exact test: 0.11), although 10 of 10 varies by nothing."""
    ten, seven = (goodness(proportion(right, 10), "higher") for right in (10, 7))
    assert p_of_loss(ten, seven) > ALPHA


@pytest.mark.parametrize(
    ("better", "old", "new"), [("higher", 0.9, 0.5), ("lower", 0.5, 0.9), (1.0, 1.02, 0.7)]
)
def test_what_is_better_depends_on_the_score(better: Any, old: float, new: float) -> None:
    """Higher, lower, or nearer to a perfect number; the change back is better."""
    first, second = (
        goodness(replace(claim().scores[0], value=v, interval=(v - 0.04, v + 0.04)), better)
        for v in (old, new)
    )
    assert p_of_loss(first, second) < ALPHA / 100
    assert p_of_loss(second, first) > 1 - ALPHA


def test_rounding_of_a_score_without_error_is_no_loss() -> None:
    """Processors round differently."""
    old, new = Goodness(1.0, 0, 0), Goodness(1.0 - 1e-6, 0, 0)
    assert p_of_loss(old, new) == 1
    assert p_of_loss(old, Goodness(0.9, 0, 0)) == 0


def test_a_comparison_corrects_for_the_number_of_scores() -> None:
    """A loss of 2.2 standard errors is clear alone, and is not among twenty scores."""
    names = [f"c{i}" for i in range(20)]
    loss = 0.5 - 2.2 * 0.02 * 2**0.5
    assert changes(run(scored(0.5)), run(scored(loss))) == [("score", "worse")]
    many = run(*[scored(0.5, n) for n in names]), run(*[scored(loss, n) for n in names])
    assert {change for _, change in changes(*many)} == {"no clear change"}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (run(), [("", "missing")]),
        (run(scored(0.5, definition="e")), [("", "not compared")]),
        (run(scored(0.5, definition=None)), [("", "not compared")]),
        (run(scored(0.5, verdict="skipped")), [("", "missing"), ("score", "no clear change")]),
        (run(scored(0.5, verdict="warn")), [("", "no longer holds"), ("score", "no clear change")]),
        (run(scored(0.5, verdict="fail")), [("", "now red"), ("score", "no clear change")]),
        (
            replace(run(scored(0.5)), not_run=("x.yaml::b::ft",)),
            [("score", "no clear change"), ("", "missing")],
        ),
        (replace(run(scored(0.5)), exit_code=2), [("score", "no clear change"), ("", "missing")]),
    ],
)
def test_what_cannot_be_compared_is_named(new: RunReport, expected: list[tuple[str, str]]) -> None:
    """Claims without a result, of another definition, or whose verdict turned red."""
    assert changes(run(scored(0.5)), new) == expected


@pytest.mark.parametrize(
    ("value", "code"), [(0.4, 1), (0.5, 0), (0.6, 0)], ids=["worse", "same", "better"]
)
def test_diff_exits_with_1_where_something_got_worse(
    value: float, code: int, tmp_path: Path, capsys: Any
) -> None:
    """The last line counts."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    JsonFile(a).write(run(scored(0.5)))
    JsonFile(b).write(run(scored(value)))
    assert main(["history", "diff", str(a), str(b)]) == code
    assert "1 scores compared" in capsys.readouterr().out


def test_a_diff_that_compared_nothing_is_not_fine(tmp_path: Path) -> None:
    """Nor is one between runs whose definitions all differ."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    JsonFile(a).write(run(scored(0.5)))
    JsonFile(b).write(run(scored(0.5, definition="e")))
    assert main(["history", "diff", str(a), str(b)]) == 1
    JsonFile(b).write(run())
    JsonFile(a).write(run())
    assert main(["history", "diff", str(a), str(b)]) == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["diff", "a.json"], "takes two result files"),
        (["missing"], "cannot be read"),
        (["."], "holds no result file"),
        ([".", "b"], "takes one folder"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], problem: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """With exit code 2."""
    monkeypatch.chdir(tmp_path)
    assert main(["history", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error


def test_the_command_prints_each_score_over_the_runs(tmp_path: Path, capsys: Any) -> None:
    """With interval and verdict, and writes a page."""
    folder = tmp_path / "runs"
    HistoryFolder(folder).write(run(scored(0.5), day=1))
    HistoryFolder(folder).write(run(scored(0.6), day=2))
    assert main(["history", str(folder), "--html", str(tmp_path / "history.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  2026-01-02 00:00:00 candidate  0.600  [0.560, 0.640]  baseline 0.450  pass" in lines
    assert (tmp_path / "history.html").is_file()


def test_without_a_history_no_page_of_an_earlier_one_stays(tmp_path: Path) -> None:
    """It would stand for runs that are no longer there."""
    HistoryFolder(folder := tmp_path / "runs").write(run(scored(0.5)))
    page = tmp_path / "history.html"
    assert main(["history", str(folder), "--html", str(page)]) == 0
    assert main(["history", str(tmp_path / "missing"), "--html", str(page)]) == 2
    assert not page.exists()
