"""``curve``: few heads do the task, from the first of a ranking on.

f(k) = (m(C_k) - m(0)) / (m(M) - m(0)) is the faithfulness of the circuit of the first k % of all heads, for
k = 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100 (a part of a head is left out). MIB (Mueller et al. 2025, arXiv
2504.13151, circuit localization track) defines two areas over k, by the trapezoidal rule from 0.1 % to 100 %:

    CPR = integral of f        circuit performance ratio: high if few heads do much
    CMD = integral of |1 - f|  circuit-model distance: low if few heads do what the model does

``axis: linear`` integrates over the fraction k, as MIB does, where sizes from 50 to 100 % have half of the
weight. ``axis: logarithmic`` integrates over log k and divides by the length of that axis, so that the curve
f = 1 has CPR 1 on either. ``ranking`` says whether heads rank by the sign or by the size of their effect,
``ranked_by`` whether that effect is measured head by head or estimated by gradients, which is cheaper and may
be wrong (`methods.circuits.sizes`). The score's name has all three. Other than in MIB, whose circuits are edges
or nodes with MLPs, the parts are heads, and MLPs are always alive.

Control: random rankings of all heads. Where their area is as good, the ranking tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    COLUMN,
    Of,
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import AreaAtLeast, AreaAtMost
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.sizes import CircuitSizes, RankedBy, Ranking, SizesResult
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Chart, Control, Line, Verdict

PERCENT = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Sizes of circuits, of all heads (MIB)."""

DRAWS = 3
"""Random rankings of the control."""

RANK_ROWS = 210
"""Rows on which heads are ranked."""

ALL_HEADS_LINEAR = 0.25
"""CPR on the linear axis if f is 0 up to 50 % of the heads; at 100 % f is 1 in every model."""

RANDOM = f"{DRAWS} random rankings of all heads"


