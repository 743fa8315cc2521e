"""Entity tracking: the text, its named places, and what each pair of prompts can tell."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import AnyWord, Prompt, Row, Task
from pytest_mechanism.tasks.families.entity_tracking import (
    Context,
    EntityTracking,
    EntityTrackingParameters,
)
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS

CONTEXT = Context(("apple", "bell", "cup"), ("O", "L", "X"), ("", "now", ""))
SEGMENT = re.compile(r"[Tt]he (\w+) is(?: (\w+))? in Box (\w)")


def task(**settings: int) -> EntityTracking:
    return EntityTracking(EntityTrackingParameters(family="entity_tracking", **settings))


@dataclass(frozen=True)
class Only:
    """A vocabulary that keeps the first so many words of each list."""

    count: int

    def whole(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(words)[: self.count]


def read(prompt: Prompt) -> tuple[list[str], list[str], str]:
    """Objects, labels and queried label, from the text alone."""
    context, query = prompt.text.rsplit(". Box ", 1)
    segments = [SEGMENT.fullmatch(each) for each in context.split(", ")]
    return [s[1] for s in segments], [s[3] for s in segments], query.removesuffix(" contains the")


def streams(found: Task) -> dict[str, list[Row]]:
    rows = {
        "rows": found.rows(AnyWord(), 30),
        "pairs": found.pairs(AnyWord(), 30),
        "backgrounds": found.backgrounds(AnyWord(), 30),
    }
    for variable in found.variables:
        rows[variable] = found.interchange(AnyWord(), variable, 30, "judge")
    return {name: list(each) for name, each in rows.items()}


def test_the_text_is_the_papers_template() -> None:
    """Segments, question and fillers read as in Prakash et al., section 2."""
    assert CONTEXT.ask(1).text == (
        "The apple is in Box O, the bell is now in Box L, the cup is in Box X. Box L contains the"
    )


@pytest.mark.parametrize(
    ("position", "label", "places"),
    [
        (
            1,
            None,
            {
                "all_labels": (" O", " L", " X"),
                "all_objects": (" apple", " bell", " cup"),
                "correct_object": (" bell",),
                "previous_query_label": (" L",),
                "query_label": (" L",),
                "last": (" the",),
            },
        ),
        (
            2,
            "Z",
            {
                "all_labels": (" O", " L", " X"),
                "all_objects": (" apple", " bell", " cup"),
                "correct_object": (" cup",),
                "previous_query_label": (" X",),
                "query_label": (" Z",),
                "last": (" the",),
            },
        ),
    ],
)
def test_named_positions_are_where_their_words_stand(
    position: int, label: str | None, places: dict
) -> None:
    """A span holds its word with the space before it; an asked letter may replace the label."""
    prompt = CONTEXT.ask(position, label)
    assert places == {
        name: tuple(prompt.text[a:b] for a, b in spans) for name, spans in prompt.spans.items()
    }


def test_query_label_and_last_stand_in_the_question() -> None:
    """The label is asked for at its second appearance, the answer comes after the last word."""
    prompt = CONTEXT.ask(0)
    (query,), (last,) = prompt.spans["query_label"], prompt.spans["last"]
    assert (prompt.text.rindex(" O"), len(prompt.text)) == (query[0], last[1])


def test_anchors_stand_before_each_object_each_box_and_the_question() -> None:
    """Slots count from the same places of the template, whatever fillers stand between."""
    prompt = CONTEXT.ask(0)
    parts = [prompt.text[at:][:6] for _, at in prompt.anchors]
    assert ([name for name, _ in prompt.anchors], parts) == (
        ["object_0", "box_0", "object_1", "box_1", "object_2", "box_2", "query"],
        ["The ap", " in Bo", ", the ", " in Bo", ", the ", " in Bo", ". Box "],
    )


def test_every_declared_position_is_in_every_prompt() -> None:
    """What a spec may name, each prompt of each set has, sources too."""
    found = task(boxes=4)
    for rows in streams(found).values():
        for row in rows:
            for prompt in filter(None, (row.base, row.source)):
                assert sorted(found.positions) == sorted(prompt.spans)


def test_oracles_are_positions_that_mark_the_answer() -> None:
    """Each oracle position is one of the places of the position that gives no hint."""
    prompt = CONTEXT.ask(1)
    assert all(
        set(prompt.spans[narrow]) < set(prompt.spans[wide])
        for narrow, wide in EntityTracking.oracles.items()
    )


SETTINGS = st.fixed_dictionaries(
    {
        "boxes": st.integers(3, 13),
        "seed": st.integers(0, 2**31 - 1),
        "fillers": st.integers(0, 13),
    }
)


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_the_answer_is_the_object_in_the_asked_box(options: dict) -> None:
    """Read from the text alone, rows have distinct objects and labels and the right answer."""
    found = task(**options)
    for row in found.rows(AnyWord(), 2 * found.boxes):
        objects, labels, asked = read(row.base)
        assert (found.boxes, found.boxes) == (len(set(objects)), len(set(labels)))
        right = objects[labels.index(asked)]
        assert (right, right, tuple(objects), None) == (
            row.base.answer,
            row.target,
            row.base.options,
            row.source,
        )


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_fillers_stand_in_as_many_segments_as_asked_for(options: dict) -> None:
    """Never more than one a segment, and no word but a filler."""
    found = task(**options)
    prompt = found.rows(AnyWord(), 1)[0].base
    context = prompt.text.rsplit(". Box ", 1)[0]
    words = [SEGMENT.fullmatch(each)[2] for each in context.split(", ")]
    assert (min(options["fillers"], options["boxes"]), True) == (
        sum(word is not None for word in words),
        set(words) <= {None, *FILLERS},
    )


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_each_variable_moved_gives_another_answer(options: dict) -> None:
    """In each desideratum, no patch, position, object and label lead to different words.

    This is what tells the variables apart; the published code left the base's position at 0, so
    that base and source agreed in one pair of seven.
    """
    found = task(**options)
    for variable in found.variables:
        for row in found.interchange(AnyWord(), variable, 20, "judge"):
            objects, labels, asked = read(row.base)
            others, other_labels, other_asked = read(row.source)
            position = other_labels.index(other_asked)
            outcomes = {
                "nothing": objects[labels.index(asked)],
                "position": objects[position],
                "object": others[position],
            }
            if variable == "box_label":
                outcomes["box_label"] = objects[labels.index(other_asked)]
            assert len(set(outcomes.values())) == len(outcomes)
            assert row.target == outcomes[variable]


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_base_and_source_contexts_share_no_object(options: dict) -> None:
    """Nor a label, but for the one that is moved: an answer tells where it came from."""
    found = task(**options)
    for variable in found.variables:
        for row in found.interchange(AnyWord(), variable, 20, "judge"):
            objects, labels, _ = read(row.base)
            others, other_labels, other_asked = read(row.source)
            shared = {other_asked} if variable == "box_label" else set()
            assert (set(), shared) == (
                set(objects) & set(others),
                set(labels) & set(other_labels),
            )


def test_the_queried_position_of_the_base_is_any() -> None:
    """The published code asked every base for its first box."""
    found = task(boxes=7)
    for variable in found.variables:
        rows = found.interchange(AnyWord(), variable, 200, "judge")
        asked = [read(row.base)[1].index(read(row.base)[2]) for row in rows]
        assert set(range(7)) == set(asked)


def test_a_box_label_target_is_a_word_of_the_base() -> None:
    """The published targets lacked their space, so no model could be right; ours are options."""
    found = task(boxes=7)
    rows = found.interchange(AnyWord(), "box_label", 100, "judge")
    assert {True} == {row.target in row.base.options and row.target in OBJECTS for row in rows}


def test_two_boxes_are_too_few_to_move_a_label() -> None:
    """With two boxes no third place is left; the other variables work."""
    found = task(boxes=2)
    with pytest.raises(MechanismError, match="'box_label' needs at least 3 boxes"):
        found.interchange(AnyWord(), "box_label", 1, "judge")
    assert [len(found.interchange(AnyWord(), v, 1, "judge")) for v in ("position", "object")] == [
        1,
        1,
    ]


def test_an_unknown_variable_is_refused_with_the_valid_ones() -> None:
    """The error lists what could have been meant."""
    with pytest.raises(MechanismError) as problem:
        task().interchange(AnyWord(), "colour", 1, "judge")
    assert (
        str(problem.value)
        == "task entity_tracking: no variable 'colour'; valid: box_label, object, position"
    )


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_a_corrupted_prompt_is_another_context_and_an_unknown_letter(options: dict) -> None:
    """A pair's source differs in context and position, and asks for a box that is not there."""
    found = task(**options)
    for row in found.pairs(AnyWord(), found.boxes + 3):
        objects, labels, asked = read(row.base)
        others, other_labels, letter = read(row.source)
        (span,) = row.source.spans["previous_query_label"]
        position = row.source.spans["all_labels"].index(span)
        assert (True, True, True, objects[labels.index(asked)]) == (
            objects != others,
            letter not in other_labels,
            position != labels.index(asked),
            row.target,
        )


