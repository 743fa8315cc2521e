"""Controls of a DCM mask: does it select what is there, and again on other rows?

Each is the training of the claim's own mask with one thing changed, judged on its validation rows:

- shuffled targets: the targets do not depend on the source prompts. A mask that gives these targets as
  often as the claim's mask gives the true ones fits anything.
- random weights: there is nothing to select. The heads that are selected all the same, and how often they
  give the target, are those of chance.
- five draws: the mask is learned on five draws of rows, the claim's own among them. The score is how often
  a head that is chosen in some draw is chosen, over draws and heads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import check_paired, score
from pytest_mechanism.measurements.dcm import MaskResult, Null
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.types import Head, Score, Verdict

DRAWS = 5
"""How often a mask is learned, the claim's own mask included."""

NULLS: Mapping[Null, str] = {
    "shuffled_targets": "shuffled targets",
    "random_weights": "random weights",
}
"""Control -> its name."""

Masks = Callable[..., Measurement[MaskResult]]
"""The claim's mask, with some fields of `DcmMask` changed."""


def required(mask: Masks) -> tuple[Measurement[MaskResult], ...]:
    """The measurements of all controls."""
    draws = (mask(draw=number) for number in range(1, DRAWS))
    return (*draws, *(mask(null=null) for null in NULLS))


@dataclass(frozen=True)
class MaskControls:
    """The measured controls of a mask.

    Attributes:
        mask: the claim's own.
        draws: the masks on further rows.
        nulls: the masks with something broken.
    """

    mask: MaskResult
    draws: tuple[MaskResult, ...]
    nulls: Mapping[Null, MaskResult]

    @classmethod
    def measured(cls, mask: Masks, own: MaskResult, measure: Measure) -> MaskControls:
        """Measure them."""
        draws = tuple(measure(mask(draw=number)) for number in range(1, DRAWS))
        return cls(own, draws, {null: measure(mask(null=null)) for null in NULLS})

    def chosen(self) -> Counter[str]:
        """How often each head and MLP is chosen, in the draws."""
        return Counter(name for mask in (self.mask, *self.draws) for name in names(mask))

    def text(self) -> str:
        """One sentence: how often each is chosen, and what the broken masks give."""
        counted = ", ".join(f"{name} {n}/{DRAWS}" for name, n in self.chosen().most_common())
        broken = "; ".join(
            f"with {NULLS[null]} a mask selects {quantity(len(names(mask)))} and gives "
            f"{percent(mask, 'patched')} of its targets (no patch: {percent(mask, 'floor')})"
            for null, mask in self.nulls.items()
        )
        return (
            f"chosen in {DRAWS} draws of rows: {counted or 'nothing'}; the mask gives "
            f"{percent(self.mask, 'patched')} of its validation targets; {broken}"
        )

    def scores(self, context: ClaimContext, name: str) -> tuple[Score, ...]:
        """The controls as scores beside the claim's own."""
        scores = [
            score(
                context,
                f"{name}, {NULLS[null]}",
                estimates.proportion(mask.values["patched"], context.sampling(mask)),
                f"share of validation rows whose target a mask learned with {NULLS[null]} gives; it selects "
                f"{' '.join(names(mask)) or 'nothing'}",
                "lower",
            )
            for null, mask in self.nulls.items()
        ]
        if counted := self.chosen():
            masks = [names(mask) for mask in (self.mask, *self.draws)]
            rows = [float(unit in mask) for mask in masks for unit in counted]
            draws = [f"draw {i}" for i in range(len(masks)) for _ in counted]
            how = Sampling(draws, context.confidence, context.seed)
            metric = f"how often a head or MLP that a mask selects in some of {DRAWS} draws of rows is selected: "
            metric += ", ".join(f"{unit} {n}/{DRAWS}" for unit, n in counted.most_common())
            stability = estimates.proportion(rows, how)
            scores.append(score(context, f"{name}, stability", stability, metric))
        return tuple(scores)

    def check(self, context: ClaimContext, verdict: Verdict) -> Verdict:
        """Pass only if the mask gives its targets more often than the broken masks give theirs."""
        for null, mask in self.nulls.items():
            check_paired(self.mask, mask)
            gap = estimates.difference(
                self.mask.values["patched"], mask.values["patched"], context.sampling(mask)
            )
            as_good = f"a mask learned with {NULLS[null]} gives its targets as often ({percent(mask, 'patched')})"
            verdict = beats_control(verdict, f"a mask with {NULLS[null]}", gap, as_good)
        return verdict


def with_controls(
    verdict: Verdict, controls: MaskControls, context: ClaimContext, name: str
) -> Verdict:
    """The verdict with the sentence and the scores of its controls."""
    return replace(
        verdict,
        reason=f"{verdict.reason}; {controls.text()}",
        scores=(*verdict.scores, *controls.scores(context, name)),
    )


def names(mask: MaskResult) -> list[str]:
    """What a mask selects."""
    return spelled(mask.selected, mask.selected_mlps)


def spelled(heads: Sequence[Head], mlps: Sequence[int]) -> list[str]:
    """Heads and MLPs as messages name them."""
    return [f"{layer}.{head}" for layer, head in heads] + [f"MLP {layer}" for layer in mlps]


def quantity(count: int) -> str:
    return "1 part" if count == 1 else f"{count} parts"


def percent(mask: MaskResult, column: str) -> str:
    values: Any = mask.values[column]
    return f"{100 * float(sum(values)) / len(values):.1f} %"
