"""``minimality``: the circuit needs each of its heads.

For each head, the claim measures what the circuit loses when the head is ablated together with
those that can replace it (`claims.needed_heads` has the definition; Prakash et al., section 3.2 and
appendix). It judges the head that is needed least. A failure names the heads that are not shown to
cost ``costs_at_least``: one-sided tests against that threshold over contexts (`estimates.exceeds`),
with Holm's correction for the number of heads. The paper's own score is reported under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictStr

from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.needed_heads import (
    Circuit,
    HeadCost,
    measure_minimality,
    parts_of,
)
from pytest_mechanism.claims.scoring import above_chance, guesses, performance, score
from pytest_mechanism.fields.thresholds import Cost
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.honesty import not_needed
from pytest_mechanism.statistics.multiple import holm
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Score, Verdict

ABLATED_ALREADY = not_needed("a head outside the circuit is ablated already, so it costs exactly 0")


class Minimality(PerRoleClaim):
    """Ablating any head of the circuit, or of some of its groups, costs accuracy.

    Attributes:
        groups: whose heads; all by default. Minimality cannot judge a group whose ablation value
            carries what the group writes (the structure reader under a positional mean).
        costs_at_least: the accuracy that the circuit loses without a head, at least.
    """

    summary: ClassVar[str] = "the circuit needs each of its heads"
    if_red: ClassVar[str] = (
        "the circuit does as well without some of its heads, which the reason names"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("costs_at_least",)
    ablates: ClassVar[bool] = True

    kind: Literal["minimality"]
    groups: Annotated[list[StrictStr], Field(min_length=1)] | None = None
    costs_at_least: Cost = 0.01

    def references(self) -> tuple[Reference, ...]:
        return tuple(Reference("groups", "group", name) for name in self.groups or ())

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (performance(context, context.role),)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        threshold = verdicts.spell(self.costs_at_least, float("inf"))
        full = measure(performance(context, context.role))
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so its circuit needs no head", threshold
            )
        circuit: Circuit = {n: parts_of(context.group(n, context.role)) for n in context.groups}
        minimality = measure_minimality(
            context,
            context.role,
            circuit,
            measure,
            max(20, context.rows // 3),
            context.rows,
            "rows",
            self.costs_at_least,
        )
        heads = [h for h in minimality.heads if self.groups is None or h.group in self.groups]
        least_needed = min(heads, key=lambda head: head.effect.interval[0])
        judged = score(
            context,
            # the head may change from run to run, the judged and accepted quantity does not
            "least needed head",
            least_needed.effect,
            "F(C without K) - F(C without K and the head), accuracy on the same rows",
            control=Control("a head outside the circuit, which is silent already", 0.0),
            ablated=True,
        )
        verdict = verdicts.within(
            judged,
            self.costs_at_least,
            float("inf"),
            f"least needed head, {least_needed}:",
        )
        if verdict.red and (unneeded := self.unneeded(heads, context.confidence)):
            reason = (
                f"{verdict.reason}; heads without a significant cost of {self.costs_at_least:g} "
                f"(corrected for {len(heads)} comparisons): {', '.join(map(str, unneeded))}"
            )
            verdict = replace(verdict, reason=reason)
        scores = (judged, *published(context, heads))
        return replace(verdict, scores=scores, control=ABLATED_ALREADY, chance=solved)

    @staticmethod
    def unneeded(heads: Sequence[HeadCost], confidence: float) -> list[HeadCost]:
        """The heads that are not shown to cost the threshold."""
        adjusted = holm([head.p for head in heads])
        return [head for head, p in zip(heads, adjusted, strict=True) if p >= 1 - confidence]


def published(context: ClaimContext, heads: Sequence[HeadCost]) -> tuple[Score, ...]:
    """The paper's score of the head where it is least; none if it has no interval."""
    least = min(heads, key=lambda head: head.score)
    if least.published is None:
        return ()
    metric = f"F(C without K) / F(C without K and {least}) - 1 (Prakash et al., appendix)"
    name = "least published minimality score"
    return (score(context, name, least.published, metric, ablated=True),)
