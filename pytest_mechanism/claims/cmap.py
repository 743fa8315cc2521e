"""``cmap``: one model's activations in another recover its gain.

Cross-model activation patching (Prakash et al., section 5): both models read the same prompt, and
the donor's z of the group's heads at the group's position replaces the recipient's. Score:
recovered fraction (m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), with the raw
change, and with random heads of the same layers, positions and count as control. The claim is
inconclusive if the donor is not better than the recipient, because then there is no gain to recover. With
``carries: loss`` the donor is the worse model, and the fraction is that of its loss.

The output of an MLP is exchanged in the same way, and an attention output as z of all heads of its layer. The members
of a group work at the group's position; name several groups for several positions.

z goes from a head to the head of the same index, so the claim is about models whose heads of one
index write one code, as those of a model and its fine-tune do. That is measured first
(`methods.circuits.codes`); if they do not, the score has no value. The output of an MLP is written straight to the
residual stream, so there the two streams are compared.

As in the paper, ``heads: learned`` exchanges the heads that a DCM mask selects in the donor for a
variable of each group; ``heads: all`` exchanges whole groups. ``activations`` names q, k or v of the
heads, or several of them, in place of z, with the heads' other outputs held
(`methods.circuits.cmap_inputs`).

Several groups are exchanged together. With ``each: true`` the claim also reports every group alone, and
draws random heads for each group as its control. With ``both_ways: true`` the claim also patches in the
other direction: the recipient's activations, patched into the donor, must remove as large a share of the
gain. Both shares must meet the threshold; the accepted score is the one from donor to recipient.

m is the accuracy or, with ``of: log_probability``, the mean log-probability of the answer, as in
``faithfulness``. A row counts for accuracy only if the patch changes its answer. The
log-probability counts how far every row moves, so it needs fewer rows to tell a small fraction from
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.base import PAIR, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.masks import Masked, among
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.claims.recovered import Asked, Exchanged, judge_recovered
from pytest_mechanism.claims.scoring import Of, performance
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.fields.thresholds import RecoversAtLeast, RecoversAtMost, need_one
from pytest_mechanism.measurements.cmap import (
    ActivationDonation,
    CodeResult,
    CrossModelPatching,
    Part,
)
from pytest_mechanism.measurements.dcm import MaskResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import PlacedNode
from pytest_mechanism.nodes import KINDS, Member, PlacedMember, in_order
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.types import Verdict

ORDER: tuple[Part, ...] = ("q", "k", "v")


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
        activations: what is exchanged: ``z``, or ``q``, ``k``, ``v``, or a list of these three.
        each: whether each of several groups is reported alone as well.
        both_ways: whether the claim is also made with donor and recipient exchanged.
        carries: what the donor's activations carry over: a gain of the donor, or a loss.
    """

    summary: ClassVar[str] = "one model's activations in another recover its gain"
    if_red: ClassVar[str] = (
        "these heads do not carry over the gain: patched from one model into the other, their activations do not "
        "bring its advantage. It comes from other parts, or the two models encode it differently"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("recovers_at_least", "recovers_at_most")
    added_later: ClassVar[tuple[str, ...]] = (
        *("heads", "variable", "of", "activations", "each", "both_ways", "carries"),
        *Masked.added_later,
    )
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads", "d_head")

    kind: Literal["cmap"]
    group: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    donor: StrictStr
    recipient: StrictStr
    variable: StrictStr | dict[StrictStr, StrictStr] | None = None
    recovers_at_least: RecoversAtLeast | None = None
    recovers_at_most: RecoversAtMost | None = None
    of: Of = "accuracy"
    activations: Literal["z", "q", "k", "v"] | Annotated[list[Part], Field(min_length=1)] = "z"
    each: StrictBool = False
    both_ways: StrictBool = False
    carries: Literal["gain", "loss"] = "gain"

    @model_validator(mode="after")
    def check_thresholds(self) -> Cmap:
        need_one(recovers_at_least=self.recovers_at_least, recovers_at_most=self.recovers_at_most)
        if self.donor == self.recipient:
            raise ValueError("donor and recipient must be two roles")
        self.check_mask()
        if (self.heads == "learned") != (self.variable is not None):
            raise ValueError("heads: learned and variable go together")
        if isinstance(self.variable, dict) and {*self.variable} != {*self.names}:
            raise ValueError(f"variable: needs one for each of {', '.join(self.names)}")
        if len({*self.names}) < len(self.names):
            raise ValueError("group names a group twice")
        if len({*self.activations}) < len(self.activations):
            raise ValueError("activations names one of q, k, v twice")
        if self.each and len(self.names) == 1:
            raise ValueError("each: true needs several groups")
        return self

    @property
    def names(self) -> list[str]:
        return [self.group] if isinstance(self.group, str) else list(self.group)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Inputs that are exchanged in place of z; none for z."""
        return tuple(part for part in ORDER if part in self.activations)

    def reversed(self) -> Cmap:
        """The claim from recipient to donor."""
        return self.model_copy(
            update={
                "donor": self.recipient,
                "recipient": self.donor,
                "both_ways": False,
                "carries": "loss" if self.carries == "gain" else "gain",
            }
        )

    @property
    def variables(self) -> dict[str, str]:
        """Group -> the variable that its mask is learned for; empty without masks."""
        if self.variable is None:
            return {}
        if isinstance(self.variable, dict):
            return self.variable
        return dict.fromkeys(self.names, self.variable)

    def check_matching_sizes(self, role: str, shapes: Mapping[str, Shape]) -> None:
        """k and v are exchanged by the index of a key-value head."""
        sized = self.matching_sizes
        if {"k", "v"} & {*self.parts}:
            sized = (*sized, "n_kv_heads")
        self.check_sizes(sized, role, shapes)

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        return (self.recipient, self.donor)

    def references(self) -> tuple[Reference, ...]:
        variables = (Reference("variable", "variable", v) for v in self.variables.values())
        return (*(Reference("group", "group", name) for name in self.names), *variables)

    def members_problem(self, group: AnyGroup) -> str | None:
        if self.parts and "mlps" in group.kinds:
            verb = "names" if isinstance(group, Group) else "may find"
            return (
                f"{verb} mlps, and kind cmap is about heads and attention outputs alone where activations is "
                f"{', '.join(self.parts)}: an MLP has no such input"
            )
        return elsewhere(group, "activations are exchanged at") or super().members_problem(group)

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

    def exchanged_groups(self, context: ClaimContext, measure: Measure) -> dict[str, Group]:
        """Name -> the group with the heads that are exchanged; a group without any is left out."""
        masks = self.masks(context)
        selected = {
            name: among(group, measure(masks[name])) if name in masks else group
            for name, group in zip(self.names, self.groups(context), strict=True)
        }
        return {name: group for name, group in selected.items() if group is not None}

    def control(
        self, context: ClaimContext, groups: Sequence[Group]
    ) -> tuple[list[PlacedNode], str]:
        """Random members outside the claim's groups, and the name of this control; no members, and why,
        if a group has no control."""
        control: list[PlacedMember] = []
        names: list[str] = []
        used: list[Member] = [
            (layer, part) for group in self.groups(context) for layer, part, _ in group.placed()
        ]
        for group in groups:
            members, name = context.random_members(group, self.recipient, spare=used)
            if not members:
                return [], name
            used += members
            control += [(layer, part, group.at) for layer, part in members]
            names.append(name)
        return context.nodes(control, self.recipient), " and ".join(dict.fromkeys(names))

    def missing_control(self, context: ClaimContext) -> str | None:
        if self.variables or self.recovers_at_least is None:  # not yet known, or no control needed
            return None
        for claim in self.directions():
            control, why = claim.control(context, claim.groups(context))
            if not control:
                return why
        return None

    def directions(self) -> tuple[Cmap, ...]:
        """The claim, and its reverse where it is made both ways."""
        return (self, self.reversed()) if self.both_ways else (self,)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        needed: list[Measurement] = []
        for claim in self.directions():
            needed += [performance(context, role) for role in (claim.donor, claim.recipient)]
            if claim.variables:  # the masks say which heads are exchanged
                needed += claim.masks(context).values()
            else:
                names = dict(zip(claim.names, claim.groups(context), strict=True))
                needed.append(claim.exchange(context, names))
        return tuple(dict.fromkeys(needed))

    def exchange(
        self, context: ClaimContext, groups: Mapping[str, Group]
    ) -> Measurement[CodeResult]:
        """The recipient with the donor's activations of these members."""
        heads = self.placed(context, groups.values())
        control, _ = self.control(context, [*groups.values()])
        alone: dict[str, list[PlacedNode]] = {}
        if self.each:
            for name, group in groups.items():
                alone[of_group(name)] = self.placed(context, [group])
                if of_its_own := self.control(context, [group])[0]:
                    alone[f"{of_group(name)} control"] = of_its_own
        rows, stream = context.rows, "rows"
        everyone = {*heads, *control, *(node for nodes in alone.values() for node in nodes)}
        donated = sorted(everyone, key=in_order)
        donation = ActivationDonation(heads=donated, rows=rows, stream=stream, parts=self.parts)
        request = CrossModelPatching(
            heads=heads, control=control, rows=rows, stream=stream, parts=self.parts, alone=alone
        )
        inputs = (context.measurement(donation, self.donor),)
        return context.measurement(request, self.recipient, inputs)

    def placed(self, context: ClaimContext, groups: Iterable[Group]) -> list[PlacedNode]:
        """The heads and MLPs of several groups with their positions."""
        members = [member for group in groups for member in group.placed()]
        return context.nodes(members, self.recipient)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        if not self.both_ways:
            return self.one_way(context, measure)
        return verdicts.together([claim.one_way(context, measure) for claim in self.directions()])

    def one_way(self, context: ClaimContext, measure: Measure) -> Verdict:
        """The verdict from donor to recipient."""
        donor, recipient = (
            measure(performance(context, role)) for role in (self.donor, self.recipient)
        )
        groups = self.exchanged_groups(context, measure)
        bounds = verdicts.bounds(self.recovers_at_least, self.recovers_at_most)
        if not groups:
            return verdicts.inconclusive(
                f"the mask selects no head of {', '.join(self.names)} in {self.donor}, so nothing "
                "is exchanged",
                verdicts.spell(*bounds),
            )
        patched = measure(self.exchange(context, groups))
        learned = " (learned heads)" if self.variables else ""

        def exchanged(names: Sequence[str], column: str, control: str) -> Exchanged:
            of = [groups[name] for name in names if name in groups]
            control_heads, control_name = self.control(context, of)
            return Exchanged(
                name="+".join(names) + learned,
                heads=self.placed(context, of),
                column=column,
                control=control,
                control_heads=control_heads,
                control_name=control_name,
            )

        return judge_recovered(
            context,
            Asked(
                self.donor,
                self.recipient,
                self.of,
                self.parts,
                self.recovers_at_least,
                self.recovers_at_most,
                self.carries,
            ),
            donor,
            recipient,
            patched,
            exchanged(self.names, "patched", "control"),
            [
                exchanged([name], of_group(name), f"{of_group(name)} control")
                for name in (groups if self.each else ())
            ],
        )


def of_group(name: str) -> str:
    """The column of a group that is exchanged alone."""
    return f"only {name}"
