"""``cmap``: one model's activations in another recover its gain.

Cross-model activation patching (Prakash et al., section 5): both models read the same prompt, and
the donor's z of the group's heads at the group's position replaces the recipient's. Score:
recovered fraction (m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), with the raw
change, and with random heads of the same layers, positions and count as control. The claim is
inconclusive if donor and recipient do not differ, because then there is nothing to recover.

z goes from a head to the head of the same index, so the claim is about models whose heads of one
index write one code, as those of a model and its fine-tune do. That is measured first
(`methods.circuits.codes`); if they do not, the score has no value.

As in the paper, ``heads: learned`` exchanges the heads that a DCM mask selects in the donor for a
variable of each group; ``heads: all`` exchanges whole groups.

m is the accuracy or, with ``of: log_probability``, the mean log-probability of the answer, as in
``faithfulness``. A row counts for accuracy only if the patch changes its answer. The
log-probability counts how far every row moves, so it needs fewer rows to tell a small fraction from
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import PAIR, Reference
from pytest_mechanism.claims.codes import moved_codes, not_comparable, other_codes
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.masks import Masked, among
from pytest_mechanism.claims.scoring import (
    COLUMN,
    Of,
    above_chance,
    check_paired,
    performance,
    score,
)
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.fields.thresholds import RecoversAtLeast, RecoversAtMost
from pytest_mechanism.measurements.cmap import ActivationDonation, CodeResult, CrossModelPatching
from pytest_mechanism.measurements.dcm import MaskResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import PlacedHead
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate, Values
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control, no_control
from pytest_mechanism.types import Control, Verdict

PLURAL: Mapping[str, str] = {
    "accuracy": "accuracies",
    "log_probability": "mean log-probabilities of the answer",
}


class Cmap(Masked):
    """How much of the donor's advantage the activations of the group carry over.

    Attributes:
        group: a group, or several that are patched together.
        donor: role whose activations are used.
        recipient: role that receives them.
        variable: with ``heads: learned``, the variable of the task that the mask is learned for, or
            one for each group.
        recovers_at_least: claimed fraction of the difference.
        recovers_at_most: the same for parts that must not matter.
        of: what is recovered: accuracy, or the answer's log-probability.
    """

    summary: ClassVar[str] = "one model's activations in another recover its gain"
    if_red: ClassVar[str] = (
        "patching one model's activations of these heads into the other does not carry over "
        "its advantage: the gain comes from other parts, or the two models encode it differently"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("recovers_at_least", "recovers_at_most")
    added_later: ClassVar[tuple[str, ...]] = ("heads", "variable", "of", *Masked.added_later)
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads", "d_head")

    kind: Literal["cmap"]
    group: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    donor: StrictStr
    recipient: StrictStr
    variable: StrictStr | dict[StrictStr, StrictStr] | None = None
    recovers_at_least: RecoversAtLeast | None = None
    recovers_at_most: RecoversAtMost | None = None
    of: Of = "accuracy"

    @model_validator(mode="after")
    def check_thresholds(self) -> Cmap:
        if (self.recovers_at_least is None) == (self.recovers_at_most is None):
            raise ValueError("needs one of recovers_at_least, recovers_at_most")
        if self.donor == self.recipient:
            raise ValueError("donor and recipient must be two roles")
        self.check_mask()
        if (self.heads == "learned") != (self.variable is not None):
            raise ValueError("heads: learned and variable go together")
        if isinstance(self.variable, dict) and {*self.variable} != {*self.names}:
            raise ValueError(f"variable: needs one for each of {', '.join(self.names)}")
        return self

    @property
    def names(self) -> list[str]:
        return [self.group] if isinstance(self.group, str) else list(self.group)

    @property
    def variables(self) -> dict[str, str]:
        """Group -> the variable that its mask is learned for; empty without masks."""
        if self.variable is None:
            return {}
        if isinstance(self.variable, dict):
            return self.variable
        return dict.fromkeys(self.names, self.variable)

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        return (self.recipient, self.donor)

    def references(self) -> tuple[Reference, ...]:
        variables = (Reference("variable", "variable", v) for v in self.variables.values())
        return (*(Reference("group", "group", name) for name in self.names), *variables)

    def masks(self, context: ClaimContext) -> dict[str, Measurement[MaskResult]]:
        """Group -> its mask in the donor."""
        return {
            name: self.mask(context, self.donor, context.group(name, self.donor), variable)
            for name, variable in self.variables.items()
        }

    def groups(self, context: ClaimContext) -> list[Group]:
        """The groups of the claim, whose heads exist in both models."""
        for name in self.names:
            context.group(name, self.donor)
        return [context.group(name, self.recipient) for name in self.names]

    def exchanged_groups(self, context: ClaimContext, measure: Measure) -> list[Group]:
        """The groups with the heads that are exchanged; a group without any is left out."""
        masks = self.masks(context)
        selected = [
            among(group, measure(masks[name]).selected) if name in masks else group
            for name, group in zip(self.names, self.groups(context), strict=True)
        ]
        return [group for group in selected if group is not None]

    def control(
        self, context: ClaimContext, groups: Sequence[Group]
    ) -> tuple[list[PlacedHead], str]:
        """Random heads outside the claim's groups, and the name of this control; no heads, and why,
        if a group has no control."""
        control: list[PlacedHead] = []
        names: list[str] = []
        used = [head for group in self.groups(context) for head in group.members()]
        for group in groups:
            heads, name = context.random_heads(group, self.recipient, spare=used)
            if not heads:
                return [], name
            used += heads
            control += [(layer, head, group.at) for layer, head in heads]
            names.append(name)
        return control, " and ".join(dict.fromkeys(names))

    def missing_control(self, context: ClaimContext) -> str | None:
        if self.variables or self.recovers_at_least is None:  # not yet known, or no control needed
            return None
        control, why = self.control(context, self.groups(context))
        return None if control else why

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        both = (performance(context, self.donor), performance(context, self.recipient))
        if self.variables:  # the masks say which heads are exchanged
            return (*both, *self.masks(context).values())
        return (*both, self.exchange(context, self.groups(context)))

    def exchange(self, context: ClaimContext, groups: Sequence[Group]) -> Measurement[CodeResult]:
        """The recipient with the donor's z of these heads."""
        heads = placed(groups)
        control, _ = self.control(context, groups)
        rows, stream = context.rows, "rows"
        donated = sorted({*heads, *control})
        donation = ActivationDonation(heads=donated, rows=rows, stream=stream)
        request = CrossModelPatching(heads=heads, control=control, rows=rows, stream=stream)
        inputs = (context.measurement(donation, self.donor),)
        return context.measurement(request, self.recipient, inputs)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:  # noqa: C901, PLR0911 - one decision, read from top to bottom
        donor, recipient = (
            measure(performance(context, role)) for role in (self.donor, self.recipient)
        )
        groups = self.exchanged_groups(context, measure)
        bounds = verdicts.bounds(self.recovers_at_least, self.recovers_at_most)
        threshold = verdicts.spell(*bounds)
        if not groups:
            return verdicts.inconclusive(
                f"the mask selects no head of {', '.join(self.names)} in {self.donor}, so nothing "
                "is exchanged",
                threshold,
            )
        patched = measure(self.exchange(context, groups))
        check_paired(donor, recipient, patched)
        column, m = COLUMN[self.of], self.of.replace("_", "-")
        own, best = recipient.values[column], donor.values[column]
        effects = {
            name: patched.values[name if self.of == "accuracy" else f"{name}_{column}"]
            for name in ("patched", "control")
            if name in patched.values
        }
        how = context.sampling(recipient)
        control_heads, control_name = self.control(context, groups)
        if moved := moved_codes(other_codes(patched, control_heads)):
            effects.pop("control", None)
            control_name = not_comparable(moved, self.donor, self.recipient)

        def control_of(estimate: Callable[[Values], Estimate]) -> Control | None:
            if "control" not in effects:
                return None
            effect = estimate(effects["control"])
            return Control(control_name, effect.value, effect.interval)

        def change(values: Values) -> Estimate:
            return estimates.difference(values, own, how)

        def recovered(values: Values) -> Estimate:
            return estimates.fraction(values, own, best, how, counted=self.of == "accuracy")

        heads = "+".join(self.names) + (" (learned heads)" if self.variables else "")
        name = f"{heads} from {self.donor} into {self.recipient}"
        raw = score(
            context,
            f"{name}: change of {m}",
            change(effects["patched"]),
            f"m(recipient <- donor) - m(recipient), {m} on the same rows",
            control=control_of(change),
        )
        codes = other_codes(patched, placed(groups))
        solved = above_chance(context, donor) or above_chance(context, recipient)
        if solved is None:
            accuracies = [f"{np.mean(model.values['correct']):.3f}" for model in (donor, recipient)]
            return verdicts.at_chance(
                f"{self.donor} and {self.recipient} both answer at chance "
                f"({' and '.join(accuracies)}), so there is nothing to recover",
                threshold,
                () if codes else (raw,),
            )
        if codes:
            return verdicts.not_comparable(
                not_comparable(codes, self.donor, self.recipient), threshold
            )
        # the fraction has no sign unless the two models differ; either may be better
        gap = estimates.difference(best, own, how)
        if gap.interval[0] <= 0 <= gap.interval[1]:
            return verdicts.no_difference(
                f"{self.donor} and {self.recipient} do not differ significantly on this task "
                f"({PLURAL[self.of]} {np.mean(best):.3f} and {np.mean(own):.3f}), so there is nothing "
                "to recover",
                threshold,
                (raw,),
            )
        try:
            judged = score(
                context,
                name,
                recovered(effects["patched"]),
                f"(m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), {m}",
                "lower" if self.recovers_at_least is None else "higher",
                control_of(recovered),
            )
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"the recovered fraction cannot be computed: {problem}", threshold, (raw,)
            )
        verdict = verdicts.within(judged, *bounds, f"share of the gain recovered by {name}:")
        verdict = replace(verdict, scores=(judged, raw), chance=solved)
        if self.recovers_at_least is None:
            return replace(verdict, control=UPPER_BOUND)
        if "control" not in effects:
            return no_control(verdict, control_name)
        sign = 1 if gap.value > 0 else -1
        ahead = estimates.difference(
            sign * np.asarray(effects["patched"]), sign * np.asarray(effects["control"]), how
        )
        return beats_control(verdict, control_name, ahead, f"{control_name} recover as much")


def placed(groups: Sequence[Group]) -> list[PlacedHead]:
    """The heads of several groups with their positions."""
    return [(layer, head, group.at) for group in groups for layer, head in group.members()]
