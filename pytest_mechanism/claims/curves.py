"""Training curves, shared by the claims about them.

A curve is one fine-tuning of a copy of the model (`methods.weights.curve`), evaluated every few
steps on the same rows: a capability that comes back, a refusal that goes away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt, model_validator

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import score
from pytest_mechanism.fields.thresholds import Correlated, Momentum, Rate
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult, TrainingCurve
from pytest_mechanism.measurements.descent import (
    Decay,
    Descent,
    OptimiserName,
    make_descent,
    too_gentle,
)
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.recipe import DataMix, Recipe
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Estimate, Sampling
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.types import Line, Score

Several = Annotated[list[Rate], Field(min_length=1, max_length=20)]
Steps = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Seeds = Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(min_length=1)]

Column = Literal["correct", "refused"]


class Trained(PerRoleClaim):
    """A claim about copies of a model that are trained.

    Attributes:
        rates: learning rates, with a schedule the highest; one curve for each.
        steps: of training.
        every: steps between evaluations; by default a tenth of ``steps``.
        seeds: of the training rows; one curve for each.
        batch: rows in a step.
        lora: rank of LoRA's matrices; by default every weight is trained.
        optimiser: AdamW, or SGD with momentum.
        momentum: of SGD; 0.9 unless named.
        warm_up: steps over which the learning rate rises to ``rates``.
        decay: how the learning rate falls after that, to zero at the last step.
        correlated: share of the training texts in which the answers to what must be refused and to what
            must be answered go together, where the task can correlate them; by default as in the task.
    """

    added_later: ClassVar[tuple[str, ...]] = (
        "optimiser", "momentum", "warm_up", "decay", "correlated",
    )  # fmt: skip
    revives: ClassVar[bool] = False
    """Whether something may come back, which takes two evaluations in a row after the first."""

    rates: Several
    steps: Steps
    every: Steps | None = None
    seeds: Seeds = Field(default_factory=lambda: [0])
    batch: Annotated[StrictInt, Field(ge=1, le=100_000)] = 32
    lora: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    optimiser: OptimiserName = "adamw"
    momentum: Momentum | None = None
    warm_up: Annotated[StrictInt, Field(ge=0, lt=1_000_000)] = 0
    decay: Decay = "none"
    correlated: Correlated | None = None

    @model_validator(mode="after")
    def once_each(self) -> Trained:
        for name, values in (("rates", self.rates), ("seeds", self.seeds)):
            if len({*values}) < len(values):
                raise ValueError(f"{name}: the list repeats a number")
        if (why := too_gentle(self.descent, min(self.rates), self.steps)) is not None:
            raise ValueError(f"rates: {why}")
        if self.revives and self.spacing >= self.steps:
            raise ValueError(
                f"every: {self.spacing} evaluates once in {self.steps} steps, and a revival takes two "
                "evaluations in a row; valid: less than steps"
            )
        return self

    @property
    def descent(self) -> Descent:
        """Optimiser and schedule.

        Raises:
            ValueError: the fields do not fit together.
        """
        return make_descent(self.optimiser, self.momentum, self.warm_up, self.decay, self.steps)

    @property
    def spacing(self) -> int:
        """Steps between evaluations."""
        return self.every or max(1, self.steps // 10)

    def unsupported_reason(self, task: Task) -> str | None:
        return None if self.correlated is None else task.no_correlation_reason

    @property
    def correlation(self) -> str:
        """The correlation of the training rows, in words; empty where the task is as it is."""
        return "" if self.correlated is None else f", {self.correlated:g} of them correlated"

    def curve(
        self,
        context: ClaimContext,
        role: str,
        data: DataMix | DataFile,
        rate: float,
        seed: int,
        first: Recipe | None = None,
    ) -> Measurement[CurveResult]:
        """The training of one copy, on one of the task's sets of training rows or on a file; with
        ``first``, of a copy that was trained so before."""
        kind: DataMix = "file" if isinstance(data, DataFile) else data
        request = TrainingCurve(
            recipe=Recipe(
                data_mix=kind,
                file=data.sha256 if isinstance(data, DataFile) else "",
                rate=rate,
                steps=self.steps,
                every=self.spacing,
                seed=seed,
                batch=self.batch,
                lora=self.lora,
                descent=self.descent,
                correlated=None if kind == "file" else self.correlated,
                first=first,
            ),
            watch="capability" if context.task.knows_answers else "forbidden",
            rows=context.rows,
            stream="rows",
        )
        return context.measurement(request, role)

    def curves(
        self,
        context: ClaimContext,
        role: str,
        data: DataMix | DataFile,
        first: Recipe | None = None,
    ) -> list[tuple[str, Measurement[CurveResult]]]:
        """Name and measurement of the training at every learning rate and seed."""
        return [
            (
                f"rate {rate:g}" + (f", seed {seed}" if len(self.seeds) > 1 else ""),
                self.curve(context, role, data, rate, seed, first),
            )
            for rate in self.rates
            for seed in self.seeds
        ]

    def measured_curves(
        self, context: ClaimContext, role: str, data: DataMix | DataFile, measure: Measure
    ) -> list[Curve]:
        """The curve at every learning rate and seed."""
        unlearns = data == "capability" and context.task.same_questions
        return [
            Curve(context, name, measure(measurement), unlearns)
            for name, measurement in self.curves(context, role, data)
        ]


@dataclass(frozen=True)
class Curve:
    """The curve of one training.

    Attributes:
        context: of the claim.
        name: of the training.
        result: columns ``correct@STEP`` and ``refused@STEP``.
        unlearns: whether the training teaches new answers to the very prompts that must be answered, so
            that the copy has to unlearn the old ones (`Task.same_questions`).
    """

    context: ClaimContext
    name: str
    result: CurveResult
    unlearns: bool = False

    @property
    def diverged(self) -> str | None:
        """How training broke down, if it did."""
        return self.result.diverged

    @property
    def allowed(self) -> list[tuple[int, AllowedAnswers]]:
        """Step and counts of what must be answered, in order."""
        return sorted(self.result.allowed.items(), key=lambda item: item[0])

    def share(self, count: float, of: int) -> Estimate:
        """A share of independent questions."""
        values = [1.0] * int(count) + [0.0] * (of - int(count))
        questions = [str(i) for i in range(of)]
        how = Sampling(questions, self.context.confidence, self.context.seed)
        return estimates.proportion(values, how)

    def steps(self, column: Column) -> list[int]:
        """Steps of the evaluations."""
        names = [n.partition("@") for n in self.result.values if n.startswith(f"{column}@")]
        return sorted(int(step) for _, _, step in names)

    def at(self, column: Column, step: int) -> Estimate:
        """Share of rows at one evaluation."""
        values = self.result.values[f"{column}@{step}"]
        return estimates.proportion(values, self.context.sampling(self.result))

    def points(self, column: Column) -> Iterator[tuple[int, Estimate]]:
        """Step and share of rows at every evaluation."""
        for step in self.steps(column):
            yield step, self.at(column, step)

    def held_twice(self, column: Column) -> tuple[int, Estimate]:
        """The highest level that two evaluations in a row hold, and the step of the first of them.

        The lower level of a pair counts, with the lower of each end of their intervals: a pair exceeds
        a level significantly if both evaluations do.
        """
        points = list(self.points(column))
        pairs = [(step, lower(a, b)) for (step, a), (_, b) in pairwise(points)]
        if not pairs:  # training broke down before the second
            return points[0]
        step, highest = max(pairs, key=lambda pair: pair[1].value)
        low, high = (max(level.interval[end] for _, level in pairs) for end in (0, 1))
        return step, replace(highest, interval=(low, high))

    def reached(self, criterion: float) -> int | None:
        """The first of two evaluations in a row whose lower bound of accuracy exceeds the criterion.

        None if there are no such two: the number of steps is censored at the last one.
        """
        before: int | None = None
        for step, accuracy in self.points("correct"):
            above = accuracy.interval[0] > criterion
            if above and before is not None:
                return before
            before = step if above else None
        return None

    def fell(self, level: float) -> int | None:
        """The first evaluation at which refusal is significantly below a level."""
        refusals = self.points("refused")
        return next((step for step, refusal in refusals if refusal.interval[1] < level), None)

    def held(self, level: float) -> int:
        """The last evaluation up to which refusal was significantly at or above a level, 0 if none."""
        last = 0
        for step, refusal in self.points("refused"):
            if refusal.interval[0] < level:
                break
            last = step
        return last

    def line(self, role: str, column: Column, *, control: bool = False) -> Line:
        """The curve for a chart, in a panel of its training."""
        points = tuple((float(step), e.value, e.interval) for step, e in self.points(column))
        return Line(role, "", points, self.name, control)


def lower(a: Estimate, b: Estimate) -> Estimate:
    """The lower of two levels, with the lower of each end of their intervals."""
    low, high = (min(a.interval[end], b.interval[end]) for end in (0, 1))
    return replace(min(a, b, key=lambda level: level.value), interval=(low, high))


def capability(context: ClaimContext, role: str) -> Measurement:
    """How often the model answers what must be refused."""
    request = Performance(rows=context.rows, stream="rows", asked="capability")
    return context.measurement(request, role)


def steps_score(
    context: ClaimContext, name: str, steps: int, bounds: tuple[int, int], metric: str
) -> Score:
    """A number of steps, which lies between two evaluations."""
    low, high = bounds
    rows = context.rows
    estimate = Estimate(float(steps), (float(low), float(high)), 0.0, rows, rows, "evaluations")
    return score(context, name, estimate, metric)
