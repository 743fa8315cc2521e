"""The share of a gain that one model's activations recover in another (`claims.cmap`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from pytest_mechanism.claims.codes import moved_codes, not_comparable, other_codes
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.scoring import COLUMN, Of, above_chance, check_paired, score
from pytest_mechanism.measurements.cmap import CodeResult, HeadCode, Part
from pytest_mechanism.measurements.request import PlacedNode
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate, Sampling, Values
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control, no_control
from pytest_mechanism.types import Control, Observations, Score, Verdict

PLURAL: Mapping[str, str] = {
    "accuracy": "accuracies",
    "log_probability": "mean log-probabilities of the answer",
}


@dataclass(frozen=True)
class Asked:
    """What a claim says of an exchange.

    Attributes:
        donor: role whose activations are used.
        recipient: role that receives them.
        of: what is recovered.
        parts: inputs that are exchanged in place of z; none for z.
        at_least: claimed share, or None.
        at_most: the same for an upper bound.
        carries: which model is to be the better one: "gain" for the donor, "loss" for the recipient.
    """

    donor: str
    recipient: str
    of: Of
    parts: tuple[Part, ...]
    at_least: float | None
    at_most: float | None
    carries: Literal["gain", "loss"]


@dataclass(frozen=True)
class Exchanged:
    """Heads and MLPs that were exchanged together, and their control.

    Attributes:
        name: of the groups.
        heads: that were exchanged.
        column: of the measurement.
        control: column of the control, which the measurement may lack.
        control_heads: the control's heads.
        control_name: what the control is, or why there is none.
    """

    name: str
    heads: Sequence[PlacedNode]
    column: str
    control: str
    control_heads: Sequence[PlacedNode]
    control_name: str


@dataclass(frozen=True)
class Recovery:
    """The rows of one direction.

    Attributes:
        context: of the claim.
        asked: what it says.
        own: m of the recipient, row by row.
        best: m of the donor.
        patched: m of the patched recipient.
        how: the rows were drawn.
    """

    context: ClaimContext
    asked: Asked
    own: Values
    best: Values
    patched: CodeResult
    how: Sampling

    @property
    def m(self) -> str:
        return self.asked.of.replace("_", "-")

    def rows(self, column: str) -> Values | None:
        """m with some heads exchanged; None where that was not measured."""
        name = column if self.asked.of == "accuracy" else f"{column}_{COLUMN[self.asked.of]}"
        return self.patched.values.get(name)

    @cached_property
    def gap(self) -> Estimate:
        """What there is to recover: below 0, a loss."""
        return estimates.difference(self.best, self.own, self.how)

    def codes(self, heads: Sequence[PlacedNode]) -> list[HeadCode]:
        """The heads whose exchange means nothing, because the models write them in other codes.

        Another basis of z does not matter where z and v stay the recipient's own.
        """
        keeps_z = bool(self.asked.parts) and "v" not in self.asked.parts
        return [
            code
            for code in other_codes(self.patched, heads)
            if not (keeps_z and code.part == "z" and code.done_by == code.head)
        ]

    def control(self, of: Exchanged) -> tuple[Values | None, str]:
        """m with the control's heads exchanged, and its name; or None, and why."""
        codes = self.codes(of.control_heads)
        other = {(code.layer, code.head) for code in codes if code.part == "z"}
        # the same head with q or k in another code; a different head may be a control
        turned = [c for c in codes if c.part != "z" and (c.layer, c.head) not in other]
        if moved := [*moved_codes(codes), *turned]:
            return None, not_comparable(moved, self.asked.donor, self.asked.recipient)
        return self.rows(of.control), of.control_name

    def named(self, of: Exchanged) -> str:
        """``q and k of fetchers from ft into base``."""
        parts = f"{' and '.join(self.asked.parts)} of " if self.asked.parts else ""
        return f"{parts}{of.name} from {self.asked.donor} into {self.asked.recipient}"

    def shared(self) -> str:
        """What the metric says under GQA, where heads share k and v."""
        shape = self.context.shapes[self.asked.recipient]
        if not {"k", "v"} & {*self.asked.parts} or shape.n_kv_heads == shape.n_heads:
            return ""
        return "; z of the heads that share k and v with these is held (GQA)"

    def change(self, of: Exchanged) -> Score:
        """m(patched) - m(recipient)."""

        def changed(values: Values) -> Estimate:
            return estimates.difference(values, self.own, self.how)

        return score(
            self.context,
            f"{self.named(of)}: change of {self.m}",
            changed(self.needed(of)),
            f"m(recipient <- donor) - m(recipient), {self.m} on the same rows{self.shared()}",
            control=self.control_score(of, changed),
        )

    def share(self, of: Exchanged) -> Score:
        """The recovered fraction.

        Raises:
            UndefinedScoreError: it cannot be computed.
        """

        def recovered(values: Values) -> Estimate:
            counted = self.asked.of == "accuracy"
            return estimates.fraction(values, self.own, self.best, self.how, counted=counted)

        return score(
            self.context,
            self.named(of),
            recovered(self.needed(of)),
            "(m(recipient <- donor) - m(recipient)) / (m(donor) - m(recipient)), "
            f"{self.m}{self.shared()}",
            "lower" if self.asked.at_least is None else "higher",
            self.control_score(of, recovered),
        )

    def needed(self, of: Exchanged) -> Values:
        values = self.rows(of.column)
        assert values is not None  # noqa: S101 - every set of heads was asked for
        return values

    def control_score(
        self, of: Exchanged, estimate: Callable[[Values], Estimate]
    ) -> Control | None:
        values, name = self.control(of)
        if values is None:
            return None
        effect = estimate(values)
        return Control(name, effect.value, effect.interval)


