"""Preflight: can a measurement be made with these tokenizers? Asked before a checkpoint is loaded.

It writes the rows that the method will use (`Request.row_sets`), encodes them with the checkpoint's
tokenizer, and checks what the method would fail on later: too few rows or contexts, a position that a
row lacks, an answer of several tokens, a missing source prompt, too few background prompts for a
positional mean, training rows that cannot be written, no disk space for an interrupted training. It
needs no torch and no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_mechanism.claims.context import check_contexts
from pytest_mechanism.errors import MeasurementError, MechanismError, crash
from pytest_mechanism.fields.ablation import LEAST_PROMPTS, Ablation
from pytest_mechanism.measurements.backgrounds import rare_slots, shortage, sufficient_prompts
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import RowSet
from pytest_mechanism.runner.preflight_training import check_disk, check_training_rows, unfinished
from pytest_mechanism.runner.resident import task_of
from pytest_mechanism.tasks.base import Prompt, Row, Task, Vocabulary, parse_position
from pytest_mechanism.tasks.text.encoding import Encoded, Encoder

if TYPE_CHECKING:
    from pytest_mechanism.runner.runner import Runner

T = TypeVar("T")


def make_preflight(runner: Runner) -> Preflight:
    """The preflight of a runner's checkpoints and store. The runner learns that it will have work."""
    runner.prepare()
    return Preflight(
        runner.checkpoint.encoders,
        runner.checkpoint.vocabulary,
        {role: reference.folder for role, reference in runner.references.items()},
        None if runner.store is None else runner.store.folder,
        runner.checkpoint.tokenizers,
    )


def first_obstacle(
    runner: Runner, preflight: Callable[[], Preflight], measurements: Iterable[Measurement]
) -> MechanismError | None:
    """The first reason why measurements without a result cannot be made, or None. Loads no checkpoint
    and plans nothing.

    Args:
        runner: would make them.
        preflight: makes the preflight, which is not needed if all results exist.
        measurements: to be made.
    """
    for measurement in measurements:
        try:
            if runner.in_store(measurement):
                continue
            if (problem := first_obstacle(runner, preflight, measurement.inputs)) is not None:
                return problem
            preflight().check(measurement, task_of(measurement))
        except MechanismError as problem:
            return problem
    return None


