"""Boxes and their objects as text, in the paper's template and in its eleven variations.

Prakash et al., ICLR 2024 (arXiv 2402.14811): a context says which object is in which box, in segments
such as "the apple is in Box O", and a question asks for the object of a box. The variations are the
further desiderata of the published code for the group pos_transmitter: they change the text of the
source prompt and leave the queried position as it is. `VARIATIONS` has them by our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_mechanism.tasks.text.prompt import Prompt, TextBuilder


@dataclass(frozen=True)
class Wording:
    """How a text differs from the template; the default is the template.

    Attributes:
        first: text in front of the first segment.
        last: text behind the last segment.
        before_queried: text in front of the queried segment.
        link: words of the queried segment between "is" and "Box".
        box_first: whether the queried segment is "Box O contains the apple".
        comma: what ends a segment.
        after_object: what follows each object of the context.
    """

    first: str = ""
    last: str = ""
    before_queried: str = ""
    link: str = "in"
    box_first: bool = False
    comma: str = ","
    after_object: str = ""

    @property
    def adds_segment(self) -> bool:
        """Whether the text has one more segment, whose words are to be chosen (`with_spare`)."""
        return SPARE in (self.first, self.last)


SPARE = "the {object} is in Box {label}"
"""A segment about a box that no question asks for."""

TEMPLATE = Wording()

VARIATIONS: Mapping[str, Wording] = {
    "position_text_first": Wording(first="there are a bunch of boxes containing objects"),
    "position_text_last": Wording(last="these are a bunch of boxes containing objects"),
    "position_contained_in": Wording(link="contained in the"),
    "position_segment_first": Wording(first=SPARE),
    "position_segment_last": Wording(last=SPARE),
    "position_boxes_before": Wording(
        before_queried="there are three additional boxes, Box PP, Box BB and Box AA"
    ),
    "next_position": TEMPLATE,
    "position_box_first": Wording(box_first=True),
    "position_not_in": Wording(link="not in"),
    "position_no_commas": Wording(comma=""),
    "position_more_commas": Wording(after_object=","),
}
"""Variable -> the wording of its source prompts. Their names in the published code, in this order:
random_text_start, random_text_end, add_tokens_btw_box_and_obj, add_seg_start, add_seg_end,
add_box_before_correct_segment, incorrect_segment, altered_box_obj_order, altered_box_obj_association,
no_comma, add_comma."""


def with_spare(wording: Wording, item: str, label: str) -> Wording:
    """The wording with an object and a label in its spare segment."""
    fill = {"object": item, "label": label}
    return replace(wording, first=wording.first.format(**fill), last=wording.last.format(**fill))


@dataclass(frozen=True)
class Context:
    """Which object is in which box, in the order of the text; a filler may be empty."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    fillers: tuple[str, ...]

    def ask(self, position: int, label: str | None = None, wording: Wording = TEMPLATE) -> Prompt:
        """The question for the box at ``position``.

        Args:
            position: of the queried segment among the context's own.
            label: another label in the question.
            wording: of the text.

        Named positions are about the context's own segments, so that a base and a source have equally
        many of them whatever the wording adds.
        """
        builder = TextBuilder(spans={"all_labels": (), "all_objects": ()})
        if wording.first:
            builder.add(capital(wording.first))
        for i in range(len(self.objects)):
            if i == position and wording.before_queried:
                self._begin(builder, wording, wording.before_queried)
            self._segment(builder, wording, i, queried=i == position)
        if wording.last:
            self._begin(builder, wording, wording.last)
        builder.anchor("query")
        builder.add(". Box")
        builder.add(f" {self.labels[position] if label is None else label}", "query_label")
        builder.add(" contains")
        builder.add(" the", "last")
        return Prompt(
            text=builder.text,
            spans=builder.spans,
            answer=self.objects[position],
            options=self.objects,
            anchors=tuple(builder.anchors),
        )

    def _begin(self, builder: TextBuilder, wording: Wording, words: str) -> None:
        """Write the first words of a segment, behind the comma of the segment before."""
        builder.add(f"{wording.comma} {words}" if builder.text else capital(words))

    def _segment(self, builder: TextBuilder, wording: Wording, i: int, *, queried: bool) -> None:
        """Write the segment about box i."""
        # a space belongs to the word after it, as in most tokenizers
        item, box, filler = self.objects[i], self.labels[i], self.fillers[i]
        if queried and wording.box_first:
            builder.anchor(f"box_{i}")
            self._begin(builder, wording, "Box")
            builder.add(f" {box}", "all_labels", "previous_query_label")
            builder.anchor(f"object_{i}")
            builder.add(f" contains {filler} the" if filler else " contains the")
            builder.add(f" {item}", "all_objects", "correct_object")
            return
        builder.anchor(f"object_{i}")
        self._begin(builder, wording, "the")
        builder.add(f" {item}", "all_objects", *(["correct_object"] if queried else []))
        builder.add(wording.after_object + (f" is {filler}" if filler else " is"))
        builder.anchor(f"box_{i}")
        builder.add(f" {wording.link if queried else 'in'} Box")
        builder.add(f" {box}", "all_labels", *(["previous_query_label"] if queried else []))


def capital(words: str) -> str:
    """The words as a text begins with them."""
    return words[0].upper() + words[1:]
