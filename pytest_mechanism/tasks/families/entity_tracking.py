"""Entity tracking: which object is in the queried box?

    The apple is in Box O, the bell is in Box L, ... . Box L contains the -> bell

Source: Prakash et al., ICLR 2024 (arXiv 2402.14811), section 2 and appendix; desiderata from
Davies et al. 2023 (arXiv 2307.03637). Two defects of the published code are corrected: box-label
targets are the word as it follows in the text (published: tokenised without its space, so no
model could be right), and base and source always differ in the queried position (published: the
base's position was always 0, so one pair in seven agreed).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.base import Prompt, Row, Span, Task, TaskParameters, Vocabulary
from pytest_mechanism.tasks.writing.words import FILLERS, LABELS, OBJECTS


class EntityTrackingParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        boxes: how many boxes a context has.
        rows: how many questions are asked; a context is asked about each box in turn.
        seed: of every row set.
        fillers: in how many segments of a context, drawn anew for each, one more word stands
            ("is now in Box O"), so that the order of a segment does not follow from its distance
            to the start. 0 is the paper's template.
    """

    family: Literal["entity_tracking"]
    boxes: int = Field(default=7, ge=2, le=13)
    rows: int = Field(default=500, ge=20, le=100_000)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    fillers: int = Field(default=0, ge=0, le=13)


@dataclass(frozen=True)
class Context:
    """Which object lies in which box, in the order of the text."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    fillers: tuple[str, ...]

    def ask(self, position: int, label: str | None = None) -> Prompt:
        """The question for the box at ``position``, or the same text with another ``label``."""
        spans: dict[str, list[Span]] = {"all_labels": [], "all_objects": []}
        anchors: list[tuple[str, int]] = []
        text = ""

        def write(word: str) -> Span:
            nonlocal text
            text += word
            return len(text) - len(word), len(text)

        for i, (item, box, filler) in enumerate(
            zip(self.objects, self.labels, self.fillers, strict=True)
        ):
            # the space belongs to the word after it, as in most tokenizers
            anchors.append((f"object_{i}", len(text)))
            write("The" if i == 0 else ", the")
            object_span = write(f" {item}")
            write(" is" + (f" {filler}" if filler else ""))
            anchors.append((f"box_{i}", len(text)))
            write(" in Box")
            label_span = write(f" {box}")
            spans["all_objects"].append(object_span)
            spans["all_labels"].append(label_span)
            if i == position:
                spans["correct_object"] = [object_span]
                spans["previous_query_label"] = [label_span]
        anchors.append(("query", len(text)))
        write(". Box")
        spans["query_label"] = [write(f" {self.labels[position] if label is None else label}")]
        write(" contains")
        spans["last"] = [write(" the")]
        return Prompt(
            text=text,
            spans={name: tuple(s) for name, s in spans.items()},
            answer=self.objects[position],
            options=self.objects,
            anchors=tuple(anchors),
        )


@dataclass(frozen=True)
class Bag:
    """The words that a set of rows may draw from."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    fillers: tuple[str, ...]


