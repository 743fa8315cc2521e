"""A user's own text as a task, for measurements that need no answers: only the self-checks of a checkpoint read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pytest_mechanism.tasks.base import Prompt, Row, Rows, Task, TaskParameters, Vocabulary


@dataclass(frozen=True)
class PlainText(Task[TaskParameters]):
    """Passages without questions. It is no task family: no spec can name it.

    Attributes:
        passages: the texts.
    """

    family: ClassVar[str] = "text"
    parameters: ClassVar[type[TaskParameters]] = TaskParameters
    positions: ClassVar[tuple[str, ...]] = ()
    variables: ClassVar[tuple[str, ...]] = ()
    open_ended: ClassVar[bool] = True

    passages: tuple[str, ...] = ()

    @classmethod
    def of(cls, passages: Sequence[str]) -> PlainText:
        """A task with these passages."""
        return cls(TaskParameters(family="text"), tuple(passages))

    @property
    def chance(self) -> float:
        """No answers, so nothing to guess."""
        return 0.0

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """The first passages."""
        return [
            Row(f"{stream}-{i}", str(i), Prompt(text, {}, answer=""), None, "")
            for i, text in enumerate(self.passages[:count])
        ]