class Curve(PerRoleClaim):
    """The areas over circuits of growing size.

    Attributes:
        cpr_at_least: least circuit performance ratio claimed.
        cmd_at_most: largest circuit-model distance claimed.
        axis: of the integral, ``linear`` or ``logarithmic``.
        ranking: of the heads, ``signed`` (those that help the answer first) or ``absolute``.
        ranked_by: ``ablation`` measures each head's effect, ``attribution`` estimates all by gradients,
            for models of many heads.
        of: what f compares: accuracy, or the answer's log-probability.
    """

    summary: ClassVar[str] = "few heads do the task: circuits of growing size (CPR, CMD)"
    if_red: ClassVar[str] = (
        "the model needs more of its heads for the task than claimed, or the ranking does not "
        "find the heads that do it. `show` draws the curve"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("cpr_at_least", "cmd_at_most")
    ablates: ClassVar[bool] = True
    needs_groups: ClassVar[bool] = False

    kind: Literal["curve"]
    cpr_at_least: AreaAtLeast | None = None
    cmd_at_most: AreaAtMost | None = None
    axis: Literal["linear", "logarithmic"] = "linear"
    ranking: Ranking = "signed"
    ranked_by: RankedBy = "ablation"
    of: Of = "accuracy"

    @model_validator(mode="after")
    def check_thresholds(self) -> Curve:
        if self.cpr_at_least is None and self.cmd_at_most is None:
            raise ValueError("needs one of cpr_at_least, cmd_at_most")
        least = self.cpr_at_least
        if self.axis == "linear" and least is not None and least <= ALL_HEADS_LINEAR:
            raise ValueError(
                f"cpr_at_least: above {ALL_HEADS_LINEAR:g} on the linear axis (a model that needs all its "
                "heads reaches it)"
            )
        return self

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def counts(self, context: ClaimContext) -> list[int]:
        """Heads of the circuit of each size."""
        heads = len(context.shapes[context.role].heads())
        return [int(percent * heads / 100 + 1e-9) for percent in PERCENT]

    def sizes(self, context: ClaimContext) -> Measurement[SizesResult]:
        request = CircuitSizes(
            heads=len(context.shapes[context.role].heads()),
            counts=sorted({0, *self.counts(context)}),
            ranking=self.ranking,
            ranked_by=self.ranked_by,
            draws=DRAWS,
            seed=context.seed,
            rank_rows=RANK_ROWS,
            rows=context.rows,
            stream="rows",
            ablation=context.ablation,
        )
        return context.measurement(request, context.role)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return performance(context, context.role), self.sizes(context)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, sizes = measure(performance(context, context.role)), measure(self.sizes(context))
        check_paired(full, sizes)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so no circuit of any size can do it",
                self.claimed,
            )
        column, how = COLUMN[self.of], context.sampling(full)
        ends = [sizes.values[f"0_{column}"], full.values[column]]
        span = estimates.difference(ends[1], ends[0], how)
        if span.interval[0] <= 0:
            return verdicts.inconclusive(
                "faithfulness has no value: the model and the model with every head ablated do not "
                f"differ significantly ({span.value:.3f} [{span.interval[0]:.3f}, "
                f"{span.interval[1]:.3f}])",
                self.claimed,
            )
        own = [sizes.values[f"{count}_{column}"] for count in self.counts(context)]
        others = [random_mean(sizes, count, column) for count in self.counts(context)]
        try:
            parts = [
                self.part(context, name, ends, own, others, how)
                for name, threshold in (("CPR", self.cpr_at_least), ("CMD", self.cmd_at_most))
                if threshold is not None
            ]
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(f"the area has no value: {problem}", self.claimed)
        return replace(verdicts.together(parts), chance=solved)

    @property
    def claimed(self) -> str:
        """All thresholds in words."""
        cpr = [] if self.cpr_at_least is None else [f"CPR at least {self.cpr_at_least:g}"]
        cmd = [] if self.cmd_at_most is None else [f"CMD at most {self.cmd_at_most:g}"]
        return " and ".join([*cpr, *cmd])

    def part(
        self,
        context: ClaimContext,
        name: str,
        ends: Sequence[Any],
        own: Sequence[Any],
        others: Sequence[Any],
        how: Sampling,
    ) -> Verdict:
        """The verdict on one of the areas.

        Raises:
            UndefinedScoreError: its denominator may be zero.
        """
        better = 1 if name == "CPR" else -1

        def area(*means: Any) -> Any:
            """Of the circuits whose means follow those of the ends."""
            empty, whole, *alone = means
            f = [(mean - empty) / (whole - empty) for mean in alone]
            return self.area(f if name == "CPR" else [abs(1 - value) for value in f])

        def lead(*means: Any) -> Any:
            half = (len(means) - 2) // 2
            return area(*means[: 2 + half]) - area(*means[:2], *means[2 + half :])

        counted = self.of == "accuracy"
        estimate = estimates.of_means([*ends, *own], area, how, counted=counted)
        random = estimates.of_means([*ends, *others], area, how, counted=counted)
        gap = estimates.of_means([*ends, *own, *others], lead, how, counted=False)
        f = "f" if name == "CPR" else "|1 - f|"
        judged = score(
            context,
            f"{name}, {self.axis} axis, {self.ranking} ranking by {self.ranked_by}",
            estimate,
            f"area of {f} of {self.of.replace('_', '-')} over circuits of {PERCENT[0]:g} to "
            f"{PERCENT[-1]:g} % of the heads, {self.axis} axis, heads ranked by "
            f"{self.ranked_by} ({self.ranking}) (MIB)",
            "higher" if better > 0 else "lower",
            Control(RANDOM, random.value, random.interval),
            ablated=True,
            about_circuit=False,
        )
        bounds = verdicts.bounds(
            self.cpr_at_least if better > 0 else None, self.cmd_at_most if better < 0 else None
        )
        verdict = verdicts.within(judged, *bounds, name)
        return beats_control(
            verdict, RANDOM, gap, f"{RANDOM} do as well ({random.value:.3f})", better
        )

    def area(self, values: Sequence[Any]) -> Any:
        """The integral over the axis by the trapezoidal rule."""
        fractions = [percent / 100 for percent in PERCENT]
        length = 1.0
        if self.axis == "logarithmic":
            length = math.log(fractions[-1] / fractions[0])
            fractions = [math.log(fraction) for fraction in fractions]
        steps = zip(fractions, fractions[1:], values, values[1:], strict=False)
        return sum((b - a) * (low + high) / 2 for a, b, low, high in steps) / length

    def chart(self, context: ClaimContext, measure: Measure) -> Chart:
        full, sizes = measure(performance(context, context.role)), measure(self.sizes(context))
        how, column = context.sampling(full), COLUMN[self.of]
        empty, whole = sizes.values[f"0_{column}"], full.values[column]

        def line(name: str, columns: Sequence[Any], *, control: bool) -> Line:
            points = []
            for x, values in enumerate(columns):
                f = estimates.normalised(values, empty, whole, how)
                points.append((float(x), f.value, f.interval))
            return Line(context.role, name, tuple(points), control=control)

        ranked = [sizes.values[f"{count}_{column}"] for count in self.counts(context)]
        random = [random_mean(sizes, count, column) for count in self.counts(context)]
        lines: tuple[Line, ...] = ()
        with suppress(estimates.UndefinedScoreError):  # then the model has no line
            lines = (
                line(f"{self.ranking} ranking by {self.ranked_by}", ranked, control=False),
                line(RANDOM, random, control=True),
            )
        return Chart(
            "How many heads does the task need?",
            "share of all heads that are alive, in %",
            "faithfulness",
            lines,
            (1.0, "as the whole model"),
            "Heads are added in the order of their effect. The earlier the line rises to "
            "1, the fewer heads do the task. A model without a line does no better than with every "
            "head ablated.",
            {float(x): f"{percent:g}" for x, percent in enumerate(PERCENT)},
        )


def random_mean(sizes: SizesResult, count: int, column: str) -> Any:
    """The mean over random rankings of their first ``count`` heads alone, row by row."""
    draws = [sizes.values[f"random{i}@{count}_{column}"] for i in range(DRAWS)]
    return np.mean(draws, axis=0)
