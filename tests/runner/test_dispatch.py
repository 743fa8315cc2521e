"""Which worker makes which measurement: without a cluster."""

from __future__ import annotations

import pytest

from benchmarks.cluster_simulation import Setting, simulate
from pytest_mechanism.runner.dispatch import TRIES, Dispatch, Job


def dispatch(*jobs: Job, load: float = 0.0) -> Dispatch:
    made = Dispatch(load=load)
    for job in jobs:
        made.add(job)
    return made


def test_a_worker_goes_on_with_the_prompts_and_the_checkpoint_that_it_has() -> None:
    """First the same prompts, then the same checkpoint, then another one."""
    work = dispatch(
        Job("a1", "a", "x", 9),
        Job("a2", "a", "y", 5),
        Job("a3", "a", "x", 1),
        Job("b", "b", "x", 2),
    )

    order = []
    while work.left:
        job = work.next("w")
        assert job is not None
        order.append(job.key)
        work.done("w")

    assert order == ["a1", "a3", "a2", "b"]


def test_a_worker_ends_a_task_before_it_begins_another() -> None:
    """Whatever the others cost; a second worker begins a task where the first one is not."""
    work = dispatch(*(Job(f"{t}{n}", "a", t + str(n), n, task=t) for t in "xy" for n in (1, 2)))

    order = {"one": [], "two": []}
    while work.left:
        for worker, jobs in order.items():
            if (job := work.next(worker)) is not None:
                jobs.append(job.key)
                work.done(worker)

    assert order == {"one": ["x2", "x1"], "two": ["y2", "y1"]}


def test_a_job_waits_for_what_it_needs() -> None:
    """An idle worker gets nothing until another has made the donation, and then gets the job."""
    work = dispatch(Job("donate", "a"), Job("take", "b", needs=("donate",)))

    assert work.next("one") == Job("donate", "a")
    assert work.next("two") is None
    work.done("one")
    assert work.next("two") == Job("take", "b", needs=("donate",))


def test_no_worker_loads_a_checkpoint_for_less_work_than_the_loading() -> None:
    """It joins where its share is more, and takes over when the holder has died."""
    work = dispatch(*(Job(str(n), "a", cost=4.0) for n in range(4)), load=7.0)

    assert work.next("one") is not None
    assert work.next("two") is None  # 12 left, half of which is less than a loading
    work.lost("one")
    assert work.next("two") is not None


def test_a_job_whose_workers_die_is_given_up_after_three_tries() -> None:
    """Until then it waits again."""
    work = dispatch(Job("a", "a"))

    given_up = []
    for number in range(TRIES):
        assert work.next(number) == Job("a", "a")
        given_up.append(work.lost(number))

    assert given_up == [None, None, Job("a", "a")]
    assert not work.left


def test_an_idle_worker_that_dies_takes_nothing_with_it() -> None:
    """The job of another waits as before."""
    work = dispatch(Job("a", "a"))

    assert work.lost("idle") is None
    assert work.left


@pytest.mark.parametrize("mean_life", [0.0, 4000.0])
@pytest.mark.parametrize("workers", [2, 40])
def test_a_run_takes_at_most_a_third_longer_than_the_lower_bound(
    workers: int, mean_life: float
) -> None:
    """With nodes of four workers that fail, too."""
    setting = Setting(60, 40, workers, per_node=4, mean_life=mean_life)

    assert simulate(setting).ratio <= 1.3
