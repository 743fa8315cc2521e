"""``independence``: without the circuit, nothing of what the model knows about a prompt is left.

    dependence = HSIC(s(M without C), s(M)) / sqrt(HSIC(s(M without C), s(M without C)) HSIC(s(M), s(M)))

s is the answer's log-probability, M the full model, M without C the model with every head, MLP and attention
output of the circuit ablated at its position (`methods.circuits.removal`). Shi et al. 2024 (arXiv 2410.13032),
section 3.1: if the circuit does all of the task, the scores of what is left of the model are independent of the
model's scores. They use the biased estimate of HSIC, which has no upper bound and is above 0 for independent scores,
and pass a circuit if a permutation test does not reject independence, which few rows never do. Here the estimate is
unbiased and normalised (`statistics.dependence`), and its whole interval must lie below ``at_most``. The
result also reports the p-value of the permutation test.

Where the task has oracle positions, the model without the circuit there and without it at all such places
are judged, as in ``faithfulness``; the larger dependence counts.

Control: the model without random members, as many of each kind at each position. It still does the task, so its
scores are known to depend on the model's: the same test must see a dependence above ``at_most`` there. Otherwise a
pass would show only that the test sees nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from pytest_mechanism.claims.base import PerRoleClaim
from pytest_mechanism.claims.circuits import (
    CIRCUIT,
    WITHOUT_ORACLE,
    ActiveHeads,
    active_heads,
    draw_circuits,
)
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.thresholds import Dependence
from pytest_mechanism.measurements.circuit import RANDOM
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.nodes import KINDS, kind_of, listing
from pytest_mechanism.statistics import dependence, verdicts
from pytest_mechanism.statistics.estimates import Estimate, UndefinedScoreError
from pytest_mechanism.statistics.honesty import beats
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Verdict

RANDOM_SETS = 5
"""Sets of random heads of the control."""

COLUMN = "log_probability"


class Independence(PerRoleClaim):
    """Without the circuit's members, the model's scores do not depend on those of the full model.

    Attributes:
        at_most: the largest normalised HSIC.
    """

    summary: ClassVar[str] = (
        "without the circuit, the model's scores do not depend on those of the full model"
    )
    if_red: ClassVar[str] = (
        "the model without the circuit still finds the same prompts easy and hard as the full model does: "
        "heads outside the circuit do part of the task. Look for them with kind completeness"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("at_most",)
    ablates: ClassVar[bool] = True

    kind: Literal["independence"]
    at_most: Dependence

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        on = context.role
        heads, wide = active_heads(context, on), active_heads(context, on, oracle=False)
        removed: dict[str, ActiveHeads] = {CIRCUIT: heads}
        removed |= {} if wide == heads else {WITHOUT_ORACLE: wide}
        removed |= draw_circuits(context, on, range(RANDOM_SETS))
        request = HeadRemoval(
            rows=context.rows,
            stream="rows",
            ablation=context.ablation,
            removed={name: context.nodes(placed, on) for name, placed in removed.items()},
        )
        return performance(context, on), context.measurement(request, on)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, without = (measure(m) for m in self.required_measurements(context))
        check_paired(full, without)
        threshold = verdicts.spell(float("-inf"), self.at_most)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so there is nothing for a circuit to do",
                threshold,
            )
        n = min(len(full.clusters), dependence.MOST_ROWS)
        how = context.sampling(full).first(n)
        own = np.asarray(full.values[COLUMN])[:n]
        columns = {
            name.removesuffix(f"_{COLUMN}"): np.asarray(values)[:n]
            for name, values in without.values.items()
            if name.endswith(f"_{COLUMN}")
        }
        random = [values for name, values in columns.items() if name.startswith(RANDOM)]
        left = {name: v for name, v in columns.items() if not name.startswith(RANDOM)}
        try:
            found = {name: dependence.normalised(own, [v], how) for name, v in left.items()}
            seen = dependence.normalised(own, random, how)
            worst = max(found, key=lambda name: found[name].interval[1])
            p = dependence.permutation_p(own, left[worst], how)
        except UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"the dependence of log-probabilities cannot be computed: {problem}", threshold
            )
        parts = {kind_of(part) for _, part, _ in active_heads(context, context.role)}
        control = (
            f"the model without random {listing(parts)} ({RANDOM_SETS} sets of the same sizes)"
        )
        judged = score(
            context,
            # the places may change from run to run, the judged and accepted quantity does not
            "dependence of what is left without the circuit",
            found[worst],
            "normalised HSIC of the answer's log-probability in the model without the circuit and in the "
            "full model (Shi et al. 2024)",
            "lower",
            Control(control, seen.value, seen.interval),
            ablated=True,
        )
        tested = score(
            context,
            "p of independence",
            Estimate(p, (p, p), 0.0, dependence.PERMUTATIONS, found[worst].clusters, "exact"),
            "(1 + number of permutations with as large an HSIC) / (1 + permutations); not judged: a "
            "large p does not show independence",
            "higher",
            ablated=True,
        )
        verdict = verdicts.within(judged, float("-inf"), self.at_most)
        verdict = replace(verdict, scores=(judged, tested), chance=solved)
        return beats(
            verdict,
            control,
            f"the same test sees no more dependence in {control} ({seen.value:.3f} "
            f"[{seen.interval[0]:.3f}, {seen.interval[1]:.3f}]), whose scores do depend on the model's",
            ahead=seen.interval[0] > self.at_most,
        )
