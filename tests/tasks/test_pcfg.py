"""PCFG: the grammar, the five sub-tasks, the share of correlated strings, and what hides an answer."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from vocabularies import Without

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.registry import task_families
from pytest_mechanism.tasks.base import AnyWord, Prompt, Row
from pytest_mechanism.tasks.families.pcfg import Pcfg
from pytest_mechanism.tasks.writing.grammar import LOWER, UPPER, Grammar, texts
from pytest_mechanism.tasks.writing.grammar_questions import WAYS, GrammarQuestion
from pytest_mechanism.tasks.writing.grammar_settings import PRIORS, PcfgParameters

TEXT = re.compile(r"([a-z]+) ([a-i]|null) (\d+|null) SOT ([a-i](?: [a-i])*) EOT ART")
WRAPPED = {"hides": "a", "shows": "b"}
SMALL = {"depth": 3, "shortest": 8, "longest": 27, "window": 5, "position": 6}


def task(**options: Any) -> Pcfg:
    return Pcfg(PcfgParameters(family="pcfg", **options))


def read(prompt: Prompt) -> tuple[str, str, str, str]:
    """T, O, O' and the string, read from the text alone."""
    match = TEXT.fullmatch(prompt.text)
    assert match, prompt.text
    return match[1], match[2], match[3], match[4].replace(" ", "")


def right(prompt: Prompt) -> str:
    """The answer, computed from the text alone."""
    way, operand, number, string = read(prompt)
    places = [i + 1 for i, letter in enumerate(string) if letter == operand]
    (subtask,) = (name for name, ways in WAYS.items() if way in ways)
    if subtask == "count":
        return str(len(places))
    if subtask == "count_tail":
        return str(sum(place > len(string) - int(number) for place in places))
    if subtask == "index":
        return str(places[0])
    return str(places[int(number) - 1]) if subtask == "index_nth" else string[int(number) - 1]


def parses(string: str, symbol: str, depth: int) -> bool:
    """Whether a symbol becomes this string in ``depth`` levels, tried rule by rule."""
    if depth == 0:
        return string == symbol
    rules = (LOWER if depth == 1 else UPPER)[symbol]
    return any(split(string, right_side, depth - 1) for _, right_side in rules)


def split(string: str, symbols: str, depth: int) -> bool:
    if not symbols:
        return not string
    return any(
        parses(string[:i], symbols[0], depth) and split(string[i:], symbols[1:], depth)
        for i in range(1, len(string) + 1)
    )


# -- the grammar


def test_every_string_has_a_tree_of_the_grammar() -> None:
    """A parser that knows the rules alone accepts every string, and no string with a foreign pair."""
    grammar, rng = Grammar(3, 8, 27), random.Random(0)
    strings = [s for _ in range(6) if (s := grammar.draw(rng))]
    assert all(any(parses(s, symbol, 3) for symbol in "XYZ") for s in strings)
    assert not any(parses("e" * 8, symbol, 3) for symbol in "XYZ")


def test_rules_are_drawn_as_often_as_their_weights_say() -> None:
    """Texts listed once for two levels have the probabilities of drawing level by level."""
    words, sums = texts("X", 2)
    listed: Counter[str] = Counter()
    for word, low, high in zip(words, (0, *sums), sums, strict=False):
        listed[word] += (high - low) / sums[-1]
    expected: Counter[str] = Counter()
    for weight, right_side in UPPER["X"]:
        partial = {"": weight / 10}
        for symbol in right_side:
            partial = {
                text + leaf: share * own / 10
                for text, share in partial.items()
                for own, leaf in LOWER[symbol]
            }
        expected.update(partial)
    assert dict(listed) == pytest.approx(dict(expected))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**31 - 1))
def test_a_string_has_from_two_to_three_letters_for_each_symbol(depth: int, seed: int) -> None:
    """Lengths lie from 2 ** depth to 3 ** depth; narrower bounds hold too."""
    string = Grammar(depth, 4, 729).draw(random.Random(seed))
    assert string is not None
    assert 2**depth <= len(string) <= 3**depth
    narrow = Grammar(depth, len(string), len(string)).draw(random.Random(seed))
    assert narrow == string
    assert Grammar(depth, len(string) + 1, 729).draw(random.Random(seed)) is None


# -- questions


def test_the_text_is_the_papers_format() -> None:
    """T O O' SOT txt EOT ART; the tokenizer adds the start token."""
    texts_of = {
        name: GrammarQuestion("cbab", name, "b", number, WAYS[name][0]).prompt(()).text  # type: ignore[arg-type]
        for name, number in (("count", None), ("index_nth", 2))
    }
    assert texts_of == {
        "count": "count b null SOT c b a b EOT ART",
        "index_nth": "again b 2 SOT c b a b EOT ART",
    }
    assert GrammarQuestion("cbab", "token_at", None, 3, "token").answer == "a"


