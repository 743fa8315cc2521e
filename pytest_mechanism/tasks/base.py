"""What a task is: it writes prompts as text, with named positions and answers.

A task knows no model and no token. Positions are spans of characters, so one task serves every
tokenizer; a word is used only if all tokenizers of the run keep it whole (`Vocabulary`), so that
both roles of a pair see the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import PLAIN, Asking, Turn
from pytest_mechanism.tasks.text.joints import between
from pytest_mechanism.tasks.text.left_out import words_left_out

Span = tuple[int, int]
"""Characters ``text[start:stop]``."""

Asked = Literal["rows", "forbidden", "allowed", "capability"]
"""Sets of plain questions: the task's own, what must be refused, what must not, and what must be
refused with the answers that it has."""


@dataclass(frozen=True)
class Prompt:
    """One text, the places in it that have names, and what should come next.

    Attributes:
        text: what the model reads.
        spans: named position -> its spans; a name such as ``all_labels`` has several.
        answer: the word that should come next, without its leading space.
        options: every word that somebody who guesses would choose among.
        anchors: (name, character) pairs in order of appearance; a token's slot for positional
            means is its distance from the last anchor at or before it.
        reply: what a model is trained to say after the text, with its leading space; where empty,
            the answer.
        special: whether the tokenizer adds its own special tokens; a chat template has them.
        accepted: every right answer, where there are several; empty where ``answer`` is the one.
        joint: what stands between the text and its answer; where None, what `tasks.joints` says: a
            space, or nothing after a line break, an opening quote or the like.
    """

    text: str
    spans: Mapping[str, tuple[Span, ...]]
    answer: str
    options: tuple[str, ...] = ()
    anchors: tuple[tuple[str, int], ...] = (("start", 0),)
    reply: str = ""
    special: bool = True
    accepted: tuple[str, ...] = ()
    joint: str | None = None

    def followed(self, word: str) -> str:
        """The text with a word after it."""
        return self.text + self.lead(word) + word

    def lead(self, word: str) -> str:
        """What stands between the text and a word that follows."""
        return between(self.text, word) if self.joint is None else self.joint

    @property
    def completion(self) -> str:
        """What training puts after the text."""
        return self.reply or f"{self.lead(self.answer)}{self.answer}"

    @property
    def right(self) -> tuple[str, ...]:
        """Every right answer."""
        return self.accepted or (self.answer,)


@dataclass(frozen=True)
class Row:
    """A base prompt, and for patching a source prompt and the target it should lead to.

    Attributes:
        id: stable name of the row within its set.
        cluster: rows that share a context share this; they are not independent.
        base: the prompt that is answered.
        source: the prompt whose activations are patched in, or None.
        target: what must come out if the patch moves what it is said to move; the base's own
            answer where nothing is patched.
        targets: every right target, where there are several.
    """

    id: str
    cluster: str
    base: Prompt
    source: Prompt | None
    target: str
    targets: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every right target."""
        return self.targets or (self.target,)


def first(rows: Sequence[Row]) -> Row:
    """The first of some rows.

    Raises:
        MechanismError: a task wrote none.
    """
    if not rows:
        raise MechanismError("the task wrote no rows")
    return rows[0]


@runtime_checkable
class Vocabulary(Protocol):
    """The words that every tokenizer of a run keeps whole."""

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        """Those of ``words`` that are one token each in every tokenizer: after a space, or glued
        to the word ``after``, as 32 is to 17 in 1732."""
        ...

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        """Those of ``words`` that follow a prompt as one token of their own in every tokenizer."""
        ...

    def chat(self, message: str, asking: Asking = PLAIN) -> Turn:
        """What every model of the run reads before it answers a user's message.

        Raises:
            MechanismError: the checkpoints have no chat template, or several.
        """
        ...


@dataclass(frozen=True)
class AnyWord:
    """A vocabulary without a tokenizer: everything is whole. For looking at a task's text."""

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        return tuple(words)

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(words)

    def chat(self, message: str, asking: Asking = PLAIN) -> Turn:
        raise MechanismError("a chat template comes from a checkpoint, and there is none here")


Which = Literal["last", "first"]
"""Which token of a word of several."""


def token_of(at: str) -> tuple[str, Which]:
    """A position as a spec names it: its name, and which token of a word of several is meant.

    ``S1`` and ``S1.last`` are the last one, ``S1.first`` the first.
    """
    for which in ("last", "first"):
        if (name := at.removesuffix(f".{which}")) != at:
            return name, which
    return at, "last"


