"""``sufficiency``: the circuit beats random circuits of equal size per position.

Each of at least 29 random circuits has as many heads at each position as the spec's groups have there,
drawn from all heads of the model; every other head is ablated, as around the circuit itself. If the
circuit were one of them, it would be the best of N + 1 with probability 1 / (N + 1), so that

    p = (1 + number of random circuits that do as well) / (1 + N)

is the p-value of a rank test. Beside it stands the sufficiency test of Shi et al. 2024 (arXiv 2410.13032):
were the circuit better than nine random circuits in ten only, the number of those that do as well would
have the distribution Bin(N, 1/10). Both must reject at 1 - confidence. Of 29, none may do as well: 1/30 and
0.9^29 are below 0.05. Of 59, one may.

The score is the lead over the best random circuit that these tests do not excuse, on the same rows. Its
interval must lie above 0, which implies both tests. The circuit must also answer significantly better than
by guessing, because among circuits that all fail one is best.

Other than ``faithfulness``, whose control is the *mean* random circuit and whose score is the fraction of
the model that the circuit reaches: a circuit may be faithful at a size at which some random circuits do
as well, and it may beat all of these and explain half of the model.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from typing import Annotated, ClassVar, Literal

import numpy as np
import scipy
from pydantic import Field, StrictInt

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.circuits import circuit, random_circuits
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.faithfulness import variants
from pytest_mechanism.claims.scoring import (
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Verdict

CLAIMED = "beats random circuits"

BEATEN = 0.9
"""The share of all random circuits that the circuit is shown to beat."""


class Sufficiency(PerRoleClaim):
    """The circuit does better than random circuits of equal size per position.

    Attributes:
        random: how many random circuits.
    """

    summary: ClassVar[str] = "the circuit beats random circuits of equal size per position"
    if_red: ClassVar[str] = (
        "random heads at the same positions do as well as the named ones, or the named ones alone do no "
        "better than guessing: the circuit does not suffice because of its heads"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    ablates: ClassVar[bool] = True

    kind: Literal["sufficiency"]
    random: Annotated[StrictInt, Field(ge=29, le=1000)] = 29

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (
            performance(context, context.role),
            circuit(context, context.role),
            random_circuits(context, context.role, self.random),
        )

    def missing_control(self, context: ClaimContext) -> str | None:
        needed = least_draws(context.confidence)
        if self.random >= needed:
            return None
        return (
            f"a test among {self.random} random circuits cannot reach confidence "
            f"{context.confidence:g}; write random: {needed}"
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, circuits, random = (measure(m) for m in self.required_measurements(context))
        check_paired(full, circuits, random)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so no circuit can suffice", CLAIMED
            )
        if (why := self.missing_control(context)) is not None:
            return verdicts.inconclusive(why, CLAIMED, cause=Cause.NO_CONTROL)
        own = min(  # the worse of the circuit with and without oracle positions
            (circuits.values[f"{name}_correct"] for name in variants(circuits, "correct")),
            key=lambda values: float(np.mean(values)),
        )
        rows, how = len(random.example_ids), context.sampling(full)
        draws = [v for name, v in random.values.items() if name.endswith("_correct")]
        draws.sort(key=lambda values: -float(np.mean(values)))
        as_good = sum(float(np.mean(draw)) >= float(np.mean(own[:rows])) for draw in draws)
        place = excused(len(draws), context.confidence)
        rival = estimates.proportion(draws[place], how.first(rows))
        rank = "best" if place == 0 else f"number {place + 1}"
        control = Control(
            f"{rank} of {len(draws)} random circuits of equal size per position",
            rival.value,
            rival.interval,
        )
        alone = score(
            context,
            "accuracy of the circuit",
            estimates.proportion(own, how),
            "accuracy with only the circuit alive",
            control=control,
            ablated=True,
        )
        gap = estimates.difference(own[:rows], draws[place], how.first(rows))
        judged = score(
            context,
            "lead over random circuits",
            gap,
            f"m(C) - m({control.name}), accuracy on the same rows",
            control=Control(f"{control.name}, less itself", 0.0),
            ablated=True,
        )
        ahead = verdicts.within(judged, 0.0, math.inf, claimed=CLAIMED)
        p = (1 + as_good) / (1 + len(draws))
        rank_test = f"{len(draws) - as_good} of {len(draws)} beaten, rank test p = {p:.3f}"
        ahead = replace(ahead, reason=f"{ahead.reason} ({rank_test})")
        ahead = beats_control(ahead, control.name, gap, "the lead may be 0")
        able = verdicts.within(alone, context.task.chance, math.inf, claimed="exceeds guessing")
        able = replace(able, control=ahead.control)
        return replace(verdicts.together([ahead, able]), chance=solved)


def excused(draws: int, confidence: float) -> int:
    """How many random circuits may do as well while both tests still reject; -1 if the tests cannot
    reject even where every random circuit does worse."""
    alpha = 1 - confidence + 1e-9
    most = math.floor(alpha * (1 + draws)) - 1
    while most >= 0 and scipy.special.bdtr(most, draws, 1 - BEATEN) > alpha:
        most -= 1
    return most


def least_draws(confidence: float) -> int:
    """The fewest random circuits among which both tests can reject."""
    return next(draws for draws in count(1) if excused(draws, confidence) >= 0)