@dataclass
class Preflight:
    """Checks measurements with the tokenizers of a run; writes and encodes each set of rows once.

    Attributes:
        encoders: role -> its tokenizer.
        vocabulary: words that no tokenizer splits.
        folders: role -> folder of its checkpoint.
        store: folder of results and interrupted trainings, or None.
        tokenizers: role -> hash of its tokenizer. Rows that fit one of equal tokenizers fit all.
    """

    encoders: Mapping[str, Encoder]
    vocabulary: Vocabulary
    folders: Mapping[str, Path]
    store: Path | None = None
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    _cache: dict[Any, Any] = field(default_factory=dict)

    def check(self, measurement: Measurement, task: Task) -> None:
        """Checks that a measurement can be made.

        Raises:
            MechanismError: it cannot; the message says what to change.
        """
        try:
            self._check(measurement, task)
        except MechanismError:
            raise
        except Exception as problem:  # most likely of a task family
            raise crash(
                f"the rows of task {task.family} could not be checked", problem
            ) from problem

    def _check(self, measurement: Measurement, task: Task) -> None:
        on, request = measurement.on, measurement.request
        row_sets = request.row_sets()
        for row_set in row_sets:
            rows = self.rows(measurement.task, task, row_set)
            check_rows(task, row_set, rows)
            same = ("fits", self.tokenizers.get(on, on), measurement.task, row_set)
            if same not in self._cache:
                for row in rows:
                    self.check_row(on, row_set, row)
                self._cache[same] = None
        if (ablation := request.ablation_used()) is not None:
            for row_set in row_sets:
                self.check_ablation(on, measurement.task, task, row_set, ablation)
        if (recipe := request.recipe_used()) is not None:
            check_training_rows(task, self.vocabulary, self.encoders[on], recipe)
            if self.store is not None and request.stored and recipe.lora is None:
                check_disk(self.store, self.folders[on], unfinished(recipe))

    # -- rows

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Calls ``make`` once in a run; its error is raised each time."""
        if key not in self._cache:
            try:
                self._cache[key] = make()
            except MechanismError as problem:
                self._cache[key] = problem
        result: Any = self._cache[key]
        if isinstance(result, MechanismError):
            raise result
        return result  # type: ignore[no-any-return]

    def rows(self, settings: str, task: Task, row_set: RowSet) -> Sequence[Row]:
        """Writes the rows of a set."""

        def write() -> Sequence[Row]:
            v, count, stream = self.vocabulary, row_set.count, row_set.stream
            if row_set.kind == "pairs":
                return task.pairs(v, count, stream)
            if row_set.kind == "interchange":
                return task.interchange(v, row_set.variable, count, stream)
            if row_set.kind == "backgrounds":
                return task.backgrounds(v, count, stream)
            return task.row_set(row_set.kind, v, count, stream)

        return self.once(
            (settings, row_set.kind, row_set.count, row_set.stream, row_set.variable), write
        )

    def encoded(self, on: str, prompt: Prompt) -> Encoded:
        """A prompt in a checkpoint's tokens."""
        # a prompt is no key, because it holds dictionaries; its rows stay in the cache, so its id is
        key = (self.tokenizers.get(on, on), id(prompt))
        return self.once(key, lambda: self.encoders[on].encode(prompt))

    def check_row(self, on: str, row_set: RowSet, row: Row) -> None:
        """Positions, answers and replies of one row.

        Raises:
            MechanismError: one of them is missing in this tokenizer.
        """
        encoder = self.encoders[on]
        sides = [
            row.base,
            *([row.source] if row_set.has_sources and row.source is not None else []),
        ]
        for prompt in sides:
            encoded = self.encoded(on, prompt)
            if not encoded.ids:
                raise MeasurementError(f"{on}: the tokenizer has no token for {prompt.text[:60]!r}")
            check_places(row_set, prompt, encoded)
        if row_set.one_token_answers:
            for word in dict.fromkeys(
                (row.base.answer, row.target, *row.base.correct_answers, *row.correct_targets)
            ):
                if encoder.answer_id(row.base, word) is None:
                    raise MeasurementError(f"{on}: {word!r} is not one token here")
        if row_set.trained_replies and row.base.completion.strip():
            encoder.reply_ids(row.base)

    # -- ablated heads

    def check_ablation(
        self, on: str, settings: str, task: Task, row_set: RowSet, ablation: Ablation
    ) -> None:
        """Checks that background prompts cover every slot of the rows.

        Raises:
            MeasurementError: there are too few.
        """
        kind, prompts = ablation.value, ablation.prompts
        if kind == "zero":
            return
        rows = self.rows(settings, task, row_set)
        slots = [self.encoded(on, row.base).slots for row in rows]
        if kind == "resample":
            others = self.rows(settings, task, RowSet("backgrounds", len(rows), "resample"))
            for needed, other in zip(slots, others, strict=False):
                anchors = {anchor for anchor, _ in self.encoded(on, other.base).slots}
                if missing := sorted({anchor for anchor, _ in needed} - anchors):
                    raise MeasurementError(
                        f"ablation: {{value: resample}}: a prompt has the anchor {missing[0]!r}, and "
                        "the prompt drawn to replace it has not; write ablation: {value: mean}"
                    )
            return
        counts, written = self.slot_counts(on, settings, task, prompts)
        if kind == "mean":
            if sum(counts.values()) < LEAST_PROMPTS:
                raise MeasurementError(
                    f"the background prompts have fewer than {LEAST_PROMPTS} tokens; give the task "
                    "more words"
                )
            return
        wanted = {slot for row in slots for slot in row}
        if rare := rare_slots(wanted, counts):
            suffice = self.once(
                ("enough", on, settings, frozenset(wanted), prompts),
                lambda: sufficient_prompts(
                    wanted, partial(self.slot_counts, on, settings, task), prompts
                ),
            )
            raise MeasurementError(shortage(rare, counts, written, prompts, suffice))

    def slot_counts(
        self, on: str, settings: str, task: Task, prompts: int
    ) -> tuple[Counter[tuple[str, int]], int]:
        """Number of background prompts with each slot, and of all background prompts."""

        def count() -> tuple[Counter[tuple[str, int]], int]:
            rows = self.rows(settings, task, RowSet("backgrounds", prompts, "ablation"))
            return Counter(s for row in rows for s in self.encoded(on, row.base).slots), len(rows)

        return self.once(("slots", self.tokenizers.get(on, on), settings, prompts), count)


def check_rows(task: Task, row_set: RowSet, rows: Sequence[Row]) -> None:
    """Checks the number of rows and contexts, and the source prompts.

    Raises:
        MeasurementError: there are too few.
    """
    if not rows:
        raise MeasurementError(
            f"task {task.family} wrote no {row_set.kind} for stream {row_set.stream}, {row_set.count} were "
            "asked for"
        )
    if row_set.has_sources and any(row.source is None for row in rows):
        raise MeasurementError("these rows have no source prompt to patch from")
    if row_set.behind_interval:
        check_contexts([row.cluster for row in rows])


def check_places(row_set: RowSet, prompt: Prompt, encoded: Encoded) -> None:
    """Checks that the prompt has each position of a set of rows.

    Raises:
        MeasurementError: it lacks one.
    """
    for at in row_set.positions:
        found = encoded.positions.get(parse_position(at)[0])
        if not found:
            valid = ", ".join(sorted(encoded.positions))
            raise MeasurementError(
                f"the task's prompt {prompt.text[:60]!r} has no position {at!r}; valid: {valid}"
            )
        if row_set.one_token_positions and len(found) != 1:
            raise MeasurementError(
                f"position {at!r} has up to {len(found)} tokens, a probe reads one; take another, "
                "such as last"
            )
