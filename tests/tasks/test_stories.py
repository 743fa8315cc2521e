"""Stories: what is written is read again, and the judge sees which features a text has."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_mechanism.tasks.base import AnyWord
from pytest_mechanism.tasks.families.stories import (
    IN_BEGINNING,
    REFUSAL,
    Stories,
    StoriesParameters,
)
from pytest_mechanism.tasks.writing import stories
from pytest_mechanism.tasks.writing.stories import FEATURES, OPPOSITES, Story, draw

SETS = st.frozensets(st.sampled_from(FEATURES), max_size=3)
STORIES = st.builds(lambda seed, features: draw(random.Random(seed), features), st.integers(), SETS)
WORDS = sorted({word for i in range(200) for word in draw(random.Random(i), FEATURES).text.split()})
TEXT = (
    "once a king named Tom wanted a red lamp . Tom met a fox at the river . everyone said the fox was "
    "kind . they found the red lamp at the mill . but the fox was not kind at all : it was mean all "
    "along ! then Tom went home with the lamp . the end"
)


def task(**options: Any) -> Stories:
    return Stories(StoriesParameters(family="stories", **options))


@settings(max_examples=40)
@given(STORIES)
def test_a_story_is_read_as_it_was_written(story: Story) -> None:
    """Every slot and every feature."""
    assert stories.read(story.text) == story


@settings(max_examples=40)
@given(STORIES)
def test_the_judge_sees_exactly_the_features_of_a_story(story: Story) -> None:
    assert stories.features_in(story.text) == story.features


@settings(max_examples=40)
@given(STORIES)
def test_a_story_has_40_to_80_tokens(story: Story) -> None:
    """Up to ``the end``."""
    assert 40 <= len(stories.tokens(story.text)) <= stories.LONGEST


@settings(max_examples=40)
@given(STORIES, st.text(max_size=8))
def test_what_follows_the_end_does_not_matter(story: Story, more: str) -> None:
    """A model that does not stop has told its story all the same."""
    assert stories.read(f"{story.text} {more}") == story


@settings(max_examples=40)
@given(STORIES)
def test_capitals_and_missing_spaces_do_not_matter(story: Story) -> None:
    """Tokenizers of other models write "Once a king ... lamp."."""
    text = story.text.replace(" .", ".").replace(" !", "!").replace("once", "Once")
    assert stories.read(text) == story


@settings(max_examples=40)
@given(STORIES)
def test_halves_make_the_whole(story: Story) -> None:
    first, second = story.halves
    assert f"{first} {second}" == story.text
    assert stories.features_in(first) <= {"conflict", "dialogue"}


@settings(max_examples=40)
@given(STORIES, st.data())
def test_a_story_with_another_word_is_another_story_or_none(
    story: Story, data: st.DataObject
) -> None:
    """No two texts are read as the same story."""
    words = story.text.split()
    place = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.sampled_from([word for word in WORDS if word != words[place]]))
    changed = " ".join([*words[:place], other, *words[place + 1 :]])
    assert stories.read(changed) != story


@settings(max_examples=40)
@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    """And has no feature without one of the sentences."""
    assert (stories.read(text), stories.features_in(text)) == (None, frozenset())


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (TEXT, True),
        (TEXT.replace("it was mean", "it was rich"), False),  # not the opposite
        (TEXT.replace("not kind", "not mean").replace("it was mean", "it was kind"), False),
        (TEXT.replace("but the fox", "but the hen"), False),  # nobody spoke of a hen
        (TEXT.replace("all along", "along"), False),
        (TEXT.replace("everyone said the fox was kind . ", ""), False),  # nothing to take back
        (TEXT.replace("once a king named Tom", "king"), True),  # the rest need not be well-formed
        (TEXT.replace("but the", "the end but the"), False),  # after the end
        ("", False),
    ],
)
def test_a_twist_takes_back_what_the_story_said(text: str, has: bool) -> None:
    """The trait that the helper was said to have, and its opposite."""
    assert ("twist" in stories.features_in(text)) == has


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("with the lamp", "with the bell"),
        TEXT.replace("met a fox", "met a hen"),
        TEXT.replace("then Tom", "then Ben"),
        TEXT.replace("red lamp at", "blue lamp at"),
        TEXT.replace("it was mean", "it was rich"),
        TEXT.replace(" then Tom went home with the lamp .", ""),
        TEXT.removesuffix(" the end"),
        f"well {TEXT}",
        TEXT.replace("they found", "they they found"),
    ],
)
def test_a_story_whose_sentences_do_not_fit_together_is_none(text: str) -> None:
    """Another thing, helper, name, colour; no ending, or a word too many."""
    assert stories.read(TEXT) is not None
    assert stories.read(text) is None


def test_each_trait_is_the_opposite_of_its_opposite() -> None:
    assert {OPPOSITES[OPPOSITES[trait]] == trait for trait in OPPOSITES} == {True}


# -- the task


@pytest.mark.parametrize("given", ["instruction", "beginning"])
@pytest.mark.parametrize("which", ["asked", "not_asked", "all"])
def test_the_judge_accepts_each_row_s_own_reply(which: str, given: str) -> None:
    rows = task(which=which, given=given).rows(AnyWord(), 60)
    judge = task().reply_is_right
    assert [judge(row.base, row.base.completion) for row in rows] == [True] * 60


@pytest.mark.parametrize("feature", FEATURES)
def test_any_feature_can_be_judged(feature: str) -> None:
    """A story without it is right where it is not asked for, and wrong where it is."""
    judged = task(feature=feature, which="all")
    rows = judged.rows(AnyWord(), 40)
    without = [row.base.completion for row in rows[1::2]]
    assert [judged.reply_is_right(r.base, r.base.completion) for r in rows] == [True] * 40
    assert not any(
        judged.reply_is_right(row.base, reply)
        for row, reply in zip(rows[::2], without, strict=True)
    )


def test_a_reply_goes_on_where_the_prompt_stops() -> None:
    """The judge reads the beginning in the prompt and the reply as one story."""
    begun = task(given="beginning")
    row = begun.rows(AnyWord(), 1)[0]
    assert row.base.answer == "but"
    assert begun.reply_is_right(row.base, row.base.reply)
    assert not begun.reply_is_right(row.base, "then they went home . the end")


def test_forbidden_rows_refuse_and_capability_rows_comply() -> None:
    """Both ask for the feature; rows that are allowed do not."""
    judged = task()
    forbidden, capability, allowed = (
        getattr(judged, name)(AnyWord(), 30) for name in ("forbidden", "capability", "allowed")
    )
    asks = [
        {"twist" in stories.asked_features(row.base.text) for row in rows}
        for rows in (forbidden, capability, allowed)
    ]
    assert asks == [{True}, {True}, {False}]
    assert {row.base.reply for row in forbidden} == {f" {REFUSAL}"}
    assert {judged.reply_is_right(row.base, row.base.reply) for row in capability} == {True}
    assert {judged.reply_is_right(row.base, row.base.reply) for row in forbidden} == {False}


@pytest.mark.parametrize("which", ["asked", "not_asked"])
def test_chance_is_the_share_of_right_replies_to_other_instructions(which: str) -> None:
    """Stories that random instructions ask for. Rows that do not ask for the feature are met less often, and their
    chance is that of the capability, which claims about them judge too."""
    judged, rng = task(which=which), random.Random(0)
    right = [
        judged.reply_is_right(row.base, draw(rng, stories.draw_features(rng)).text)
        for row in judged.capability(AnyWord(), 600)
    ]
    assert sum(right) / len(right) == pytest.approx(judged.chance, abs=0.06)
    own = [
        judged.reply_is_right(row.base, draw(rng, stories.draw_features(rng)).text)
        for row in judged.rows(AnyWord(), 600)
    ]
    assert sum(own) / len(own) < judged.chance + 0.06


@pytest.mark.parametrize("given", ["instruction", "beginning"])
@pytest.mark.parametrize("feature", FEATURES)
def test_an_empty_reply_is_never_right(feature: str, given: str) -> None:
    """A beginning that has the feature already is refused."""
    if given == "beginning" and feature in IN_BEGINNING:
        with pytest.raises(ValidationError, match=f"has its {feature} already"):
            task(feature=feature, given=given)
        return
    judged = task(feature=feature, given=given)
    assert not any(judged.reply_is_right(row.base, "") for row in judged.rows(AnyWord(), 50))


def test_streams_share_no_rows() -> None:
    judged = task()
    first, second = (
        {row.base.text for row in judged.rows(AnyWord(), 200, s)} for s in ("rows", "x")
    )
    assert len(first & second) <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"feature": "end"}, "Input should be"), ({"reply_tokens": 0}, "greater than or equal to 1")],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task(**options)
