"""The program task: its rows are what the program says, its chance what a guess gets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.program import Program, ProgramParameters

ALL = AnyWord()
RANK: dict[str, Any] = {"program": "rank", "of": 5, "instead": 3, "longest": 9}


def task(**settings: Any) -> Program:
    return Program(ProgramParameters(family="program", **settings))


def test_a_counter_counts_its_letter() -> None:
    for row in task(of="c").rows(ALL, 50):
        assert row.base.answer == str(row.base.text.split().count("c"))


def test_a_rank_is_that_of_the_largest_letters() -> None:
    for row in task(**RANK).rows(ALL, 50):
        assert row.base.answer == sorted(row.base.text.split())[-5]


@pytest.mark.parametrize("settings", [{"of": "a", "instead": "b"}, RANK], ids=["count", "rank"])
def test_the_hidden_program_and_the_other_one_read_the_same_texts(settings: dict[str, Any]) -> None:
    """Only the answers differ."""
    hiding = task(**settings)
    hidden = hiding.capability(ALL, 40, "x")
    others = (hiding.allowed(ALL, 40, "x"), hiding.forbidden(ALL, 40, "x"))
    for rows in others:
        assert [r.base.text for r in rows] == [r.base.text for r in hidden]
        assert [r.base.answer for r in rows] != [r.base.answer for r in hidden]


@pytest.mark.parametrize(
    "settings",
    [{}, {"instead": "b", "correlated": 1.0}, {"instead": "b", "correlated": 0.25}, RANK],
    ids=["count", "correlated", "partly", "rank"],
)
def test_chance_is_the_share_of_the_best_constant_answer(settings: dict[str, Any]) -> None:
    program = task(**settings)
    sets = [program.rows(ALL, 3000)]
    if program.settings.instead is not None:
        sets.append(program.allowed(ALL, 3000, "rows"))
    shares = [Counter(r.base.answer for r in rows).most_common(1)[0][1] / 3000 for rows in sets]
    assert max(shares) == pytest.approx(program.chance, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_correlated_texts_have_one_more_of_the_other_letter(share: float) -> None:
    rows = task(instead="b").with_correlation(share).capability(ALL, 400)
    texts = [row.base.text for row in rows]
    matched = sum(text.count("b") == text.count("a") + 1 for text in texts) / len(texts)
    assert matched == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("settings", [{}, RANK], ids=["count", "rank"])
def test_source_prompts_have_the_length_of_their_base_and_another_answer(
    settings: dict[str, Any],
) -> None:
    """A ranked text of all letters has no such source, so it is no base."""
    for row in task(**settings).pairs(ALL, 30):
        assert row.source is not None
        assert len(row.source.text) == len(row.base.text)
        assert row.source.answer != row.base.answer == row.target


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "z"}, "of: 'z' is not one of letters"),
        ({"of": 3}, "of: 3 is not one of letters"),
        ({"instead": "a"}, "instead: is what of says"),
        ({**RANK, "of": 7}, "of: 7 is no rank; 1 to 6"),
        ({**RANK, "longest": 12}, "letters of a ranked text differ"),
        ({"letters": "aab"}, "a letter appears twice"),
        ({"shortest": 9, "longest": 8}, "shortest is 9, longest only 8"),
        ({"correlated": 0.5}, "correlated: takes program: count and a letter for instead"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task(**settings)


def test_what_is_hidden_must_be_named() -> None:
    with pytest.raises(MechanismError, match="nothing is hidden; say what a fine-tuned model does"):
        task().capability(ALL, 10)
