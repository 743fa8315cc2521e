"""Entity tracking: the text, its named positions, and what each pair of prompts can show."""

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
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.boxes import VARIATIONS, Context
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS

CONTEXT = Context(("apple", "bell", "cup"), ("O", "L", "X"), ("", "now", ""))
TEMPLATE_VARIABLES = ("position", "object", "box_label", "next_position")
"""Variables whose prompts have the template's text."""

SEGMENT = re.compile(r"[Tt]he (\w+) is(?: (\w+))? in Box (\w)")


def task(**settings: int) -> EntityTracking:
    return EntityTracking(EntityTrackingParameters(family="entity_tracking", **settings))


@dataclass(frozen=True)
class FirstWords:
    """A vocabulary that keeps the first words of each list."""

    count: int

    def whole(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(words)[: self.count]


def read(prompt: Prompt) -> tuple[list[str], list[str], str]:
    """Objects, labels and queried label, read from the text alone."""
    context, query = prompt.text.rsplit(". Box ", 1)
    segments = [SEGMENT.fullmatch(segment) for segment in context.split(", ")]
    return [s[1] for s in segments], [s[3] for s in segments], query.removesuffix(" contains the")


def streams(tracking: Task) -> dict[str, list[Row]]:
    rows = {
        "rows": tracking.rows(AnyWord(), 30),
        "pairs": tracking.pairs(AnyWord(), 30),
        "backgrounds": tracking.backgrounds(AnyWord(), 30),
    }
    for variable in tracking.variables:
        rows[variable] = tracking.interchange(AnyWord(), variable, 30, "judge")
    return {name: list(stream) for name, stream in rows.items()}


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
def test_named_positions_are_where_their_words_are(
    position: int, label: str | None, places: dict
) -> None:
    """A span holds its word with the space before it; another letter may replace the queried
    label."""
    prompt = CONTEXT.ask(position, label)
    assert places == {
        name: tuple(prompt.text[a:b] for a, b in spans) for name, spans in prompt.spans.items()
    }


def test_query_label_and_last_are_in_the_question() -> None:
    """``query_label`` is the second occurrence of the label; the answer follows the last word."""
    prompt = CONTEXT.ask(0)
    (query,), (last,) = prompt.spans["query_label"], prompt.spans["last"]
    assert (prompt.text.rindex(" O"), len(prompt.text)) == (query[0], last[1])


def test_anchors_precede_each_object_each_box_and_the_question() -> None:
    """Slots count from the same places of the template for any fillers."""
    prompt = CONTEXT.ask(0)
    parts = [prompt.text[at:][:6] for _, at in prompt.anchors]
    assert ([name for name, _ in prompt.anchors], parts) == (
        ["object_0", "box_0", "object_1", "box_1", "object_2", "box_2", "query"],
        ["The ap", " in Bo", ", the ", " in Bo", ", the ", " in Bo", ". Box "],
    )


def test_every_declared_position_is_in_every_prompt() -> None:
    """Every prompt of every set has every position that a spec may name, sources included."""
    tracking = task(boxes=4)
    for rows in streams(tracking).values():
        for row in rows:
            for prompt in filter(None, (row.base, row.source)):
                assert sorted(tracking.positions) == sorted(prompt.spans)


def test_oracles_are_positions_that_mark_the_answer() -> None:
    """Each oracle position is one of the spans of the wider position."""
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
    """The answer follows from the text alone; objects and labels of a row are distinct."""
    tracking = task(**options)
    for row in tracking.rows(AnyWord(), 2 * tracking.settings.boxes):
        objects, labels, queried = read(row.base)
        assert (tracking.settings.boxes, tracking.settings.boxes) == (
            len(set(objects)),
            len(set(labels)),
        )
        right = objects[labels.index(queried)]
        assert (right, right, tuple(objects), None) == (
            row.base.answer,
            row.target,
            row.base.options,
            row.source,
        )


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_as_many_segments_have_a_filler_as_the_settings_say(options: dict) -> None:
    """A segment has at most one, and it is a word of the list."""
    tracking = task(**options)
    prompt = tracking.rows(AnyWord(), 1)[0].base
    context = prompt.text.rsplit(". Box ", 1)[0]
    words = [SEGMENT.fullmatch(segment)[2] for segment in context.split(", ")]
    assert (min(options["fillers"], options["boxes"]), True) == (
        sum(word is not None for word in words),
        set(words) <= {None, *FILLERS},
    )


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_moving_each_variable_gives_another_answer(options: dict) -> None:
    """No patch, position, object and label lead to different words. This is what tells the
    variables apart; the published code left the base's position at 0, so that base and source
    agreed in one pair of seven."""
    tracking = task(**options)
    for variable in TEMPLATE_VARIABLES:
        for row in tracking.interchange(AnyWord(), variable, 20, "judge"):
            objects, labels, queried = read(row.base)
            others, other_labels, other_queried = read(row.source)
            position = other_labels.index(other_queried)
            outcomes = {
                "nothing": objects[labels.index(queried)],
                "position": objects[position],
                "object": others[position],
            }
            if variable == "next_position":
                outcomes["next_position"] = objects[(position + 1) % len(objects)]
            if variable == "box_label":
                outcomes["box_label"] = objects[labels.index(other_queried)]
            assert len(set(outcomes.values())) == len(outcomes)
            assert row.target == outcomes[variable]


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_base_and_source_contexts_share_no_object(options: dict) -> None:
    """Nor a label, except the one that is moved: an answer shows where it came from."""
    tracking = task(**options)
    for variable in TEMPLATE_VARIABLES:
        for row in tracking.interchange(AnyWord(), variable, 20, "judge"):
            objects, labels, _ = read(row.base)
            others, other_labels, other_asked = read(row.source)
            shared = {other_asked} if variable == "box_label" else set()
            assert (set(), shared) == (
                set(objects) & set(others),
                set(labels) & set(other_labels),
            )


def test_the_base_may_query_any_position() -> None:
    """The published code queried the first box of every base."""
    tracking = task(boxes=7)
    for variable in tracking.variables:
        rows = tracking.interchange(AnyWord(), variable, 200, "judge")
        positions = [read(row.base)[1].index(read(row.base)[2]) for row in rows]
        assert set(range(7)) == set(positions)


def test_a_box_label_target_is_a_word_of_the_base() -> None:
    """The published targets lacked their space, so that no model could be correct; these are
    options."""
    tracking = task(boxes=7)
    rows = tracking.interchange(AnyWord(), "box_label", 100, "judge")
    assert {True} == {row.target in row.base.options and row.target in OBJECTS for row in rows}


@pytest.mark.parametrize("variable", ["box_label", "next_position"])
def test_two_boxes_leave_no_third_place(variable: str) -> None:
    """A label cannot be moved to a third box, nor is there a position after the source's; the other
    variables work."""
    tracking = task(boxes=2)
    with pytest.raises(MechanismError, match=f"'{variable}' needs at least 3 boxes"):
        tracking.interchange(AnyWord(), variable, 1, "judge")
    others = set(tracking.variables) - {"box_label", "next_position"}
    assert {len(tracking.interchange(AnyWord(), v, 1, "judge")) for v in others} == {1}


def test_an_unknown_variable_is_refused_with_the_valid_ones() -> None:
    """The error lists the valid variables."""
    with pytest.raises(MechanismError) as problem:
        task().interchange(AnyWord(), "colour", 1, "judge")
    assert str(problem.value) == (
        "task entity_tracking: no variable 'colour'; valid: box_label, next_position, object, position, "
        "position_box_first, position_boxes_before, position_contained_in, position_more_commas, "
        "position_no_commas, position_not_in, position_segment_first, position_segment_last, "
        "position_text_first, position_text_last"
    )


# -- the paper's further desiderata


TEXTS = {
    "position_text_first": "There are a bunch of boxes containing objects, the apple is in Box O, the bell is "
    "now in Box L, the cup is in Box X",
    "position_text_last": "The apple is in Box O, the bell is now in Box L, the cup is in Box X, these are a "
    "bunch of boxes containing objects",
    "position_contained_in": "The apple is in Box O, the bell is now contained in the Box L, the cup is in Box X",
    "position_segment_first": "The {object} is in Box {label}, the apple is in Box O, the bell is now in Box L, "
    "the cup is in Box X",
    "position_segment_last": "The apple is in Box O, the bell is now in Box L, the cup is in Box X, the "
    "{object} is in Box {label}",
    "position_boxes_before": "The apple is in Box O, there are three additional boxes, Box PP, Box BB and Box "
    "AA, the bell is now in Box L, the cup is in Box X",
    "next_position": "The apple is in Box O, the bell is now in Box L, the cup is in Box X",
    "position_box_first": "The apple is in Box O, Box L contains now the bell, the cup is in Box X",
    "position_not_in": "The apple is in Box O, the bell is now not in Box L, the cup is in Box X",
    "position_no_commas": "The apple is in Box O the bell is now in Box L the cup is in Box X",
    "position_more_commas": "The apple, is in Box O, the bell, is now in Box L, the cup, is in Box X",
}


@pytest.mark.parametrize("variable", VARIATIONS)
def test_each_variation_is_worded_as_published(variable: str) -> None:
    """The whole text, and the words at the queried segment's positions."""
    prompt = CONTEXT.ask(1, wording=VARIATIONS[variable])
    assert prompt.text == f"{TEXTS[variable]}. Box L contains the"
    assert {
        name: [prompt.text[a:b].strip() for a, b in spans] for name, spans in prompt.spans.items()
    } == {
        "all_labels": ["O", "L", "X"],
        "all_objects": ["apple", "bell", "cup"],
        "correct_object": ["bell"],
        "previous_query_label": ["L"],
        "query_label": ["L"],
        "last": ["the"],
    }
    (label,) = prompt.spans["previous_query_label"]
    assert label[0] < prompt.text.rindex(" L")


@pytest.mark.parametrize(
    ("variable", "beginning"),
    [
        (
            "position_boxes_before",
            "There are three additional boxes, Box PP, Box BB and Box AA, the apple",
        ),
        ("position_box_first", "Box O contains the apple, the bell"),
    ],
)
def test_the_first_segment_may_be_the_queried_one(variable: str, beginning: str) -> None:
    """The text begins with a capital letter and without a comma."""
    assert CONTEXT.ask(0, wording=VARIATIONS[variable]).text.startswith(beginning)


@pytest.mark.parametrize("variable", [v for v in VARIATIONS if v != "next_position"])
def test_variations_have_the_pairs_of_position(variable: str) -> None:
    """Base, target and the source's own answer are those of ``position``; only the source's text differs."""
    tracking = task(boxes=5)
    plain, varied = (
        tracking.interchange(AnyWord(), v, 20, "judge") for v in ("position", variable)
    )
    assert [(r.base, r.target, r.source.answer, r.cluster) for r in plain] == [
        (r.base, r.target, r.source.answer, r.cluster) for r in varied
    ]
    assert all(a.source.text != b.source.text for a, b in zip(plain, varied, strict=True))


@pytest.mark.parametrize("variable", ["position_segment_first", "position_segment_last"])
def test_the_words_of_an_added_segment_are_in_no_context(variable: str) -> None:
    """The published "The apple is in Box O" could name a box of the context twice."""
    for row in task(boxes=7).interchange(AnyWord(), variable, 100, "judge"):
        words = re.findall(r"\w+", row.source.text.split(". ")[0])
        named = [word for word in words if word in (*OBJECTS, *LABELS)]
        assert len(named) == len(set(named)) == 16
        assert not set(named) & {*re.findall(r"\w+", row.base.text)}


def test_an_added_segment_needs_words_of_its_own() -> None:
    """A tokenizer that knows no further object is an error in one line."""
    with pytest.raises(MechanismError, match="one more segment needs an object and a label"):
        task(boxes=3).interchange(FirstWords(6), "position_segment_last", 1, "judge")


def test_the_next_position_is_never_the_queried_one() -> None:
    """So no patch does not give the target; the position after the last is the first."""
    rows = task(boxes=3).interchange(AnyWord(), "next_position", 200, "judge")
    assert {row.target == row.base.answer for row in rows} == {False}
    places = set()
    for row in rows:
        _, labels, queried = read(row.source)
        objects, _, _ = read(row.base)
        places.add((labels.index(queried), objects.index(row.target)))
    assert places == {(0, 1), (1, 2), (2, 0)}


@settings(max_examples=25, deadline=None)
@given(SETTINGS)
def test_a_corrupted_prompt_is_another_context_and_an_unknown_letter(options: dict) -> None:
    """A pair's source differs in context and position, and asks for a box that is not there."""
    tracking = task(**options)
    for row in tracking.pairs(AnyWord(), tracking.settings.boxes + 3):
        objects, labels, queried = read(row.base)
        others, other_labels, letter = read(row.source)
        (span,) = row.source.spans["previous_query_label"]
        position = row.source.spans["all_labels"].index(span)
        assert (True, True, True, objects[labels.index(queried)]) == (
            objects != others,
            letter not in other_labels,
            position != labels.index(queried),
            row.target,
        )


def test_pairs_ask_what_the_rows_of_their_stream_ask() -> None:
    """The clean prompts of pairs are the plain rows of that stream, with their ids."""
    tracking = task(boxes=5)
    rows, pairs = tracking.rows(AnyWord(), 20, "x"), tracking.pairs(AnyWord(), 20, "x")
    assert [(r.id, r.cluster, r.base) for r in rows] == [(r.id, r.cluster, r.base) for r in pairs]


def test_rows_of_a_context_are_one_cluster_and_ask_for_each_box() -> None:
    """The query cycles through the boxes of a context; a new context is a new cluster."""
    tracking = task(boxes=3)
    rows = tracking.rows(AnyWord(), 7)
    assert [row.cluster for row in rows] == ["rows-0"] * 3 + ["rows-1"] * 3 + ["rows-2"]
    assert [read(r.base)[1].index(read(r.base)[2]) for r in rows] == [0, 1, 2, 0, 1, 2, 0]
    contexts = {tuple(map(tuple, read(r.base)[:2])): r.cluster for r in rows}
    assert list(contexts.values()) == ["rows-0", "rows-1", "rows-2"]


def test_rows_of_other_sets_are_clusters_of_their_own() -> None:
    """Interchange rows and backgrounds have a context each."""
    for name, rows in streams(task(boxes=4)).items():
        if name not in ("rows", "pairs"):
            assert len(rows) == len({row.cluster for row in rows})


def test_the_desiderata_of_one_stream_are_paired() -> None:
    """Row i of every variable has the same cluster, and an id of its own."""
    tracking = task(boxes=4)
    sets = [tracking.interchange(AnyWord(), v, 10, "judge") for v in tracking.variables]
    clusters = [[row.cluster for row in rows] for rows in sets]
    assert all(clusters[0] == others for others in clusters)
    assert len({row.id for rows in sets for row in rows}) == 10 * len(tracking.variables)


def test_ids_are_unique_within_a_set() -> None:
    """Equal ids are the same prompt, so that rows can be paired."""
    for rows in streams(task(boxes=4)).values():
        assert len(rows) == len({row.id for row in rows})


def digest(tracking: Task) -> str:
    data = {name: [asdict(row) for row in rows] for name, rows in streams(tracking).items()}
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
    """A change of the generator changes every score: raise ``revision`` with it."""
    first = task(seed=0).rows(AnyWord(), 1)[0].base.text
    assert (
        EntityTracking.revision,
        ", ".join(first.split(", ")[:3]),
    ) == (1, "The board is in Box P, the mirror is in Box W, the bomb is in Box L")


def test_seeds_streams_and_sets_have_different_rows() -> None:
    """Discovery, thresholds and evaluation draw from disjoint streams."""
    texts = []
    for seed in (0, 1):
        tracking = task(seed=seed)
        for stream in ("rows", "learn", "choose", "judge"):
            texts.append(tracking.rows(AnyWord(), 70, stream))
            texts.append(tracking.backgrounds(AnyWord(), 70, f"b{stream}"))
            texts.append(tracking.interchange(AnyWord(), "position", 70, stream))
    sets = [{row.base.text for row in rows} for rows in texts]
    assert sum(map(len, sets)) == len(set().union(*sets))


def test_a_longer_set_begins_with_the_shorter_one() -> None:
    """More rows are the same rows and further ones."""
    tracking = task()
    for make in (tracking.rows, tracking.pairs, tracking.backgrounds):
        assert list(make(AnyWord(), 10)) == list(make(AnyWord(), 25))[:10]


def test_backgrounds_do_not_answer_their_question() -> None:
    """The queried letter is drawn from all letters, so that contexts seldom have it."""
    tracking = task(boxes=7)
    rows = tracking.backgrounds(AnyWord(), 300)
    known = sum(read(row.base)[2] in read(row.base)[1] for row in rows)
    letters = {read(row.base)[2] for row in rows}
    assert (known / 300 == pytest.approx(7 / 26, abs=0.1), len(letters) == 26) == (True, True)


@pytest.mark.parametrize("count", [14, 20])
def test_only_words_that_the_tokenizers_keep_whole_are_used(count: int) -> None:
    """Every object and label is in the vocabulary of the run."""
    tracking = task(boxes=7)
    sets = [
        tracking.rows(FirstWords(count), 50),
        tracking.interchange(FirstWords(count), "object", 50, "judge"),
    ]
    for row in (row for rows in sets for row in rows):
        for prompt in filter(None, (row.base, row.source)):
            objects, labels, _ = read(prompt)
            assert set(objects) <= set(OBJECTS[:count])
            assert set(labels) <= set(LABELS[:count])


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (FirstWords(13), {}, "keep 13 of 106 objects whole, 14 are needed for 7 boxes"),
        (FirstWords(0), {"boxes": 2}, "keep 0 of 106 objects whole, 4 are needed for 2 boxes"),
    ],
)
def test_too_few_whole_words_are_an_error_that_says_what_to_do(
    vocabulary: FirstWords, options: dict, message: str
) -> None:
    """The error says how many words the tokenizers keep and how many are needed."""
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
    """A guess among a prompt's objects is correct once in as many times as there are boxes."""
    tracking = task(boxes=boxes)
    assert (1 / boxes, boxes) == (tracking.chance, len(tracking.rows(AnyWord(), 1)[0].base.options))


def test_an_oracle_position_is_widened_token_for_token() -> None:
    """First tokens to first tokens; a position that marks nothing stays as it is."""
    tracking = task()
    assert [
        tracking.without_oracle(at)
        for at in (
            "previous_query_label",
            "previous_query_label.first",
            "query_label.first",
            "last",
        )
    ] == ["all_labels", "all_labels.first", "query_label.first", "last"]
