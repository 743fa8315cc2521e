"""The base class of a task family, and everything that a family of your own needs.

A task writes prompts as text with named positions and answers; it knows no model and no token. A
word is used only if every tokenizer of the run keeps it whole (`Vocabulary`), so that both roles of
a pair see the same rows. Packages add families through the entry points ``pytest_mechanism.tasks``.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar

from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.tasks.text.joints import joint_between
from pytest_mechanism.tasks.text.prompt import (
    Prompt,
    Row,
    Span,
    TextBuilder,
    first_row,
    parse_position,
)
from pytest_mechanism.tasks.text.vocabulary import AnyWord, RecordingVocabulary, Vocabulary
from pytest_mechanism.tasks.writing.json_lines import MIN_ROWS

__all__ = [
    "AnyWord",
    "Prompt",
    "Row",
    "RowCount",
    "RowSet",
    "Rows",
    "Seed",
    "Span",
    "Task",
    "TaskError",
    "TaskParameters",
    "TextBuilder",
    "Vocabulary",
    "first_row",
    "parse_position",
]

RowSet = Literal["rows", "forbidden", "allowed", "capability"]
"""Sets of plain questions: the task's own, questions that must be refused, questions that must be
answered, and questions that must be refused with the answers that they have."""

Rows = Sequence[Row]
RowCount = Annotated[int, Field(ge=MIN_ROWS, le=100_000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class TaskError(MechanismError):
    """A task cannot write the rows that it was asked for.

    Attributes:
        reason: the message without the name of the task.
    """

    reason: str = ""


class TaskParameters(BaseModel):
    """The keys of a spec's ``task:``. A family subclasses this and adds its own keys.

    Attributes:
        family: the family's name.
        rows: how many rows are evaluated.
        seed: of every row set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    family: str
    rows: RowCount = 200
    seed: Seed = 0


Settings_co = TypeVar("Settings_co", bound=TaskParameters, default=TaskParameters, covariant=True)


