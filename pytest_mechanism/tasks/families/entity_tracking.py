"""Entity tracking: which object is in the queried box?

    The apple is in Box O, the bell is in Box L, ... . Box L contains the -> bell

Source: Prakash et al., ICLR 2024 (arXiv 2402.14811), section 2 and appendix; desiderata from
Davies et al. 2023 (arXiv 2307.03637). Two defects of the published code are corrected. The targets
of box labels are the words that follow in the text (published: tokenised without the space, so that
no model could be correct). Base and source always differ in the queried position (published: the
base's position was always 0, so that one pair in seven agreed). `tasks.writing.boxes` writes the
texts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, Literal

from pydantic import Field

from pytest_mechanism.tasks.base import (
    Prompt,
    Row,
    RowCount,
    Rows,
    Task,
    TaskParameters,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.boxes import TEMPLATE, VARIATIONS, Context, with_spare
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS

LEAST_FOR_THIRD_PLACE = 3
"""Boxes without which no place is neither the base's queried one nor the source's."""


class EntityTrackingParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        boxes: how many boxes a context has.
        rows: how many questions; the questions about a context ask for each box in turn.
        seed: of every row set.
        fillers: how many random segments of a context have one more word ("is now in Box O"), so
            that the place of a segment does not follow from its distance to the start. 0 is the
            paper's template.
    """

    family: Literal["entity_tracking"]
    boxes: int = Field(default=7, ge=2, le=13)
    rows: RowCount = 500
    fillers: int = Field(default=0, ge=0, le=13)


