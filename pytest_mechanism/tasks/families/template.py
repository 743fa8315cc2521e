"""Prompts from texts with slots, written in YAML alone.

    task:
      family: template
      words: {animal: [cat, dog, owl, ...]}
      slots: {A: animal, B: animal, C: animal}     # words of one list, different in a prompt
      text: "{A} {B} {C} {A:again}"
      answer: "{B}"
      source: {redraw: [B]}
      variables: {successor: {source: {redraw: [B]}, target: "{source.B}"}}

`tasks.patterns` has the texts, `tasks.word_lists` the words, `tasks.drawn` what is judged on.
Several ``texts`` take turns; those of an inner list have the same tokens in another order. A word
that some tokenizer of the run does not keep whole is dropped for all of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

from pytest_mechanism.errors import FieldError
from pytest_mechanism.tasks.writing.drawn import Drawn
from pytest_mechanism.tasks.writing.drawn_parameters import DrawnParameters
from pytest_mechanism.tasks.writing.plans import Plan
from pytest_mechanism.tasks.writing.word_lists import WordList

Names = Annotated[tuple[StrictStr, ...], Field(strict=False)]


class Part(BaseModel):
    """A piece of ``task:``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Wording(Part):
    """One text, with an answer of its own where the task's does not fit it.

    Attributes:
        text: with its slots.
        answer: what comes next.
    """

    text: str
    answer: str | None = None


class Source(Part):
    """How a source prompt differs from its base, in this order.

    Attributes:
        text: ``other``: told in another text of the same inner list.
        set: slot or named occurrence -> the word that stands there, or ``{slot}`` of the base.
        swap: slots whose words change places.
        redraw: slots, or named occurrences, with words that stand nowhere in the base.
    """

    text: Literal["other"] | None = None
    set: dict[str, str] = {}
    swap: Names = ()
    redraw: Names = ()


class Variable(Part):
    """What a patch may move.

    Attributes:
        source: how the prompt differs that it is moved from.
        target: what comes out if it is moved: ``{source.slot}`` or ``{slot}`` of the base.
    """

    source: Source
    target: str


def nested(value: Any) -> Any:
    """Texts as lists of lists of wordings."""
    if not isinstance(value, list | tuple):
        raise ValueError("takes a list of texts")  # noqa: TRY004 - pydantic
    found = []
    for number, each in enumerate(value, 1):
        group = each if isinstance(each, list | tuple) else [each]
        if not group or not all(isinstance(one, str | dict | Wording) for one in group):
            raise ValueError(
                f"item {number} must be a text, {{text: ..., answer: ...}}, or a list of these"
            )
        found.append([{"text": one} if isinstance(one, str) else one for one in group])
    return found


One = str | Wording
Texts = Annotated[
    tuple[Annotated[tuple[Wording, ...], Field(strict=False)], ...],
    Field(strict=False),
    BeforeValidator(nested, json_schema_input_type=list[One | list[One]]),
]


class TemplateParameters(DrawnParameters):
    """``task:`` for this family.

    Attributes:
        words: list -> its words.
        slots: slot -> its list; a list that no slot takes is a slot of its own name.
        text: the text, or
        texts: several, which take turns; an inner list holds orders of the same text.
        answer: what comes next, ``{slot}`` or a word.
        options: what somebody who guesses chooses among; the words of the prompt that come from
            the answer's list, if left out.
        split: slots whose words may be of several tokens.
        source: how the corrupted prompt of a pair differs.
        variables: what patches may move.
    """

    family: Literal["template"]
    words: Annotated[dict[StrictStr, WordList], Field(min_length=1)]
    slots: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    text: str | None = None
    texts: Texts = ()
    answer: str | None = None
    options: Names = ()
    split: Names = ()
    source: Source | None = None
    variables: dict[StrictStr, Variable] = Field(default_factory=dict)

    def task(self) -> Template:
        task = Template(self)
        if task.chance >= 1:
            raise FieldError(
                "who guesses is always right: the answer is always the same word, or the only option",
                "options" if self.options else "answer",
            )
        return task


class Template(Drawn):
    """Rows of a template. See the module."""

    family = "template"
    parameters = TemplateParameters

    @cached_property
    def plan(self) -> Plan:
        from pytest_mechanism.tasks.writing.template_plan import plan_of

        return plan_of(cast("TemplateParameters", self.settings))