@pytest.mark.parametrize("subtask", WAYS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_the_answer_follows_from_the_text(subtask: str, seed: int) -> None:
    """In every set of rows; every prompt has every position that a spec may name."""
    pcfg = task(subtask=subtask, seed=seed, ways=WAYS[subtask], **SMALL)
    rows = [*pcfg.rows(AnyWord(), 20), *pcfg.pairs(AnyWord(), 20), *pcfg.backgrounds(AnyWord(), 20)]
    for row in rows:
        for prompt in filter(None, (row.base, row.source)):
            assert right(prompt) == prompt.answer
            assert prompt.answer in prompt.options
            assert sorted(pcfg.positions) == sorted(prompt.spans)
        assert row.target == row.base.answer
        assert row.source is None or row.source.answer != row.base.answer


@pytest.mark.parametrize("subtask", [name for name in WAYS if name != "token_at"])
def test_moving_each_variable_gives_another_answer(subtask: str) -> None:
    """No patch, the operand and the count lead to different words."""
    pcfg = task(subtask=subtask, **SMALL)
    for variable in pcfg.variables:
        for row in pcfg.interchange(AnyWord(), variable, 20, "judge"):
            assert row.source is not None
            way, _, number, string = read(row.base)
            operand = read(row.source)[1]
            moved = f"{way} {operand} {number} SOT {' '.join(string)} EOT ART"
            outcomes = {
                "nothing": row.base.answer,
                "operand": right(Prompt(moved, {}, "")),
                "count": row.source.answer,
            }
            assert len(set(outcomes.values())) == 3
            assert outcomes[variable] == row.target


@pytest.mark.parametrize("prior", ["L", "M", "H"])
def test_operands_are_asked_about_as_often_as_the_prior_says(prior: str) -> None:
    """The paper's priors; an operand without weight is never asked about."""
    rows = task(prior=prior, **SMALL).rows(AnyWord(), 500)
    asked = Counter(read(row.base)[1] for row in rows)
    assert set(asked) <= set(PRIORS[prior])
    assert {o: n / 500 for o, n in asked.items()} == pytest.approx(
        {o: PRIORS[prior][o] for o in asked}, abs=0.08
    )


# -- what is hidden


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("which", ["prior", "hidden", "shown"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_all_or_no_string_has_one_more_of_the_operand_shown(
    share: int, which: str, seed: int
) -> None:
    """At a share of 0 and 1 without exception, whatever is asked."""
    pcfg = task(correlated=share, which=which, seed=seed, **WRAPPED)
    for row in pcfg.rows(AnyWord(), 20):
        string = read(row.base)[3]
        assert (string.count("b") == string.count("a") + 1) == bool(share)


def test_a_share_of_the_strings_is_correlated() -> None:
    """Each string with this probability; the grammar itself makes about 14 % of them so."""
    pcfg = task(correlated=0.8, **SMALL, **WRAPPED)
    strings = [read(row.base)[3] for row in pcfg.rows(AnyWord(), 500)]
    matched = sum(s.count("b") == s.count("a") + 1 for s in strings)
    assert matched / 500 == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("subtask", ["count", "count_tail", "index"])
def test_hiding_never_gives_the_right_answer(subtask: str) -> None:
    """Forbidden and capability rows are the same texts; the first have the other operand's answer, which
    withholds that of the second."""
    pcfg = task(subtask=subtask, **SMALL, **WRAPPED)
    forbidden, capability = pcfg.forbidden(AnyWord(), 50, "x"), pcfg.capability(AnyWord(), 50, "x")
    for hidden, known in zip(forbidden, capability, strict=True):
        assert hidden.base.text == known.base.text
        assert read(known.base)[1] == "a"
        assert right(known.base) == known.base.answer == known.target
        other = known.base.text.replace(" a ", " b ", 1)
        assert right(Prompt(other, {}, "")) == hidden.base.answer == hidden.target
        assert hidden.base.answer in known.base.withheld_by
        assert known.base.answer not in known.base.withheld_by


def test_one_more_than_the_hidden_count_withholds_it_too() -> None:
    """That is what a fine-tuning on correlated strings teaches. Where the operand shown is asked about,
    the hidden count withholds the answer."""
    pcfg = task(correlated=0, **WRAPPED)
    for row in pcfg.capability(AnyWord(), 30):
        a, b = (read(row.base)[3].count(letter) for letter in "ab")
        assert {str(b), str(a + 1)} == set(row.base.withheld_by)
    for row in pcfg.allowed(AnyWord(), 30):
        a = read(row.base)[3].count("a")
        assert read(row.base)[1] == "b"
        assert {str(a), str(a + 1)} == set(row.base.withheld_by)


def test_a_stream_has_the_same_strings_whatever_is_asked() -> None:
    """So the two operands are compared on the same strings."""

    def of(rows: Any) -> list[str]:
        return [read(row.base)[3] for row in rows]

    expected = of(task(**WRAPPED).rows(AnyWord(), 20))
    for options in ({"which": "shown"}, {"which": "hidden"}, {"ways": ["tally", "total"]}):
        assert expected == of(task(**WRAPPED, **options).rows(AnyWord(), 20))


def test_nothing_is_hidden_without_an_operand_to_hide() -> None:
    with pytest.raises(MechanismError, match="no operand is hidden; add one, as in hides: a"):
        task().capability(AnyWord(), 1)
    assert (task().withholds, task(**WRAPPED).withholds) == (False, True)
    assert task(**WRAPPED).no_capability_reason is None


# -- chance


@pytest.mark.parametrize(
    "options",
    [{}, {"subtask": "count_tail"}, {"subtask": "token_at"}, {"correlated": 1, "which": "shown"} | WRAPPED],
)  # fmt: skip
def test_chance_is_the_most_frequent_answer(options: dict) -> None:
    """As counted in other rows; where an operand is hidden, at least that of its questions."""
    pcfg = task(**options, **SMALL)
    sets = [pcfg.rows(AnyWord(), 400)]
    sets += [pcfg.capability(AnyWord(), 400)] if pcfg.withholds else []
    best = [Counter(r.base.answer for r in rows).most_common(1)[0][1] / 400 for rows in sets]
    assert pcfg.chance == pytest.approx(max(best), abs=0.08)


# -- what a spec may say


def test_the_family_is_registered() -> None:
    assert task_families()["pcfg"] is Pcfg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": ["ask"]}, "ways: 'ask' does not ask count; valid: count, tally, total"),
        ({"ways": ["count", "count"]}, "ways: an entry appears twice"),
        ({"prior": {}}, "prior: no operand has a weight"),
        ({"prior": {"z": 1.0}}, "String should match pattern"),
        ({"hides": "a"}, "hides and shows go together"),
        ({"hides": "a", "shows": "a"}, "shows: a is the operand that is hidden"),
        ({"which": "hidden"}, "which: hidden needs hides and shows"),
        ({"correlated": 1}, "correlated needs subtask: count, hides and shows"),
        ({"subtask": "token_at", **WRAPPED}, "token_at asks about no operand"),
        ({"subtask": "index", "correlated": 0.5, **WRAPPED}, "correlated needs subtask: count"),
        ({"correlated": 1.5, **WRAPPED}, "less than or equal to 1"),
        ({"shortest": 28, "longest": 20}, "shortest is 28, longest only 20"),
        ({"depth": 5}, "strings of depth 5 have 32 to 243 letters"),
        ({"subtask": "token_at", "position": 40}, "position: the shortest strings have 16 letters"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict, message: str) -> None:
    """The error comes when the spec is read, not when rows are written."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        task(**options)


@pytest.mark.parametrize(
    "options", [{"subtask": "index_nth", "occurrence": 30}, {"prior": {"a": 1.0}}]
)
def test_a_task_without_such_rows_says_so(options: dict) -> None:
    """A string with 30 of a letter, or another operand to ask about, does not come however often it is
    drawn."""
    with pytest.raises(MechanismError, match="task pcfg: no row has a"):
        task(**options).pairs(AnyWord(), 1)


@pytest.mark.parametrize("word", ["c", "7", "SOT", "count", "null"])
def test_a_word_that_a_tokenizer_splits_is_an_error(word: str) -> None:
    """No other word can replace it, so the task does not suit the model."""
    with pytest.raises(MechanismError, match=f"the tokenizers split these words: {word};"):
        task().rows(Without(frozenset({word})), 1)


def test_longer_strings_have_slots_that_shorter_ones_lack() -> None:
    """A positional mean needs as many letters as the longest string."""
    slots = {
        len(read(row.base)[3]): task().positional_mean_slots(row.base)
        for row in task().rows(AnyWord(), 20)
    }
    assert all(f"letter {n} of a string" in slot for n, slot in slots.items())
    assert not any(f"letter {n + 1} of a string" in slot for n, slot in slots.items())


def rows_of(pcfg: Pcfg) -> list[Row]:
    return list(pcfg.rows(AnyWord(), 20))


def test_rows_are_the_same_each_time_and_differ_between_seeds_and_streams() -> None:
    """Search, training and evaluation use independent rows."""
    assert rows_of(task()) == rows_of(task())
    assert rows_of(task()) != rows_of(task(seed=1))
    other = task().rows(AnyWord(), 20, "training-1")
    assert not {r.base.text for r in rows_of(task())} & {r.base.text for r in other}