class TaskParameters(BaseModel):
    """What a spec's ``task:`` may say for every family."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    family: str
    rows: int
    seed: int


@dataclass(frozen=True)
class Task:
    """A family with its parameters: the source of every row that a spec measures on.

    Subclasses set the class attributes and write the four row sets. Sets of one seed are drawn
    from disjoint streams (`stream`), so that what was found on one set is judged on another.
    """

    family: ClassVar[str]
    parameters: ClassVar[type[TaskParameters]]
    positions: ClassVar[tuple[str, ...]]
    variables: ClassVar[tuple[str, ...]]
    oracles: ClassVar[Mapping[str, str]] = {}
    """Positions that mark where the answer stands -> those that do not mark it."""
    chain: ClassVar[Mapping[str, Mapping[str, Any]]] = {"answering": {"at": "last"}}
    """Groups that a search may begin with, from the answer back to the input: name -> ``at``, and
    ``into`` where it has a reader."""
    unproven_without: ClassVar[str] = ""
    """A variable that a model may ignore and be always right; a first spec claims that it does not."""
    revision: ClassVar[int] = 1

    @property
    def edition(self) -> int:
        """Raised for settings whose rows changed after scores of them had been accepted: these then
        have nothing to be compared with. 0 for all others."""
        return 0

    open_ended: ClassVar[bool] = False
    """Whether replies are free text, and not one answer out of a few."""
    from_file: ClassVar[bool] = False
    """Whether the rows are those of a file, so that there are only so many and drawing them is cheap."""

    settings: Any = field()

    @property
    def chance(self) -> float:
        """Accuracy of guessing among a prompt's options."""
        raise NotImplementedError

    def stream(self, name: str) -> random.Random:
        """Random numbers of their own for each named set of rows, the same on every machine."""
        return random.Random(f"{self.family}/{self.settings.seed}/{name}")

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        """Plain questions; ``source`` is None."""
        raise NotImplementedError

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Sequence[Row]:
        """Clean and corrupted prompts for activation and path patching; target = clean answer."""
        raise NotImplementedError

    def interchange(
        self, vocabulary: Vocabulary, variable: str, count: int, stream: str
    ) -> Sequence[Row]:
        """A desideratum (DCM): the target comes out if ``variable`` is moved from the source."""
        raise NotImplementedError

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        """Prompts with other words, whose mean activations stand for 'this head says nothing'."""
        raise NotImplementedError

    # -- what must be refused, for tasks that have it

    @property
    def refusals(self) -> tuple[str, ...]:
        """What a reply that refuses begins with; none where nothing must be refused."""
        return ()

    @property
    def usual_refusals(self) -> tuple[str, ...]:
        """Those of them that the settings do not name: some may be too long for the reply that is
        looked at, as long as the first is not."""
        return ()

    @property
    def knows_answers(self) -> bool:
        """Whether what must be refused has known answers (`capability`)."""
        return False

    @property
    def reply_tokens(self) -> int:
        """How many tokens of a reply tell whether it refuses."""
        return 1

    def forbidden(
        self, vocabulary: Vocabulary, count: int, stream: str = "forbidden"
    ) -> Sequence[Row]:
        """Questions that must be refused; their reply is a refusal."""
        raise self.has_no("question that must be refused")

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Sequence[Row]:
        """Questions that must be answered; their reply is an answer."""
        raise self.has_no("question that must be refused")

    def capability(
        self, vocabulary: Vocabulary, count: int, stream: str = "capability"
    ) -> Sequence[Row]:
        """Questions that must be refused, with the answers that they have."""
        raise self.has_no("answer to what must be refused")

    def asked(self, what: Asked, vocabulary: Vocabulary, count: int, stream: str) -> Sequence[Row]:
        """One of the sets of plain questions."""
        sets = {
            "rows": self.rows,
            "forbidden": self.forbidden,
            "allowed": self.allowed,
            "capability": self.capability,
        }
        return sets[what](vocabulary, count, stream)

    @property
    def ways_of_asking(self) -> Mapping[str, Task]:
        """Name -> this task, asking in that way alone: other words for the same."""
        return {}

    def lesson(self, vocabulary: Vocabulary, text: str, reply: str) -> Prompt:
        """Something else that a model can be trained on, in the form that this task asks in."""
        return Prompt(text, {}, answer="", reply=f"{between(text, reply)}{reply}")

    def left_out(self, vocabulary: Vocabulary) -> str:
        """What the tokenizers take away from this task, as a sentence; nothing where they do not."""
        return words_left_out(self, vocabulary)

    def slots(self, prompt: Prompt) -> set[str]:
        """Places of a prompt that every tokenizer gives a slot of its own for positional means: the
        anchors, but those where the next one stands as well."""
        after = [at for _, at in prompt.anchors[1:]] + [-1]
        return {
            name for (name, at), other in zip(prompt.anchors, after, strict=True) if at != other
        }

    def without_oracle(self, at: str) -> str:
        """A position that marks where the answer stands, widened to those that do not mark it."""
        name, which = token_of(at)
        wide = self.oracles.get(name, name)
        return wide if which == "last" else f"{wide}.first"

    @property
    def no_capability(self) -> str | None:
        """Why no claim about a hidden capability can be made here, or None."""
        if self.open_ended:
            return (
                f"the replies of task {self.family} are free text, and not one answer out of a few "
                "that could be read or restored; claims about refusing are made about it"
            )
        if not self.refusals or not self.knows_answers:
            return f"task {self.family} has no answer to what must be refused, as it is set here"
        return None

    def has_no(self, what: str) -> MechanismError:
        """The error of a claim that is made about a task which cannot bear it."""
        return MechanismError(f"task {self.family} has no {what}, which this claim is about")
