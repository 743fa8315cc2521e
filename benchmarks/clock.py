"""Measures the CPU time of several contenders in one process and one thread.

CPU time instead of wall-clock time, because other programs use the machine; the median of several
turns in which contenders alternate, because they also share its caches and memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contender:
    """One way to do the same work.

    Attributes:
        name: of the contender.
        runs: computes what all variants need: donor activations, the unpatched run.
        variants: log-probabilities (or gradients) of the variants with these numbers, [n, ...].
        every: 1 times all variants; N times every N-th, if all would take too long.
    """

    name: str
    runs: Callable[[], Any]
    variants: Callable[[Any, Sequence[int]], Tensor]
    every: int = 1


@dataclass(frozen=True)
class Measure:
    """Work that contenders do; the first is this project's branch engine.

    Attributes:
        name: key in JSON and of ``--only``.
        title: for people.
        variants: number of variants.
        contenders: the contenders.
        reference: name of the contender whose numbers the others must reproduce.
        unpatched: subtracted from the variants before they are compared, so that small effects are
            not lost in large numbers; None to compare the variants themselves.
        bound: operations of one forward a variant over the least needed, if counted.
        unit: what a variant is.
    """

    name: str
    title: str
    variants: int
    contenders: Sequence[Contender]
    reference: str = "reference engine"
    unpatched: Tensor | None = None
    bound: float | None = None
    unit: str = "variant"


@dataclass
class Timing:
    """Seconds of one contender, with an entry for each turn.

    Attributes:
        contender: who.
        variants: how many there are.
        timed: how many of them were timed.
        runs: seconds of the runs.
        branches: seconds of the timed variants.
        difference: largest from the reference's numbers.
        gap: the same in standard deviations of the reference's effects.
    """

    contender: str
    variants: int
    timed: int
    runs: list[float] = field(default_factory=list)
    branches: list[float] = field(default_factory=list)
    difference: float = 0.0
    gap: float = 0.0

    @property
    def alone(self) -> float:
        """All variants, given the runs; scaled where only some were timed."""
        return statistics.median(self.branches) * self.variants / self.timed

    @property
    def everything(self) -> float:
        return self.alone + statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Slowest over fastest turn."""
        return max(self.branches) / min(self.branches)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def chosen(measure: Measure, contender: Contender) -> list[int]:
    """Variants that are timed, spread over all."""
    step = min(contender.every, max(1, measure.variants // 2))
    return list(range(step // 2, measure.variants, step))


def compete(measure: Measure, turns: int) -> list[Timing]:
    """Times every contender in alternating turns, after a first turn that does not count."""
    timings: list[Timing] = []
    for contender in measure.contenders:
        which = chosen(measure, contender)
        timings.append(Timing(contender.name, measure.variants, len(which)))
    result: dict[str, dict[int, Tensor]] = {}
    judge = next(c for c in measure.contenders if c.name == measure.reference)
    for contender in measure.contenders:
        # the first turn fills the libraries' caches; its numbers are kept for the comparison
        which = sorted({*chosen(measure, contender), *chosen(measure, judge)})
        values = contender.variants(contender.runs(), which)
        result[contender.name] = dict(zip(which, values, strict=True))
    for _ in range(turns):
        for contender, timing in zip(measure.contenders, timings, strict=True):
            which = chosen(measure, contender)
            spent, state = seconds(contender.runs)
            timing.runs.append(spent)
            timing.branches.append(seconds(partial(contender.variants, state, which))[0])
            del state
    truth = result[measure.reference]
    for timing in timings:
        compare(timing, result[timing.contender], truth, measure.unpatched)
    return timings


def compare(
    timing: Timing,
    found: dict[int, Tensor],
    truth: dict[int, Tensor],
    unpatched: Tensor | None,
) -> None:
    """Notes the largest difference over the variants that both computed."""
    both = sorted(found.keys() & truth.keys())
    wanted = torch.stack([truth[i] for i in both]).double()
    got = torch.stack([found[i] for i in both]).double()
    effects = wanted if unpatched is None else wanted - unpatched
    timing.difference = float((got - wanted).abs().max())
    timing.gap = timing.difference / float(effects.std())
