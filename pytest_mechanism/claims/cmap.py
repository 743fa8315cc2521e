"""``cmap``: putting one model's activations into another recovers its gain.

Cross-model activation patching (Prakash et al., section 5): both models read the same prompt, the
donor's z of the group's heads at the group's position replaces the recipient's. Score: recovered
fraction (m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), beside the raw change
and random heads of the same layers, positions and count. Inconclusive where donor and recipient
do not differ: then there is nothing to recover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import PAIR, Case, Claim, Measured
from pytest_mechanism.claims.scoring import above_chance, check_paired, performance, score
from pytest_mechanism.methods.catalogue import CMAP, DONATION
from pytest_mechanism.spec.parts import Finite, Group
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.types import Control, Measurement, Verdict


class Cmap(Claim):
    """How much of the donor's advantage the group's activations carry over.

    Attributes:
        group: a group, or several that are patched together.
        donor: role whose activations are taken.
        recipient: role that they are put into.
        recovers_at_least: claimed fraction of the difference.
        recovers_at_most: for parts that must not matter.
    """

    summary: ClassVar[str] = "one model's activations in another recover its gain"
    if_red: ClassVar[str] = (
        "putting one model's activations of these heads into the other does not carry its advantage over: the gain sits elsewhere, or the models no longer speak one code"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("recovers_at_least", "recovers_at_most")
    alike: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads", "d_head")

    kind: Literal["cmap"]
    group: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    donor: StrictStr
    recipient: StrictStr
    recovers_at_least: Finite | None = None
    recovers_at_most: Finite | None = None

    @model_validator(mode="after")
    def says_something(self) -> Cmap:
        if (self.recovers_at_least is None) == (self.recovers_at_most is None):
            raise ValueError("needs one of recovers_at_least, recovers_at_most")
        if self.recovers_at_least is not None and self.recovers_at_least <= 0:
            raise ValueError("recovers_at_least: must be above 0, which is what no patch gives")
        if self.donor == self.recipient:
            raise ValueError("donor and recipient must be two roles")
        return self

    @property
    def names(self) -> list[str]:
        return [self.group] if isinstance(self.group, str) else list(self.group)

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        return (self.recipient, self.donor)

    def mentions(self) -> dict[str, tuple[str, str]]:
        return {f"group {name}": ("group", name) for name in self.names}

    def parts(self, case: Case) -> tuple[list[tuple[str, Group]], list[list[object]], str]:
        """Groups, the control's heads as [layer, head, at], and its name."""
        groups = [(name, case.group(name, self.recipient)) for name in self.names]
        for name in self.names:
            case.group(name, self.donor)
        control: list[list[object]] = []
        described: list[str] = []
        spare = [head for _, group in groups for head in group.members()]
        for _, group in groups:
            heads, name = case.random_heads(group, self.recipient, spare=spare)
            if not heads:  # half a control is none
                return groups, [], name
            spare += heads
            control += [[layer, head, group.at] for layer, head in heads]
            described.append(name)
        return groups, control, " and ".join(dict.fromkeys(described))

    def needs(self, case: Case) -> tuple[Measurement, ...]:
        groups, control, _ = self.parts(case)
        heads = [[layer, h, g.at] for _, g in groups for layer, h in g.members()]
        donation = case.ask(
            DONATION,
            self.donor,
            kept=False,
            heads=sorted({(x[0], x[1], str(x[2])) for x in (*heads, *control)}),
            rows=case.rows,
            stream="rows",
        )
        return (
            performance(case, self.donor),
            performance(case, self.recipient),
            case.ask(
                CMAP,
                self.recipient,
                (donation,),
                heads=heads,
                control=control,
                rows=case.rows,
                stream="rows",
            ),
        )

    def lacks(self, case: Case) -> str | None:
        _, control, why = self.parts(case)
        if control or self.recovers_at_least is None:
            return super().lacks(case)
        return f"it cannot pass without a control: {why}"

    def judge(self, case: Case, measured: Measured) -> Verdict:
        donor, recipient, patched = (measured(m) for m in self.needs(case))
        check_paired(donor, recipient, patched)
        _, _, control_name = self.parts(case)
        bounds = verdicts.bounds(self.recovers_at_least, self.recovers_at_most)
        bound = verdicts.spell(*bounds)
        own, best = recipient.values["correct"], donor.values["correct"]
        name = f"{'+'.join(self.names)} from {self.donor} into {self.recipient}"
        how = case.sampling(recipient)
        with_control = "control" in patched.values

        raw = score(
            case,
            f"{name}: change of accuracy",
            estimates.difference(patched.values["patched"], own, how),
            "m(recipient <- donor) - m(recipient), accuracy on the same rows",
            control=raw_control(control_name, patched.values["control"], own, how)
            if with_control
            else None,
        )
        if not above_chance(case, donor) and not above_chance(case, recipient):
            return verdicts.inconclusive(
                f"{self.donor} and {self.recipient} both answer at chance "
                f"({np.mean(best):.3f} and {np.mean(own):.3f}), so there is nothing to recover",
                bound,
                (raw,),
            )
        # the recovered fraction has no sign to speak of unless the two differ; either may be better
        gap = estimates.difference(best, own, how)
        if gap.interval[0] <= 0 <= gap.interval[1]:
            return verdicts.inconclusive(
                f"{self.donor} and {self.recipient} are not told apart on this task (accuracies "
                f"{np.mean(best):.3f} and {np.mean(own):.3f}), so there is nothing to recover",
                bound,
                (raw,),
            )
        try:
            fraction = estimates.fraction(patched.values["patched"], own, best, how)
            other = (
                estimates.fraction(patched.values["control"], own, best, how)
                if with_control
                else None
            )
        except estimates.Undefined as problem:
            return verdicts.inconclusive(
                f"the recovered fraction has no value: {problem}", bound, (raw,)
            )
        judged = score(
            case,
            name,
            fraction,
            "(m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), accuracy",
            "lower" if self.recovers_at_least is None else "higher",
            Control(control_name, other.value, other.interval) if other else None,
        )
        verdict = verdicts.within(judged, *bounds, "recovered")
        if verdict.status == "pass" and self.recovers_at_least is not None and not with_control:
            reason = f"{verdict.reason}, but there is no control: {control_name}"
            verdict = replace(verdict, status="inconclusive", reason=reason)
        elif verdict.status == "pass" and self.recovers_at_least is not None:
            sign = 1 if gap.value > 0 else -1
            ahead = estimates.difference(
                sign * np.asarray(patched.values["patched"]),
                sign * np.asarray(patched.values["control"]),
                how,
            )
            if ahead.interval[0] <= 0:
                reason = f"{verdict.reason}, but {control_name} recover as much"
                verdict = replace(verdict, status="inconclusive", reason=reason)
        return replace(verdict, scores=(judged, raw))


def raw_control(
    name: str, patched: Sequence[float], own: Sequence[float], how: Sampling
) -> Control:
    """The change of accuracy under random heads."""
    found = estimates.difference(patched, own, how)
    return Control(name, found.value, found.interval)