def judge_recovered(  # noqa: PLR0911 - one decision, read from top to bottom
    context: ClaimContext,
    asked: Asked,
    donor: Observations,
    recipient: Observations,
    patched: CodeResult,
    whole: Exchanged,
    alone: Sequence[Exchanged],
) -> Verdict:
    """The verdict on one direction.

    Args:
        context: of the claim.
        asked: what it says.
        donor: the donor's answers.
        recipient: the recipient's own answers.
        patched: its answers with the donor's activations.
        whole: what is judged.
        alone: parts of it that are reported beside it.
    """
    check_paired(donor, recipient, patched)
    column = COLUMN[asked.of]
    recovery = Recovery(
        context, asked, recipient.values[column], donor.values[column], patched,
        context.sampling(recipient),
    )  # fmt: skip
    bounds = verdicts.bounds(asked.at_least, asked.at_most)
    threshold = verdicts.spell(*bounds)
    changes = tuple(recovery.change(of) for of in (whole, *alone))
    codes = recovery.codes(whole.heads)
    solved = above_chance(context, donor) or above_chance(context, recipient)
    if solved is None:
        accuracies = [f"{np.mean(model.values['correct']):.3f}" for model in (donor, recipient)]
        return verdicts.at_chance(
            f"{asked.donor} and {asked.recipient} both answer at chance "
            f"({' and '.join(accuracies)}), so there is nothing to recover",
            threshold,
            () if codes else changes,
        )
    if codes:
        return verdicts.not_comparable(
            not_comparable(codes, asked.donor, asked.recipient), threshold
        )
    # the fraction has no sign unless the two models differ
    gap = recovery.gap
    if gap.interval[0] <= 0 <= gap.interval[1]:
        return verdicts.no_difference(
            f"{asked.donor} and {asked.recipient} do not differ significantly on this task "
            f"({PLURAL[asked.of]} {np.mean(recovery.best):.3f} and {np.mean(recovery.own):.3f}), so there is nothing "
            "to recover",
            threshold,
            changes,
        )
    if (gap.value > 0) != (asked.carries == "gain"):
        other, words = ("loss", "worse") if asked.carries == "gain" else ("gain", "better")
        return verdicts.inconclusive(
            f"{asked.donor} is {words} than {asked.recipient} on this task ({PLURAL[asked.of]} "
            f"{np.mean(recovery.best):.3f} and {np.mean(recovery.own):.3f}), so there is no {asked.carries} to recover "
            f"(carries: {other} asks for the {other})",
            threshold,
            changes,
        )
    try:
        judged, *beside = (recovery.share(of) for of in (whole, *alone))
    except estimates.UndefinedScoreError as problem:
        return verdicts.inconclusive(
            f"the recovered fraction cannot be computed: {problem}", threshold, changes
        )
    what = f"share of the {asked.carries} recovered by {judged.name}:"
    verdict = verdicts.within(judged, *bounds, what)
    scores = (
        judged,
        changes[0],
        *(s for pair in zip(beside, changes[1:], strict=True) for s in pair),
    )
    verdict = replace(verdict, scores=scores, chance=solved)
    if asked.at_least is None:
        return replace(verdict, control=UPPER_BOUND)
    control, control_name = recovery.control(whole)
    if control is None:
        return no_control(verdict, control_name)
    sign = 1 if gap.value > 0 else -1
    ahead = estimates.difference(
        sign * np.asarray(recovery.needed(whole)), sign * np.asarray(control), recovery.how
    )
    return beats_control(verdict, control_name, ahead, f"{control_name} recover as much")
