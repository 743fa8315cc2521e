"""The table: which spec a row is of, and what the sentences below it say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.causes import Cause
from pytest_mechanism.report.examples import example_lines
from pytest_mechanism.report.failure import block, compared
from pytest_mechanism.report.markdown import markdown
from pytest_mechanism.report.run_report import ClaimResult, Note, Row
from pytest_mechanism.report.table import narrow_cells
from pytest_mechanism.report.terminal import TerminalSection, notes, table
from pytest_mechanism.types import Evidence, Example


def result(file: str, circuit: str = "ioi", **fields: Any) -> ClaimResult:
    row = Row("pass", None, "accuracy", 0.5, (0.4, 0.6), 100, "at least 0.3", compared=True)
    passed = ClaimResult(
        id=f"{file}::good::base", circuit=circuit, claim="good", kind="accuracy", role="base",
        models=("base",), verdict="pass", cause=None, meaning=None, reason="", score=0.5,
        interval=(0.4, 0.6), n=100, threshold="at least 0.3", control=None, baseline=None, drift=None,
        drift_state=None, accepted_now=False, seconds=0.0, rows=(row,), scores=(),
        notes=(Note("said", circuit), Note("said of a model")),
    )  # fmt: skip
    return replace(passed, **fields)


def claims(*results: ClaimResult) -> list[str]:
    """The column of claims, in the table and on the page."""
    shown = [rest.split("  ")[1].strip() for _, rest in table(results)[1:]]
    page = markdown(results, "a+b").splitlines()[4:]
    assert [line.split(" | ")[1] for line in page if line] == shown
    return shown


def test_a_row_is_named_by_circuit_and_claim() -> None:
    """Nothing more, where no other spec has a circuit of the name."""
    first, second = result("circuits/a.yaml"), result("circuits/b.yaml", "induction")
    assert claims(first, replace(first, role="ft"), second) == [
        "ioi.good",
        "ioi.good",
        "induction.good",
    ]


def test_rows_of_circuits_of_one_name_are_told_apart_by_their_file() -> None:
    """By the path where the files have one name too; other rows stay as they are."""
    first, second, third = result("x/a.yaml"), result("x/b.yaml"), result("x/c.yaml", "induction")
    assert claims(first, second, third) == [
        "ioi.good (a.yaml)",
        "ioi.good (b.yaml)",
        "induction.good",
    ]
    assert claims(first, result("y/a.yaml")) == ["ioi.good (x/a.yaml)", "ioi.good (y/a.yaml)"]


def test_a_further_score_of_a_claim_has_its_own_name_in_a_narrow_table() -> None:
    """The claim's name would not say what the second number is."""
    one = result("circuits/a.yaml")
    other = replace(one.rows[0], name="accuracy, ft minus base")
    lines = narrow_cells([replace(one, rows=(one.rows[0], other))], 80)
    text = [rest.strip() for _, rest in lines]
    assert text[0].startswith("good base")
    assert text[1].startswith("accuracy, ft minus base")
    assert sum("0.500 [0.400, 0.600]" in line for line in text) == 2


def test_a_paired_difference_names_both_models_once() -> None:
    """A claim about one role says which role is compared; one about a pair names both itself."""
    assert compared("accuracy minus that of base", "ft") == "accuracy, ft minus base"
    both = "log-probability of ft minus that of base"
    assert compared(both, "pair") == "log-probability, ft minus base"


def test_sentences_name_the_file_where_the_table_does() -> None:
    """Sentences about a circuit whose name several specs share; a note about a model appears once."""
    passed = result("a.yaml")
    skipped = result("b.yaml", verdict="skipped", reason="another shape")
    assert notes([passed, skipped]) == [
        "1 skipped (ioi (b.yaml)): another shape",
        "ioi (a.yaml): said",
        "said of a model",
        "ioi (b.yaml): said",
    ]
    assert notes([passed]) == ["ioi: said", "said of a model"]


def test_skips_are_left_to_pytest_where_it_lists_them() -> None:
    """Then the plugin prints no sentence about them."""
    skipped = result("a.yaml", verdict="skipped", reason="another shape", notes=())
    assert notes([skipped]) == ["1 skipped (ioi): another shape"]
    assert notes([skipped], skips=False) == []


@pytest.mark.parametrize(
    ("baseline", "last"), [(0.98, "; 0.222 below the baseline 0.980"), (0.0, "")]
)
def test_a_baseline_of_zero_is_left_out(baseline: float, last: str) -> None:
    """As that of a difference often is: the score itself says how far from 0.000 it is."""
    red = result("a.yaml", verdict="fail", cause=Cause.REFUTED, reason="low")
    first, _ = block(replace(red, drift_state="worse", drift=-0.222, baseline=baseline))
    assert first == f"low{last}"


def test_the_count_of_claims_that_hold_tells_broken_from_undecided() -> None:
    """In place of the table, at 80 columns."""
    reds = [
        result("a.yaml", verdict="fail", cause=Cause.REFUTED),
        result("a.yaml", verdict="fail", cause=Cause.REFUTED),
        result("b.yaml", verdict="inconclusive", cause=Cause.UNSETTLED),
        result("b.yaml", verdict="error", cause=Cause.NOT_JUDGED),
    ]
    written: list[str] = []
    terminal: Any = SimpleNamespace(write_line=lambda line, **_: written.append(line))
    TerminalSection(terminal).write_table([*reds, result("a.yaml")])
    assert " ".join(map(str.strip, written)) == (
        "1 of 5 claims hold, 2 broke, 1 is undecided, 1 was not judged; -v: all"
    )


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [((-10.0, -0.0081), "(-10.000), ft: (-0.008)"), ((1.0, 0.0), "(1), ft: (0)")],
)
def test_numbers_of_prompts_have_the_same_decimals(
    numbers: tuple[float, float], shown: str
) -> None:
    """None, where all are whole."""
    values = dict(zip(("base", "ft"), numbers, strict=True))
    example = Example("row", "a prompt", "x", {"base": "y", "ft": "y"}, values)
    line = example_lines(Evidence("what", "measured", (example,)))[1]
    assert line.replace("y (", "(").endswith(shown)


def test_one_better_score_is_told_in_the_singular() -> None:
    """And two in the plural."""
    better = result("a.yaml", drift_state="better")
    assert notes([better])[-1].startswith("1 score is better than its baseline by more than ")
    assert notes([better, better])[-1].startswith("2 scores are better than their baselines by ")
