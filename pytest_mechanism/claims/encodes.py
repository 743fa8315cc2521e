"""``encodes``: heads of a group carry a variable.

Their z comes from a source prompt that differs in the variable. If they carry it, the model gives
the answer that fits the changed variable (a desideratum of Desiderata-based Component Masking,
Davies et al. 2023; Prakash et al., section 4). Score: (accuracy - floor) / (ceiling - floor) on
held-out rows. The floor is no patch. The ceiling is what the model would give if the variable were
moved perfectly, which is its accuracy on the same base prompts (on the source prompts, and against
the same targets, if a row has several). With ``heads: learned``, a mask over the group is learned
first (DCM, `methods.circuits.dcm`) on rows that are not used again; the control is then as many random heads
of the same layers as the mask selects, none of them in the group.

Unlike the paper, which reports the accuracy itself without a floor, 0 is here what no patch gives
and 1 what the model could give, and base and source prompt always differ in the position.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import StrictStr, model_validator

from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.masks import Masked, among
from pytest_mechanism.claims.scoring import above_chance, guesses, score
from pytest_mechanism.fields.thresholds import RecoversAtLeast, RecoversAtMost
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control, no_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Head, Observations, Verdict


class Encodes(Masked, PerRoleClaim):
    """The output of the group's heads depends on the variable and carries it.

    Attributes:
        group: whose heads.
        variable: of the task (``position``, ``object``, ``box_label``, ...).
        on: role or roles under test.
        at_least: the least normalised score claimed.
        at_most: the largest, for a variable that the group must not carry.
    """

    summary: ClassVar[str] = "heads of a group carry a variable"
    if_red: ClassVar[str] = (
        "these heads do not carry what the spec says: their function changed, or another part has it"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "at_most")

    kind: Literal["encodes"]
    group: StrictStr
    variable: StrictStr
    at_least: RecoversAtLeast | None = None
    at_most: RecoversAtMost | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Encodes:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs one of at_least, at_most")
        self.check_mask()
        return self

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("group", "group", self.group),
            Reference("variable", "variable", self.variable),
        )

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("interchange", self.variable),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        group = context.group(self.group, context.role)
        if self.heads == "learned":  # the mask says which heads are patched
            return (self.mask(context, context.role, group, self.variable),)
        control, _ = self.control(context, group.members())
        return (self.interchange(context, group.members(), control),)

    def interchange(
        self, context: ClaimContext, heads: list[Head], control: list[Head]
    ) -> Measurement:
        """The answers when z of these heads comes from the source prompt."""
        request = Interchange(
            heads=heads,
            control=control,
            at=context.group(self.group, context.role).at,
            variable=self.variable,
            rows=context.rows,
        )
        return context.measurement(request, context.role)

    def control(self, context: ClaimContext, heads: list[Head]) -> tuple[list[Head], str]:
        """As many random heads as are patched, from their layers, none of them in the group."""
        group = context.group(self.group, context.role)
        patched = among(group, heads)
        if patched is None:
            return [], "the mask selects no head"
        return context.random_heads(patched, context.role, spare=group.members())

    def missing_control(self, context: ClaimContext) -> str | None:
        if self.at_least is None or self.heads == "learned":  # no control needed, or not yet known
            return None
        heads, why = self.control(context, context.group(self.group, context.role).members())
        return None if heads else why

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        heads, selection = context.group(self.group, context.role).members(), ""
        if self.heads == "learned":
            group = context.group(self.group, context.role)
            mask = measure(self.mask(context, context.role, group, self.variable))
            heads = list(mask.selected)
            named = " ".join(f"{layer}.{head}" for layer, head in heads)
            selection = f"; heads selected by DCM: {named or 'none'}"
        control_heads, control_name = self.control(context, heads)
        observations = measure(self.interchange(context, heads, control_heads))
        bounds = verdicts.bounds(self.at_least, self.at_most)
        own = "own" if "own" in observations.values else "ceiling"
        solved = above_chance(context, observations, own)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, observations, own)}, so its answers do not show "
                "what its heads carry",
                verdicts.spell(*bounds),
            )
        control = None
        try:
            patched = normalised(context, observations, "patched")
            if "control" in observations.values:
                effect = normalised(context, observations, "control")
                control = Control(control_name, effect.value, effect.interval)
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"{context.role} answers these prompts no better than without a patch: {problem}",
                verdicts.spell(*bounds),
            )
        judged = score(
            context,
            f"{self.group} encodes {self.variable}",
            patched,
            "(accuracy - floor) / (ceiling - floor) when z of the heads comes from the source"
            + selection,
            "lower" if self.at_least is None else "higher",
            control,
        )
        verdict = replace(verdicts.within(judged, *bounds), chance=solved)
        if self.at_least is None:
            return replace(verdict, control=UPPER_BOUND)
        if control is None:
            return no_control(verdict, control_name)
        values, how = observations.values, context.sampling(observations)
        gap = estimates.difference(values["patched"], values["control"], how)
        as_good = f"{control_name} do as well ({control.value:.3f})"
        return beats_control(verdict, control_name, gap, as_good)


def normalised(
    context: ClaimContext, observations: Observations, column: str
) -> estimates.Estimate:
    """A column between floor and ceiling."""
    values = observations.values
    how = context.sampling(observations)
    return estimates.normalised(values[column], values["floor"], values["ceiling"], how)
