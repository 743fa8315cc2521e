"""``path``: a group tells its receivers something that the answer needs.

Path patching of the whole group (Prakash et al., section 3.1): its z comes from the source prompt,
all other heads at its position and later are frozen, and only what its receivers hear through
``via`` is passed on; for the group that writes the answer, only the direct path to the logits.
Score: mean change of the answer's log-probability, negative where the group matters, beside the
published mean of ratios under its own name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictStr

from pytest_mechanism.claims.base import Case, Claim, Measured, Roles, listed
from pytest_mechanism.claims.scoring import above_chance, performance, score
from pytest_mechanism.methods.catalogue import PATH_PATCHING
from pytest_mechanism.spec.parts import Group
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.types import Control, Head, Measurement, Verdict


class Path(Claim):
    """The effect of a group on its receivers.

    Attributes:
        group: the sender.
        on: role or roles under test.
        drops_at_least: by how many nats the answer's log-probability falls, at least.
    """

    summary: ClassVar[str] = "a group tells its receivers something that the answer needs"
    if_red: ClassVar[str] = (
        "the heads that read this group do not hear from it what the answer needs"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("drops_at_least",)

    kind: Literal["path"]
    group: StrictStr
    on: Roles = Field(default_factory=lambda: ["base", "ft"])
    drops_at_least: Annotated[float, Field(strict=True, gt=0, le=1000, allow_inf_nan=False)]

    def roles(self) -> tuple[str, ...]:
        return listed(self.on)

    def mentions(self) -> dict[str, tuple[str, str]]:
        return {"group": ("group", self.group)}

    def needs(self, case: Case) -> tuple[Measurement, ...]:
        group = case.group(self.group, case.role)
        control, _ = self.control(case)
        receivers = case.group(group.into.group, case.role).members() if group.into else []
        return (
            performance(case, case.role),
            case.ask(
                PATH_PATCHING,
                case.role,
                senders={"group": group.members(), **({"control": control} if control else {})},
                at=group.at,
                receivers=receivers,
                via=group.into.via if group.into else None,
                rows=case.rows,
                stream="pairs",
            ),
        )

    def control(self, case: Case) -> tuple[list[Head], str]:
        """Random heads that the receivers could hear."""
        group = case.group(self.group, case.role)
        if group.into is None:
            return case.random_heads(group, case.role)
        readers = case.group(group.into.group, case.role).members()
        return case.random_heads(group, case.role, below=max(layer for layer, _ in readers))

    def lacks(self, case: Case) -> str | None:
        heads, why = self.control(case)
        return super().lacks(case) if heads else f"it cannot pass without a control: {why}"

    def judge(self, case: Case, measured: Measured) -> Verdict:
        full, seen = (measured(m) for m in self.needs(case))
        bound = f"drops at least {self.drops_at_least:g}"
        if not above_chance(case, full):
            return verdicts.inconclusive(
                f"{case.role} does not solve the task, so no path can matter to its answer", bound
            )
        group = case.group(self.group, case.role)
        _, control_name = self.control(case)
        how = case.sampling(seen)
        into = f"{group.into.via} of {group.into.group}" if group.into else "the logits"

        def one(column: str) -> tuple[estimates.Estimate, Control | None]:
            other = column.replace("group", "control")
            if other not in seen.values:
                return estimates.mean(seen.values[column], how), None
            found = estimates.mean(seen.values[other], how)
            return (
                estimates.mean(seen.values[column], how),
                Control(control_name, found.value, found.interval),
            )

        estimate, control = one("group")
        judged = score(
            case,
            f"path {self.group} -> {into}",
            estimate,
            "mean change of the answer's log-probability, in nats" + shared_keys(case, group),
            "lower",
            control,
        )
        ratio, ratio_control = one("ratio group")
        published = score(
            case,
            f"path {self.group} -> {into}, published ratio",
            ratio,
            "mean of (p_patched - p_clean) / p_clean (Prakash et al., appendix)",
            "lower",
            ratio_control,
        )
        verdict = verdicts.within(judged, float("-inf"), -self.drops_at_least, claimed=bound)
        if verdict.status == "pass" and control is None:
            reason = f"{verdict.reason}, but there is no control: {control_name}"
            verdict = replace(verdict, status="inconclusive", reason=reason)
        elif verdict.status == "pass" and control is not None:
            gap = estimates.difference(seen.values["group"], seen.values["control"], how)
            if gap.interval[1] >= 0:
                reason = f"{verdict.reason}, but {control_name} do as much ({control.value:.3f})"
                verdict = replace(verdict, status="inconclusive", reason=reason)
        return replace(verdict, scores=(judged, published))


def shared_keys(case: Case, group: Group) -> str:
    """Under GQA, k and v of a head are those of its key-value group; a score says so."""
    shape = case.shapes[case.role]
    if group.into is None or group.into.via == "q" or shape.n_kv_heads == shape.n_heads:
        return ""
    return f"; {group.into.via} of the readers' key-value groups (GQA)"
