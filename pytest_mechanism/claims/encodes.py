"""``encodes``: heads of a group carry a variable.

Their z comes from a source prompt that differs in the variable. If they carry it, the model gives
the answer that fits the changed variable (a desideratum of Desiderata-based Component Masking,
Davies et al. 2023; Prakash et al., section 4). Score: (accuracy - floor) / (ceiling - floor) on
held-out rows. The floor is no patch. The ceiling is what the model would give if the variable were
moved perfectly, which is its accuracy on the same base prompts (on the source prompts, and against
the same targets, if a row has several). With ``heads: learned``, a mask over the group is learned
first (DCM, `methods.circuits.dcm`) on rows that are not used again; the control is then as many random heads
of the same layers as the mask selects, none of them in the group.

The output of an MLP comes from the source prompt as z of a head does, and an attention output as z of all heads of its
layer; the members of the group work at its position. A mask over such a group chooses among its heads and MLPs.

``mask_over: heads`` puts the mask over every head of the model that can have an effect at the group's
position, ``heads_and_mlps`` over MLPs too: so DCM finds the heads that carry the variable, instead of
choosing among those that path patching found. The heads found are judged as above, and the claim passes only if
every head of the group is among them; else another part carries the variable, and the message says which.
A mask always selects something or nothing, so "finds" is judged on the rows of the claim, which no mask has
seen: where the heads selected do not give the target more often than no patch does, DCM finds nothing, and the
message says so. To claim which heads are found, rather than that the group's are, there is ``overlap``.

``mask_controls: true`` adds what the paper does not report: masks with shuffled targets and with random
weights, and five draws of rows (`claims.mask_controls`).

Unlike the paper, which reports the accuracy itself without a floor, 0 is here what no patch gives
and 1 what the model could give, and base and source prompt always differ in the position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import StrictBool, StrictStr, model_validator

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.mask_controls import (
    MaskControls,
    names,
    required,
    spelled,
    with_controls,
)
from pytest_mechanism.claims.masks import Masked, heads_and_mlps
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.random_parts import layers_with_effect, random_parts
from pytest_mechanism.claims.scoring import above_chance, guesses, score
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.thresholds import RecoversAtLeast, RecoversAtMost, need_one
from pytest_mechanism.measurements.dcm import MaskResult
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import KINDS
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import (
    UPPER_BOUND,
    beats_control,
    doubted,
    no_control,
)
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Head, Observations, Verdict

MaskOver = Literal["group", "heads", "heads_and_mlps"]


class Encodes(Masked, PerRoleClaim):
    """The output of the group's heads depends on the variable and carries it.

    Attributes:
        group: whose heads.
        variable: of the task (``position``, ``object``, ``box_label``, ...).
        on: role or roles under test.
        at_least: the least normalised score claimed.
        at_most: the largest, for a variable that the group must not carry.
        mask_over: what a learned mask chooses among: the ``group``, all ``heads`` of the model at the group's
            position, or ``heads_and_mlps``.
        mask_controls: whether masks are learned with shuffled targets, with random weights and on five
            draws of rows, too.
    """

    summary: ClassVar[str] = "heads of a group carry a variable"
    if_red: ClassVar[str] = (
        "these heads do not carry what the spec says: their function changed, or another part has it"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("at_least", "at_most")
    added_later: ClassVar[tuple[str, ...]] = (*Masked.added_later, "mask_over", "mask_controls")

    kind: Literal["encodes"]
    group: StrictStr
    variable: StrictStr
    at_least: RecoversAtLeast | None = None
    at_most: RecoversAtMost | None = None
    mask_over: MaskOver = "group"
    mask_controls: StrictBool = False

    @model_validator(mode="after")
    def check_thresholds(self) -> Encodes:
        need_one(at_least=self.at_least, at_most=self.at_most)
        self.check_mask()
        return self

    def mask_choices(self) -> list[str]:
        chosen = {"mask_over": self.mask_over != "group", "mask_controls": self.mask_controls}
        return [*super().mask_choices(), *(name for name, is_set in chosen.items() if is_set)]

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("group", "group", self.group),
            Reference("variable", "variable", self.variable),
        )

    def members_problem(self, group: AnyGroup) -> str | None:
        mlps = "mlps" in group.kinds
        if mlps and self.mask_over == "heads":
            verb = "names" if isinstance(group, Group) else "may find"
            return (
                f"{verb} mlps, and kind encodes is about heads alone with mask_over: heads (write "
                "heads_and_mlps)"
            )
        return elsewhere(group, "a variable is patched at") or super().members_problem(group)

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("interchange", self.variable),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        if self.heads == "learned":  # the mask says which heads are patched
            controls = required(lambda **options: self.own_mask(context, **options))
            return (self.own_mask(context), *(controls if self.mask_controls else ()))
        heads, mlps = self.named(context)
        control, control_mlps, _ = self.control(context, heads, mlps)
        return (self.interchange(context, heads, control, mlps, control_mlps),)

    def named(self, context: ClaimContext) -> tuple[list[Head], list[int]]:
        """The heads and MLPs of the group."""
        return heads_and_mlps(context, context.role, context.group(self.group, context.role))

    def own_mask(self, context: ClaimContext, **options: Any) -> Measurement[MaskResult]:
        """The mask over what the claim chooses among."""
        group = context.group(self.group, context.role)
        if self.mask_over != "group":
            layers = layers_with_effect(context, group.at)
            heads = [head for head in context.shapes[context.role].heads() if head[0] in layers]
            options = {"heads": heads, "mlps": layers if self.over_mlps else ()} | options
        return self.mask(context, context.role, group, self.variable, **options)

    @property
    def over_mlps(self) -> bool:
        return self.mask_over == "heads_and_mlps"

    def interchange(
        self,
        context: ClaimContext,
        heads: list[Head],
        control: list[Head],
        mlps: Sequence[int] = (),
        control_mlps: Sequence[int] = (),
    ) -> Measurement:
        """The answers when z of these heads, and the output of these MLPs, comes from the source prompt."""
        request = Interchange(
            heads=heads,
            control=control,
            at=context.group(self.group, context.role).at,
            variable=self.variable,
            rows=context.rows,
            mlps=mlps,
            control_mlps=control_mlps,
        )
        return context.measurement(request, context.role)

    def control(
        self, context: ClaimContext, heads: list[Head], mlps: Sequence[int]
    ) -> tuple[list[Head], list[int], str]:
        """As many random heads and MLPs as are patched, none of them in the group; and the name of this control."""
        group = context.group(self.group, context.role)
        return random_parts(context, group, heads, mlps)

    def missing_control(self, context: ClaimContext) -> str | None:
        if self.at_least is None or self.heads == "learned":  # no control needed, or not yet known
            return None
        heads, mlps, why = self.control(context, *self.named(context))
        return None if heads or mlps else why

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        if self.heads == "all":
            verdict, _ = self.judge_heads(context, measure, *self.named(context), "")
            return verdict
        mask = measure(self.own_mask(context))
        named = " ".join(names(mask)) or "none"
        over_mlps = self.over_mlps or self.named(context)[1]
        parts = "heads and MLPs" if over_mlps else "heads"
        selection = f"; {parts} selected by DCM: {named}"
        if self.mask_over != "group":
            selection += f" of {self.number_over(context)}"
        verdict, finds = self.judge_heads(
            context, measure, list(mask.selected), mask.selected_mlps, selection
        )
        if self.mask_over != "group":
            verdict = self.found(context, verdict, mask, finds)
        if self.mask_controls and verdict.chance is not None:
            controls = MaskControls.measured(
                lambda **options: self.own_mask(context, **options), mask, measure
            )
            if self.at_least is not None:
                kept = verdict.control
                verdict = replace(controls.check(context, verdict), control=kept)
            verdict = with_controls(
                verdict, controls, context, f"{self.group} encodes {self.variable}"
            )
        return verdict

    def patched_parts(self, context: ClaimContext) -> str:
        """What comes from the source prompt."""
        heads, mlps = self.named(context)
        if not mlps:
            return "z of the heads comes"
        return f"{'z of the heads and ' if heads else ''}the output of the MLPs {'come' if heads else 'comes'}"

    def number_over(self, context: ClaimContext) -> str:
        """What a mask over the model chooses among."""
        layers = layers_with_effect(context, context.group(self.group, context.role).at)
        heads = len(layers) * context.shapes[context.role].n_heads
        return f"{heads} heads and {len(layers)} MLPs" if self.over_mlps else f"{heads} heads"

    def found(
        self, context: ClaimContext, verdict: Verdict, mask: MaskResult, finds: bool
    ) -> Verdict:
        """The verdict on heads that DCM finds: the group's must be among them, if they must carry it."""
        over, selected = self.number_over(context), names(mask)
        if not finds:
            why = (
                "its mask selects none"
                if not selected
                else f"the {len(selected)} that its mask selects do not give the target more often than no patch"
            )
            text = f"DCM over {over} finds nothing: {why}"
            return replace(verdict, reason=f"{verdict.reason}; {text}")
        members, mlps = self.named(context)
        common = [head for head in members if head in mask.selected]
        common_mlps = [layer for layer in mlps if layer in mask.selected_mlps]
        found = len(common) + len(common_mlps)
        text = (
            f"DCM over {over} finds {' '.join(selected)}; of these {found} of {len(selected)} are in group "
            f"{self.group}, which has {len(members) + len(mlps)}"
        )
        missing = spelled(
            [head for head in members if head not in mask.selected],
            [layer for layer in mlps if layer not in mask.selected_mlps],
        )
        if self.at_least is not None and missing:
            why = f"it does not find {' '.join(missing)} of group {self.group}, so other parts carry {self.variable}"
            verdict = doubted(verdict, Cause.UNDECIDED, why)
        return replace(verdict, reason=f"{verdict.reason}; {text}")

    def judge_heads(
        self,
        context: ClaimContext,
        measure: Measure,
        heads: list[Head],
        mlps: Sequence[int],
        selection: str,
    ) -> tuple[Verdict, bool]:
        """The verdict on these heads and MLPs, and whether patching them gives the target more often than
        no patch does."""
        control_heads, control_mlps, control_name = self.control(context, heads, mlps)
        observations = measure(self.interchange(context, heads, control_heads, mlps, control_mlps))
        values, how = observations.values, context.sampling(observations)
        finds = estimates.difference(values["patched"], values["floor"], how).interval[0] > 0
        bounds = verdicts.bounds(self.at_least, self.at_most)
        own = "own" if "own" in values else "ceiling"
        solved = above_chance(context, observations, own)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, observations, own)}, so its answers do not show "
                "what its heads carry",
                verdicts.spell(*bounds),
            ), finds
        control = None
        try:
            patched = normalised(context, observations, "patched")
            if "control" in values:
                effect = normalised(context, observations, "control")
                control = Control(control_name, effect.value, effect.interval)
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"{context.role} answers these prompts no better than without a patch: {problem}",
                verdicts.spell(*bounds),
            ), finds
        judged = score(
            context,
            f"{self.group} encodes {self.variable}",
            patched,
            f"(accuracy - floor) / (ceiling - floor) when {self.patched_parts(context)} from the source"
            + selection,
            "lower" if self.at_least is None else "higher",
            control,
        )
        verdict = replace(verdicts.within(judged, *bounds), chance=solved)
        if self.at_least is None:
            return replace(verdict, control=UPPER_BOUND), finds
        if control is None:
            return no_control(verdict, control_name), finds
        gap = estimates.difference(values["patched"], values["control"], how)
        as_good = f"{control_name} do as well ({control.value:.3f})"
        return beats_control(verdict, control_name, gap, as_good), finds


def normalised(
    context: ClaimContext, observations: Observations, column: str
) -> estimates.Estimate:
    """A column between floor and ceiling."""
    values = observations.values
    how = context.sampling(observations)
    return estimates.normalised(values[column], values["floor"], values["ceiling"], how)
