"""A simulated claim: its fields, its true score at the threshold, and that of an unchanged model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import Group, Into
from pytest_mechanism.measurements.cells import CellResult
from pytest_mechanism.measurements.cmap import CodeResult
from pytest_mechanism.measurements.curve import CurveResult
from pytest_mechanism.measurements.direction import DirectionResult
from pytest_mechanism.measurements.matching import MatchResult
from pytest_mechanism.measurements.probing import ProbeResult
from pytest_mechanism.measurements.pruning import PruningResult
from pytest_mechanism.measurements.sizes import SizesResult
from pytest_mechanism.measurements.snip import WeightChangeResult
from pytest_mechanism.plugin.score_entry import check_entry, judged_entry
from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.statistics.honesty import require_safeguards
from pytest_mechanism.statistics.power import power
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
from pytest_mechanism.types import Observations, Verdict
from pytest_mechanism.types import Setting as Conditions
from recipes.simulation.world import SIZE, Answers, World, measured

CONFIDENCE = 0.95
LEAST_ROWS, MOST_ROWS = 12 * SIZE, 150 * SIZE
"""Rows of a run. Below, there are too few contexts for an interval; above, simulation takes too long."""

PILOT_ROWS = 60 * SIZE
"""Rows of the accepted scores from which `lint --power` plans a number of rows."""

GROUPS = {
    "a": Group(heads={2: [0]}, at="last"),
    "b": Group(heads={1: [1]}, at="query_label", into=Into(group="a", via="v")),
}
SHAPE = Shape(4, 4, 4, 64, 16, 300)
ROLES = ("base", "ft", "control", "pretrained")
RESULTS: Mapping[str, type[Observations]] = {
    "CellPerformance": CellResult,
    "CircuitSizes": SizesResult,
    "CrossModelPatching": CodeResult,
    "HeadCodes": CodeResult,
    "DirectionAblation": DirectionResult,
    "DirectionComparison": DirectionResult,
    "HeadMatching": MatchResult,
    "LinearProbes": ProbeResult,
    "Pruning": PruningResult,
    "TrainingCurve": CurveResult,
    "WeightChange": WeightChangeResult,
}

SEARCH = "search"
"""The answer of a search for heads: a function of its role and number."""


@dataclass(frozen=True)
class Simulated:
    """A claim whose truth is known.

    Attributes:
        kind: of the claim.
        fields: of the claim, in YAML's words.
        answers: of a world and a true score.
        at_threshold: the true score that the claim just does not allow.
        unchanged: the true score of a model that meets the claim.
        role: of the item.
        wrapper: whether the task has something to refuse.
        more: what has to grow with the rows, as a field of the claim: its name, and its value at this many
            of what the scores count. Empty if the rows of the task grow.
        fixed: why the number of rows cannot be planned; empty if it can.
    """

    kind: str
    fields: Mapping[str, Any]
    answers: Callable[[World, float], Answers]
    at_threshold: float
    unchanged: float
    role: str = "ft"
    wrapper: bool = False
    more: Callable[[int], Mapping[str, Any]] | None = None
    fixed: str = ""

    def judge(self, rng: np.random.Generator, truth: float, rows: int) -> Verdict:
        """The verdict of a simulated run, as the gate gives it."""
        count = PILOT_ROWS if self.more or self.fixed else rows
        grown = self.more(rows) if self.more else {}
        claim = claim_kinds()[self.kind].model_validate({"kind": self.kind, **self.fields, **grown})
        answers = self.answers(World(rng, count), truth)
        context = replace(context_of(count, wrapper=self.wrapper), role=self.role)
        if SEARCH in answers:
            unknown = {name: group.without_heads() for name, group in GROUPS.items()}
            context = replace(context, groups=unknown, search=answers[SEARCH])
        verdict = claim.judge(context, measured(answers, RESULTS))
        return require_safeguards(verdict, claim.kind)

    def recommended(self, rng: np.random.Generator) -> int:
        """The rows that ``lint --power`` recommends, from one accepted score of an unchanged model."""
        rows = power(entries(self.judge(rng, self.unchanged, PILOT_ROWS)), CONFIDENCE).rows
        wanted = MOST_ROWS if rows is None else min(max(rows, LEAST_ROWS), MOST_ROWS)
        return -(-wanted // SIZE) * SIZE


def context_of(rows: int, *, wrapper: bool = False) -> ClaimContext:
    """The context of a claim on simulated rows."""
    task: Any = EntityTracking(EntityTrackingParameters(family="entity_tracking", rows=rows))
    if wrapper:
        task = Counting(
            CountingParameters(family="counting", refuse="a", ways=("count", "tally"), rows=rows)
        )
    return ClaimContext(
        "ft",
        {} if wrapper else GROUPS,
        Ablation(),
        task,
        CONFIDENCE,
        dict.fromkeys(ROLES, SHAPE),
        Conditions(0, "float32", "cpu", "reference"),
    )


def entries(verdict: Verdict) -> list[dict[str, Any]]:
    """What a file of accepted scores keeps for `lint --power`."""
    judged = [judged_entry(judged, CONFIDENCE) for judged in verdict.judged]
    return [*judged, *map(check_entry, verdict.checks)]
