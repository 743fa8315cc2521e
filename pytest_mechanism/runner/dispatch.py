"""Which worker of a cluster makes which measurement next.

Pure bookkeeping without a clock or a network, so that ``benchmarks/cluster_simulation.py`` runs the same code
with a thousand workers that ``--mechanism-ray`` runs with real ones.

A worker goes on with the checkpoint that it holds, with the prompts of its last measurement, whose runs it has in
memory, and then with the rest of their task; after that it takes a task of which no other worker has runs. When nothing
is left of its checkpoint, it takes the checkpoint with the most work for each worker that holds it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

TRIES = 3
"""How often a measurement is tried whose worker dies."""


@dataclass(frozen=True)
class Job:
    """A measurement to make.

    Attributes:
        key: its name.
        role: the checkpoint that must be loaded.
        prompts: measurements with equal prompts share runs.
        cost: how long it takes, in any unit.
        needs: keys of jobs that must be done first.
        task: whose prompts they are.
    """

    key: str
    role: str
    prompts: Hashable = None
    cost: float = 1.0
    needs: tuple[str, ...] = ()
    task: Hashable = None


@dataclass
class Dispatch:
    """Jobs that wait, and jobs that workers have.

    Attributes:
        load: cost of loading a checkpoint: a worker joins others on theirs only if its share is more work; until
            others are done it waits.
        attempts: key -> how often a job was given out.
    """

    load: float = 0.0
    attempts: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, dict[str, Job]] = field(default_factory=dict)
    _work: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _holders: Counter[str] = field(default_factory=Counter)
    _at_task: Counter[tuple[str, Hashable]] = field(default_factory=Counter)
    _holds: dict[Hashable, Job] = field(default_factory=dict)
    _running: dict[Hashable, Job] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)

    @property
    def left(self) -> bool:
        """Whether a job waits or is being done."""
        return bool(self._open)

    @property
    def waiting(self) -> int:
        """Jobs that no worker has."""
        return len(self._open) - len(self._running)

    def __contains__(self, key: str) -> bool:
        """Whether a job waits or is being done."""
        return key in self._open

    def add(self, job: Job) -> None:
        """A job to do, or to do again."""
        self._waiting.setdefault(job.role, {})[job.key] = job
        self._work[job.role] += job.cost
        self._open.add(job.key)

    def next(self, worker: Hashable) -> Job | None:
        """Gives a job to an idle worker; None if it has to wait for others."""
        last = self._holds.get(worker)
        job = None if last is None else self._of_role(last.role, last)
        if job is None:
            job = self._of_other_roles(None if last is None else last.role)
        if job is None:
            return None
        self._leave(worker)
        self._holders[job.role] += 1
        self._at_task[job.role, job.task] += 1
        self._holds[worker] = self._running[worker] = job
        self._remove(job)
        self.attempts[job.key] += 1
        return job

    def done(self, worker: Hashable) -> Job:
        """A worker has done its job."""
        job = self._running.pop(worker)
        self._open.discard(job.key)
        return job

    def lost(self, worker: Hashable) -> Job | None:
        """A worker has died: its job waits again. Returns the job if it was tried too often and is given up."""
        self._leave(worker)
        job = self._running.pop(worker, None)
        if job is None:
            return None
        if self.attempts[job.key] >= TRIES:
            self._open.discard(job.key)
            return job
        self.add(job)
        return None

    def _leave(self, worker: Hashable) -> None:
        """A worker no longer holds what it held."""
        if (last := self._holds.pop(worker, None)) is not None:
            self._holders[last.role] -= 1
            self._at_task[last.role, last.task] -= 1

    def _remove(self, job: Job) -> None:
        del self._waiting[job.role][job.key]
        self._work[job.role] -= job.cost

    def _of_role(self, role: str, last: Job | None = None) -> Job | None:
        """A job on a checkpoint whose inputs are there: on the same prompts if possible, else of the same task, else
        of a task that no worker is at; of these the longest."""
        ready = [
            job
            for job in self._waiting.get(role, {}).values()
            if not any(key in self._open for key in job.needs)
        ]
        if not ready:
            return None

        def worth(job: Job) -> tuple[bool, bool, bool, float]:
            same = last is not None and None is not job.prompts == last.prompts
            here = last is not None and job.task == last.task
            return same, here, not self._at_task[role, job.task], job.cost

        return max(ready, key=worth)

    def _of_other_roles(self, held: str | None) -> Job | None:
        """A job on the checkpoint with the most work for each worker, counting the one that asks."""
        shares = {
            role: self._work[role] / (self._holders[role] + 1)
            for role, jobs in self._waiting.items()
            if jobs and role != held
        }
        for role in sorted(shares, key=lambda role: -shares[role]):
            if self._holders[role] == 0 or shares[role] > self.load:
                job = self._of_role(role)
                if job is not None:
                    return job
        return None
