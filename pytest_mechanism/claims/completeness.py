"""``completeness``: nothing outside the circuit does the circuit's work.

For a set K of the circuit's heads (and MLPs and attention outputs, if it names any), the circuit without K must
do as well as the full model without K:

    gap(K) = |F(C without K) - F(M without K)|, accuracy on the same rows

Wang et al. 2022, section 4; Prakash et al. 2024, section 3.2. As there, K is each whole group and 20
random sets, in which each head is with probability 1/2. K = nothing is judged too: it is the
difference of the circuit from the model, and without it a circuit that does nothing at all would be
complete for every K without which the model fails.

The K whose gap may be largest counts: the one with the highest upper bound. So a model passes only if
every K does, and the choice of K cannot make it pass. Where the task has oracle positions, the circuit
with and the circuit without them are judged, as in ``faithfulness``.

Control: random circuits of the same sizes, each with a random K of its own heads. The model does
without these heads, and the circuit of them does not do the task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.circuits import (
    ActiveHeads,
    active_heads,
    draw_circuits,
    of_group,
    of_variants,
)
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    RANDOM_ROWS,
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import Gap
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.nodes import KINDS, PlacedMember
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.statistics.honesty import beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Observations, Verdict

RANDOM_CIRCUITS = 10
"""Random circuits of the control."""

SHOWN = 8
"""Heads of K that a reason names."""


@dataclass(frozen=True)
class Cut:
    """A circuit and the heads K that it and the model lose.

    Attributes:
        what: K in words.
        kept: the circuit without K.
        removed: K.
    """

    what: str
    kept: ActiveHeads
    removed: ActiveHeads


class Completeness(PerRoleClaim):
    """The circuit without some of its heads does as well as the model without them.

    Attributes:
        at_most: the largest gap of accuracy, over all K.
        subsets: how many random sets of heads are tried, beside each whole group.
    """

    summary: ClassVar[str] = "nothing outside the circuit does the circuit's work"
    if_red: ClassVar[str] = (
        "the circuit misses parts: without the heads that the reason names, the whole model does more, "
        "or something else, than what is left of the circuit. Look for heads outside of it that do the "
        "same work"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("at_most",)
    ablates: ClassVar[bool] = True

    kind: Literal["completeness"]
    at_most: Gap
    subsets: Annotated[StrictInt, Field(ge=1, le=1000)] = 20

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def cuts(self, context: ClaimContext) -> dict[str, Cut]:
        """Name -> what is cut, of the circuit with and without oracle positions."""
        on = context.role
        heads = active_heads(context, on)
        wide = active_heads(context, on, oracle=False)
        group_of = [name for name in context.groups for _ in of_group(context, on, name)]
        sets: dict[str, list[bool]] = {"nothing": [False] * len(heads)}
        sets |= {f"group {name}": [of == name for of in group_of] for name in context.groups}
        for n in range(self.subsets):
            rng = random.Random(f"completeness/{context.seed}/{n}")
            drawn = [rng.random() < 0.5 for _ in heads]
            if drawn not in sets.values():
                sets[f"random set {n}"] = drawn
        circuits = {"": heads} if wide == heads else {"": heads, " at all places": wide}
        cuts = {}
        for where, placed in circuits.items():
            for name, chosen in sets.items():
                removed = [h for h, gone in zip(placed, chosen, strict=True) if gone]
                kept = [h for h in placed if h not in removed]
                cuts[name + where] = Cut(in_words(name, removed) + where, kept, removed)
        return cuts

    def random_cuts(self, context: ClaimContext) -> dict[str, Cut]:
        """Random circuits, each without a random set of its heads."""
        drawn = draw_circuits(context, context.role, range(RANDOM_CIRCUITS))
        cuts = {}
        for name, heads in drawn.items():
            rng = random.Random(f"completeness/{context.seed}/{name}")
            removed = [head for head in heads if rng.random() < 0.5]
            cuts[name] = Cut(name, [h for h in heads if h not in removed], removed)
        return cuts

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        random_rows = min(context.rows, RANDOM_ROWS)
        return (
            performance(context, context.role),
            *without(context, self.cuts(context), context.rows),
            *without(context, self.random_cuts(context), random_rows),
        )

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, circuits, models, *controls = (
            measure(m) for m in self.required_measurements(context)
        )
        check_paired(full, circuits, models, *controls)
        threshold = verdicts.spell(float("-inf"), self.at_most)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so there is nothing for a circuit to miss",
                threshold,
            )
        how, cuts = context.sampling(full), self.cuts(context)
        gaps = {
            name: estimates.difference(
                circuits.values[f"{name}_correct"], models.values[f"{name}_correct"], how
            )
            for name in cuts
        }
        sizes = {name: magnitude(gap) for name, gap in gaps.items()}
        worst = max(sizes, key=lambda name: (sizes[name].interval[1], sizes[name].value))
        short = shortfall(*controls)
        first = how.first(len(short))
        random_gap = estimates.mean(short, first)
        control_name = f"{RANDOM_CIRCUITS} random circuits of the same sizes"
        judged = score(
            context,
            # K may change from run to run, the judged and accepted quantity does not
            "largest incompleteness",
            sizes[worst],
            f"largest |F(C without K) - F(M without K)| of accuracy, K: nothing, each group, "
            f"{self.subsets} random sets (Wang et al. 2022, section 4)",
            "lower",
            Control(control_name, random_gap.value, random_gap.interval),
            ablated=True,
        )
        verdict = verdicts.within(
            judged, float("-inf"), self.at_most, f"largest gap, without {cuts[worst].what}:"
        )
        signed = np.sign(gaps[worst].value) * (
            np.asarray(circuits.values[f"{worst}_correct"])
            - np.asarray(models.values[f"{worst}_correct"])
        )
        ahead = estimates.difference(signed[: len(short)], short, first)
        as_good = f"{control_name} are as complete ({random_gap.value:.3f})"
        return beats_control(
            replace(verdict, chance=solved), control_name, ahead, as_good, better=-1
        )


def without(
    context: ClaimContext, cuts: Mapping[str, Cut], rows: int
) -> tuple[Measurement, Measurement]:
    """The circuits without their K, and the full model without them."""
    kept = {name: cut.kept for name, cut in cuts.items()}
    removed = {name: context.nodes(cut.removed, context.role) for name, cut in cuts.items()}
    request = HeadRemoval(rows=rows, stream="rows", ablation=context.ablation, removed=removed)
    return (
        of_variants(context, context.role, kept, rows),
        context.measurement(request, context.role),
    )


def magnitude(signed: Estimate) -> Estimate:
    """The absolute value of an estimate; its interval begins at 0 if the sign is not known."""
    low, high = sorted(map(abs, signed.interval))
    if signed.interval[0] <= 0 <= signed.interval[1]:
        low = 0.0
    return replace(signed, value=abs(signed.value), interval=(low, high))


def shortfall(circuits: Observations, models: Observations) -> Any:
    """How much less random circuits do than the model without the same heads: row by row, the mean over
    circuits."""
    gaps = [
        np.asarray(models.values[name]) - np.asarray(values)
        for name, values in circuits.values.items()
        if name.endswith("_correct")
    ]
    return np.mean(gaps, axis=0)


def in_words(name: str, heads: Sequence[PlacedMember]) -> str:
    """K for a reason: its name, and its members if the name does not say them."""
    if not name.startswith("random"):
        return name
    shown = ", ".join(f"{layer}.{head} at {at}" for layer, head, at in heads[:SHOWN])
    more = f" and {len(heads) - SHOWN} more" if len(heads) > SHOWN else ""
    return f"{name} ({shown}{more})"
