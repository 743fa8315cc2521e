"""Does the measurements that claims ask for: each once, one checkpoint in memory at a time.

What is needed is planned beforehand and measured lazily: the first item that needs a checkpoint
has it loaded, and everything pending on it is done before it is let go. A checkpoint that donates
activations goes first where nothing speaks against it, so a pair is loaded base, ft at best and
base, ft, base at worst. This module imports no torch; what it runs, it reaches by dotted name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import (
    CheckpointChanged,
    MeasurementError,
    MechanismError,
    add_models,
    crash,
    out_of_memory,
)
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.progress import Progress, Silent
from pytest_mechanism.registry import resolve, task_families
from pytest_mechanism.runner.failures import failed, forget_frames, memory_short, unloadable
from pytest_mechanism.runner.guard import Guard
from pytest_mechanism.runner.keys import measurement_key
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import KNOWN_GOOD
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary
from pytest_mechanism.types import Observations, Result_co


@dataclass
class Runner:
    """See the module.

    Attributes:
        references: role -> checkpoint.
        fingerprints: role -> its content hash.
        options: device, dtype, batch size, engine.
        store: where results are remembered, or None.
        progress: told what is going on.
        shared: whether other processes run items of the same plan (pytest-xdist).
        loaded: checkpoints loaded so far.
        done: measurements made.
        from_store: measurements found on disk.
        notes: role -> what its scores have to be read with.
        left_out: settings of a task -> what the tokenizers take away from it, or nothing.
        encoders: role -> tokenizer, of those that were needed.
    """

    references: Mapping[str, Reference]
    fingerprints: Mapping[str, Fingerprint]
    options: ModelOptions = field(default_factory=ModelOptions)
    store: Store | None = None
    progress: Progress = field(default_factory=Silent)
    shared: bool = False
    loaded: int = 0
    done: int = 0
    from_store: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, Encoder] = field(default_factory=dict)
    _results: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _broken: dict[str, MechanismError] = field(default_factory=dict)
    _pending: dict[str, Measurement] = field(default_factory=dict)
    _context: Any = None
    _held: set[str] = field(default_factory=set)
    _guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self._guard = Guard(self.references, self.fingerprints)

    # -- planning

    def key(self, measurement: Measurement) -> str:
        """See `runner.keys`.

        Raises:
            MechanismError: a role that this run has no checkpoint for.
        """
        for role in measurement.roles:
            if role not in self.references:
                raise MechanismError(
                    f"needs a checkpoint for the role {role!r}: {add_models([role])}"
                )
        o = self.options
        return measurement_key(
            measurement, self.fingerprints, o.dtype, o.device, o.engine, o.quantize
        )

    def plan(self, measurements: Iterable[Measurement]) -> None:
        """What will be asked for, so that all work on a checkpoint is done in one go."""
        for each in measurements:
            # what goes from one model into another is not on disk for the others to find: only who
            # runs the item makes it
            elsewhere = self.store is None or any(not given.request.stored for given in each.inputs)
            if not (self.shared and elsewhere):
                self._add(each)

    def _add(self, measurement: Measurement) -> str:
        key = self.key(measurement)
        if key in self._failures or key in self._pending or self.known(key, measurement):
            return key
        for each in measurement.inputs:
            self._add(each)
        self._pending[key] = measurement
        return key

    def known(self, key: str, measurement: Measurement) -> bool:
        """Whether a result is there, in memory or in the store."""
        if key in self._results:
            return True
        if (
            not measurement.request.stored
            or self.store is None
            or (seen := self.store.get(key, measurement.request.result)) is None
        ):
            return False
        self._results[key] = seen
        self._note(measurement, seen)
        self.from_store += 1
        return True

    # -- measuring

    def measure(self, measurement: Measurement[Result_co]) -> Result_co:
        """The result, from memory, from the store, or measured now.

        Raises:
            MechanismError: the measurement, or the loading of a checkpoint, failed.
        """
        with self._alone(measurement):
            return self._found(measurement)

    @contextmanager
    def _alone(self, measurement: Measurement) -> Iterator[None]:
        """Where something goes from one model into another: its lock is held from the donation on,
        so that no two processes record the same. Nobody waits here who holds another lock, and who
        holds this one waits for nothing but measurements that are being made."""
        if (
            self.store is None
            or not self.shared
            or all(m.request.stored for m in measurement.inputs)
        ):
            yield
            return
        key = self.key(measurement)
        with self.store.lock(key):
            self._held.add(key)
            try:
                yield
            finally:
                self._held.discard(key)

    def _found(self, measurement: Measurement[Result_co]) -> Result_co:
        key = self._add(measurement)
        while key in self._pending:
            blocked = next(
                (i for i in measurement.inputs if self.key(i) in self._pending), measurement
            )
            before = len(self._pending)
            self._work_on(blocked.on)
            if len(self._pending) == before:
                raise MeasurementError(
                    f"{measurement.request.implementation} could not be scheduled"
                )
        if key in self._failures:
            raise self._failures[key]
        found: Result_co = self._results[key]
        return found

    @property
    def planned(self) -> bool:
        """Whether something that was planned is not in the store."""
        return bool(self._pending)

    def check_device(self) -> None:
        """Whether anything can be measured. It is torch that knows: to be asked where something is
        `planned`, and not where all is in the store.

        Raises:
            NoDevice: the device is not in this machine.
        """
        if self.options.device.startswith("cuda"):
            resolve("pytest_mechanism.checkpoints.loading.model:pick_device")(self.options.device)

    def release(self) -> None:
        """Let go of the resident checkpoint."""
        if self._context is not None:
            self._context.model.release()
            self._context = None

    def _waits_for(self, role: str) -> set[str]:
        """Roles whose donations pending work on ``role`` still lacks."""
        return {
            each.on
            for m in self._pending.values()
            if m.on == role
            for each in m.inputs
            if self.key(each) in self._pending and each.on != role
        }

    def _ready_on(self, role: str) -> list[tuple[str, Measurement]]:
        return [
            (key, m)
            for key, m in self._pending.items()
            if m.on == role and not any(self.key(i) in self._pending for i in m.inputs)
        ]

    def _work_on(self, role: str) -> None:
        """Do everything that is pending on a checkpoint and can be done."""
        if self._resident != role:
            for donor in sorted(self._waits_for(role)):
                if not self._waits_for(donor):
                    self._work_on(donor)
        ready = self._ready_on(role)
        if not ready:
            return
        costs = [m.cost for _, m in ready]
        self.progress.start(
            f"{self.references[role].label} on {self.options.device}",
            sum(cost.rows for cost in costs),
            costs[0].parts if len(costs) == 1 else None,
        )
        try:
            # what another process is at may be done by the time that the rest is
            busy = [each for each in ready if not self._do(*each, wait=False)]
            for each in busy:
                self._do(*each)
        finally:
            self.progress.finish()
        try:
            self._guard.prove(role)
        except CheckpointChanged as problem:
            self._take_back(role, problem)
        self._forget_donations()

    @property
    def _resident(self) -> str | None:
        return None if self._context is None else str(self._context.model.role)

    def _do(self, key: str, measurement: Measurement, wait: bool = True) -> bool:
        """Whether it is done; not, where another process is at it and is not waited for."""
        try:
            for each in measurement.inputs:
                if (problem := self._failures.get(self.key(each))) is not None:
                    raise problem
            kept = measurement.request.stored and self.store is not None
            locked = self.store if kept and key not in self._held else None
            with locked.lock(key, wait) if locked else nullcontext(True) as held:
                if not held:
                    return False
                seen = (
                    self.store.get(key, measurement.request.result) if kept and self.store else None
                )
                if seen is not None:  # another process was faster
                    self.from_store += 1
                else:
                    scratch = self.store.scratch(key) if kept and self.store else None
                    seen = self._measured(measurement, scratch)
                    self._guard.look(measurement.on, again=False)
                    self.done += 1
                    if kept and self.store:
                        self.store.put(key, seen)
                        self.store.forget(key)
                    self._guard.measured(measurement.on, key)
            self._results[key] = seen
            self._note(measurement, seen)
        except Exception as problem:  # kept for the item that asks; the others go on
            forget_frames(problem)
            problem = self._guard.reason(measurement.on, problem)
            self._failures[key] = problem
            known = self._broken.get(measurement.on)
            if isinstance(problem, CheckpointChanged) and problem is not known:
                self._take_back(measurement.on, problem, key)
        self._pending.pop(key, None)
        return True

    def look_at_configs(self) -> None:
        """See `Guard.look_at_configs`."""
        self._guard.look_at_configs()

    def _take_back(self, role: str, problem: CheckpointChanged, *keys: str) -> None:
        """Nothing that may come from changed files is kept, and nothing more is measured on them."""
        self.release()
        self._broken[role] = problem
        for key in (*keys, *self._guard.unproven.pop(role, ())):
            self._results.pop(key, None)
            self._failures[key] = problem
            if self.store is not None:
                self.store.discard(key)

    def _measured(self, measurement: Measurement, scratch: Path | None) -> Any:
        task = self.task(measurement)
        context = self._load(measurement.on, task)
        context.task, context.scratch = task, scratch
        function: Callable[..., Any] = resolve(measurement.request.implementation)
        inputs = [self._results[self.key(each)] for each in measurement.inputs]
        try:
            found = context.run_method(function, measurement.request, inputs)
            request = measurement.request
            if request.stored and type(found) is not request.result:
                raise MeasurementError(
                    f"{request.implementation} returned {type(found).__name__}, its request "
                    f"declares {request.result.__name__}"
                )
            if not isinstance(found, Observations):
                return found
            if measurement.task not in self.left_out:
                self.left_out[measurement.task] = task.dropped_words(self.vocabulary)
            left_out = self.left_out[measurement.task] or None
            return replace(found, fallback=context.fallback_reason, left_out=left_out)
        except MechanismError:
            raise
        except Exception as problem:
            if out_of_memory(problem):
                raise memory_short(self.options.batch_size) from None
            raise crash(failed(measurement, self.references), problem) from problem

    def _note(self, measurement: Measurement, seen: Any) -> None:
        if not isinstance(seen, Observations):
            return
        role = measurement.on
        if seen.left_out is not None:
            self.left_out[measurement.task] = seen.left_out
        if (why := seen.fallback) is not None:
            self.notes[role] = (
                f"{self.references[role].label} was measured by the reference engine, not by "
                f"{self.options.engine}: {why}"
            )

    def _forget_donations(self) -> None:
        wanted = {self.key(i) for m in self._pending.values() for i in m.inputs}
        for key in [k for k, v in self._results.items() if not isinstance(v, Observations)]:
            if key not in wanted:
                del self._results[key]

    # -- what measurements stand on

    def task(self, measurement: Measurement) -> Task:
        """The task that writes a measurement's rows."""
        settings = json.loads(measurement.task)
        settings.pop("revision")
        settings.pop("edition", None)
        kind = task_families()[settings["family"]]
        found: Task = kind(kind.parameters.model_validate(settings, context={KNOWN_GOOD: True}))
        return found

    @property
    def vocabulary(self) -> SharedVocabulary:
        """The words that every tokenizer of the run keeps whole."""
        for role, reference in self.references.items():
            if role not in self.encoders:
                self.encoders[role] = Encoder.load(reference.tokenizer)
        return SharedVocabulary(tuple(self.encoders[role] for role in self.references))

    def context(self, role: str, task: Task) -> Any:
        """The bench of a role with a task, loaded and self-checked as for a measurement.

        Raises:
            MechanismError: the checkpoint cannot be used.
        """
        found = self._load(role, task)
        found.task = task
        return found

    def _load(self, role: str, task: Task) -> Any:
        """The bench of a role, its checkpoint loaded and self-checked."""
        if role in self._broken:
            raise self._broken[role]
        if self._resident == role:
            return self._context
        self.release()
        vocabulary = self.vocabulary
        rows = task.rows(vocabulary, 8, "self-check")
        if len(rows) < 2:
            raise MeasurementError(
                f"task {task.family} wrote {len(rows)} rows for a self-check of 8"
            )
        try:
            model = resolve("pytest_mechanism.checkpoints.loading.model:load_model")(
                role,
                self.references[role].folder,
                self.options.device,
                self.options.dtype,
                lambda encoder: list(encoder.encode(rows[0].base).ids),
                self.references[role].adapter,
                self.references[role].tokenizer,
                trust=self.options.trust,
                quantize=self.options.quantize,
                check_unchanged=self._guard.watches[role].check,
            )
            self.loaded += 1
            self._context = resolve("pytest_mechanism.methods.context:make_context")(
                model, task, vocabulary, self.options, self.progress, rows
            )
            self._guard.look(role)
        except Exception as problem:
            # tried once, whatever it was: each item that needs this checkpoint gets the reason
            self.release()
            problem = self._guard.reason(role, problem)
            if not isinstance(problem, MechanismError):
                problem = unloadable(self.references[role].text, problem)
            self._broken[role] = problem
            raise problem from None
        return self._context
