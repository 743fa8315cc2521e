"""The checkpoint in memory: one at a time, loaded with rows of a task and self-checked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import MeasurementError, MechanismError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.progress import Progress
from pytest_mechanism.registry import resolve, task_families
from pytest_mechanism.runner.failures import loading_error
from pytest_mechanism.runner.guard import Guard
from pytest_mechanism.runner.kept_checks import KeptChecks, Known
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import KNOWN_GOOD
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

CHECK_ROWS = 8
"""Rows that the self-checks of a checkpoint run on."""


def task_of(measurement: Measurement) -> Task:
    """The task that writes a measurement's rows."""
    settings = json.loads(measurement.task)
    settings.pop("revision")
    settings.pop("edition", None)
    family = task_families()[settings["family"]]
    task: Task = family(family.parameters.model_validate(settings, context={KNOWN_GOOD: True}))
    return task


@dataclass
class ResidentCheckpoint:
    """Loads checkpoints, each in place of the one before.

    Attributes:
        references: role -> checkpoint.
        options: device, dtype, batch size, engine.
        progress: reports rows to the user.
        guard: checks that files do not change during the run.
        tokenizers: role -> hash of its tokenizer; equal tokenizers read a text once.
        loaded: number of checkpoints loaded so far.
        loading: seconds that this took, with the self-checks.
        kept: self-checks of earlier processes; None where nothing is kept.
        recalled: whether the checkpoint in memory passed its self-checks earlier, so that they were not repeated.
        unusable: role -> why its checkpoint cannot be used. Each is tried once.
    """

    references: Mapping[str, Reference]
    options: ModelOptions
    progress: Progress
    guard: Guard
    tokenizers: Mapping[str, str]
    loaded: int = 0
    loading: float = 0.0
    kept: KeptChecks | None = None
    recalled: bool = False
    unusable: dict[str, MechanismError] = field(default_factory=dict)
    _encoders: dict[str, Encoder] = field(default_factory=dict)
    _checked: dict[tuple[str, tuple[str, ...]], Known] = field(default_factory=dict)
    _context: Any = None

    @property
    def role(self) -> str | None:
        """Role of the checkpoint in memory."""
        return None if self._context is None else str(self._context.model.role)

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """Role -> its tokenizer."""
        for role, reference in self.references.items():
            if role not in self._encoders:
                encoder = Encoder.load(reference.tokenizer)
                for other, known in self._encoders.items():
                    if self.tokenizers[other] == self.tokenizers[role]:
                        encoder = replace(encoder, kept=known.kept)
                self._encoders[role] = encoder
        return {role: self._encoders[role] for role in self.references}

    @property
    def vocabulary(self) -> SharedVocabulary:
        """The words that no tokenizer of the run splits."""
        return SharedVocabulary(tuple(self.encoders.values()))

    def context(self, role: str, task: Task) -> Any:
        """The `MeasurementContext` of a role with a task.

        Raises:
            MechanismError: the checkpoint cannot be used.
        """
        if role in self.unusable:
            raise self.unusable[role]
        if self.role != role:
            self.release()
            began = time.perf_counter()
            self._load(role, task)
            self.loading += time.perf_counter() - began
        self._context.task = task
        return self._context

    def release(self) -> None:
        """Free the memory of the checkpoint."""
        if self._context is not None:
            self._context.model.release()
            self._context = None

    def _load(self, role: str, task: Task) -> None:
        vocabulary = self.vocabulary
        rows = task.rows(vocabulary, CHECK_ROWS, "self-check")
        if len(rows) < 2:
            raise MeasurementError(
                f"task {task.family} wrote {len(rows)} rows for a self-check of {CHECK_ROWS}"
            )
        reference = self.references[role]
        # hashed before it is loaded, so that no hash is of later bytes than the model
        _ = self.guard.watches[role].files
        prompts = tuple(p.text for row in rows for p in (row.base, row.source) if p is not None)
        key = (role, prompts)
        try:
            model = resolve("pytest_mechanism.checkpoints.loading.model:load_model")(
                role,
                reference.folder,
                self.options.device,
                self.options.dtype,
                lambda encoder: list(encoder.encode(rows[0].base).ids),
                reference.adapter,
                self.encoders[role],
                trust=self.options.trust,
                quantize=self.options.quantize,
                check_unchanged=self.guard.watches[role].check,
                turn=self.options.turn,
            )
            self.loaded += 1
            entry = None if self.kept is None else self.kept.entry(role, prompts)
            known = self._checked.get(key)
            if known is None and self.kept is not None:
                known = self.kept.get(entry)
            self.recalled = known is not None
            self._context = resolve("pytest_mechanism.methods.context:make_context")(
                model, task, vocabulary, self.options, self.progress, rows, known
            )
            self.guard.check(role)
            # the same files on the same rows again: what the checks found is known
            self._checked[key] = (self._context.fallback_reason, self._context.rounding)
            # where file times prove nothing, the checkpoint may turn out to be another one later
            if self.kept is not None and known is None and self.guard.watches[role].certain:
                self.kept.put(entry, self._checked[key])
        except Exception as problem:
            self.release()
            error = self.guard.reason(role, problem)
            if not isinstance(error, MechanismError):
                error = loading_error(reference.text, error)
            self.unusable[role] = error
            raise error from None
