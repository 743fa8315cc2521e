"""Measurements on the workers of a Ray cluster (``--mechanism-ray``).

The driver, which is the pytest process, plans as in a serial run and judges as in a serial run; between, it
hands the measurements out (`runner.dispatch`). An actor holds one checkpoint and makes measurements of it
(`runner.worker`). Results come back to the driver's store. Donated activations stay in Ray's object store: the
driver keeps references to them and hands these on.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pytest_mechanism.checkpoints.contents import checked_files
from pytest_mechanism.errors import CheckpointChanged, MeasurementError, MechanismError, one_line
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.runner.dispatch import TRIES, Dispatch, Job
from pytest_mechanism.runner.failures import failure_title
from pytest_mechanism.runner.keys import versions
from pytest_mechanism.runner.runner import Runner, progress_cost, progress_rows
from pytest_mechanism.runner.worker import Made, Worker, look_around

LOCAL = "local"
START = 50.0
"""Seconds in which a worker must come up."""

BASE_MEMORY = 1.0e9
"""Bytes of Python and the libraries in a worker."""


@dataclass
class ClusterRunner(Runner):
    """A `Runner` whose measurements other processes make.

    Attributes:
        address: of the cluster; ``local`` starts one on this machine.
        places: where each measurement ran, for the result file.
    """

    address: str = LOCAL
    places: list[dict[str, Any]] = field(default_factory=list)
    _capacity: int = 0
    _loads: int = 0
    _workers: dict[Any, float] = field(default_factory=dict)
    _up: set[Any] = field(default_factory=set)
    _alone_since: float = 0.0
    _broken: MechanismError | None = None

    # -- the cluster

    def check_device(self) -> None:
        """Connects, and checks that every machine can do the work.

        Raises:
            MechanismError: there is no cluster at the address, a machine does not see a folder or has other
                libraries, or no machine has room for a worker.
        """
        if self._capacity:
            return
        if self.options.device == "auto":
            raise MechanismError(
                "--mechanism-ray takes the devices cpu and cuda; auto spreads a model"
            )
        ray = self._connect()
        need = self._resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        room = [self._room(node["Resources"], need) for node in nodes]
        self._look(ray, [node for node, places in zip(nodes, room, strict=True) if places])
        self._capacity = sum(room)
        if not self._capacity:
            raise MechanismError(
                f"--mechanism-ray: no machine of the cluster has room for a worker, which needs "
                f"{spelled(need)}; it has {len(nodes)} machines with "
                f"{spelled({k: ray.cluster_resources().get(k, 0) for k in need})} together"
            )

    def _connect(self) -> Any:
        import ray

        if ray.is_initialized():
            return ray
        if ":" in self.address:  # Ray itself tries for minutes
            host, _, port = self.address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except (OSError, OverflowError) as problem:
                raise MechanismError(
                    f"--mechanism-ray: nothing answers at {self.address}: {one_line(str(problem))}"
                ) from None
        try:
            ray.init(
                address=self.address,
                include_dashboard=False if self.address == LOCAL else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as problem:
            raise MechanismError(
                f"--mechanism-ray: no cluster at {self.address}: {one_line(str(problem))[:300]}"
            ) from None
        return ray

    def _resources(self) -> dict[str, float]:
        """What a worker needs: the largest checkpoint twice while it is read, and the libraries."""
        sizes = [
            sum(path.stat().st_size for path in checked_files(folder))
            for reference in self.references.values()
            for folder in (reference.folder, reference.adapter)
            if folder is not None
        ]
        cuda = self.options.device.startswith("cuda")
        return {"CPU": 1, "memory": BASE_MEMORY + 2 * max(sizes), **({"GPU": 1} if cuda else {})}

    @staticmethod
    def _room(has: dict[str, float], need: dict[str, float]) -> int:
        """How many workers a machine can have."""
        return min(int(has.get(name, 0) // amount) for name, amount in need.items())

    def _look(self, ray: Any, nodes: list[Any]) -> None:
        """Checks the folders and libraries of each machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        folders = [str(f) for r in self.references.values() for f in (r.folder, r.adapter) if f]
        look = ray.remote(num_cpus=0, max_retries=0)(look_around)
        asked = {
            node["NodeManagerHostname"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(folders)
            for node in nodes
        }
        for name, ref in asked.items():
            try:
                found = ray.get(ref, timeout=START)
            except Exception as problem:
                raise MechanismError(
                    f"--mechanism-ray: the machine {name} cannot run pytest-mechanism: "
                    f"{one_line(str(problem).strip().splitlines()[-1])[:300]}"
                ) from None
            if found["missing"]:
                raise MechanismError(
                    f"--mechanism-ray: the machine {name} does not see {found['missing'][0]}; checkpoints "
                    "must lie in a folder that every machine of the cluster sees under the same name"
                )
            for library, version in versions().items():
                if found["versions"].get(library) != version:
                    raise MechanismError(
                        f"--mechanism-ray: the machine {name} has {library} "
                        f"{found['versions'].get(library)}, this one has {version}; they must be equal"
                    )

    def close(self) -> None:
        """Ends the workers."""
        super().close()
        if not self._capacity:
            return
        import ray

        for worker in [*self._workers]:
            with suppress(Exception):
                ray.kill(worker)
        self._workers.clear()
        self._capacity = 0
        ray.shutdown()

    @property
    def loaded(self) -> int:
        return self._loads

    # -- work

    def _work_on(self, role: str) -> None:
        """Makes every pending measurement, on all checkpoints."""
        if self._broken is not None:
            raise self._broken
        self.check_device()
        dispatch = Dispatch()
        for key, measurement in self._schedule.pending.items():
            dispatch.add(self._job(key, measurement))
        costs = [progress_cost(m) for m in self._schedule.pending.values()]
        self.progress.start(
            f"Ray ({self.address}), {self._capacity} workers at most",
            progress_rows(costs, self.references[role]),
            None,
        )
        try:
            self._hand_out(dispatch)
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
        needs = tuple(k for g in measurement.inputs if (k := self.key(g)) in self._schedule.pending)
        return Job(key, measurement.on, prompts, max(1.0, float(cost.rows)), needs)

    def _hand_out(self, dispatch: Dispatch) -> None:
        """Keeps workers busy until nothing is left."""
        import ray

        asked: dict[Any, tuple[Any, Job, Any]] = {}  # how it went -> worker, job, result
        idle, self._alone_since = set(self._up), 0.0
        while dispatch.left:
            for worker in [*idle]:
                self._give(dispatch, worker, idle, asked)
            wanted = min(self._capacity, dispatch.waiting + len(asked))
            while len(self._workers) < wanted:
                self._start(ray)
            starting = {ref: each for each, ref in self._workers.items() if each not in self._up}
            self._check_start(ray)
            if not (refs := [*asked, *starting]):
                continue  # an idle worker has made another job possible
            for ref in ray.wait(refs, num_returns=1, timeout=1.0)[0]:
                if ref in starting:
                    self._admit(ray, starting[ref], ref, idle)
                    continue
                worker, job, result = asked.pop(ref)
                if self._take(ray, dispatch, worker, job, ref, result):
                    idle.add(worker)

    def _give(self, dispatch: Dispatch, worker: Any, idle: set[Any], asked: dict[Any, Any]) -> None:
        """Gives an idle worker its next measurement, if there is one."""
        if (job := dispatch.next(worker)) is None:
            return
        measurement = self._schedule.pending[job.key]
        if (problem := self._known_problem(measurement)) is not None:
            self._fail(job.key, measurement, problem)
            self._schedule.pending.pop(job.key, None)
            dispatch.done(worker)
            return
        idle.discard(worker)
        inputs = [self._results.get(self.key(given)) for given in measurement.inputs]
        made, result = worker.make.options(num_returns=2).remote(measurement, *inputs)
        asked[made] = (worker, job, result)

    def _admit(self, ray: Any, worker: Any, ref: Any, idle: set[Any]) -> None:
        """A worker came up, or died before; then another one is started, until `START` has passed."""
        try:
            ray.get(ref)
            self._up.add(worker)
            idle.add(worker)
        except ray.exceptions.RayError:
            self._workers.pop(worker, None)

    def _known_problem(self, measurement: Measurement) -> Exception | None:
        """Why a measurement cannot be made, if that is known: its checkpoint has changed, or an input failed."""
        if (problem := self.checkpoint.unusable.get(measurement.on)) is not None:
            return problem
        failed = (self._failures.get(self.key(given)) for given in measurement.inputs)
        return next((problem for problem in failed if problem is not None), None)

    def _start(self, ray: Any) -> None:
        """Asks for a worker."""
        need = self._resources()
        actor = ray.remote(Worker).options(
            num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), memory=need["memory"], max_restarts=0
        )
        models = {role: mark.model for role, mark in self.fingerprints.items()}
        worker = actor.remote(dict(self.references), models, self.options)
        self._workers[worker] = worker.place.remote()

    def _check_start(self, ray: Any) -> None:
        """Gives up workers that do not come up; the others go on.

        Raises:
            MechanismError: none is left.
        """
        now = time.monotonic()
        if self._up:
            self._alone_since = now
            return
        self._alone_since = self._alone_since or now
        if now - self._alone_since > START:
            self._broken = MechanismError(
                f"--mechanism-ray: no worker came up within {START:.0f} seconds; a worker needs "
                f"{spelled(self._resources())}, free are {spelled(ray.available_resources())}"
            )
            raise self._broken

    def _take(
        self, ray: Any, dispatch: Dispatch, worker: Any, job: Job, ref: Any, result: Any
    ) -> bool:
        """Takes what a worker returns; whether it can go on."""
        measurement = self._schedule.pending[job.key]
        try:
            made: Made = ray.get(ref)
            if made.error is None:
                value = ray.get(result) if measurement.request.stored else result
        except ray.exceptions.RayError as problem:
            self._up.discard(worker)
            self._workers.pop(worker, None)
            with suppress(Exception):
                ray.kill(worker)
            self._alone_since = 0.0
            self._donate_again(dispatch, measurement)
            if dispatch.lost(worker) is not None:
                title = failure_title(measurement, self.references)
                cause = one_line(str(problem).strip().splitlines()[0])[:300]
                self._fail(
                    job.key,
                    measurement,
                    MeasurementError(f"{title}: its worker died {TRIES} times, last of: {cause}"),
                )
                self._schedule.pending.pop(job.key, None)
            return False
        dispatch.done(worker)
        self._loads += made.loaded
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
                raise made.error
            self._keep(job.key, measurement, value)
            self._results[job.key] = value
            self._note(measurement, value)
        except MechanismError as problem:
            self._fail(job.key, measurement, problem)
        self._schedule.pending.pop(job.key, None)
        return True

    def _donate_again(self, dispatch: Dispatch, measurement: Measurement) -> None:
        """Has the donated activations of a measurement made again: they may have died with a machine."""
        for given in measurement.inputs:
            key = self.key(given)
            if not given.request.stored and key not in self._schedule.pending:
                self._results.pop(key, None)
                self._schedule.pending[key] = given
                dispatch.add(self._job(key, given))


def spelled(resources: dict[str, float]) -> str:
    """``1 CPU, 1 GPU and 3.0 GB of memory``."""
    parts = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    return " and ".join([", ".join(parts), f"{resources.get('memory', 0) / 1e9:.1f} GB of memory"])
