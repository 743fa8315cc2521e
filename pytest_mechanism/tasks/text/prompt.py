"""Prompts as text. Positions are spans of characters, so one prompt serves every tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.joints import joint_between

Span = tuple[int, int]
"""Characters ``text[start:stop]``."""

WhichToken = Literal["last", "first"]
"""Which token of a word of several tokens."""


@dataclass(frozen=True)
class Prompt:
    """A text, its named positions, and the answer that should follow.

    Attributes:
        text: what the model reads.
        spans: position -> its spans; a position such as ``all_labels`` has several.
        answer: the word that should come next, without its leading space.
        options: the words that a guesser would choose among.
        anchors: (name, character) pairs in order of appearance. For positional means, a token is
            identified by its distance from the last anchor at or before it.
        reply: the completion that a model is trained on, with its leading space; empty for the
            answer.
        add_special_tokens: whether the tokenizer adds its special tokens; a chat template has its
            own.
        accepted: every correct answer where there are several; empty where ``answer`` is the only
            one.
        withheld_by: answers of this prompt alone that withhold the right one and count as refusals,
            beside those of the task.
        joint: the characters between the text and its answer, ``""`` or ``" "``; None leaves the
            choice to `tasks.text.joints`.
    """

    text: str
    spans: Mapping[str, tuple[Span, ...]]
    answer: str
    options: tuple[str, ...] = ()
    anchors: tuple[tuple[str, int], ...] = (("start", 0),)
    reply: str = ""
    add_special_tokens: bool = True
    accepted: tuple[str, ...] = ()
    withheld_by: tuple[str, ...] = ()
    joint: str | None = None

    def joint_before(self, word: str) -> str:
        """The characters between the text and a word that follows it."""
        return joint_between(self.text, word) if self.joint is None else self.joint

    @property
    def completion(self) -> str:
        """What training puts after the text."""
        return self.reply or f"{self.joint_before(self.answer)}{self.answer}"

    @property
    def correct_answers(self) -> tuple[str, ...]:
        return self.accepted or (self.answer,)


@dataclass(frozen=True)
class Row:
    """A base prompt and, for patching, a source prompt and the target that a patch should produce.

    Attributes:
        id: the row's name within its set.
        cluster: shared by rows that have a context in common and are therefore not independent.
        base: the prompt that the model answers.
        source: the prompt whose activations are patched in, or None.
        target: the word that must come out if the patch moves the variable and nothing else; the
            base's own answer where nothing is patched.
        targets: every correct target where there are several.
    """

    id: str
    cluster: str
    base: Prompt
    source: Prompt | None
    target: str
    targets: tuple[str, ...] = ()

    @property
    def correct_targets(self) -> tuple[str, ...]:
        return self.targets or (self.target,)


@dataclass
class TextBuilder:
    """A text that is written piece by piece, with its positions and anchors."""

    text: str = ""
    spans: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    anchors: list[tuple[str, int]] = field(default_factory=list)

    def add(self, piece: str, *positions: str) -> None:
        """Write a piece, which is a span of the given positions."""
        span = len(self.text), len(self.text) + len(piece)
        self.text += piece
        for name in positions:
            self.spans[name] = (*self.spans.get(name, ()), span)

    def anchor(self, name: str) -> None:
        """Put an anchor at the end of the text."""
        self.anchors.append((name, len(self.text)))


def first_row(rows: Sequence[Row]) -> Row:
    """The first row.

    Raises:
        MechanismError: the task wrote none.
    """
    if not rows:
        raise MechanismError("the task wrote no rows")
    return rows[0]


def parse_position(position: str) -> tuple[str, WhichToken]:
    """A position as a spec writes it: its name, and which token of a word of several.

    ``S1`` and ``S1.last`` are the last token, ``S1.first`` the first.
    """
    for which in ("last", "first"):
        if (name := position.removesuffix(f".{which}")) != position:
            return name, which
    return position, "last"
