"""Makes the measurements that claims ask for: each once, with one checkpoint in memory at a time.

Claims name their measurements beforehand, and the runner makes them when the first result is needed: it
loads the checkpoint and makes everything that is pending on it before it loads the next. A checkpoint
that donates activations goes first where possible, so that a pair is loaded base, ft at best, and base,
ft, base at worst. A checkpoint whose weights are not read yet (`checkpoints.read_ahead`) is read while another
one is measured, and its measurements get their keys after that. This module imports no torch; it resolves methods
by their dotted names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.checkpoints.shape import read_shape
from pytest_mechanism.errors import (
    CheckpointChanged,
    MeasurementError,
    MechanismError,
    NotMeasured,
    add_models,
    crash,
    out_of_memory,
)
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Cost
from pytest_mechanism.progress import Progress, Silent
from pytest_mechanism.registry import resolve
from pytest_mechanism.runner.failures import batch_too_large, clear_frames, failure_title
from pytest_mechanism.runner.guard import Guard
from pytest_mechanism.runner.kept_checks import KeptChecks
from pytest_mechanism.runner.keys import measurement_key
from pytest_mechanism.runner.resident import ResidentCheckpoint, task_of
from pytest_mechanism.runner.schedule import Schedule, by_prompts
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import Observations, Result_co


@dataclass
class Runner:
    """See the module.

    Attributes:
        references: role -> checkpoint.
        fingerprints: role -> its content hash.
        options: device, dtype, batch size, engine.
        store: results on disk, or None.
        progress: reports rows to the user.
        shared: whether other processes run items of the same plan (pytest-xdist).
        done: number of measurements made.
        from_store: number of results read from disk.
        notes: role -> what readers of its scores must know.
        rounding: role -> how much the batch size and the engine move a row's log-probability (half precision alone).
        left_out: settings of a task -> words that no row has, because a tokenizer splits them.
        checkpoint: the checkpoint in memory.
    """

    references: Mapping[str, Reference]
    fingerprints: Mapping[str, Fingerprint]
    options: ModelOptions = field(default_factory=ModelOptions)
    store: Store | None = None
    progress: Progress = field(default_factory=Silent)
    shared: bool = False
    done: int = 0
    from_store: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    checkpoint: ResidentCheckpoint = field(init=False)
    _guard: Guard = field(init=False)
    _schedule: Schedule = field(init=False)
    _results: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _locked: set[str] = field(default_factory=set)
    _later: list[Measurement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._guard = Guard(self.references, self.fingerprints)
        self._schedule = Schedule(self.key)
        tokenizers = {role: mark.tokenizer for role, mark in self.fingerprints.items()}
        self.checkpoint = ResidentCheckpoint(
            self.references, self.options, self.progress, self._guard, tokenizers
        )
        if self.store is not None:
            self.checkpoint.kept = KeptChecks(self.store, self.options, self.key)

    # -- planning

    def key(self, measurement: Measurement) -> str:
        """See `runner.keys`.

        Raises:
            MechanismError: the run has no checkpoint for one of the measurement's roles.
        """
        for role in measurement.roles:
            if role not in self.references:
                raise MechanismError(
                    f"needs a checkpoint for the role {role!r}: {add_models([role])}"
                )
        o = self.options
        return measurement_key(
            measurement, self.fingerprints, o.dtype, o.device, o.engine, o.quantize, o.batch_size
        )

    def plan(self, measurements: Iterable[Measurement]) -> None:
        """Announces measurements, so that all work on a checkpoint is done while it is loaded."""
        for measurement in measurements:
            # other processes find no donated activations on disk, so only the process that runs the
            # item makes them
            unshareable = self.store is None or takes_donations(measurement)
            if self.shared and unshareable:
                continue
            if self._has_key(measurement):
                self._add(measurement)
                continue
            self._later.append(measurement)
            for given in measurement.inputs:  # made while their checkpoint is loaded
                if self._has_key(given):
                    self._add(given)

    def _has_key(self, measurement: Measurement) -> bool:
        """Whether the key is there without waiting for weights to be read."""
        return all(
            role not in self.references or self.fingerprints[role].known
            for role in measurement.roles
        )

    def _add_later(self, role: str | None) -> None:
        """Plans what was waiting for weights to be read: everything on a role, and what has its key by now.

        Args:
            role: whose weights to wait for; None waits for all.
        """
        for waits in (True, False):
            for measurement in [*self._later]:
                if self._has_key(measurement) or (waits and role in (None, measurement.on)):
                    self._later.remove(measurement)
                    with suppress(MechanismError):  # the item that asks for it reports it
                        self._add(measurement)

    def _add(self, measurement: Measurement) -> str:
        key, pending = self.key(measurement), self._schedule.pending
        if not (key in self._failures or key in pending or self.known(key, measurement)):
            for given in measurement.inputs:
                self._add(given)
            pending[key] = measurement
        return key

    def known(self, key: str, measurement: Measurement) -> bool:
        """Whether the result is in memory or in the store."""
        if key in self._results:
            return True
        if (result := self._stored(key, measurement)) is None:
            return False
        self._results[key] = result
        self._note(measurement, result)
        self.from_store += 1
        return True

    def in_store(self, measurement: Measurement) -> bool:
        """`known`, as far as it can be told without waiting for weights to be read."""
        return self._has_key(measurement) and self.known(self.key(measurement), measurement)

    def peek(self, measurement: Measurement[Result_co]) -> Result_co | None:
        """The result, if it is in memory or in the store; makes no measurement and counts none."""
        if any(role not in self.references for role in measurement.roles):
            return None
        key = self.key(measurement)
        result: Result_co | None = self._results.get(key)
        if result is None and key not in self._failures:
            result = self._stored(key, measurement)
        return result

    def _stored(self, key: str, measurement: Measurement) -> Any:
        if self.store is None or not measurement.request.stored:
            return None
        return self.store.get(key, measurement.request.result)

    @property
    def planned(self) -> bool:
        """Whether a planned measurement has no result yet."""
        if not self._schedule.pending:  # nothing to do meanwhile
            self._add_later(None)
        return bool(self._schedule.pending)

    def check_device(self) -> None:
        """Checks that something can be measured. Only torch knows, so ask this only where something
        is `planned`.

        Raises:
            NoDevice: this machine lacks the device.
        """
        check_device(self.options.device)

    def prepare(self) -> None:
        """Something will most likely be measured."""

    def check_configs(self) -> None:
        """See `Guard.check_configs`."""
        self._guard.check_configs()

    # -- measuring

    def measure(self, measurement: Measurement[Result_co]) -> Result_co:
        """The result, from memory, from the store, or measured now.

        Raises:
            MechanismError: the measurement, or the loading of a checkpoint, failed.
        """
        with self._donations_locked(measurement):
            key, pending = self._add(measurement), self._schedule.pending
            while key in pending:
                before = len(pending)
                self._work_on(self._schedule.next_role(measurement))
                if len(pending) == before:
                    name = measurement.request.implementation
                    raise MeasurementError(f"{name} could not be scheduled")
            if key in self._failures:
                raise self._failures[key]
            result: Result_co = self._results[key]
            return result

    def recall(self, measurement: Measurement[Result_co]) -> Result_co:
        """The result, from memory or from the store. Makes no measurement and counts none.

        Raises:
            NotMeasured: nobody made the measurement.
        """
        result = self.peek(measurement)
        if result is None:
            raise NotMeasured(f"{measurement.request.implementation} was not measured")
        return result

    @contextmanager
    def _donations_locked(self, measurement: Measurement) -> Iterator[None]:
        """Holds the lock of a measurement that takes donated activations from the donation on, so that
        no two processes record them. There is no deadlock: a process waits here without any other lock,
        and while it holds this one, waits only for measurements that are being made."""
        if self.store is None or not self.shared or not takes_donations(measurement):
            yield
            return
        key = self.key(measurement)
        with self.store.lock(key):
            self._locked.add(key)
            try:
                yield
            finally:
                self._locked.discard(key)

    def _work_on(self, role: str) -> None:
        """Makes every pending measurement on a checkpoint whose inputs are there, donors' first."""
        self._add_later(role)
        if self.checkpoint.role != role:
            for donor in sorted(self._schedule.donors(role)):
                if not self._schedule.donors(donor):
                    self._work_on(donor)
        ready = by_prompts(self._schedule.ready(role), progress_cost)
        if not ready:
            return
        costs = [progress_cost(measurement) for _, measurement in ready]
        self.progress.start(
            f"{self.references[role].label} on {self.options.device}",
            progress_rows(costs, self.references[role]),
            costs[0].parts if len(costs) == 1 else None,
        )
        try:
            # measurements that another process is making come last: it may be done by then
            busy = [item for item in ready if not self._make(*item, wait=False)]
            for item in busy:
                self._make(*item)
        finally:
            self.progress.finish()
        try:
            self._guard.verify(role)
        except CheckpointChanged as problem:
            self._discard(role, problem)
        self._drop_donations()

    def _drop_donations(self) -> None:
        """Forgets donated activations that nothing needs any more."""
        awaited = self._schedule.awaited_inputs()
        inputs = (given for measurement in self._later for given in measurement.inputs)
        awaited |= {self.key(given) for given in inputs if self._has_key(given)}
        for key, result in [*self._results.items()]:
            if not isinstance(result, Observations) and key not in awaited:
                del self._results[key]

    def _make(self, key: str, measurement: Measurement, wait: bool = True) -> bool:
        """Makes one measurement and keeps its result or its error.

        Returns:
            False where another process is making it and ``wait`` is False.
        """
        try:
            for given in measurement.inputs:
                if (problem := self._failures.get(self.key(given))) is not None:
                    raise problem  # noqa: TRY301 - raised here to be reported below
            store = self.store if measurement.request.stored else None
            lock = store.lock(key, wait) if store and key not in self._locked else nullcontext(True)
            with lock as acquired:
                if not acquired:
                    return False
                result = self._stored(key, measurement)
                if result is not None:  # another process was faster
                    self.from_store += 1
                else:
                    result = self._run(measurement, store.scratch(key) if store else None)
                    self._keep(key, measurement, result)
            self._results[key] = result
            self._note(measurement, result)
        except Exception as problem:  # for the item that asks; the others go on
            self._fail(key, measurement, problem)
        self._schedule.pending.pop(key, None)
        return True

    def _keep(self, key: str, measurement: Measurement, result: Any) -> None:
        """Stores a result that was measured now, if its checkpoint is still the same.

        Raises:
            MechanismError: it is not, or the store cannot be written.
        """
        self._guard.check(measurement.on, thorough=False)
        self.done += 1
        if self.store is not None and measurement.request.stored:
            self.store.put(key, result)
            self.store.forget(key)
        self._guard.note(measurement.on, key)

    def _fail(self, key: str, measurement: Measurement, problem: Exception) -> None:
        """Remembers why there is no result."""
        clear_frames(problem)
        error = self._guard.reason(measurement.on, problem)
        self._failures[key] = error
        known = self.checkpoint.unusable.get(measurement.on)
        if isinstance(error, CheckpointChanged) and error is not known:
            self._discard(measurement.on, error, key)

    def make_with(self, measurement: Measurement, inputs: Sequence[Any]) -> Any:
        """Makes one measurement with the results of its inputs, and keeps nothing: for a worker of a cluster.

        Raises:
            MechanismError: the measurement, or the loading of its checkpoint, failed.
        """
        keys = [self.key(given) for given in measurement.inputs]
        try:
            self._results.update(zip(keys, inputs, strict=True))
            result = self._run(measurement, None)
            self._guard.check(measurement.on, thorough=False)
        except Exception as problem:
            error = self._guard.reason(measurement.on, problem)
            if isinstance(error, MechanismError):
                raise error from None
            raise
        finally:
            self._results.clear()
        return result

    @property
    def loaded(self) -> int:
        """How many checkpoints were loaded."""
        return self.checkpoint.loaded

    def close(self) -> None:
        """Frees what the run holds."""
        self.checkpoint.release()

    def _run(self, measurement: Measurement, scratch: Path | None) -> Any:
        """Calls the method."""
        task, request = task_of(measurement), measurement.request
        context = self.checkpoint.context(measurement.on, task)
        context.scratch = scratch
        for fingerprint in self.fingerprints.values():
            fingerprint.read_ahead()
        method: Callable[..., Any] = resolve(request.implementation)
        inputs = [self._results[self.key(given)] for given in measurement.inputs]
        try:
            result = context.run_method(method, request, inputs)
            if request.stored and type(result) is not request.result:
                raise MeasurementError(  # noqa: TRY301 - raised here to be reported below
                    f"{request.implementation} returned {type(result).__name__}, its request "
                    f"declares {request.result.__name__}"
                )
            if not isinstance(result, Observations):
                return result
            if measurement.task not in self.left_out:
                self.left_out[measurement.task] = task.dropped_words(self.checkpoint.vocabulary)
            left_out = self.left_out[measurement.task] or None
            return replace(
                result,
                fallback=context.fallback_reason,
                left_out=left_out,
                rounding=context.rounding,
            )
        except MechanismError:
            raise
        except Exception as problem:
            if out_of_memory(problem):
                raise batch_too_large(self.options.batch_size) from None
            raise crash(failure_title(measurement, self.references), problem) from problem

    def _discard(self, role: str, problem: CheckpointChanged, *keys: str) -> None:
        """Drops every result that may come from changed files; nothing more is measured on them."""
        self.checkpoint.release()
        self.checkpoint.unusable[role] = problem
        for key in (*keys, *self._guard.unverified.pop(role, ())):
            self._results.pop(key, None)
            self._failures[key] = problem
            if self.store is not None:
                self.store.discard(key)

    def _note(self, measurement: Measurement, result: Any) -> None:
        """Keeps what the report says beside the scores."""
        if not isinstance(result, Observations):
            return
        if result.left_out is not None:
            self.left_out[measurement.task] = result.left_out
        if result.rounding is not None:
            self.rounding[measurement.on] = result.rounding
        if result.fallback is not None:
            label = self.references[measurement.on].label
            self.notes[measurement.on] = (
                f"{label} was measured by the reference engine, not by {self.options.engine}: "
                f"{result.fallback}"
            )


def check_device(name: str) -> None:
    """Checks that this machine has a device.

    Raises:
        NoDevice: it has not.
    """
    if name.startswith("cuda"):
        resolve("pytest_mechanism.checkpoints.loading.model:pick_device")(name)


def takes_donations(measurement: Measurement) -> bool:
    """Whether an input is not stored, such as another model's activations."""
    return any(not given.request.stored for given in measurement.inputs)


def progress_rows(costs: Sequence[Cost], reference: Reference) -> int:
    """The length of the progress bar."""
    layers = 0
    if any(cost.rows_per_layer for cost in costs):
        with suppress(MechanismError):  # a changed config is reported when the checkpoint is loaded
            layers = read_shape(reference.folder, reference.adapter).n_layers
    return sum(cost.rows_with(layers) for cost in costs)


def progress_cost(measurement: Measurement) -> Cost:
    """The cost for the progress bar, whatever a request of another package does."""
    try:
        return measurement.cost
    except MechanismError:
        return Cost()
