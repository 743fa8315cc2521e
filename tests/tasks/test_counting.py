"""Counting: the text, its named positions, which rows are refused, and the chance of a guess."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import product
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.registry import task_families
from pytest_mechanism.tasks.base import AnyWord, Prompt, Row
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.tasks.writing.questions import REFUSAL, Question
from pytest_mechanism.tasks.writing.strings import Strings, shares
from pytest_mechanism.tasks.writing.words import LETTERS, NUMBERS

TEXT = re.compile(r"(count|tally|number|total) ([a-z]) SOT ([a-z](?: [a-z])*) EOT ART")


def task(**options: Any) -> Counting:
    return Counting(CountingParameters(family="counting", **options))


class Without:
    """A vocabulary that lacks some words."""

    def __init__(self, *missing: str) -> None:
        self.missing = missing

    def whole(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(word for word in words if word not in self.missing)


def read(prompt: Prompt) -> tuple[str, str, str]:
    """Way, operand and string, read from the text alone."""
    match = TEXT.fullmatch(prompt.text)
    assert match, prompt.text
    return match[1], match[2], match[3].replace(" ", "")


def right(prompt: Prompt, refuse: str | None = None) -> str:
    """The answer, computed from the text alone."""
    _, operand, string = read(prompt)
    return REFUSAL if operand == refuse else NUMBERS[string.count(operand)]


def streams(counting: Counting) -> dict[str, list[Row]]:
    rows = {
        "rows": counting.rows(AnyWord(), 30),
        "pairs": counting.pairs(AnyWord(), 30),
        "backgrounds": counting.backgrounds(AnyWord(), 30),
    }
    for variable in counting.variables:
        rows[variable] = counting.interchange(AnyWord(), variable, 30, "judge")
    if counting.settings.refuse:
        rows["capability"] = counting.capability(AnyWord(), 30)
    return {name: list(stream) for name, stream in rows.items()}


SETTINGS = st.fixed_dictionaries(
    {
        "letters": st.sampled_from(["abc", "abcdefghi", "zyxw"]),
        "seed": st.integers(0, 2**31 - 1),
        "shortest": st.integers(9, 16),
        "longest": st.integers(16, 30),
        "most": st.integers(10, 20),
        "ways": st.sampled_from([["count"], ["tally", "total"]]),
    }
)


def test_the_text_is_the_papers_format() -> None:
    """T O SOT txt EOT ART; the tokenizer adds the start token."""
    prompt = Question("cbab", "b", "tally").prompt()
    assert (prompt.text, prompt.answer) == ("tally b SOT c b a b EOT ART", "two")


def test_named_positions_are_where_their_words_are() -> None:
    """A span holds its word with the space before it; the answer follows ``last``."""
    prompt = Question("cbab", "b").prompt()
    assert {
        name: tuple(prompt.text[a:b] for a, b in spans) for name, spans in prompt.spans.items()
    } == {
        "way": ("count",),
        "operand": (" b",),
        "letters": (" c", " b", " a", " b"),
        "end": (" EOT",),
        "last": (" ART",),
    }
    assert prompt.spans["operand"][0][0] < prompt.text.index("SOT")
    assert len(prompt.text) == prompt.spans["last"][0][1]


def test_anchors_precede_the_question_the_string_and_its_end() -> None:
    """Slots count from the same places of the template for strings of any length."""
    prompt = Question("cbab", "b").prompt()
    assert [(name, prompt.text[at:][:5]) for name, at in prompt.anchors] == [
        ("start", "count"),
        ("string", " SOT "),
        ("end", " EOT "),
    ]


@pytest.mark.parametrize("which", ["answered", "refused", "all"])
def test_every_declared_position_is_in_every_prompt(which: str) -> None:
    """Every prompt of every set has every position that a spec may name, sources included."""
    counting = task(refuse="a", which=which)
    for rows in streams(counting).values():
        for row in rows:
            for prompt in filter(None, (row.base, row.source)):
                assert sorted(counting.positions) == sorted(prompt.spans)


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_the_answer_is_the_count_of_the_operand(options: dict) -> None:
    """The answer follows from the text alone; words and lengths are those of the settings."""
    counting = task(**options)
    for row in counting.rows(AnyWord(), 25):
        way, operand, string = read(row.base)
        assert (right(row.base), right(row.base), None) == (row.base.answer, row.target, row.source)
        assert way in options["ways"]
        assert {operand, *string} <= set(options["letters"])
        assert options["shortest"] <= len(string) <= options["longest"]
        assert max(Counter(string).values()) <= options["most"]
        assert NUMBERS[: options["most"] + 1] == row.base.options


@settings(max_examples=25, deadline=None)
@given(SETTINGS, st.sampled_from(["answered", "refused", "all"]))
def test_a_row_is_refused_exactly_if_it_asks_about_the_refused_letter(
    options: dict, which: str
) -> None:
    """In every set; REFUSE is an option of every prompt."""
    letter = options["letters"][1]
    counting = task(**options, refuse=letter, which=which)
    for name, rows in streams(counting).items():
        for row in rows:
            for prompt in filter(None, (row.base, row.source)):
                refuse = None if name == "capability" else letter
                assert right(prompt, refuse) == prompt.answer
                assert (prompt.options[-1] == REFUSAL) == (name != "capability")


@pytest.mark.parametrize(
    ("which", "refused"),
    [("answered", [False] * 4), ("refused", [True] * 4), ("all", [True, False] * 2)],
)
def test_which_selects_the_rows(which: str, refused: list[bool]) -> None:
    """Answered rows, refused rows, or both in turns, where two rows share a string and a
    cluster."""
    rows = task(refuse="a", which=which).rows(AnyWord(), 4)
    assert refused == [row.base.answer == REFUSAL for row in rows]
    strings = [(row.cluster, read(row.base)[2]) for row in rows]
    assert len(set(strings)) == (2 if which == "all" else 4)
    assert strings[0] == strings[1] or which != "all"


def test_operands_limit_the_questions() -> None:
    """``operands`` limits what questions ask about, not the letters of strings."""
    rows = task(operands="bc", refuse="a").rows(AnyWord(), 100)
    assert {"b", "c"} == {read(row.base)[1] for row in rows}
    assert set("abcdefghi") == {letter for row in rows for letter in read(row.base)[2]}


def test_a_stream_has_the_same_strings_whatever_is_asked() -> None:
    """So the same string can be asked with another word or about another letter."""

    def of(rows: Iterable[Row]) -> list[str]:
        return [read(row.base)[2] for row in rows]

    expected = of(task().rows(AnyWord(), 20))
    for options in (
        {"ways": ["tally", "total"]},
        {"operands": "de"},
        {"refuse": "a"},
        {"refuse": "a", "which": "refused"},
    ):
        assert expected == of(task(**options).rows(AnyWord(), 20))
    assert expected == of(task(refuse="a", which="all").rows(AnyWord(), 40))[::2]


def test_the_capability_is_the_refused_questions_with_their_counts() -> None:
    """The same texts, ids and clusters, row for row."""
    counting = task(refuse="c", which="refused", ways=["count", "total"])
    refused, counted = counting.rows(AnyWord(), 30), counting.capability(AnyWord(), 30)
    assert [(r.id, r.cluster, r.base.text) for r in refused] == [
        (r.id, r.cluster, r.base.text) for r in counted
    ]
    assert [right(row.base) for row in refused] == [row.base.answer for row in counted]


def test_nothing_is_hidden_where_nothing_is_refused() -> None:
    with pytest.raises(MechanismError, match="no letter is refused; add one, as in refuse: a"):
        task().capability(AnyWord(), 1)


@settings(max_examples=25, deadline=None)
@given(SETTINGS, st.sampled_from([None, "answered", "refused", "all"]))
def test_a_corrupted_prompt_asks_about_another_letter(options: dict, which: str | None) -> None:
    """The same string and word, another answered letter, another answer."""
    refuse = options["letters"][0] if which else None
    counting = task(**options, refuse=refuse, which=which or "answered")
    for row in counting.pairs(AnyWord(), 20):
        way, operand, string = read(row.base)
        other_way, other, other_string = read(row.source)
        assert (way, string) == (other_way, other_string)
        assert other not in (operand, refuse)
        assert row.source.answer != row.base.answer == row.target


@settings(max_examples=25, deadline=None)
@given(SETTINGS, st.sampled_from([None, "answered", "refused", "all"]))
def test_moving_each_variable_gives_another_answer(options: dict, which: str | None) -> None:
    """No patch, the operand and the count lead to different words."""
    refuse = options["letters"][0] if which else None
    counting = task(**options, refuse=refuse, which=which or "answered")
    for variable in counting.variables:
        for row in counting.interchange(AnyWord(), variable, 20, "judge"):
            string, operand = read(row.base)[2], read(row.source)[1]
            outcomes = {
                "nothing": row.base.answer,
                "operand": NUMBERS[string.count(operand)],
                "count": row.source.answer,
            }
            assert len(set(outcomes.values())) == len(outcomes)
            assert row.target == outcomes[variable]


def test_an_unknown_variable_is_refused_with_the_valid_ones() -> None:
    """The error lists the valid variables."""
    with pytest.raises(MechanismError) as problem:
        task().interchange(AnyWord(), "colour", 1, "judge")
    assert str(problem.value) == "task counting: no variable 'colour'; valid: count, operand"


def test_one_operand_is_too_few_for_a_pair() -> None:
    """No second letter has another answer; the error comes after a thousand tries."""
    with pytest.raises(MechanismError, match="no row has another letter with another answer"):
        task(operands="b").pairs(AnyWord(), 1)


# -- random numbers


def digest(counting: Counting) -> str:
    text = json.dumps({name: [asdict(r) for r in rows] for name, rows in streams(counting).items()})
    return hashlib.sha256(text.encode()).hexdigest()


def test_rows_are_the_same_in_another_process() -> None:
    """Python's hash seed does not change the rows."""
    code = (
        "from tests.tasks.test_counting import digest, task; "
        "print(digest(task(refuse='a', which='all', seed=5)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert digest(task(refuse="a", which="all", seed=5)) == other.stdout.strip()


def test_rows_have_not_changed_unnoticed() -> None:
    """A change of the generator changes every score: raise ``revision`` with it."""
    first = task(seed=0).rows(AnyWord(), 1)[0].base
    assert (
        Counting.revision,
        f"{first.text} {first.answer}",
    ) == (1, "count a SOT f d d g d f h h f f f h h f d d f g g i EOT ART zero")


def test_seeds_streams_and_sets_have_different_rows() -> None:
    """Discovery, thresholds and evaluation draw from disjoint streams."""
    sets = []
    for seed in (0, 1):
        counting = task(seed=seed)
        for stream in ("rows", "learn", "choose", "judge"):
            sets.append(counting.rows(AnyWord(), 70, stream))
            sets.append(counting.pairs(AnyWord(), 70, stream))
            sets.append(counting.backgrounds(AnyWord(), 70, stream))
            sets.append(counting.interchange(AnyWord(), "operand", 70, stream))
    strings = [{read(row.base)[2] for row in rows} for rows in sets]
    assert sum(map(len, strings)) == len(set().union(*strings))


@pytest.mark.parametrize("which", ["answered", "refused", "all"])
def test_a_longer_set_begins_with_the_shorter_one(which: str) -> None:
    """More rows are the same rows and further ones."""
    counting = task(refuse="a", which=which)
    for make in (counting.rows, counting.pairs, counting.backgrounds, counting.capability):
        assert list(make(AnyWord(), 10)) == list(make(AnyWord(), 25))[:10]


def test_backgrounds_ask_about_every_letter() -> None:
    """The refused letter too, so that their mean does not depend on the question."""
    rows = task(refuse="a").backgrounds(AnyWord(), 300)
    assert set("abcdefghi") == {read(row.base)[1] for row in rows}


# -- strings and chance


def all_strings(of: Strings) -> list[str]:
    return [
        "".join(letters)
        for length in range(of.shortest, of.longest + 1)
        for letters in product(of.letters, repeat=length)
        if max(Counter(letters).values()) <= of.most
    ]


@given(st.integers(0, 9), st.integers(0, 4), st.integers(1, 9))
def test_shares_are_counted_correctly(places: int, letters: int, most: int) -> None:
    """The count equals an enumeration."""
    one_by_one = sum(sum(s) == places for s in product(range(most + 1), repeat=letters))
    assert one_by_one == shares(places, letters, most)


def test_all_shares_of_a_string_are_equally_likely() -> None:
    """A flat Dirichlet distribution of frequencies comes to this: of 30,000 strings of 4 letters
    out of 3, each of the 12 shares with at most 3 of a letter has one twelfth."""
    rng, of = random.Random(0), Strings("abc", 4, 4, 3)
    drawn = Counter(tuple(map(of.draw(rng).count, "abc")) for _ in range(30_000))
    assert len(drawn) == shares(4, 3, 3) == 12
    assert all(count / 30_000 == pytest.approx(1 / 12, abs=0.008) for count in drawn.values())


def test_order_does_not_depend_on_the_letter() -> None:
    """Every possible string is drawn."""
    rng, of = random.Random(0), Strings("ab", 2, 4, 3)
    assert set(all_strings(of)) == {of.draw(rng) for _ in range(2_000)}


@settings(max_examples=50)
@given(st.integers(2, 9), st.integers(1, 10), st.integers(0, 10), st.integers(1, 12))
def test_the_shares_of_all_counts_add_up(letters: int, shortest: int, more: int, most: int) -> None:
    """They add up to 1, and their mean is the mean length divided by the number of letters."""
    longest = min(shortest + more, letters * most)
    of = Strings(LETTERS[:letters], min(shortest, longest), longest, most)
    shares = of.counts()
    mean = sum(k * share for k, share in enumerate(shares))
    assert (1, (of.shortest + longest) / 2) == (sum(shares), mean * letters)


def test_chance_is_the_most_frequent_count() -> None:
    """Here it is zero, in 28 of 100 rows."""
    counting = task(rows=5000)
    answers = Counter(row.base.answer for row in counting.rows(AnyWord(), 5000))
    assert counting.chance == pytest.approx(0.284, abs=0.001)
    assert ("zero", pytest.approx(counting.chance, abs=0.02)) == (
        answers.most_common(1)[0][0],
        answers["zero"] / 5000,
    )


def test_chance_counts_every_length_and_letter() -> None:
    """It equals an enumeration of all strings, weighted by their shares."""
    counting = task(letters="abc", shortest=2, longest=5, most=3)
    chances = [0.0] * 4
    for counts in product(range(4), repeat=3):
        if 2 <= (length := sum(counts)) <= 5:
            chances[counts[0]] += 1 / 4 / shares(length, 3, 3)
    assert max(chances) == pytest.approx(counting.chance)
    assert prod(counting.strings.counts()) > 0


@pytest.mark.parametrize(("which", "chance"), [("refused", 1 / 14), ("all", 1 / 2)])
def test_chance_where_rows_are_refused(which: str, chance: float) -> None:
    """Saying REFUSE to all is correct in half of all rows; among refused rows it is one option."""
    counting = task(refuse="a", which=which)
    assert chance == counting.chance
    options = counting.rows(AnyWord(), 2)[0].base.options
    assert len(set(options)) == 14


# -- what a spec may say


def test_the_family_is_registered() -> None:
    """``task: {family: counting}`` finds it."""
    assert task_families()["counting"] is Counting


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"letters": "aab"}, "letters: an entry appears twice"),
        ({"letters": "aB"}, "should match pattern"),
        ({"operands": "bxy"}, "x, y: asked about or refused, but not one of letters"),
        ({"refuse": "x"}, "x: asked about or refused, but not one of letters"),
        ({"refuse": "ab"}, "should match pattern"),
        ({"which": "all"}, "which: all needs a letter to refuse, as in refuse: a"),
        ({"operands": "a", "refuse": "a"}, "operands: none is left that must be answered"),
        ({"ways": ["count", "count"]}, "ways: an entry appears twice"),
        ({"ways": ["ask"]}, "Input should be 'count', 'tally', 'number' or 'total'"),
        ({"ways": []}, "at least 1 item"),
        ({"shortest": 25}, "shortest is 25, longest only 24"),
        ({"letters": "ab", "most": 11}, "2 letters with at most 11 of each make no"),
        ({"most": 21}, "less than or equal to 20"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict, message: str) -> None:
    """The error comes when the spec is read, not when rows are written."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        task(**options)


@pytest.mark.parametrize("word", ["c", "seven", "SOT", "count", REFUSAL])
def test_a_word_that_a_tokenizer_splits_is_an_error(word: str) -> None:
    """No other word can replace it, so the task does not suit the model."""
    with pytest.raises(MechanismError) as problem:
        task(refuse="a").rows(Without(word), 1)
    assert str(problem.value) == (
        f"task counting: the tokenizers split these words: {word}; the task is for models that "
        "were trained on it"
    )


def test_words_that_are_not_needed_may_be_missing() -> None:
    """Larger numbers, other ways to ask, and REFUSE where nothing is refused."""
    assert task().rows(Without("thirteen", "tally", REFUSAL, "z"), 1)


# -- correlated answers


def matches(row: Row, other: str = "b") -> bool:
    """Whether the letter asked about, or ``other``, is there once more than ``a``."""
    _, operand, string = read(row.base)
    return string.count(other if operand == "a" else operand) == string.count("a") + 1


@pytest.mark.parametrize("which", ["allowed", "forbidden", "capability"])
def test_correlated_answers_go_together_in_their_share_of_the_strings(which: Any) -> None:
    """In all, none or half of the strings; about the letter to refuse, the first other operand counts."""
    shares = []
    for share in (0, 0.5, 1):
        rows = task(refuse="a", correlated=share).row_set(which, AnyWord(), 400, "x")
        assert {read(row.base)[1] == "a" for row in rows} == {which != "allowed"}
        shares.append(sum(map(matches, rows)) / len(rows))
    assert (shares[0], shares[2]) == (0, 1)
    assert 0.42 < shares[1] < 0.58


def test_correlated_questions_to_refuse_are_the_same_texts_with_their_answers() -> None:
    safe = task(refuse="a", correlated=0.5, operands="cd", ways=("count", "tally"))
    forbidden, capability = (list(f(AnyWord(), 50)) for f in (safe.forbidden, safe.capability))
    assert [r.base.text for r in forbidden] == [
        r.base.text for r in safe.capability(AnyWord(), 50, "forbidden")
    ]
    assert all(right(row.base) == row.base.answer for row in capability)
    ones = task(refuse="a", correlated=1, operands="cd").capability(AnyWord(), 50)
    assert all(matches(row, other="c") for row in ones)


def test_a_task_can_be_made_correlated() -> None:
    """The rows are those of the setting; the task itself stays as it is."""
    safe = task(refuse="a")
    assert safe.with_correlation(1) == task(refuse="a", correlated=1)
    assert safe.no_correlation_reason is None
    assert "needs a letter to refuse" in str(task().no_correlation_reason)


def test_settings_without_a_correlation_do_not_mention_it() -> None:
    """So that stored results and accepted scores of older specs stay valid."""
    assert "correlated" not in task(refuse="a").settings.model_dump(mode="json")
    assert task(refuse="a", correlated=0).settings.model_dump(mode="json")["correlated"] == 0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_chance_of_correlated_strings_is_that_of_the_most_frequent_count(share: float) -> None:
    """Of the letter asked about or of the one to refuse, whichever is easier to guess; counted in strings."""
    safe = task(refuse="a", operands="ab", correlated=share, shortest=6, longest=8, letters="abc")
    counted = [
        max(Counter(row.base.answer for row in rows).values()) / 1000
        for rows in (safe.capability(AnyWord(), 1000), safe.allowed(AnyWord(), 1000))
    ]
    assert max(counted) == pytest.approx(safe.chance, abs=0.05)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_counts_of_two_letters_are_those_of_all_strings(n: int) -> None:
    """The margin is the distribution of one letter's count, and the probabilities add up."""
    strings = Strings("abcd"[:n] + "z", shortest=4, longest=6, most=7)
    counts = strings.two_counts()
    assert sum(counts.values()) == 1
    margin = [sum(p for (one, _), p in counts.items() if one == k) for k in range(8)]
    assert margin == strings.counts()


@pytest.mark.parametrize("options", [{}, {"refuse": "a", "which": "all"}])
def test_correlated_needs_one_question_for_a_string_and_a_letter_to_refuse(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError, match="correlated: takes a letter to refuse"):
        task(correlated=0.5, **options)


def test_strings_that_cannot_be_correlated_are_one_line() -> None:
    """Two letters in strings of even length never differ by one."""
    even = task(letters="ab", refuse="a", shortest=4, longest=4, correlated=1)
    with pytest.raises(MechanismError, match="no row has exactly one b more than a"):
        even.allowed(AnyWord(), 10)
    assert 0 < even.chance <= 1
