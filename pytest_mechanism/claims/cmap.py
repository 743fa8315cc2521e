"""``cmap``: putting one model's activations into another recovers its gain.

Cross-model activation patching (Prakash et al., section 5): both models read the same prompt, the
donor's z of the group's heads at the group's position replaces the recipient's. Score: recovered
fraction (m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), beside the raw change
and random heads of the same layers, positions and count. Inconclusive where donor and recipient
do not differ: then there is nothing to recover.

z goes from a head to the head of the same number, so the claim is about models whose heads of one
number speak one code, as a model and its fine-tune do. Whether they do is measured first
(`methods.codes`); where they do not, there is no number to give.

As published, ``heads: learned`` exchanges the heads that a DCM mask selects in the donor for a
variable of each group; ``heads: all`` the whole groups.

m is the accuracy, or, with ``of: log_probability``, the mean log-probability of the answer, as in
``faithfulness``. A row counts for accuracy only if the patch turns its answer; the log-probability
hears of every row how far it moved, so that a small share is told from nothing on fewer rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import PAIR, ClaimContext, Measure, Reference
from pytest_mechanism.claims.codes import elsewhere, not_comparable, strange
from pytest_mechanism.claims.masks import Masked, among, selected
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
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control, no_control
from pytest_mechanism.types import Control, Measurement, Observations, Verdict

PLURAL: Mapping[str, str] = {
    "accuracy": "accuracies",
    "log_probability": "mean log-probabilities of the answer",
}


class Cmap(Masked):
    """How much of the donor's advantage the group's activations carry over.

    Attributes:
        group: a group, or several that are patched together.
        donor: role whose activations are taken.
        recipient: role that they are put into.
        variable: with ``heads: learned``, what the mask is learned for: a variable of the task, or
            one for each group.
        recovers_at_least: claimed fraction of the difference.
        recovers_at_most: for parts that must not matter.
        of: what is recovered: accuracy, or the answer's log-probability.
    """

    summary: ClassVar[str] = "one model's activations in another recover its gain"
    if_red: ClassVar[str] = (
        "putting one model's activations of these heads into the other does not carry its advantage over: the gain sits elsewhere, or the models no longer speak one code"
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
        """Group -> what its mask is learned for; none where no mask is."""
        if self.variable is None:
            return {}
        return (
            self.variable
            if isinstance(self.variable, dict)
            else dict.fromkeys(self.names, self.variable)
        )

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        return (self.recipient, self.donor)

    def references(self) -> tuple[Reference, ...]:
        variables = (Reference("variable", "variable", v) for v in self.variables.values())
        return (*(Reference("group", "group", name) for name in self.names), *variables)

    def masks(self, context: ClaimContext) -> dict[str, Measurement]:
        """Group -> its mask in the donor."""
        return {
            name: self.mask(context, self.donor, context.group(name, self.donor), variable)
            for name, variable in self.variables.items()
        }

    def groups(self, context: ClaimContext, measure: Measure | None = None) -> list[Group]:
        """The groups that are exchanged; of masked ones the selected heads, without those that
        have none."""
        found = [context.group(name, self.recipient) for name in self.names]
        for name in self.names:
            context.group(name, self.donor)
        if measure is None:
            return found
        masks = self.masks(context)
        chosen = [
            among(group, selected(measure(masks[name]))) if name in masks else group
            for name, group in zip(self.names, found, strict=True)
        ]
        return [group for group in chosen if group is not None]

    def control(
        self, context: ClaimContext, groups: Sequence[Group]
    ) -> tuple[list[list[object]], str]:
        """Random heads as [layer, head, at], and what to call them; none from the claim's groups."""
        control: list[list[object]] = []
        described: list[str] = []
        spare = [
            head for name in self.names for head in context.group(name, self.recipient).members()
        ]
        for group in groups:
            heads, name = context.random_heads(group, self.recipient, spare=spare)
            if not heads:  # half a control is none
                return [], name
            spare += heads
            control += [[layer, head, group.at] for layer, head in heads]
            described.append(name)
        return control, " and ".join(dict.fromkeys(described))

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        both = (performance(context, self.donor), performance(context, self.recipient))
        if self.variables:  # which heads are exchanged follows from the masks
            return (*both, *self.masks(context).values())
        return (*both, self.exchange(context, self.groups(context)))

    def exchange(self, context: ClaimContext, groups: Sequence[Group]) -> Measurement:
        """The recipient with the donor's z of these heads."""
        heads = [[layer, h, g.at] for g in groups for layer, h in g.members()]
        control, _ = self.control(context, groups)
        donated = sorted({(x[0], x[1], str(x[2])) for x in (*heads, *control)})
        donation = ActivationDonation(heads=donated, rows=context.rows, stream="rows")
        request = CrossModelPatching(heads=heads, control=control, rows=context.rows, stream="rows")
        inputs = (context.measurement(donation, self.donor),)
        return context.measurement(request, self.recipient, inputs)

    def blocking_reason(self, context: ClaimContext) -> str | None:
        if self.variables or self.recovers_at_least is None:  # masks say which heads are controlled
            return super().blocking_reason(context)
        control, why = self.control(context, self.groups(context))
        if control:
            return super().blocking_reason(context)
        return f"it cannot pass without a control: {why}"

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        donor, recipient = (measure(m) for m in self.required_measurements(context)[:2])
        groups = self.groups(context, measure)
        if not groups:
            return verdicts.inconclusive(
                f"the mask selects no head of {', '.join(self.names)} in {self.donor}, so nothing "
                "is exchanged",
                verdicts.spell(*verdicts.bounds(self.recovers_at_least, self.recovers_at_most)),
            )
        patched = measure(self.exchange(context, groups))
        check_paired(donor, recipient, patched)
        others, control_name = self.control(context, groups)
        bounds = verdicts.bounds(self.recovers_at_least, self.recovers_at_most)
        bound = verdicts.spell(*bounds)
        column = COLUMN[self.of]
        own, best = recipient.values[column], donor.values[column]
        moved = {
            name: patched.values[name if self.of == "accuracy" else f"{name}_{column}"]
            for name in ("patched", "control")
            if name in patched.values
        }
        which = "+".join(self.names) + (" (learned heads)" if self.variables else "")
        name = f"{which} from {self.donor} into {self.recipient}"
        how = context.sampling(recipient)
        exchanged = [(layer, h, g.at) for g in groups for layer, h in g.members()]
        other_code = strange(patched, exchanged)
        with_control = "control" in moved
        if with_control and (odd := elsewhere(strange(patched, others))):
            with_control, control_name = False, not_comparable(odd, self.donor, self.recipient)
        m = self.of.replace("_", "-")

        raw = score(
            context,
            f"{name}: change of {m}",
            estimates.difference(moved["patched"], own, how),
            f"m(recipient <- donor) - m(recipient), {m} on the same rows",
            control=raw_control(control_name, moved["control"], own, how) if with_control else None,
        )
        solved = above_chance(context, donor) or above_chance(context, recipient)
        if solved is None:
            return verdicts.at_chance(
                f"{self.donor} and {self.recipient} both answer at chance "
                f"({right(donor)} and {right(recipient)}), so there is nothing to recover",
                bound,
                () if other_code else (raw,),
            )
        if other_code:
            return verdicts.not_comparable(
                not_comparable(other_code, self.donor, self.recipient), bound
            )
        # the recovered fraction has no sign to speak of unless the two differ; either may be better
        gap = estimates.difference(best, own, how)
        if gap.interval[0] <= 0 <= gap.interval[1]:
            return verdicts.no_difference(
                f"{self.donor} and {self.recipient} are not told apart on this task ({PLURAL[self.of]} "
                f"{np.mean(best):.3f} and {np.mean(own):.3f}), so there is nothing to recover",
                bound,
                (raw,),
            )
        try:
            counted = self.of == "accuracy"
            fraction = estimates.fraction(moved["patched"], own, best, how, counted=counted)
            other = (
                estimates.fraction(moved["control"], own, best, how, counted=counted)
                if with_control
                else None
            )
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"the recovered fraction has no value: {problem}", bound, (raw,)
            )
        judged = score(
            context,
            name,
            fraction,
            f"(m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), {m}",
            "lower" if self.recovers_at_least is None else "higher",
            Control(control_name, other.value, other.interval) if other else None,
        )
        verdict = verdicts.within(judged, *bounds, "recovered")
        verdict = replace(verdict, scores=(judged, raw), chance=solved)
        if self.recovers_at_least is None:
            return replace(verdict, control=UPPER_BOUND)
        if not with_control:
            return no_control(verdict, control_name)
        sign = 1 if gap.value > 0 else -1
        ahead = estimates.difference(
            sign * np.asarray(moved["patched"]), sign * np.asarray(moved["control"]), how
        )
        return beats_control(verdict, control_name, ahead, f"{control_name} recover as much")


def raw_control(
    name: str, patched: Sequence[float], own: Sequence[float], how: Sampling
) -> Control:
    """The change under random heads."""
    found = estimates.difference(patched, own, how)
    return Control(name, found.value, found.interval)


def right(seen: Observations) -> str:
    """A model's accuracy, in words."""
    return f"{np.mean(seen.values['correct']):.3f}"
