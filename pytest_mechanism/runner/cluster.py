"""Measurements on the workers of a Ray cluster (``--mechanism-ray``).

The driver, which is the pytest process, plans as in a serial run and judges as in a serial run; it hands the
measurements out (`runner.dispatch`) while it waits for one, and between those that it judges. An actor holds one
checkpoint and makes measurements of it (`runner.worker`). Results come back to the driver's store. Donated activations
stay in Ray's object store: the driver keeps references to them and hands these on.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pytest_mechanism.errors import CheckpointChanged, MeasurementError, MechanismError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.runner.dispatch import TRIES, Dispatch, Job
from pytest_mechanism.runner.failures import failure_title
from pytest_mechanism.runner.machines import (
    LOCAL,
    START,
    connect,
    count_workers,
    resources,
    spelled,
    why,
)
from pytest_mechanism.runner.runner import Runner, progress_cost, progress_rows
from pytest_mechanism.runner.worker import Made, Worker
from pytest_mechanism.types import Result_co

Asked = tuple[Any, Job, Any]
"""What a worker was asked for: the worker, the job, and the reference to its result."""


@dataclass
class ClusterRunner(Runner):
    """A `Runner` whose measurements other processes make.

    Attributes:
        address: of the cluster; ``local`` starts one on this machine.
        places: where each measurement ran, for the result file.
    """

    address: str = LOCAL
    places: list[dict[str, Any]] = field(default_factory=list)
    _ray: Any = None
    _need: dict[str, float] = field(default_factory=dict)
    _capacity: int = 0
    _loads: int = 0
    _loading: float = 0.0  # seconds
    _measured: float = 0.0  # seconds, without those
    _cost: float = 0.0  # of what was measured in these
    _starting: dict[Any, Any] = field(default_factory=dict)  # reference to its place -> worker
    _up: dict[Any, str] = field(default_factory=dict)  # worker -> its machine
    _idle: set[Any] = field(default_factory=set)  # workers without a measurement
    _asked: dict[Any, Asked] = field(default_factory=dict)
    _dispatch: Dispatch = field(default_factory=Dispatch)
    _wanted: str = ""
    _alone_since: float = 0.0
    _broken: MechanismError | None = None
    _refused: MechanismError | None = None

    # -- the cluster

    def check_device(self) -> None:
        """Connects, and checks that every machine can do the work.

        Raises:
            MechanismError: there is no cluster at the address, a machine does not see a folder or has other
                libraries, or no machine has room for a worker.
        """
        if self._refused is not None:
            raise self._refused
        if self._capacity:
            return
        try:
            if (device := self.options.device) not in ("cpu", "cuda"):
                raise MechanismError(  # noqa: TRY301 - remembered below
                    f"--mechanism-ray takes the devices cpu and cuda, not {device}: a worker has one GPU, "
                    "which Ray chooses"
                )
            self._ray = connect(self.address)
            self._need = resources(self.references, device)
            self._capacity = count_workers(self._ray, self.references, self._need, self.address)
        except MechanismError as problem:
            self._refused = problem
            raise

    def prepare(self) -> None:
        """Starts a worker for each checkpoint, which imports torch while the driver checks what it will measure."""
        with suppress(MechanismError):  # whoever asks next gets it again
            self.check_device()
            for _ in range(min(self._capacity, len(self.references))):
                self._start()

    def close(self) -> None:
        """Ends the workers."""
        super().close()
        if self._ray is None:
            return
        for worker in (*self._up, *self._starting.values()):
            with suppress(Exception):
                self._ray.kill(worker)
        for each in (self._up, self._starting, self._idle, self._asked):
            each.clear()
        self._dispatch = Dispatch()
        self._ray.shutdown()
        self._ray, self._capacity = None, 0

    @property
    def loaded(self) -> int:
        return self._loads

    # -- work

    def measure(self, measurement: Measurement[Result_co]) -> Result_co:
        """See `Runner.measure`. Workers that are done since the last claim get their next measurement."""
        with suppress(
            MechanismError
        ):  # what is there can be judged whatever happens to the workers
            while self._serve(0.0):
                pass
        self._wanted = self.key(measurement)
        return super().measure(measurement)

    def _work_on(self, role: str) -> None:
        """Has measurements made until the one that is wanted is there. The workers go on with the others."""
        if self._broken is not None:
            raise self._broken
        self.check_device()
        pending = self._schedule.pending
        for key, measurement in pending.items():
            if key not in self._dispatch:
                self._dispatch.add(self._job(key, measurement))
        costs = [progress_cost(m) for m in pending.values()]
        self.progress.start(
            f"Ray ({self.address}), {self._capacity} workers at most",
            progress_rows(costs, self.references[role]),
            None,
        )
        try:
            while self._wanted in pending:
                self._serve(1.0)
        finally:
            self.progress.finish()
        for each in self.references:
            try:
                self._guard.verify(each)
            except CheckpointChanged as problem:
                self._discard(each, problem)
        self._drop_donations()

    def _job(self, key: str, measurement: Measurement) -> Job:
        cost = progress_cost(measurement)
        prompts = (measurement.task, cost.prompts) if cost.prompts else None
        needs = tuple(map(self.key, measurement.inputs))
        task = measurement.task
        return Job(key, measurement.on, prompts, max(1.0, float(cost.rows)), needs, task)

    def _serve(self, seconds: float) -> bool:
        """Takes what the next worker has done, and gives all idle ones measurements; whether there was something."""
        self._give_all()
        if not (refs := [*self._asked, *self._starting]):
            return False  # an idle worker has made another job possible
        ready = self._ray.wait(refs, num_returns=1, timeout=seconds)[0]
        if not ready:
            self._check_start()
        for ref in ready:
            if ref in self._starting:
                self._admit(ref)
                continue
            worker, job, result = self._asked.pop(ref)
            if self._take(self._dispatch, worker, job, ref, result):
                self._idle.add(worker)
        self._give_all()
        return bool(ready)

    def _give_all(self) -> None:
        """Gives idle workers measurements, and starts further workers for those that are left."""
        for worker in [*self._idle]:
            self._give(worker)
        wanted = min(self._capacity, self._dispatch.waiting + len(self._asked))
        while len(self._up) + len(self._starting) < wanted:
            self._start()

    def _give(self, worker: Any) -> None:
        """Gives an idle worker its next measurement, if there is one."""
        dispatch = self._dispatch
        if (job := dispatch.next(worker)) is None:
            return
        measurement = self._schedule.pending[job.key]
        if (problem := self._known_problem(measurement)) is not None:
            self._fail(job.key, measurement, problem)
            self._schedule.pending.pop(job.key, None)
            dispatch.done(worker)
            return
        self._idle.discard(worker)
        inputs = [self._results[self.key(given)] for given in measurement.inputs]
        made, result = worker.make.options(num_returns=2).remote(measurement, *inputs)
        self._asked[made] = (worker, job, result)

    def _admit(self, ref: Any) -> None:
        """A worker came up, or died before; then another one is started, until `START` has passed."""
        worker = self._starting.pop(ref)
        with suppress(self._ray.exceptions.RayError):
            self._up[worker], _ = self._ray.get(ref)
            self._idle.add(worker)

    def _known_problem(self, measurement: Measurement) -> Exception | None:
        """Why a measurement cannot be made, if that is known: its checkpoint has changed, or an input failed."""
        if (problem := self.checkpoint.unusable.get(measurement.on)) is not None:
            return problem
        failed = (self._failures.get(self.key(given)) for given in measurement.inputs)
        return next((problem for problem in failed if problem is not None), None)

    def _start(self) -> None:
        """Asks for a worker."""
        need = self._need
        actor = self._ray.remote(Worker).options(
            num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), memory=need["memory"], max_restarts=0
        )
        models = {role: mark.model for role, mark in self.fingerprints.items()}
        worker = actor.remote(dict(self.references), models, self.options)
        self._starting[worker.place.remote()] = worker
        worker.warm_up.remote()

    def _check_start(self) -> None:
        """Checks that a worker is up, or that the first has had less than `START` to come up.

        Raises:
            MechanismError: none came up.
        """
        if self._up:
            self._alone_since = 0.0
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > START:
            self._broken = MechanismError(
                f"--mechanism-ray: no worker came up within {START:.0f} seconds; a worker needs "
                f"{spelled(self._need)}, free are {spelled(self._ray.available_resources())}"
            )
            raise self._broken

    def _take(self, dispatch: Dispatch, worker: Any, job: Job, ref: Any, result: Any) -> bool:
        """Takes what a worker returns; whether it can go on."""
        measurement = self._schedule.pending[job.key]
        try:
            made: Made = self._ray.get(ref)
            if made.error is None:
                value = self._ray.get(result) if measurement.request.stored else result
        except self._ray.exceptions.RayError as problem:
            self._lose(dispatch, worker, measurement, problem)
            return False
        dispatch.done(worker)
        self._learn(dispatch, job, made)
        self.places.append(
            {
                "measurement": measurement.request.implementation,
                "role": measurement.on,
                "node": made.node,
                "pid": made.pid,
                "attempts": dispatch.attempts[job.key],
                "seconds": made.seconds,
            }
        )
        self.progress.advance(progress_cost(measurement).rows)
        try:
            if made.error is not None:
                raise made.error  # noqa: TRY301 - raised here to be reported below
            self._keep(job.key, measurement, value)
            self._results[job.key] = value
            self._note(measurement, value)
        except Exception as problem:  # for the item that asks; the others go on
            self._fail(job.key, measurement, problem)
        self._schedule.pending.pop(job.key, None)
        return True

    def _learn(self, dispatch: Dispatch, job: Job, made: Made) -> None:
        """What a loading costs beside the measurements."""
        self._loads += made.loaded
        self._loading += made.loading
        self._measured += made.seconds - made.loading
        self._cost += job.cost
        if self._loads and self._measured > 0:
            dispatch.load = self._loading / self._loads * self._cost / self._measured

    def _lose(
        self, dispatch: Dispatch, worker: Any, measurement: Measurement, problem: Exception
    ) -> None:
        """A worker died: its measurement is made again, or fails where too many have died."""
        node = self._up.pop(worker)
        with suppress(Exception):
            self._ray.kill(worker)
        if (job := dispatch.lost(worker)) is None:
            self._donate_again(dispatch, measurement)
            return
        title = failure_title(measurement, self.references)
        self._fail(
            job.key,
            measurement,
            MeasurementError(
                f"{title}: tried {TRIES} times; the last worker died on the machine {node}: {why(problem)}"
            ),
        )
        self._schedule.pending.pop(job.key, None)

    def _donate_again(self, dispatch: Dispatch, measurement: Measurement) -> None:
        """Has the donated activations of a measurement made again: they may have died with a machine."""
        for given in measurement.inputs:
            key = self.key(given)
            if not given.request.stored and key not in self._schedule.pending:
                self._results.pop(key, None)
                self._schedule.pending[key] = given
                dispatch.add(self._job(key, given))
