"""``coverage`` on cells that are known: which cell is the worst, and when the rows cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.claims.coverage import Coverage, cell_accuracy
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.cells import Cell
from pytest_mechanism.statistics.estimates import Sampling, exact_bounds
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.types import Verdict
from recipes.simulation.setting import RESULTS, context_of
from recipes.simulation.world import measured

N = 700


def judge(
    wrong: Sequence[int] = (), cells: Mapping[str, Sequence[int]] | None = None, **fields: Any
) -> Verdict:
    """The verdict on a model that is wrong on some rows; ten labels of 70 rows unless cells are given."""
    correct = np.ones(N)
    correct[list(wrong)] = 0
    words = cells or {f"L{k}": range(k, N, 10) for k in range(10)}
    made = tuple(Cell("label", name, tuple(rows)) for name, rows in words.items())
    made += (Cell("place", "0", tuple(range(N))),)
    answers = {"CellPerformance": {"correct": correct, "cells": made}}
    claim = Coverage.model_validate({"kind": "coverage", "at_least": 0.7, **fields})
    verdict = claim.judge(context_of(N), measured(answers, RESULTS))
    return require_safeguards(verdict, claim.kind)


def test_a_model_that_is_right_about_every_word_passes() -> None:
    """The worst cell is judged by an interval for all eleven."""
    verdict = judge()
    assert verdict.status == "pass"
    assert verdict.score is not None
    assert verdict.score.confidence == pytest.approx(1 - 0.05 / 11)


def test_one_bad_word_fails_at_an_accuracy_that_stays_high() -> None:
    """40 of 700 rows are wrong, all about one label; the reason names it."""
    verdict = judge(range(3, 400, 10))
    assert (verdict.status, verdict.cause) == ("fail", "refuted")
    assert verdict.reason == (
        "too often wrong about label L3: 0.429 [0.277, 0.595] right (70 rows); claimed: at least 0.7 "
        "(corrected for 11 comparisons)"
    )


def test_the_word_that_broke_is_the_one_that_the_reason_names() -> None:
    """Of two failing words the worse, with its rows, from which the examples come."""
    words = {"rest": range(0, N, 2), "two": range(3, N, 10), "bad": range(5, N, 10)}
    correct = np.ones(N)
    correct[[*range(3, 400, 10), *range(5, 600, 10)]] = 0
    made = tuple(Cell("label", name, tuple(rows)) for name, rows in words.items())
    measure = measured({"CellPerformance": {"correct": correct, "cells": made}}, RESULTS)
    claim = Coverage.model_validate({"kind": "coverage", "at_least": 0.7})
    context = context_of(N)
    name, rows = claim.broken(context, measure(claim.measurement(context)))
    assert (name, rows) == ("label bad", tuple(words["bad"]))
    assert (
        "too often wrong about label bad: 0.143 [0.070, 0.270] right (70 rows); label two"
        in claim.judge(context, measure).reason
    )


def test_the_same_errors_spread_over_all_words_pass() -> None:
    """The mean is the same, no word is bad."""
    wrong = np.random.default_rng(0).permutation(N)[:40]
    assert judge(wrong.tolist()).status == "pass"


def test_a_word_in_few_rows_is_inconclusive_although_all_are_right() -> None:
    """Rows that cannot show a fault do not pass; the reason says how many would."""
    verdict = judge(cells={"rare": range(5), "often": range(5, N)})
    assert verdict.status == "inconclusive"
    assert "label rare" in verdict.reason
    assert "worst of 3 labels and places, label rare: accuracy 1.000" in verdict.reason
    assert "it stands in 5 of 700 rows, about" in verdict.reason
    assert verdict.reason.endswith(" rows in all would decide (rows: of the task)")


def test_a_word_in_no_row_is_inconclusive_although_all_rows_are_right() -> None:
    """Nothing was looked at of that word; the reason names it."""
    verdict = judge(cells={"often": range(N), "never": ()})
    assert (verdict.status, verdict.cause) == ("inconclusive", "unsettled")
    assert "label never stands in no row" in verdict.reason


def test_a_failing_word_is_judged_before_one_in_no_row() -> None:
    """A fault that is seen stays a fault."""
    verdict = judge(range(300), {"bad": range(N), "never": ()})
    assert (verdict.status, verdict.cause) == ("fail", "refuted")


def test_no_row_about_a_kind_of_word_is_an_error() -> None:
    """There is nothing to judge."""
    with pytest.raises(MechanismError, match="no row shows any of 1 words: label never"):
        judge(cells={"never": ()}, of=["label"])


def test_the_worst_of_many_words_needs_a_wider_interval() -> None:
    """12 of 70 wrong are within chance of .7 for one of 350 cells, and not for one cell alone."""
    wrong = range(0, 340, 10)
    alone = judge(wrong, {"L0": range(0, N, 10)})
    pairs = {f"P{k}": [k, k + 350] for k in range(1, 350)}
    many = judge(wrong, {"L0": range(0, N, 10), **pairs})
    assert alone.status == "fail"
    assert many.status == "inconclusive"


def test_a_word_that_surely_fails_is_judged_before_a_rare_one() -> None:
    """The rare word is undecided; the verdict is about the failing one."""
    verdict = judge(range(5, 305), {"rare": [0, 1, 5], "bad": range(5, 605)})
    assert (verdict.status, verdict.cause) == ("fail", "refuted")
    assert verdict.score is not None
    assert verdict.score.n == 600


@pytest.mark.parametrize(("clusters", "rows"), [(["a"] * 100, 1), (["a", "b"] * 50, 2)])
def test_rows_of_one_context_count_once_where_all_agree(clusters: list[str], rows: int) -> None:
    """100 right rows of a single context show as little as one row."""
    alone = cell_accuracy(np.ones(100), Sampling(clusters, 0.95, 0)).interval
    assert alone == pytest.approx((exact_bounds(rows, 0.95)[0], 1.0))


def test_kinds_of_cells_are_chosen() -> None:
    """And one that the task does not have is an error that lists those that it has."""
    wrong = range(3, 400, 10)
    assert judge(wrong, of=["place"]).status == "pass"
    with pytest.raises(MechanismError, match="no cells of kind 'objekt'; valid: label, place"):
        judge(of=["objekt"])


def test_a_threshold_that_guessing_meets_does_not_pass() -> None:
    """Chance is 1 in 7."""
    verdict = judge(at_least=0.1)
    assert (verdict.status, verdict.cause) == ("inconclusive", "control_as_good")
