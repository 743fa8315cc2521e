"""Induction: a reader that copies what followed an earlier occurrence knows every answer."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.tasks.base import AnyWord, Prompt
from pytest_mechanism.tasks.families.induction import BEGINNING, Induction, InductionParameters

LINES = st.builds(
    lambda length, repeats, seed: Induction(
        InductionParameters(family="induction", length=length, repeats=repeats, seed=seed, rows=20)
    ),
    st.integers(5, 20),
    st.integers(2, 5),
    st.integers(0, 1000),
)


def copied(prompt: Prompt) -> set[str]:
    """What followed the earlier occurrences of a prompt's last word."""
    words = prompt.text.split()
    return {after for word, after in itertools.pairwise(words) if word == words[-1]}


@settings(max_examples=20, deadline=None)
@given(LINES)
def test_the_sequence_comes_again_and_breaks_off(task: Induction) -> None:
    """Each line has the same words; the last line is incomplete, and its end gives no hint."""
    length, repeats = task.settings.length, task.settings.repeats
    ends = set()
    for row in task.rows(AnyWord(), 20):
        first, *others, last = [
            line.removeprefix(BEGINNING).split() for line in row.base.text.split("\n")
        ]
        assert len({*first}) == length
        assert others == [first] * (repeats - 2)
        assert last == first[: len(last)]
        assert first[len(last)] == row.base.answer
        ends.add(len(last))
    assert ends == {*range(2, length // 2 + 2)}


@settings(max_examples=20, deadline=None)
@given(LINES)
def test_copying_gives_every_answer_and_every_target(task: Induction) -> None:
    """On a corrupted prompt it gives nothing; on the source of a variable, its target."""
    for row in task.pairs(AnyWord(), 10):
        assert row.source is not None
        assert copied(row.base) == {row.base.answer}
        assert copied(row.source) == set()
        assert row.source.text.split()[-1] == row.base.text.split()[-1]
    for variable in task.variables:
        for row in task.interchange(AnyWord(), variable, 10, "test"):
            assert row.source is not None
            assert copied(row.source) == {row.target} == {row.source.answer}
            assert copied(row.base) == {row.base.answer} != {row.target}


def test_positions_are_the_words_of_every_full_sequence() -> None:
    """A position has all occurrences, so that a patch leaves no unpatched copy."""
    task = Induction(InductionParameters(family="induction", repeats=4))
    row = task.rows(AnyWord(), 1)[0]
    for name, word in (
        ("first", row.base.text.split()[-1]),
        ("successor", row.base.answer),
    ):
        marked = [row.base.text[start:stop] for start, stop in row.base.spans[name]]
        assert marked == [word] * 3
    assert len({*map(row.base.text.__getitem__, (slice(*s) for s in row.base.spans["other"]))}) == 1
    assert not {*row.base.spans["other"]} & {*row.base.spans["first"], *row.base.spans["successor"]}


@pytest.mark.parametrize("settings", [{}, {"length": 5}, {"repeats": 2, "length": 13}])
def test_chance_is_not_below_that_of_a_reader_who_only_knows_which_words_are_left(
    settings: dict[str, int],
) -> None:
    """It names any word of the sequence that the last line does not have yet."""
    task = Induction(InductionParameters(family="induction", **settings))
    draw, right = random.Random(0), 0
    rows = task.rows(AnyWord(), 4000)
    for row in rows:
        lines = [line.split()[1:] for line in row.base.text.split("\n")]
        left = [word for word in lines[0] if word not in lines[-1]]
        assert sorted(left) == sorted(row.base.options)
        right += draw.choice(left) == row.base.answer
    assert right / len(rows) <= task.chance + 0.03


@pytest.mark.parametrize(
    ("settings", "chance"),
    [({}, 1 / 4), ({"length": 5}, 1 / 2), ({"repeats": 1}, 1 / 5), ({"repeats": 1, "length": 5}, 1 / 2)],
)  # fmt: skip
def test_chance_is_not_below_that_of_copying_from_one_place(
    settings: dict[str, int], chance: float
) -> None:
    """A word of the first line; with one repetition also the word before the last, say."""
    task = Induction(InductionParameters(family="induction", **settings))
    rows = task.rows(AnyWord(), 2000)
    lines = [(row.base.text.split("\n")[0].split()[1:], row.base.answer) for row in rows]
    places = range(-2 if "repeats" in settings else 0, 5)
    right = [sum(words[at] == answer for words, answer in lines) / len(rows) for at in places]
    assert max(right) == pytest.approx(task.chance, abs=0.03)
    assert task.chance == chance


def test_always_the_same_word_is_below_chance() -> None:
    """No word is the answer of more than a few rows."""
    task = Induction(InductionParameters(family="induction"))
    answers = [row.base.answer for row in task.rows(AnyWord(), 2000)]
    assert max(answers.count(word) for word in {*answers}) / len(answers) < task.chance / 4


def test_one_repetition_is_one_word_after_the_sequence() -> None:
    """The form of earlier releases."""
    task = Induction(InductionParameters(family="induction", repeats=1))
    text = task.rows(AnyWord(), 1)[0].base.text
    assert text == "Words: brick newspaper beer pen bag guitar dish glass newspaper"


def test_easier_settings_are_valid_and_easier() -> None:
    """More repetitions, then shorter sequences; none is left at the end."""
    task = Induction(InductionParameters(family="induction", repeats=1, length=30))
    assert task.easier == [{"repeats": 3}, {"repeats": 5}, {"repeats": 5, "length": 5}]
    easiest = InductionParameters(family="induction", repeats=5, length=5)
    assert Induction(easiest).easier == []
