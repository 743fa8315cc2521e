"""What a spec says of a template. `template_plan` reads it; the family is `families.template`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

from pytest_mechanism.tasks.writing.slot_parameters import SlotTaskParameters
from pytest_mechanism.tasks.writing.word_lists import WordList

Names = Annotated[tuple[StrictStr, ...], Field(strict=False)]


class Part(BaseModel):
    """A piece of ``task:``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Wording(Part):
    """A text with slots, and its answer if the task's answer does not fit."""

    text: str
    answer: str | None = None


class Source(Part):
    """How a source prompt differs from its base; the changes apply in this order.

    Attributes:
        text: ``other`` for another text of the same inner list.
        set: slot or named occurrence -> the word that it gets, or ``{slot}`` of the base.
        swap: slots that exchange their words.
        redraw: slots or named occurrences that get words absent from the base.
    """

    text: Literal["other"] | None = None
    set: dict[str, str] = {}
    swap: Names = ()
    redraw: Names = ()


class Variable(Part):
    """What a patch may move.

    Attributes:
        source: how the source prompt differs from the base.
        target: what comes out if the variable is moved: ``{source.slot}``, or ``{slot}`` of the
            base.
    """

    source: Source
    target: str


def nested_wordings(value: Any) -> Any:
    """Texts as lists of lists of wordings."""
    if not isinstance(value, list | tuple):
        raise ValueError("takes a list of texts")  # noqa: TRY004 - pydantic
    nested = []
    for number, item in enumerate(value, 1):
        group = item if isinstance(item, list | tuple) else [item]
        if not group or not all(isinstance(text, str | dict | Wording) for text in group):
            raise ValueError(
                f"item {number} must be a text, {{text: ..., answer: ...}}, or a list of these"
            )
        nested.append([{"text": text} if isinstance(text, str) else text for text in group])
    return nested


Text = str | Wording
Texts = Annotated[
    tuple[Annotated[tuple[Wording, ...], Field(strict=False)], ...],
    Field(strict=False),
    BeforeValidator(nested_wordings, json_schema_input_type=list[Text | list[Text]]),
]


class TemplateSettings(SlotTaskParameters):
    """The keys of a template.

    Attributes:
        words: list -> its words.
        slots: slot -> its list; a list that no slot uses becomes a slot with the name of the list.
        text: the only text.
        texts: several texts, which take turns; an inner list holds orders of the same text.
        answer: what comes next, ``{slot}`` or a word.
        options: what a guesser chooses among; if left out, the words of the prompt that come from
            the answer's list.
        split: slots whose words may be of several tokens.
        source: how the corrupted prompt of a pair differs.
        variables: what patches may move.
    """

    words: Annotated[dict[StrictStr, WordList], Field(min_length=1)]
    slots: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    text: str | None = None
    texts: Texts = ()
    answer: str | None = None
    options: Names = ()
    split: Names = ()
    source: Source | None = None
    variables: dict[StrictStr, Variable] = Field(default_factory=dict)
