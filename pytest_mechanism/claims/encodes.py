"""``encodes``: heads of a group carry a variable.

Their z is taken from a source prompt that differs in the variable; if they carry it, the answer
that the moved variable asks for comes out (a desideratum of Desiderata-based Component Masking,
Davies et al. 2023; Prakash et al., section 4). Score: (accuracy - floor) / (ceiling - floor) on
held-out rows; floor = no patch, ceiling = what the model would give were the variable moved
perfectly, which is its accuracy on the same base prompts; on the source prompts, and against the
same targets, where a row has several. With ``heads: learned`` a mask over the
group is learned first (DCM), on rows that are not used again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, StrictStr, model_validator

from pytest_mechanism.claims.base import Case, Claim, Measured, Roles, listed
from pytest_mechanism.claims.scoring import above_chance, score
from pytest_mechanism.methods.catalogue import INTERCHANGE
from pytest_mechanism.spec.parts import Finite
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.types import Control, Measurement, Observations, Verdict


class Encodes(Claim):
    """What the group's heads write depends on the variable, and carries it.

    Attributes:
        group: whose heads.
        variable: of the task (``position``, ``object``, ``box_label``, ...).
        on: role or roles under test.
        heads: ``all`` patches the whole group, ``learned`` those that a DCM mask selects.
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
    heads: Literal["all", "learned"] = "all"
    at_least: Finite | None = None
    at_most: Finite | None = None

    @model_validator(mode="after")
    def says_something(self) -> Encodes:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs one of at_least, at_most")
        if self.at_least is not None and self.at_least <= 0:
            raise ValueError("at_least: must be above 0, which is what no patch gives")
        return self

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def mentions(self) -> dict[str, tuple[str, str]]:
        return {"group": ("group", self.group), "variable": ("variable", self.variable)}

    def needs(self, case: Case) -> tuple[Measurement, ...]:
        group = case.group(self.group, case.role)
        control, _ = case.random_heads(group, case.role)
        return (
            case.ask(
                INTERCHANGE,
                case.role,
                heads=group.members(),
                at=group.at,
                variable=self.variable,
                learned=self.heads == "learned",
                control=control,
                rows=case.rows,
            ),
        )

    def lacks(self, case: Case) -> str | None:
        heads, why = case.random_heads(case.group(self.group, case.role), case.role)
        if heads or self.at_least is None:
            return super().lacks(case)
        return f"it cannot pass without a control: {why}"

    def judge(self, case: Case, measured: Measured) -> Verdict:
        seen = measured(self.needs(case)[0])
        own = "own" if "own" in seen.values else "ceiling"
        if not above_chance(case, seen, own):
            return verdicts.inconclusive(
                f"{case.role} answers these prompts at chance (accuracy "
                f"{np.mean(seen.values[own]):.3f}, chance {case.task.chance:.3f}), so what its "
                "heads carry cannot be read off its answers",
                verdicts.spell(*verdicts.bounds(self.at_least, self.at_most)),
            )
        bounds = verdicts.bounds(self.at_least, self.at_most)
        bound = verdicts.spell(*bounds)
        _, control_name = case.random_heads(case.group(self.group, case.role), case.role)
        try:
            found = self.normalised(case, seen, "patched")
            control = self.normalised(case, seen, "control") if "control" in seen.values else None
        except estimates.Undefined as problem:
            return verdicts.inconclusive(
                f"{case.role} answers these prompts no better than with nothing moved: {problem}",
                bound,
            )
        chosen = seen.facts.get("selected")
        judged = score(
            case,
            f"{self.group} encodes {self.variable}",
            found,
            "(accuracy - floor) / (ceiling - floor) when z of the heads comes from the source"
            + (f"; heads selected by DCM: {chosen or 'none'}" if chosen is not None else ""),
            "lower" if self.at_least is None else "higher",
            Control(control_name, control.value, control.interval) if control else None,
        )
        verdict = verdicts.within(judged, *bounds)
        if verdict.status == "pass" and self.at_least is not None and control is None:
            reason = f"{verdict.reason}, but there is no control: {control_name}"
            verdict = replace(verdict, status="inconclusive", reason=reason)
        elif verdict.status == "pass" and self.at_least is not None and control is not None:
            gap = estimates.difference(
                seen.values["patched"], seen.values["control"], case.sampling(seen)
            )
            if gap.interval[0] <= 0:
                reason = f"{verdict.reason}, but {control_name} do as well ({control.value:.3f})"
                verdict = replace(verdict, status="inconclusive", reason=reason)
        return verdict

    def normalised(self, case: Case, seen: Observations, column: str) -> estimates.Estimate:
        return estimates.normalised(
            seen.values[column],
            seen.values["floor"],
            seen.values["ceiling"],
            case.sampling(seen),
        )
