"""The scheduler of ``--mechanism-ray`` on a simulated cluster: ``python -m benchmarks.cluster_simulation``.

Runs `runner.dispatch` itself, with simulated time: 20 specs on many checkpoints, workers that hold one checkpoint
each, and nodes that fail at random moments and come back. The lower bound of the makespan is the larger of

* all work, with one loading for each checkpoint, divided by the workers that are up on average, and
* the longest measurement with its loading.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_mechanism.runner.dispatch import Dispatch, Job


@dataclass(frozen=True)
class Setting:
    """A simulated run.

    Attributes:
        checkpoints: to measure.
        measurements: of each.
        workers: on all nodes.
        per_node: workers that fail together.
        seconds: mean of a measurement; their lengths are log-normal with sigma 1.
        loading: seconds.
        mean_life: seconds between the failures of a node, on average; 0 for none.
        repair: seconds until a node is back.
    """

    checkpoints: int
    measurements: int
    workers: int
    per_node: int = 8
    seconds: float = 20.0
    loading: float = 30.0
    mean_life: float = 0.0
    repair: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        makespan: seconds until the last measurement.
        bound: lower bound of the makespan.
        loadings: of checkpoints.
        failures: of nodes.
        given_up: measurements whose workers died too often.
    """

    makespan: float
    bound: float
    loadings: int
    failures: int
    given_up: int

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound


class Simulation:
    """A run of the scheduler in simulated time."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.draw = setting, random.Random(seed)
        self.dispatch = Dispatch(load=setting.loading)
        self.jobs = [
            Job(f"{c}.{m}", str(c), m % 5, setting.seconds * self.draw.lognormvariate(-0.5, 1.0))
            for c in range(setting.checkpoints)
            for m in range(setting.measurements)
        ]
        for job in self.jobs:
            self.dispatch.add(job)
        self.now, self.order = 0.0, 0
        self.events: list[tuple[float, int, str, int]] = []  # when, order, what, worker or node
        self.lives = [0] * setting.workers
        self.holds: dict[int, str] = {}
        self.busy: set[int] = set()
        self.idle = set(range(setting.workers))
        self.loadings = self.failures = self.given_up = 0

    def at(self, when: float, what: str, number: int) -> None:
        """Something will happen to a worker or a node."""
        self.order += 1
        heapq.heappush(self.events, (when, self.order, what, number))

    def node(self, first: int) -> range:
        """The workers of a node."""
        return range(first, min(first + self.setting.per_node, self.setting.workers))

    def give(self, worker: int) -> None:
        """A worker takes a job, or is idle."""
        job = self.dispatch.next(worker)
        if job is None:
            self.idle.add(worker)
            return
        self.idle.discard(worker)
        loads = self.holds.get(worker) != job.role
        self.loadings += loads
        self.holds[worker] = job.role
        self.busy.add(worker)
        seconds = job.cost + loads * self.setting.loading
        self.at(self.now + seconds, f"done {self.lives[worker]}", worker)

    def fail(self, first: int) -> None:
        """A node fails, with what its workers were doing."""
        self.failures += 1
        for worker in self.node(first):
            self.lives[worker] += 1
            self.busy.discard(worker)
            self.idle.discard(worker)
            self.holds.pop(worker, None)
            self.given_up += self.dispatch.lost(worker) is not None
        self.at(self.now + self.setting.repair, "returns", first)

    def run(self) -> Outcome:
        """Until every job is done or given up."""
        life = self.setting.mean_life
        if life:
            for first in range(0, self.setting.workers, self.setting.per_node):
                self.at(self.draw.expovariate(1 / life), "fails", first)
        while self.dispatch.left:
            if self.dispatch.waiting:
                for worker in sorted(self.idle)[: self.dispatch.waiting]:
                    self.give(worker)
                    if worker in self.idle:
                        break  # what one idle worker does not get, the others do not get either
            self.now, _, what, number = heapq.heappop(self.events)
            if what == "fails":
                self.fail(number)
            elif what == "returns":
                self.idle.update(self.node(number))
                self.at(self.now + self.draw.expovariate(1 / life), "fails", number)
            elif number in self.busy and what == f"done {self.lives[number]}":
                self.busy.discard(number)
                self.dispatch.done(number)
                self.give(number)
        available = life / (life + self.setting.repair) if life else 1.0
        work = sum(job.cost for job in self.jobs) + self.setting.checkpoints * self.setting.loading
        longest = max(job.cost for job in self.jobs) + self.setting.loading
        bound = max(work / (self.setting.workers * available), longest)
        return Outcome(self.now, bound, self.loadings, self.failures, self.given_up)


def simulate(setting: Setting, seed: int = 0) -> Outcome:
    """A run of the scheduler in simulated time."""
    return Simulation(setting, seed).run()


SETTINGS = (
    Setting(2, 60, 2),
    Setting(20, 60, 8),
    Setting(1000, 60, 64),
    Setting(1000, 60, 256),
    Setting(1000, 60, 1000),
    Setting(1000, 60, 256, mean_life=20_000),
    Setting(1000, 60, 1000, mean_life=20_000),
    Setting(1000, 60, 1000, mean_life=4_000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("checkpoints  workers  failures  loadings  makespan s  bound s  ratio  given up")
    rows = []
    for setting in SETTINGS:
        outcomes = [simulate(setting, seed) for seed in range(arguments.seeds)]
        worst = max(outcomes, key=lambda outcome: outcome.ratio)
        rows.append({"setting": asdict(setting), "worst": asdict(worst) | {"ratio": worst.ratio}})
        print(
            f"{setting.checkpoints:>11}  {setting.workers:>7}  {worst.failures:>8}  {worst.loadings:>8}  "
            f"{worst.makespan:>10,.0f}  {worst.bound:>7,.0f}  {worst.ratio:>5.2f}  {worst.given_up:>8}"
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