def test_pairs_ask_what_the_rows_of_their_stream_ask() -> None:
    """Clean prompts of pairs are the plain rows of that stream, ids and all."""
    found = task(boxes=5)
    rows, pairs = found.rows(AnyWord(), 20, "x"), found.pairs(AnyWord(), 20, "x")
    assert [(r.id, r.cluster, r.base) for r in rows] == [(r.id, r.cluster, r.base) for r in pairs]


def test_rows_of_a_context_are_one_cluster_and_ask_for_each_box() -> None:
    """The query cycles over the boxes of a context; a new context is a new cluster."""
    found = task(boxes=3)
    rows = found.rows(AnyWord(), 7)
    assert [row.cluster for row in rows] == ["rows-0"] * 3 + ["rows-1"] * 3 + ["rows-2"]
    assert [read(r.base)[1].index(read(r.base)[2]) for r in rows] == [0, 1, 2, 0, 1, 2, 0]
    contexts = {tuple(map(tuple, read(r.base)[:2])): r.cluster for r in rows}
    assert list(contexts.values()) == ["rows-0", "rows-1", "rows-2"]


def test_every_other_row_is_a_cluster_of_its_own() -> None:
    """Desiderata and backgrounds draw a context for each row, and say so."""
    for name, rows in streams(task(boxes=4)).items():
        if name not in ("rows", "pairs"):
            assert len(rows) == len({row.cluster for row in rows})