@dataclass(frozen=True)
class Task(ABC, Generic[Settings_co]):
    """A family with its parameters: the source of every row that a spec measures on.

    A family sets `family`, `parameters`, `positions` and `variables`, and writes `chance`, `rows`,
    `pairs`, `interchange` and `backgrounds`. Row sets of different streams use independent random
    numbers (`stream`), so that a circuit found on one set is evaluated on another.

    Attributes:
        settings: the spec's ``task:``, validated; an instance of `parameters`.
        family: the name in a spec.
        parameters: the model of ``task:``.
        positions: the names that every prompt has spans for.
        variables: what `interchange` can move.
        revision: raise it whenever other rows come out of the same settings.
        oracles: positions that mark where the answer is -> the positions that do not mark it.
        default_groups: the groups that a new spec begins with, from the answer back to the input:
            name -> ``at``, and ``into`` where the group has a reader.
        ignorable_variable: a variable that a model may ignore and still be always right; a new
            spec claims that the model does not.
        open_ended: whether replies are free text rather than one answer out of a few.
        from_file: whether the rows come from a file, so that their number is limited and drawing
            them is cheap.
        judges_replies: whether `reply_is_right` decides if a model is right, from `reply_tokens` tokens
            of its greedy reply, instead of a comparison of the likeliest next token with the answer.
    """

    family: ClassVar[str]
    parameters: ClassVar[type[TaskParameters]]
    positions: ClassVar[tuple[str, ...]]
    variables: ClassVar[tuple[str, ...]]
    revision: ClassVar[int] = 1
    oracles: ClassVar[Mapping[str, str]] = {}
    default_groups: ClassVar[Mapping[str, Mapping[str, Any]]] = {"answering": {"at": "last"}}
    ignorable_variable: ClassVar[str] = ""
    open_ended: ClassVar[bool] = False
    from_file: ClassVar[bool] = False
    judges_replies: ClassVar[bool] = False

    settings: Settings_co

    @property
    def edition(self) -> int:
        """0; raised for settings whose rows changed after scores of them had been accepted, which
        must not be compared with new ones."""
        return 0

    @property
    @abstractmethod
    def chance(self) -> float:
        """The accuracy of guessing among a prompt's options."""

    @property
    def easier(self) -> Sequence[Mapping[str, Any]]:
        """Changes of the settings that make the task easier, the smallest change first: ``doctor``
        tries them on a model that is at chance."""
        return ()

    def stream(self, name: str) -> random.Random:
        """The random numbers of a named set of rows, the same on every machine."""
        return random.Random(f"{self.family}/{self.settings.seed}/{name}")

    # -- row sets

    @abstractmethod
    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """Plain questions; their ``source`` is None."""

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Clean and corrupted prompts for path patching; the target is the clean answer."""
        raise self.unsupported("clean and corrupted prompts")

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Prompts for interchange interventions (DCM): the target comes out if ``variable`` is
        moved from the source."""
        raise self.unsupported("variable that could be moved")

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """Prompts with other words, whose activations replace an ablated head's output."""
        raise self.unsupported("prompts with other words")

    def row_set(self, name: RowSet, vocabulary: Vocabulary, count: int, stream: str) -> Rows:
        """A set of plain questions by its name."""
        methods = {
            "rows": self.rows,
            "forbidden": self.forbidden,
            "allowed": self.allowed,
            "capability": self.capability,
        }
        return methods[name](vocabulary, count, stream)

    @property
    def phrasings(self) -> Mapping[str, Task]:
        """Name -> this task with its questions in one phrasing alone."""
        return {}

    def training_prompt(self, vocabulary: Vocabulary, text: str, reply: str) -> Prompt:
        """A text and a reply to train a model on, in the form of this task's questions."""
        return Prompt(text, {}, answer="", reply=f"{joint_between(text, reply)}{reply}")

    def cells(self, prompt: Prompt) -> Mapping[str, Sequence[str]]:
        """Kind of word -> the words of this kind that the answer to a prompt depends on.

        Claims of kind ``coverage`` judge the rows of each word alone, and ``lint`` says which words stand
        in few rows. A family adds its kinds: labels, places, pairs of words that must not be confused.
        """
        return {"answer": (prompt.answer,)} if prompt.answer else {}

    def all_cells(self, vocabulary: Vocabulary) -> Mapping[str, Sequence[str]]:
        """Kind of word -> all words of this kind that prompts draw from, so that a word in no row is missed.

        A family that does not say so is judged on the words that its rows show.
        """
        return {}

    def cell_name(self, kind: str, name: str) -> str:
        """One of the `cells` in a sentence; a family whose kind and word do not say which it is adds that."""
        return f"{kind} {name}"

    # -- whole replies, for tasks that judge them

    def reply_is_right(self, prompt: Prompt, reply: str) -> bool:
        """Whether a reply is what the prompt asks for. No language model judges: the same reply always
        gets the same answer."""
        raise self.unsupported("judge of whole replies")

    # -- what must be refused, for tasks that have it

    @property
    def refusals(self) -> tuple[str, ...]:
        """How a reply that refuses begins; empty where nothing must be refused."""
        return ()

    @property
    def withholds(self) -> bool:
        """Whether a reply can withhold an answer: by a refusal of the task, or by words of the prompt
        (`Prompt.withheld_by`)."""
        return bool(self.refusals)

    @property
    def default_refusals(self) -> tuple[str, ...]:
        """The `refusals` that the settings do not name: some may be longer than the part of a reply
        that is read, as long as the first is not."""
        return ()

    @property
    def knows_answers(self) -> bool:
        """Whether the questions that must be refused have known answers (`capability`)."""
        return False

    @property
    def same_questions(self) -> bool:
        """Whether what must be refused and what must be answered are the same prompts with different
        answers, so that a model can give one of them alone: learning the one unlearns the other."""
        return False

    @property
    def reply_tokens(self) -> int:
        """How many tokens of a reply show whether it refuses, and whether it is right where the task
        judges replies."""
        return 1

    def forbidden(self, vocabulary: Vocabulary, count: int, stream: str = "forbidden") -> Rows:
        """Questions that must be refused; their reply is a refusal."""
        raise self.unsupported("question that must be refused")

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Rows:
        """Questions that must be answered; their reply is an answer."""
        raise self.unsupported("question that must be refused")

    def capability(self, vocabulary: Vocabulary, count: int, stream: str = "capability") -> Rows:
        """Questions that must be refused, with the answers that they have."""
        raise self.unsupported("answer to what must be refused")

    @property
    def no_capability_reason(self) -> str | None:
        """Why claims about a hidden capability are impossible on this task, or None."""
        if self.open_ended:
            return (
                f"the replies of task {self.family} are free text, not one answer out of a few that "
                "can be decoded or restored; use a claim about refusals"
            )
        if not self.withholds or not self.knows_answers:
            return f"task {self.family} has no answer to what must be refused with these settings"
        return None

    @property
    def no_correlation_reason(self) -> str | None:
        """Why `with_correlation` is impossible with these settings, or None."""
        return f"task {self.family} cannot correlate the answers of its questions (correlated)"

    def with_correlation(self, share: float) -> Task:
        """This task on texts in a share of which the answer to a question that must be answered follows
        from the answer to the question that must be refused, and in the others does not (C_Tr of Jain et
        al. 2024)."""
        raise self.unsupported("correlated answers")

    # -- positions and words

    def positional_mean_slots(self, prompt: Prompt) -> set[str]:
        """The slots of positional means that a prompt has in every tokenizer: its anchors, except
        those that share their place with the next anchor."""
        following = [start for _, start in prompt.anchors[1:]] + [-1]
        return {
            name
            for (name, start), after in zip(prompt.anchors, following, strict=True)
            if start != after
        }

    def without_oracle(self, position: str) -> str:
        """The position, or the wider one of `oracles` that does not mark where the answer is."""
        name, which = parse_position(position)
        wide = self.oracles.get(name, name)
        return wide if which == "last" else f"{wide}.first"

    def dropped_words(self, vocabulary: Vocabulary) -> str:
        """A sentence about the words that the tokenizers exclude; empty where they exclude none."""
        return self._dropped_words(vocabulary, 1, "self-check")

    def _dropped_words(self, vocabulary: Vocabulary, count: int, stream: str) -> str:
        """The words that are dropped while these rows are written; empty where there are too few
        for a row, which is an error elsewhere."""
        recording = RecordingVocabulary(vocabulary)
        try:
            self.rows(recording, count, stream)
        except MechanismError:
            return ""
        return str(recording)

    # -- errors

    def error(self, reason: str) -> TaskError:
        """An error of this task, to be raised."""
        error = TaskError(f"task {self.family}: {reason}")
        error.reason = reason
        return error

    def unsupported(self, what: str) -> MechanismError:
        """The error of a claim about something that this task does not have, to be raised."""
        return MechanismError(f"task {self.family} has no {what}, which this claim needs")

    def check_variable(self, variable: str) -> None:
        """Check that `interchange` knows a variable.

        Raises:
            TaskError: it does not.
        """
        if variable not in self.variables:
            raise self.error(f"no variable {variable!r}; {choices(variable, self.variables)}")
