"""A task whose rows follow from a plan (`slot_plan`): texts with slots, and lists of words.

The source of a row belongs to the same part of all prompts as its base. Rows whose slots have the
same words are one cluster, whichever text they have: ten wordings of one fact do not make a
confidence interval narrower.
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

from pytest_mechanism.tasks.base import Prompt, Row, Rows, Settings_co, Task, Vocabulary
from pytest_mechanism.tasks.text.joints import joint_between
from pytest_mechanism.tasks.text.vocabulary import RecordingVocabulary
from pytest_mechanism.tasks.writing.parts import RESAMPLE, part_of_stream, part_of_text
from pytest_mechanism.tasks.writing.patterns import Word
from pytest_mechanism.tasks.writing.row_generator import GeneratedRow, MakeRow, RowGenerator
from pytest_mechanism.tasks.writing.slot_plan import Change, Filling, Plan, Tables
from pytest_mechanism.tasks.writing.whole_words import split_literals, whole_words
from pytest_mechanism.tasks.writing.word_lists import Table

MAX_TRIES = 40
"""Sources that are drawn for a base before it counts as having none."""

SHOWN_WORDS = 8
"""Words that an error lists."""


class SlotTask(Task[Settings_co]):
    """A task that a plan describes. A family writes `plan`."""

    revision = 2

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """What rows are drawn from; follows from the settings alone."""

    @cached_property
    def positions(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("last", *self.plan.texts[0].pattern.names)

    @cached_property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.plan.variables)

    @property
    def chance(self) -> float:
        return float(self.plan.chance)

    @cached_property
    def edition(self) -> int:
        """1 where an answer follows its text without a space: all answers once had a space."""
        answers = (
            (t.pattern.ending, w) for t in self.plan.texts for w in self.plan.possible_answers(t)
        )
        return int(any(not joint_between(ending, word) for ending, word in answers))

    # -- words

    def tables(self, vocabulary: Vocabulary) -> Tables:
        """The words that every tokenizer keeps whole.

        Raises:
            TaskError: there are fewer than a prompt and its source need.
        """
        tables: dict[str, Table] = {}
        for name, table in self.plan.tables.items():
            tables[name] = whole_words(self.plan, vocabulary, name)
            need = self.plan.words_needed(name)
            if len(tables[name]) < need:
                lost = [word for word in table if word not in tables[name]]
                shown = ", ".join(lost[:SHOWN_WORDS]) + (", ..." if len(lost) > SHOWN_WORDS else "")
                raise self.error(
                    f"the tokenizers keep {len(tables[name])} of {len(table)} words of {name} whole, "
                    f"{need} are needed (not whole: {shown}); use other words or a tokenizer that "
                    "knows these"
                )
        if lost := split_literals(self.plan, vocabulary):
            raise self.error(f"the tokenizers split these words: {', '.join(lost)}")
        return tables

    def dropped_words(self, vocabulary: Vocabulary) -> str:
        """Where an answer follows without a space, the prompt decides whether it is one token, so
        every row is checked."""
        if not self.edition:
            return super().dropped_words(vocabulary)
        return self._dropped_words(vocabulary, self.settings.rows, "rows")

    # -- prompts

    def prompt(self, tables: Tables, filling: Filling) -> Prompt:
        plan = self.plan
        text = plan.texts[filling.text]

        def write(word: Word, names: tuple[str, ...]) -> str:
            replaced = [filling.replaced[name] for name in names if name in filling.replaced]
            return replaced[0] if replaced else plan.write_word(tables, word, filling)

        written = text.pattern.write(write, plan.split.__contains__)
        several = len({variant.layout for variant in plan.texts}) > 1
        prefix = f"text_{text.layout}/" if several else ""
        anchors = [("start", 0), *written.anchors]
        return Prompt(
            text=written.text,
            spans=written.spans,
            answer=plan.write_word(tables, text.answer, filling),
            options=plan.guesses(tables, filling),
            anchors=tuple((prefix + name, start) for name, start in anchors),
        )

    def targets(
        self, tables: Tables, variable: str, base: Filling, source: Filling
    ) -> tuple[str, ...]:
        """The words that may come out if the variable is moved; empty where base and source do not
        tell."""
        _, word = self.plan.variables[variable]
        return (self.plan.write_word(tables, word, base, source),)

    def sources(
        self, tables: Tables, base: Filling, change: Change, rng: random.Random
    ) -> Iterator[tuple[Filling, Prompt]]:
        """Changed fillings with another text than the base, of the same part."""
        text = self.prompt(tables, base).text
        part = part_of_text(self.settings.seed, text)
        for _ in range(MAX_TRIES if change.redraw or change.reorder else 1):
            filling = self.plan.source(tables, base, change, rng)
            prompt = self.prompt(tables, filling)
            if prompt.text != text and part_of_text(self.settings.seed, prompt.text) == part:
                yield filling, prompt

    # -- row sets

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        tables = self.tables(vocabulary)
        return self._write(
            vocabulary, tables, count, stream, lambda filling, base, _: GeneratedRow(filling, base)
        )

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Prompts with the sources that the plan's corruption makes of them."""
        change = self.plan.corruption
        if change is None:
            raise self.unsupported("source beside its prompts")
        tables = self.tables(vocabulary)

        def make(filling: Filling, base: Prompt, rng: random.Random) -> GeneratedRow | None:
            source = next(self.sources(tables, filling, change, rng), None)
            return GeneratedRow(filling, base, source[1]) if source else None

        return self._write(vocabulary, tables, count, stream, make, "pairs")

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Pairs whose target is none of the base's correct answers, so that it shows whether a
        patch moved the variable."""
        self.check_variable(variable)
        change, _ = self.plan.variables[variable]
        tables = self.tables(vocabulary)

        def make(filling: Filling, base: Prompt, rng: random.Random) -> GeneratedRow | None:
            for other, source in self.sources(tables, filling, change, rng):
                targets = self.targets(tables, variable, filling, other)
                if targets and not {*targets} & {*base.correct_answers}:
                    return GeneratedRow(filling, base, source, targets)
            return None

        what, suffix = f"pairs for {variable}", f"-{variable}"
        return self._write(vocabulary, tables, count, stream, make, what, suffix)

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """Corrupted prompts, which lack what the answer depends on (Wang et al. 2022, 2.1: the mean
        over ABC); plain prompts where the plan has no corruption. A mean takes each of them once,
        so there may be fewer than ``count``."""
        change = self.plan.corruption
        tables = self.tables(vocabulary)

        def make(filling: Filling, base: Prompt, rng: random.Random) -> GeneratedRow | None:
            if change is None:
                return GeneratedRow(filling, base)
            source = next(self.sources(tables, filling, change, rng), None)
            return GeneratedRow(*source) if source else None

        return self._write(vocabulary, tables, count, stream, make, may_be_fewer=stream != RESAMPLE)

    def _write(
        self,
        vocabulary: Vocabulary,
        tables: Tables,
        count: int,
        stream: str,
        make: MakeRow,
        what: str = "prompts",
        suffix: str = "",
        may_be_fewer: bool = False,
    ) -> list[Row]:
        """The rows of a stream, or an error if there are too few."""
        recording = RecordingVocabulary(vocabulary)
        generator = RowGenerator(
            plan=self.plan,
            tables=tables,
            stream=stream,
            seed=self.settings.seed,
            random=self.stream,
            write=lambda filling: self.prompt(tables, filling),
            usable=lambda row: _has_one_token_answers(recording, row),
        )
        generated, exhausted = generator.take(count, make, repeat=not may_be_fewer)
        if len(generated) < count and not (may_be_fewer and generated):
            texts = len(self.plan.texts)
            share = "half" if part_of_stream(stream) == "evaluation" else "a quarter"
            because = f", because text {exhausted + 1} of {texts} has no more and texts take turns"
            raise self.error(
                f"{count} different {what} are requested, but these words make only "
                f"{len(generated)}{because if texts > 1 else ''} ({share} of all prompts belongs to "
                f"stream {stream}); {f'{recording}; ' if recording.dropped else ''}add words, or "
                "lower rows"
            )
        return [_row(row, f"{stream}{suffix}-{i}") for i, row in enumerate(generated)]


def _has_one_token_answers(vocabulary: Vocabulary, row: GeneratedRow) -> bool:
    """Whether every tokenizer writes a row's answers and targets as one token of their own."""
    words = [(row.base, word) for word in (*row.base.correct_answers, *row.targets)]
    if row.source is not None:
        words += [(row.source, word) for word in row.source.correct_answers]
    return all(vocabulary.answers(prompt, [word]) for prompt, word in words)


def _row(row: GeneratedRow, name: str) -> Row:
    words = sorted(row.filling.words.items()), sorted(row.filling.replaced.items())
    cluster = hashlib.sha256(repr(words).encode()).hexdigest()[:16]
    targets = row.targets or (row.base.answer,)
    several = targets if len(targets) > 1 else ()
    return Row(name, cluster, row.base, row.source, targets[0], several)
