"""``minimality``: the circuit needs each of its heads.

For each head, what the circuit loses when the head is taken out beside those that stand in for it
(`claims.needed_heads` has the definition; Prakash et al., section 3.2 and appendix). Judged is the
head that is needed least; a failure names the heads that are not shown to cost ``costs_at_least``:
one-sided tests against that threshold over contexts (`estimates.exceeds`), with Holm's correction for
the number of heads looked at. The paper's own score stands beside under its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictStr

from pytest_mechanism.claims.base import Claim, ClaimContext, Measure, Roles, listed
from pytest_mechanism.claims.needed_heads import Circuit, Needed, holm, measure_minimality
from pytest_mechanism.claims.scoring import above_chance, performance, score
from pytest_mechanism.fields.thresholds import Cost
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.statistics.honesty import not_needed
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Measurement, Verdict

ABLATED_ALREADY = not_needed("a head outside the circuit is ablated already, so it costs exactly 0")


class Minimality(Claim):
    """Each head of the circuit, or of some groups of it, costs accuracy when it goes.

    Attributes:
        on: role or roles under test.
        groups: whose heads; all by default. A group whose ablation value carries what it writes
            (the structure reader under a positional mean) cannot be judged this way.
        costs_at_least: accuracy that the circuit loses without a head, at least.
    """

    summary: ClassVar[str] = "the circuit needs each of its heads"
    if_red: ClassVar[str] = (
        "the circuit does as well without some of its heads: they are named and not needed"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("costs_at_least",)
    ablates: ClassVar[bool] = True

    kind: Literal["minimality"]
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    groups: Annotated[list[StrictStr], Field(min_length=1)] | None = None
    costs_at_least: Cost = 0.01

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def references(self) -> dict[str, tuple[str, str]]:
        return {f"groups {name}": ("group", name) for name in self.groups or ()}

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        return (performance(context, context.role),)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        bound = verdicts.spell(self.costs_at_least, float("inf"))
        solved = above_chance(context, measure(performance(context, context.role)))
        if solved is None:
            return verdicts.at_chance(
                f"{context.role} does not solve the task, so its circuit needs no head", bound
            )
        circuit: Circuit = {n: context.group(n, context.role).members() for n in context.groups}
        found = measure_minimality(
            context, context.role, circuit, measure, max(20, context.rows // 3), context.rows, "rows",
            self.costs_at_least,
        )  # fmt: skip
        heads = [n for n in found.heads if self.groups is None or n.group in self.groups]
        weakest = min(heads, key=lambda n: n.effect.interval[0])
        control = Control("a head outside the circuit, which is silent already", 0.0)
        judged = score(
            context,
            # which head it is may change from run to run; what is judged and accepted does not
            "least needed head",
            weakest.effect,
            "F(C without K) - F(C without K and the head), accuracy on the same rows",
            control=control,
            ablated=True,
        )
        verdict = verdicts.within(
            judged,
            self.costs_at_least,
            float("inf"),
            f"least needed head, {spelled(weakest)}:",
        )
        if verdict.red:
            adjusted = holm([n.p for n in heads])
            unneeded = [
                spelled(n)
                for n, p in zip(heads, adjusted, strict=True)
                if p >= 1 - context.confidence
            ]
            named = (
                f"; not shown to cost {self.costs_at_least:g} (Holm over {len(heads)} heads): "
                f"{', '.join(unneeded)}"
                if unneeded
                else ""
            )
            verdict = replace(verdict, reason=verdict.reason + named)
        least = min(heads, key=lambda n: n.score)
        beside = (
            ()
            if least.published is None
            else (
                score(
                    context,
                    "least published minimality score",
                    least.published,
                    f"F(C without K) / F(C without K and {spelled(least)}) - 1 "
                    "(Prakash et al., appendix)",
                    ablated=True,
                ),
            )
        )
        return replace(verdict, scores=(judged, *beside), control=ABLATED_ALREADY, chance=solved)


def spelled(needed: Needed) -> str:
    layer, head = needed.head
    return f"{layer}.{head} of {needed.group}"