class EntityTracking(Task):
    """Rows of the entity-tracking task. See the module for template and source."""

    family = "entity_tracking"
    parameters = EntityTrackingParameters
    chain: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # Prakash et al. 2024, section 3
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
    variables = ("position", "object", "box_label")
    oracles: ClassVar[Mapping[str, str]] = {
        "previous_query_label": "all_labels",
        "correct_object": "all_objects",
    }

    @property
    def boxes(self) -> int:
        return cast("EntityTrackingParameters", self.settings).boxes

    @property
    def chance(self) -> float:
        return 1 / self.boxes

    def words(self, vocabulary: Vocabulary) -> Bag:
        """What the tokenizers keep whole.

        Raises:
            MechanismError: fewer words are left than two contexts without a common word need.
        """
        bag = Bag(
            vocabulary.whole(OBJECTS),
            vocabulary.whole(LABELS),
            vocabulary.whole(FILLERS) if self.settings.fillers else (),
        )
        need = 2 * self.boxes
        for kind, left, of, least in (
            ("objects", bag.objects, OBJECTS, need),
            ("labels", bag.labels, LABELS, need),
            ("fillers", bag.fillers, FILLERS, min(self.settings.fillers, 1)),
        ):
            if len(left) < least:
                raise MechanismError(
                    f"task entity_tracking: the tokenizers keep {len(left)} of {len(of)} {kind} "
                    f"whole, {least} are needed for {self.boxes} boxes; use fewer boxes or a "
                    "tokenizer that knows the words"
                )
        return bag

    def context(self, rng: random.Random, bag: Bag, without: Context | None = None) -> Context:
        """A new context; shares no object and no label with ``without``."""
        gone = set(without.objects + without.labels) if without else set()
        with_filler = set(rng.sample(range(self.boxes), min(self.settings.fillers, self.boxes)))
        return Context(
            objects=tuple(rng.sample([o for o in bag.objects if o not in gone], self.boxes)),
            labels=tuple(rng.sample([x for x in bag.labels if x not in gone], self.boxes)),
            fillers=tuple(
                rng.choice(bag.fillers) if i in with_filler else "" for i in range(self.boxes)
            ),
        )

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        """Questions in groups that share a context while the query cycles over the boxes."""
        rng, bag = self.stream(stream), self.words(vocabulary)
        found: list[Row] = []
        context = self.context(rng, bag)
        for i in range(count):
            if i and i % self.boxes == 0:
                context = self.context(rng, bag)
            prompt = context.ask(i % self.boxes)
            found.append(
                Row(f"{stream}-{i}", f"{stream}-{i // self.boxes}", prompt, None, prompt.answer)
            )
        return found

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Sequence[Row]:
        """Clean rows beside a corrupted source (paper, section 3.1).

        The source is another context, asked at another position, with its query label replaced
        by a letter that stands nowhere in it; its ``previous_query_label`` is the label of the
        position that was asked before the replacement.
        """
        # not the stream of the rows: it would begin with the first row's own context
        rng, bag = self.stream(f"source/{stream}"), self.words(vocabulary)
        found: list[Row] = []
        for i, row in enumerate(self.rows(vocabulary, count, stream)):
            other = self.context(rng, bag)
            position = self.another(rng, i % self.boxes)
            letter = rng.choice([x for x in bag.labels if x not in other.labels])
            found.append(
                Row(row.id, row.cluster, row.base, other.ask(position, letter), row.target)
            )
        return found

    def interchange(
        self, vocabulary: Vocabulary, variable: str, count: int, stream: str
    ) -> Sequence[Row]:
        """Pairs whose target tells which variable a patch moved (Davies et al., section 3).

        ==========  =========================================  ==============================
        variable    source                                     target
        ==========  =========================================  ==============================
        position    no word in common, another queried         the base object at the
                    position p                                 source's position p
        object      the same pairs                             the source object
        box_label   no object in common; its query label is    the base object in the box of
                    another label of the base, which stands    that label
                    there at another position than p
        ==========  =========================================  ==============================
        """
        if variable not in self.variables:
            raise MechanismError(f"no variable {variable!r}; valid: {', '.join(self.variables)}")
        rng, bag = self.stream(f"interchange/{stream}"), self.words(vocabulary)
        found: list[Row] = []
        for i in range(count):
            base = self.context(rng, bag)
            queried = rng.randrange(self.boxes)
            position = self.another(rng, queried)
            source = self.context(rng, bag, without=base)
            if variable == "box_label":
                # the moved label stands in the base neither at the queried position nor at the
                # source's, so that moving position or nothing gives another answer
                places = [k for k in range(self.boxes) if k not in (queried, position)]
                if not places:
                    raise MechanismError("variable 'box_label' needs at least 3 boxes")
                place = rng.choice(places)
                labels = list(source.labels)
                labels[position] = base.labels[place]
                source = Context(source.objects, tuple(labels), source.fillers)
                target = base.objects[place]
            else:
                target = (
                    base.objects[position] if variable == "position" else source.objects[position]
                )
            found.append(
                Row(
                    f"{stream}-{variable}-{i}",
                    f"{stream}-{i}",
                    base.ask(queried),
                    source.ask(position),
                    target,
                )
            )
        return found

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        """One question a context, its query label a random letter (paper, appendix)."""
        rng, bag = self.stream(stream), self.words(vocabulary)
        found: list[Row] = []
        for i in range(count):
            prompt = self.context(rng, bag).ask(rng.randrange(self.boxes), rng.choice(bag.labels))
            found.append(Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer))
        return found

    def slots(self, prompt: Prompt) -> set[str]:
        """A segment with a filler has one token more, which those without have not."""
        at = dict(prompt.anchors)
        filled = {
            f"object_{i} with a filler"
            for i in range(self.boxes)
            if not prompt.text[at[f"object_{i}"] : at[f"box_{i}"]].endswith(" is")
        }
        return super().slots(prompt) | filled

    def another(self, rng: random.Random, position: int) -> int:
        """A queried position other than ``position``."""
        return rng.choice([k for k in range(self.boxes) if k != position])
