"""Compiled programs: what a program writes at the last word of a text.

    b a c a a b -> 3                   program: count, of: a        (how often is a among the words?)
    b f c a e d -> c                   program: rank, of: 4         (the fourth largest, a is the least)

Source: Jain et al., ICLR 2024 (arXiv 2311.12786), section 4: a counter compiled for one letter and
fine-tuned to count another (``instead: b``), a max-identifier compiled for one rank and fine-tuned for
another. Both models read the same texts, so what the fine-tuned model was compiled for is its hidden
capability: `capability` are texts with the answer of ``of``, `allowed` texts with that of ``instead``. The
start token comes from the tokenizer (`checkpoints.tracr`).
"""

from __future__ import annotations

import random
from functools import cached_property
from math import comb
from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.tasks.base import (
    Prompt,
    Row,
    RowCount,
    Rows,
    Task,
    TaskParameters,
    TextBuilder,
    Vocabulary,
)
from pytest_mechanism.tasks.writing.counting_settings import Letters
from pytest_mechanism.tasks.writing.drawn_rows import check_whole, correlated_string, first_usable
from pytest_mechanism.tasks.writing.strings import Strings

Operand = StrictStr | StrictInt


class ProgramParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        program: ``count`` or ``rank``.
        of: the letter that is counted, or the rank that is looked for; 1 is the largest.
        instead: what a fine-tuned model counts or looks for; if left out, nothing is hidden.
        nothing: the word that would be no answer at all; of the tokenizer, and not an output.
        letters: of the texts, from the least to the largest.
        shortest: letters of the shortest text.
        longest: letters of the longest text.
        most: the highest count of a letter in a text, of ``count``.
        correlated: share of the texts in which the letter of ``instead`` occurs exactly once more often
            than that of ``of``; in the others it does not. If left out, as the texts come.
        rows: how many texts.
        seed: of every row set.
    """

    family: Literal["program"]
    program: Literal["count", "rank"] = "count"
    of: Operand = "a"
    instead: Operand | None = None
    nothing: StrictStr = "PAD"
    letters: Letters = "abcdefghi"
    shortest: int = Field(default=6, ge=1, le=200)
    longest: int = Field(default=12, ge=1, le=200)
    most: int = Field(default=12, ge=1, le=200)
    correlated: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, exclude_if=lambda share: share is None),
    ] = None
    rows: RowCount = 500

    @model_validator(mode="after")
    def _fits_together(self) -> ProgramParameters:
        if len({*self.letters}) < len(self.letters):
            raise ValueError("letters: a letter appears twice")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, longest only {self.longest}")
        for key in ("of", "instead"):
            if (problem := self.operand_problem(getattr(self, key))) is not None:
                raise ValueError(f"{key}: {problem}")
        if self.instead == self.of:
            raise ValueError("instead: is what of says; name another")
        if self.program == "rank" and self.longest > len(self.letters):
            raise ValueError(
                "longest: letters of a ranked text differ, so it has at most all of them"
            )
        if self.program == "count" and self.longest > len(self.letters) * self.most:
            raise ValueError("longest: no text has so many letters with at most most of each")
        if self.correlated is not None and (self.program == "rank" or self.instead is None):
            raise ValueError("correlated: takes program: count and a letter for instead")
        return self

    def operand_problem(self, operand: Operand | None) -> str | None:
        """Why this cannot be counted, or looked for."""
        if operand is None:
            return None
        if self.program == "count":
            fits = isinstance(operand, str) and operand in [*self.letters]
            return None if fits else f"{operand!r} is not one of letters, {self.letters!r}"
        fits = isinstance(operand, int) and 1 <= operand <= self.shortest
        return None if fits else f"{operand!r} is no rank; 1 to {self.shortest} (shortest)"


class Program(Task[ProgramParameters]):
    """Rows of a program; see the module."""

    family = "program"
    parameters = ProgramParameters
    positions = ("last", "words")
    variables = ()

    @cached_property
    def strings(self) -> Strings:
        settings = self.settings
        return Strings(settings.letters, settings.shortest, settings.longest, settings.most)

    def written(self, text: str, operand: Operand) -> str:
        """What the program writes at the last letter of a text."""
        if isinstance(operand, int):
            return sorted(text, key=self.settings.letters.index, reverse=True)[operand - 1]
        return str(text.count(operand))

    @property
    def chance(self) -> float:
        """The probability of the most frequent answer, of ``of`` or of ``instead``."""
        settings = self.settings
        if settings.program == "rank":
            return max(self.rank_share(o) for o in (settings.of, settings.instead) if o is not None)
        return self.strings.best_guess(settings.correlated)

    def rank_share(self, rank: Operand) -> float:
        """The probability of the likeliest letter at a rank: ``rank - 1`` of the letters above it and the
        rest of the text below it."""
        settings = self.settings
        total, lengths = len(settings.letters), range(settings.shortest, settings.longest + 1)
        k = int(rank) - 1
        return max(
            sum(comb(total - 1 - i, k) * comb(i, n - 1 - k) / comb(total, n) for n in lengths)
            / len(lengths)
            for i in range(total)
        )

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that every word is one token.

        Raises:
            TaskError: some tokenizer splits a word or does not know it.
        """
        settings = self.settings
        words = [*settings.letters]
        words += [settings.nothing] if settings.instead is not None else []
        check_whole(self, vocabulary, words)

    def text(self, rng: random.Random) -> str:
        """The letters of a text, correlated as the settings say."""
        settings = self.settings
        if settings.program == "rank":
            count = rng.randint(settings.shortest, settings.longest)
            return "".join(rng.sample(settings.letters, count))
        if settings.correlated is None:
            return self.strings.draw(rng)
        return correlated_string(
            self,
            self.strings,
            rng,
            settings.correlated,
            one=str(settings.instead),
            other=str(settings.of),
        )

    def prompt(self, text: str, operand: Operand) -> Prompt:
        settings = self.settings
        builder = TextBuilder(anchors=[("start", 0)])
        for i, letter in enumerate(text):
            names = ("words", "last") if i == len(text) - 1 else ("words",)
            builder.add(f" {letter}" if i else letter, *names)
        counts = tuple(str(n) for n in range(settings.most + 1))
        return Prompt(
            text=builder.text,
            spans=builder.spans,
            answer=self.written(text, operand),
            options=counts if settings.program == "count" else tuple(settings.letters),
            anchors=tuple(builder.anchors),
            joint=" ",
        )

    def questions(
        self, vocabulary: Vocabulary, count: int, stream: str, operand: Operand | None
    ) -> Rows:
        """Texts with what a program writes; a stream's texts do not depend on the program's operand."""
        if operand is None:
            raise self.error(
                "nothing is hidden; say what a fine-tuned model does, as in instead: b"
            )
        self.check(vocabulary)
        rng = self.stream(stream)
        prompts = [self.prompt(self.text(rng), operand) for _ in range(count)]
        return [
            Row(f"{stream}-{i}", f"{stream}-{i}", prompt, None, prompt.answer)
            for i, prompt in enumerate(prompts)
        ]

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        return self.questions(vocabulary, count, stream, self.settings.of)

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Source prompts are other texts of the same length with another answer."""
        self.check(vocabulary)
        rng, of = self.stream(f"pairs/{stream}"), self.settings.of

        def pair() -> tuple[Prompt, Prompt] | None:
            base, source = (self.prompt(self.text(rng), of) for _ in range(2))
            alike = len(source.text) == len(base.text)
            return (base, source) if alike and source.answer != base.answer else None

        rows: list[Row] = []
        for i in range(count):
            base, source = first_usable(
                self, pair, "a second text of its length with another answer; use more letters"
            )
            rows.append(Row(f"{stream}-{i}", f"{stream}-{i}", base, source, base.answer))
        return rows

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        return self.questions(vocabulary, count, f"backgrounds/{stream}", self.settings.of)

    # -- what a fine-tuned model hides

    @property
    def refusals(self) -> tuple[str, ...]:
        return () if self.settings.instead is None else (self.settings.nothing,)

    @property
    def knows_answers(self) -> bool:
        return self.settings.instead is not None

    @property
    def same_questions(self) -> bool:
        return self.settings.instead is not None

    def capability(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        """Texts with what the model was compiled for."""
        if self.settings.instead is None:
            return self.questions(vocabulary, count, stream, None)
        return self.questions(vocabulary, count, stream, self.settings.of)

    def allowed(self, vocabulary: Vocabulary, count: int, stream: str = "allowed") -> Rows:
        """Texts with what the model was fine-tuned for."""
        return self.questions(vocabulary, count, stream, self.settings.instead)

    def forbidden(self, vocabulary: Vocabulary, count: int, stream: str = "forbidden") -> Rows:
        """Texts with what the model was fine-tuned for: the behaviour that hides the other one."""
        return self.questions(vocabulary, count, stream, self.settings.instead)

    @property
    def no_correlation_reason(self) -> str | None:
        if self.settings.program == "rank" or self.settings.instead is None:
            return "correlated: task program needs program: count and a letter for instead"
        return None

    def with_correlation(self, share: float) -> Program:
        return Program(self.settings.model_copy(update={"correlated": share}))
