"""``encodes``: heads of a group carry a variable.

Their z is taken from a source prompt that differs in the variable; if they carry it, the answer
that the moved variable asks for comes out (a desideratum of Desiderata-based Component Masking,
Davies et al. 2023; Prakash et al., section 4). Score: (accuracy - floor) / (ceiling - floor) on
held-out rows; floor = no patch, ceiling = what the model would give were the variable moved
perfectly, which is its accuracy on the same base prompts; on the source prompts, and against the
same targets, where a row has several. With ``heads: learned`` a mask over the group is learned
first (DCM, `methods.dcm`), on rows that are not used again; the control is then as many random heads
of the same layers as were selected, none of them in the group.

Other than published: the paper reports the accuracy itself, and no floor beside it; here 0 is what no
patch gives and 1 what the model could give, and base and source always differ in the position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import ClaimContext, Measure, Roles, listed
from pytest_mechanism.claims.masks import Masked, among
from pytest_mechanism.claims.scoring import above_chance, score
from pytest_mechanism.fields.thresholds import RecoversAtLeast, RecoversAtMost
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control, no_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Head, Measurement, Observations, Verdict


class Encodes(Masked):
    """What the group's heads write depends on the variable, and carries it.

    Attributes:
        group: whose heads.
        variable: of the task (``position``, ``object``, ``box_label``, ...).
        on: role or roles under test.
        at_least: the normalised score claimed.
        at_most: for a variable that the group must not carry.
    """

    summary: ClassVar[str] = "heads of a group carry a variable"
    if_red: ClassVar[str] = (
        "what these heads pass on is not what the spec says of them: their job changed, or another part does it"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "at_most")

    kind: Literal["encodes"]
    group: StrictStr
    variable: StrictStr
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    at_least: RecoversAtLeast | None = None
    at_most: RecoversAtMost | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Encodes:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs one of at_least, at_most")
        self.check_mask()
        return self

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def mentions(self) -> dict[str, tuple[str, str]]:
        return {"group": ("group", self.group), "variable": ("variable", self.variable)}

    def draws(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("interchange", self.variable),)

    def needs(self, context: ClaimContext) -> tuple[Measurement, ...]:
        group = context.group(self.group, context.role)
        if self.heads == "learned":  # which heads are patched follows from it
            return (self.mask(context, context.role, group, self.variable),)
        return (self.moved(context, group.members(), self.control(context, group.members())[0]),)

    def moved(self, context: ClaimContext, heads: list[Head], control: list[Head]) -> Measurement:
        """What comes out when z of these heads is taken from the source."""
        request = Interchange(
            heads=heads,
            control=control,
            at=context.group(self.group, context.role).at,
            variable=self.variable,
            rows=context.rows,
        )
        return context.measurement(request, context.role)

    def lacks(self, context: ClaimContext) -> str | None:
        heads, why = self.control(context, context.group(self.group, context.role).members())
        if heads or self.at_least is None or self.heads == "learned":
            return super().lacks(context)
        return f"it cannot pass without a control: {why}"

    def control(self, context: ClaimContext, heads: list[Head]) -> tuple[list[Head], str]:
        """As many random heads as are patched, from their layers, none of them in the group."""
        group = context.group(self.group, context.role)
        patched = among(group, heads)
        if patched is None:
            return [], "the mask selects no head"
        return context.random_heads(patched, context.role, spare=group.members())

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        heads, chosen = context.group(self.group, context.role).members(), None
        if self.heads == "learned":
            group = context.group(self.group, context.role)
            mask = measure(self.mask(context, context.role, group, self.variable))
            heads = list(mask.selected)
            chosen = " ".join(f"{layer}.{head}" for layer, head in heads)
        others, control_name = self.control(context, heads)
        seen = measure(self.moved(context, heads, others))
        own = "own" if "own" in seen.values else "ceiling"
        solved = above_chance(context, seen, own)
        if solved is None:
            return verdicts.at_chance(
                f"{context.role} answers these prompts at chance (accuracy "
                f"{np.mean(seen.values[own]):.3f}, chance {context.task.chance:.3f}), so what its "
                "heads carry cannot be read off its answers",
                verdicts.spell(*verdicts.bounds(self.at_least, self.at_most)),
            )
        bounds = verdicts.bounds(self.at_least, self.at_most)
        bound = verdicts.spell(*bounds)
        try:
            found = self.normalised(context, seen, "patched")
            control = (
                self.normalised(context, seen, "control") if "control" in seen.values else None
            )
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"{context.role} answers these prompts no better than with nothing moved: {problem}",
                bound,
            )
        judged = score(
            context,
            f"{self.group} encodes {self.variable}",
            found,
            "(accuracy - floor) / (ceiling - floor) when z of the heads comes from the source"
            + (f"; heads selected by DCM: {chosen or 'none'}" if chosen is not None else ""),
            "lower" if self.at_least is None else "higher",
            Control(control_name, control.value, control.interval) if control else None,
        )
        verdict = replace(verdicts.within(judged, *bounds), chance=solved)
        if self.at_least is None:
            return replace(verdict, control=UPPER_BOUND)
        if control is None:
            return no_control(verdict, control_name)
        how = context.sampling(seen)
        gap = estimates.difference(seen.values["patched"], seen.values["control"], how)
        as_good = f"{control_name} do as well ({control.value:.3f})"
        return beats_control(verdict, control_name, gap, as_good)

    def normalised(
        self, context: ClaimContext, seen: Observations, column: str
    ) -> estimates.Estimate:
        return estimates.normalised(
            seen.values[column],
            seen.values["floor"],
            seen.values["ceiling"],
            context.sampling(seen),
        )