@dataclass(frozen=True)
class Words:
    """The words that every tokenizer keeps whole."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    fillers: tuple[str, ...]


class EntityTracking(Task[EntityTrackingParameters]):
    """Rows of the entity-tracking task; see the module for template and source."""

    family = "entity_tracking"
    parameters = EntityTrackingParameters
    default_groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # Prakash et al. 2024, section 3
        "value_fetcher": {"at": "last"},
        "pos_transmitter": {"at": "last", "into": {"group": "value_fetcher", "via": "q"}},
        "pos_detector": {"at": "query_label", "into": {"group": "pos_transmitter", "via": "v"}},
        "struct_reader": {
            "at": "previous_query_label",
            "into": {"group": "pos_detector", "via": "v"},
        },
    }
    positions = (
        "last",
        "query_label",
        "previous_query_label",
        "all_labels",
        "correct_object",
        "all_objects",
    )
    variables = ("position", "object", "box_label", *VARIATIONS)
    oracles: ClassVar[Mapping[str, str]] = {
        "previous_query_label": "all_labels",
        "correct_object": "all_objects",
    }

    @property
    def chance(self) -> float:
        return 1 / self.settings.boxes

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """Fewer boxes, in segments that all have the same words."""
        fewer = [{"boxes": n, "fillers": 0} for n in (5, 3, 2) if n < self.settings.boxes]
        return fewer or ([{"fillers": 0}] if self.settings.fillers else [])

    def cells(self, prompt: Prompt) -> Mapping[str, Sequence[str]]:
        """The object, the queried label, the place of its segment, and the pairs of the queried label with each
        other label of the context: a model that reads both alike is wrong only where both stand."""
        label, segments = self._spelled(prompt, "query_label")[0], prompt.spans["all_labels"]
        others = [other for other in self._spelled(prompt, "all_labels") if other != label]
        place = segments.index(prompt.spans["previous_query_label"][0])
        return {
            "object": (prompt.answer,),
            "label": (label,),
            "place": (str(place),),
            "pair of labels": [" and ".join(sorted((label, other))) for other in others],
        }

    def all_cells(self, vocabulary: Vocabulary) -> Mapping[str, Sequence[str]]:
        """Every object, label, place and pair of labels that contexts are drawn from."""
        words = self.words(vocabulary)
        return {
            "object": words.objects,
            "label": words.labels,
            "place": [str(place) for place in range(self.settings.boxes)],
            "pair of labels": [
                " and ".join(pair) for pair in combinations(sorted(words.labels), 2)
            ],
        }

    def cell_name(self, kind: str, name: str) -> str:
        if kind == "place":
            return f"place {name} (box {int(name) + 1} of {self.settings.boxes} in the prompt)"
        return f"labels {name}" if kind == "pair of labels" else f"{kind} {name}"

    @staticmethod
    def _spelled(prompt: Prompt, position: str) -> list[str]:
        """The words at a named position."""
        return [prompt.text[start:stop].strip() for start, stop in prompt.spans[position]]

    def words(self, vocabulary: Vocabulary) -> Words:
        """The words to draw from.

        Raises:
            TaskError: there are fewer than two contexts without a common word need.
        """
        fillers = self.settings.fillers
        words = Words(
            vocabulary.whole(OBJECTS),
            vocabulary.whole(LABELS),
            vocabulary.whole(FILLERS) if fillers else (),
        )
        for kind, whole, every, need in (
            ("objects", words.objects, OBJECTS, 2 * self.settings.boxes),
            ("labels", words.labels, LABELS, 2 * self.settings.boxes),
            ("fillers", words.fillers, FILLERS, min(fillers, 1)),
        ):
            if len(whole) < need:
                raise self.error(
                    f"the tokenizers keep {len(whole)} of {len(every)} {kind} whole, {need} are "
                    f"needed for {self.settings.boxes} boxes; use fewer boxes or a tokenizer that knows the "
                    "words"
                )
        return words

    def context(self, rng: random.Random, words: Words, without: Context | None = None) -> Context:
        """A new context; shares no object and no label with ``without``."""
        used = set(without.objects + without.labels) if without else set()
        filled = set(
            rng.sample(range(self.settings.boxes), min(self.settings.fillers, self.settings.boxes))
        )
        return Context(
            objects=tuple(
                rng.sample([x for x in words.objects if x not in used], self.settings.boxes)
            ),
            labels=tuple(
                rng.sample([x for x in words.labels if x not in used], self.settings.boxes)
            ),
            fillers=tuple(
                rng.choice(words.fillers) if i in filled else "" for i in range(self.settings.boxes)
            ),
        )

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """Questions in groups that share a context while the query cycles through the boxes."""
        rng, words = self.stream(stream), self.words(vocabulary)
        rows: list[Row] = []
        context = self.context(rng, words)
        for i in range(count):
            if i and i % self.settings.boxes == 0:
                context = self.context(rng, words)
            prompt = context.ask(i % self.settings.boxes)
            cluster = f"{stream}-{i // self.settings.boxes}"
            rows.append(Row(f"{stream}-{i}", cluster, prompt, None, prompt.answer))
        return rows

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Clean rows with a corrupted source (paper, section 3.1).

        The source is another context, asked at another position, with its query label replaced by
        a letter that the context does not have; its ``previous_query_label`` is the label of the
        position that was asked before the replacement.
        """
        # not the stream of the rows: it would begin with the first row's own context
        rng, words = self.stream(f"source/{stream}"), self.words(vocabulary)
        rows: list[Row] = []
        for i, row in enumerate(self.rows(vocabulary, count, stream)):
            other = self.context(rng, words)
            position = self.another(rng, i % self.settings.boxes)
            letter = rng.choice([x for x in words.labels if x not in other.labels])
            rows.append(replace(row, source=other.ask(position, letter)))
        return rows

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Pairs whose target tells which variable a patch moved (Davies et al., section 3).

        ==========  =========================================  ==============================
        variable    source                                     target
        ==========  =========================================  ==============================
        position    no word in common, another queried         the base object at the
                    position p                                 source's position p
        object      the same pairs                             the source object
        box_label   no object in common; its query label is    the base object in the box of
                    another label of the base, which has       that label
                    another position than p there
        ==========  =========================================  ==============================

        The paper's further desiderata (`tasks.writing.boxes.VARIATIONS`; published for the group
        pos_transmitter) have the pairs and the target of ``position``, with another wording of the
        source prompt. The position p counts the segments of the source's own context; segments and
        boxes that the wording adds do not count.

        ======================  ============================================================
        variable                the source prompt
        ======================  ============================================================
        position_text_first     "There are a bunch of boxes containing objects, the ..."
        position_text_last      "..., these are a bunch of boxes containing objects. Box ..."
        position_contained_in   queried segment: "is contained in the Box O"
        position_segment_first  one more segment in front
        position_segment_last   one more segment behind
        position_boxes_before   "there are three additional boxes, Box PP, Box BB and Box AA"
                                before the queried segment
        next_position           as for position; the target is the base object at p + 1 (after
                                the last, the first): a negative control
        position_box_first      queried segment: "Box O contains the apple"
        position_not_in         queried segment: "is not in Box O"
        position_no_commas      no commas between segments
        position_more_commas    a comma behind each object
        ======================  ============================================================

        Other than published: object and label of the added segment occur in neither context (published:
        always "apple" and "O", so that Box O was named twice where a context had it); the position after
        p is never the queried one, so that no patch does not give the target of next_position; with
        "Box O contains the apple" at the start, the text does not begin with a comma.
        """
        self.check_variable(variable)
        boxes = self.settings.boxes
        if variable in ("box_label", "next_position") and boxes < LEAST_FOR_THIRD_PLACE:
            raise self.error(f"variable {variable!r} needs at least {LEAST_FOR_THIRD_PLACE} boxes")
        rng, words = self.stream(f"interchange/{stream}"), self.words(vocabulary)
        spare = self.stream(f"interchange/{stream}/spare")
        rows: list[Row] = []
        for i in range(count):
            base = self.context(rng, words)
            queried = rng.randrange(boxes)
            position = self.another(rng, queried)
            source = self.context(rng, words, without=base)
            target = base.objects[position]
            if variable == "object":
                target = source.objects[position]
            elif variable == "box_label":
                # the moved label's position in the base is neither the queried one nor the
                # source's, so that moving the position or nothing gives another answer
                place = rng.choice([k for k in range(boxes) if k not in (queried, position)])
                labels = list(source.labels)
                labels[position] = base.labels[place]
                source = replace(source, labels=tuple(labels))
                target = base.objects[place]
            elif variable == "next_position":
                if (position + 1) % boxes == queried:
                    places = [k for k in range(boxes) if k not in (queried, (queried - 1) % boxes)]
                    position = spare.choice(places)
                target = base.objects[(position + 1) % boxes]
            wording = VARIATIONS.get(variable, TEMPLATE)
            if wording.adds_segment:
                wording = with_spare(wording, *self.spare_words(spare, words, base, source))
            name = f"{stream}-{variable}-{i}"
            asked = source.ask(position, wording=wording)
            rows.append(Row(name, f"{stream}-{i}", base.ask(queried), asked, target))
        return rows

    def spare_words(self, rng: random.Random, words: Words, *contexts: Context) -> tuple[str, str]:
        """An object and a label that occur in none of these contexts.

        Raises:
            TaskError: there is no other.
        """
        used = {word for context in contexts for word in context.objects + context.labels}
        objects = [word for word in words.objects if word not in used]
        labels = [word for word in words.labels if word not in used]
        if not objects or not labels:
            raise self.error(
                "one more segment needs an object and a label that neither context has; use fewer boxes"
            )
        return rng.choice(objects), rng.choice(labels)

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """One question for each context, its query label a random letter (paper, appendix)."""
        rng, words = self.stream(stream), self.words(vocabulary)
        rows: list[Row] = []
        for i in range(count):
            context = self.context(rng, words)
            prompt = context.ask(rng.randrange(self.settings.boxes), rng.choice(words.labels))
            rows.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return rows

    def positional_mean_slots(self, prompt: Prompt) -> set[str]:
        """A segment with a filler has one token more than a segment without."""
        starts = dict(prompt.anchors)
        filled = {
            f"object_{i} with a filler"
            for i in range(self.settings.boxes)
            if not prompt.text[starts[f"object_{i}"] : starts[f"box_{i}"]].endswith(" is")
        }
        return super().positional_mean_slots(prompt) | filled

    def another(self, rng: random.Random, position: int) -> int:
        """A queried position other than ``position``."""
        return rng.choice([k for k in range(self.settings.boxes) if k != position])