def test_the_three_desiderata_of_one_stream_are_paired() -> None:
    """Row i of each variable is the same cluster, with an id of its own."""
    found = task(boxes=4)
    sets = [found.interchange(AnyWord(), v, 10, "judge") for v in found.variables]
    clusters = [[row.cluster for row in rows] for rows in sets]
    assert (clusters[0], clusters[0]) == (clusters[1], clusters[2])
    assert len({row.id for rows in sets for row in rows}) == 30


def test_ids_are_unique_within_a_set() -> None:
    """Equal ids are the same prompt, so that rows can be paired."""
    for rows in streams(task(boxes=4)).values():
        assert len(rows) == len({row.id for row in rows})


def digest(found: Task) -> str:
    data = {name: [asdict(row) for row in rows] for name, rows in streams(found).items()}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


OTHER_PROCESS = """
import sys
sys.path.insert(0, {folder!r})
from test_entity_tracking import digest, task
print(digest(task(boxes=4, seed=5, fillers=2)))
"""


def test_rows_are_the_same_in_every_process() -> None:
    """All row sets follow from the seed alone, not from Python's hash seed."""
    folder = str(__file__).rsplit("/", 1)[0]
    other = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS.format(folder=folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert digest(task(boxes=4, seed=5, fillers=2)) == other.stdout.strip()


def test_rows_have_not_changed_unnoticed() -> None:
    """A change of the generator is a change of every score: raise ``revision`` with it."""
    first = task(seed=0).rows(AnyWord(), 1)[0].base.text
    assert (
        EntityTracking.revision,
        ", ".join(first.split(", ")[:3]),
    ) == (1, "The board is in Box P, the mirror is in Box W, the bomb is in Box L")


def test_a_seed_a_stream_and_a_set_are_rows_of_their_own() -> None:
    """Discovery, thresholds and judgement draw from disjoint streams."""
    texts = []
    for seed in (0, 1):
        found = task(seed=seed)
        for stream in ("rows", "learn", "choose", "judge"):
            texts.append(found.rows(AnyWord(), 70, stream))
            texts.append(found.backgrounds(AnyWord(), 70, f"b{stream}"))
            texts.append(found.interchange(AnyWord(), "position", 70, stream))
    sets = [{row.base.text for row in rows} for rows in texts]
    assert sum(map(len, sets)) == len(set().union(*sets))


def test_a_longer_set_begins_with_the_shorter_one() -> None:
    """More rows are the same rows and others."""
    found = task()
    for make in (found.rows, found.pairs, found.backgrounds):
        assert list(make(AnyWord(), 10)) == list(make(AnyWord(), 25))[:10]


def test_backgrounds_say_nothing_about_their_question() -> None:
    """The asked letter is drawn from all letters, so contexts seldom hold it."""
    found = task(boxes=7)
    rows = found.backgrounds(AnyWord(), 300)
    known = sum(read(row.base)[2] in read(row.base)[1] for row in rows)
    asked = {read(row.base)[2] for row in rows}
    assert (known / 300 == pytest.approx(7 / 26, abs=0.1), len(asked) == 26) == (True, True)


@pytest.mark.parametrize("count", [14, 20])
def test_only_words_that_the_tokenizers_keep_whole_are_used(count: int) -> None:
    """Every object and label stands in the vocabulary of the run."""
    found = task(boxes=7)
    sets = [found.rows(Only(count), 50), found.interchange(Only(count), "object", 50, "judge")]
    for row in (row for rows in sets for row in rows):
        for prompt in filter(None, (row.base, row.source)):
            objects, labels, _ = read(prompt)
            assert set(objects) <= set(OBJECTS[:count])
            assert set(labels) <= set(LABELS[:count])


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (Only(13), {}, "keep 13 of 106 objects whole, 14 are needed for 7 boxes"),
        (Only(0), {"boxes": 2}, "keep 0 of 106 objects whole, 4 are needed for 2 boxes"),
    ],
)
def test_too_few_whole_words_are_an_error_that_says_what_to_do(
    vocabulary: Only, options: dict, message: str
) -> None:
    """A tokenizer that knows too few words is named with what is left and what is needed."""
    with pytest.raises(MechanismError) as problem:
        task(**options).rows(vocabulary, 1)
    assert str(problem.value) == (
        f"task entity_tracking: the tokenizers {message}; use fewer boxes or a tokenizer that "
        "knows the words"
    )


def test_word_lists_hold_every_word_once() -> None:
    """No object is twice as likely as another, and none is also a filler."""
    assert len(set(OBJECTS + LABELS + FILLERS)) == len(OBJECTS) + len(LABELS) + len(FILLERS)


@pytest.mark.parametrize("boxes", [2, 7, 13])
def test_chance_is_one_among_the_boxes(boxes: int) -> None:
    """Who guesses among a prompt's objects is right once in as many times as there are boxes."""
    found = task(boxes=boxes)
    assert (1 / boxes, boxes) == (found.chance, len(found.rows(AnyWord(), 1)[0].base.options))


def test_a_hint_about_where_the_answer_stands_is_widened_token_for_token() -> None:
    """First tokens to first tokens; a position that marks nothing stays what it is."""
    found = task()
    assert [
        found.without_oracle(at)
        for at in (
            "previous_query_label",
            "previous_query_label.first",
            "query_label.first",
            "last",
        )
    ] == ["all_labels", "all_labels.first", "query_label.first", "last"]
