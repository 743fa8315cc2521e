"""``attends``: the heads of a group attend to a position.

Score: the attention weight that a head gives to the tokens of ``to``, summed over these tokens and
averaged over the heads of the group, the tokens of ``from`` and the rows (`methods.circuits.attention`).
Control: the same score for all other heads of the same layers. A group that names the attention output of a
layer has all heads of that layer. An MLP has no attention weights, so a group with an MLP is refused.

The claim is correlational, and its metric and reason say so. It shows where heads look, not that the
answer depends on what they see there: attention to a token whose value is never used, or is near zero,
changes nothing. ``knockout`` and ``path`` intervene.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, StrictStr

from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.scoring import (
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.groups import AnyGroup, At
from pytest_mechanism.fields.thresholds import AtLeast
from pytest_mechanism.measurements.attention import AttentionShare
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import beats_control, no_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Head, Verdict

CORRELATIONAL = "correlational: where heads look, not what the answer depends on"


class Attends(PerRoleClaim):
    """The mean attention of a group to a position.

    Attributes:
        group: whose heads.
        source: YAML ``from``: the named position that attends; the group's own by default.
        to: the named position that is attended to.
        at_least: the least mean attention weight claimed.
    """

    summary: ClassVar[str] = "the heads of a group attend to a position (correlational)"
    if_red: ClassVar[str] = (
        "the heads of this group do not attend to the position that the claim names. Attention alone "
        "does not show what the answer depends on: look at the claims that patch or block these heads"
    )
    members: ClassVar[tuple[str, ...]] = ("heads", "attention_outputs")
    thresholds: ClassVar[tuple[str, ...]] = ("at_least",)

    kind: Literal["attends"]
    group: StrictStr
    source: At | None = Field(default=None, alias="from")
    to: At
    at_least: AtLeast

    def members_problem(self, group: AnyGroup) -> str | None:
        if "mlps" in group.kinds:
            return f"{super().members_problem(group)}: an MLP attends to nothing"
        return elsewhere(group, "attention is that of") or super().members_problem(group)

    def references(self) -> tuple[Reference, ...]:
        position = () if self.source is None else (Reference("from", "position", self.source),)
        return (
            Reference("group", "group", self.group),
            *position,
            Reference("to", "position", self.to),
        )

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def query(self, context: ClaimContext) -> str:
        """The position that attends."""
        return self.source or context.groups[self.group].at

    def others(self, context: ClaimContext) -> tuple[list[Head], str]:
        """The control: all other heads of the group's layers, or of other layers if the group fills its
        own; with its name, or why there are none."""
        members = set(self.attending(context))
        layers = {layer for layer, _ in members}
        others = [head for head in context.shapes[context.role].heads() if head not in members]
        if beside := [head for head in others if head[0] in layers]:
            return beside, "all other heads of the same layers"
        if others:
            return others, "all heads of other layers (the group fills its own)"
        return [], "the group has every head of the model"

    def attending(self, context: ClaimContext) -> list[Head]:
        """The group's heads; all of a layer where it names the layer's attention output."""
        placed = context.group(self.group, context.role).placed()
        return context.nodes([(layer, part) for layer, part, _ in placed], context.role)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        others, _ = self.others(context)
        request = AttentionShare(
            heads={"group": self.attending(context), **({"control": others} if others else {})},
            query=self.query(context),
            key=self.to,
            rows=context.rows,
            stream="rows",
        )
        return performance(context, context.role), context.measurement(request, context.role)

    def missing_control(self, context: ClaimContext) -> str | None:
        heads, why = self.others(context)
        return None if heads else why

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, attention = (measure(m) for m in self.required_measurements(context))
        check_paired(full, attention)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so what its heads attend to explains nothing",
                verdicts.spell(self.at_least, float("inf")),
            )
        how = context.sampling(attention)
        _, control_name = self.others(context)
        control = gap = None
        if "control" in attention.values:
            theirs = estimates.mean(attention.values["control"], how)
            control = Control(control_name, theirs.value, theirs.interval)
            gap = estimates.difference(attention.values["group"], attention.values["control"], how)
        judged = score(
            context,
            f"attention of {self.group} from {self.query(context)} to {self.to}",
            estimates.mean(attention.values["group"], how),
            f"mean attention weight after the softmax, over heads and rows ({CORRELATIONAL})",
            control=control,
        )
        verdict = verdicts.at_least(judged, self.at_least)
        verdict = replace(verdict, reason=f"{verdict.reason} ({CORRELATIONAL})", chance=solved)
        if control is None:
            return no_control(verdict, control_name)
        as_good = f"{control_name} attend to it as much ({control.value:.3f})"
        return beats_control(verdict, control_name, gap, as_good)
