"""``transfer``: one model's circuit works in another.

Prakash et al., section 3.3: the base's circuit run inside the fine-tuned model beats the *full*
base model. Three things must hold: m(circuit in ``to``) is at least m of the full model that it
``beats``; its faithfulness in ``to`` is at least x, if the claim asks for it; and at most one
random circuit of the same sizes in ten does as well, with confidence 0.95. None of at least 29 may,
since 0.9^29 < 0.05. In a model of few heads, one random circuit in some hundreds contains the right
ones by luck, and a claim that such a draw makes red is red for one seed in ten. So if a single one
does as well, 38 more are drawn, of which none may: 0.9^29 + 29 * 0.1 * 0.9^28 * 0.9^38 < 0.05.

The score that is compared with the baseline is the faithfulness in ``to``, whether or not the claim
bounds it, because it is relative to the accuracy of ``to`` itself. The difference of accuracies
that ``beats`` judges falls with any loss of accuracy, which accuracy claims report and which is no
finding about the mechanism.

A head of the circuit is the head of the same index in ``to``. If the circuit does not work there,
heads may have changed places, which no training does but a conversion may. The claim then measures
whether another head of the layer does the work of a head (`methods.circuits.codes`); such models
are not comparable by index.

Unlike the paper, which compares accuracies without intervals and has 10 random circuits, the claim
takes a confidence interval and at least 29.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PAIR, Claim
from pytest_mechanism.claims.circuits import active_heads, circuit, random_circuits
from pytest_mechanism.claims.codes import (
    changed_places,
    not_comparable,
    other_codes,
)
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.faithfulness import faithfulness_scores, variants
from pytest_mechanism.claims.scoring import (
    above_chance,
    accuracy,
    chance_text,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import Faithful
from pytest_mechanism.measurements.cmap import CODE_ROWS, ActivationDonation, HeadCode, HeadCodes
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.nodes import EVERYWHERE, KINDS
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Observations, Safeguard, Score, Verdict

MORE = 38
"""Further random circuits, drawn if a single one of the first does as well."""


class Beats(Part):
    """The full model that the circuit must not be worse than.

    Attributes:
        model: its role.
    """

    model: StrictStr


class Transfer(Claim):
    """The circuit found on one model does its work in another.

    Attributes:
        source: YAML ``from``: role on which the circuit was found.
        to: role in which the circuit is run.
        beats: the full model that the circuit must be at least as good as.
        faithfulness_at_least: least normalised faithfulness in ``to``.
        random: how many random circuits the circuit must beat.
    """

    summary: ClassVar[str] = "one model's circuit works in another"
    if_red: ClassVar[str] = (
        "the circuit does not work in the other model: the heads that do the task in one do not do it in the other, "
        "which solves it by other parts"
    )
    members: ClassVar[tuple[str, ...]] = tuple(KINDS)
    thresholds: ClassVar[tuple[str, ...]] = ("faithfulness_at_least",)
    ablates: ClassVar[bool] = True
    matching_sizes: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads")

    kind: Literal["transfer"]
    source: StrictStr = Field(alias="from")
    to: StrictStr
    beats: Beats | None = None
    faithfulness_at_least: Faithful | None = None
    random: Annotated[StrictInt, Field(ge=29, le=1000)] = 29

    @model_validator(mode="after")
    def check_thresholds(self) -> Transfer:
        if self.beats is None and self.faithfulness_at_least is None:
            raise ValueError("needs one of beats, faithfulness_at_least")
        if self.source == self.to:
            raise ValueError("from and to must be two roles; use kind: faithfulness for one model")
        return self

    def roles(self) -> tuple[str, ...]:
        return (PAIR,)

    def models(self, role: str) -> tuple[str, ...]:
        beaten = (self.beats.model,) if self.beats else ()
        return tuple(dict.fromkeys((self.to, self.source, *beaten)))

    def compared_roles(self, role: str) -> tuple[str, ...]:
        return (self.source, self.to)

    def discovery_role(self, role: str, spec_found_on: str) -> str:
        return self.source

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        beaten = self.beats.model if self.beats else self.to
        return (
            performance(context, beaten),
            performance(context, self.to),
            circuit(context, self.to),
            random_circuits(context, self.to, self.random),
        )

    def codes(self, context: ClaimContext, measure: Measure) -> list[HeadCode]:
        """The circuit's heads whose z ``to`` does not read as ``from`` does."""
        named = {*context.nodes(active_heads(context, self.source), self.source)}
        heads = sorted(h for h in named if isinstance(h[1], int) and h[2] != EVERYWHERE)
        if not heads:
            return []
        donation = ActivationDonation(heads=heads, rows=CODE_ROWS, stream="rows")
        inputs = (context.measurement(donation, self.source),)
        request = HeadCodes(rows=CODE_ROWS, stream="rows")
        return other_codes(measure(context.measurement(request, self.to, inputs)), heads)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        beaten, full, circuits, random = (measure(m) for m in self.required_measurements(context))
        check_paired(beaten, full, circuits, random)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, self.to, full)}, so no circuit works in it",
                "a circuit that works",
            )
        own = min(  # the worse of the circuit with and without oracle positions
            (circuits.values[f"{name}_correct"] for name in variants(circuits, "correct")),
            key=lambda values: float(np.mean(values)),
        )
        rows = len(random.example_ids)
        least = float(np.mean(own[:rows]))
        draws = means(random)
        if sum(draw >= least for draw in draws) == 1:
            draws += means(measure(random_circuits(context, self.to, MORE, first=self.random)))
        as_good, best_random = sum(draw >= least for draw in draws), max(draws)
        control = Control(f"best of {len(draws)} random circuits of the same sizes", best_random)
        alone = score(
            context,
            f"circuit of {self.source} in {self.to}: accuracy",
            estimates.proportion(own, context.sampling(full)),
            "accuracy with only the circuit alive",
            control=control,
            ablated=True,
        )
        try:
            faithful = faithfulness_scores(
                context, full, circuits, random, "normalised", "accuracy", self.bounds
            )[0]
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"faithfulness in {self.to} cannot be computed: {problem}", self.claimed, (alone,)
            )
        parts: list[Verdict] = []
        if self.faithfulness_at_least is not None:
            parts.append(replace(verdicts.within(faithful, *self.bounds), chance=solved))
        if self.beats is not None:
            other = self.beats.model
            parts.append(self.beating(context, other, beaten, full, own, control, faithful))
        verdict = verdicts.together(parts)
        if verdict.status == "fail" and (moved := changed_places(self.codes(context, measure))):
            reason = f"{verdict.reason}, but {not_comparable(moved, self.source, self.to)}"
            cause = Cause.NOT_COMPARABLE
            verdict = replace(verdict, status="inconclusive", reason=reason, cause=cause)
        if verdict.status == "pass" and as_good > (len(draws) > self.random):
            reason = (
                f"{verdict.reason}, but {as_good} of {len(draws)} random circuits of the same sizes "
                f"do as well (the best {best_random:.3f} on {rows} rows)"
            )
            cause = Cause.CONTROL_AS_GOOD
            verdict = replace(verdict, status="fail", reason=reason, cause=cause)
        judged = [reported for reported in verdict.scores if reported != faithful]
        safeguard = Safeguard(control.name)
        return replace(verdict, scores=(faithful, *judged, alone), control=safeguard)

    @property
    def bounds(self) -> tuple[float, float]:
        """The thresholds on the circuit's faithfulness in ``to``."""
        return verdicts.bounds(self.faithfulness_at_least, None)

    @property
    def claimed(self) -> str:
        """All thresholds in words."""
        least = [] if self.faithfulness_at_least is None else [verdicts.spell(*self.bounds)]
        return " and ".join([*least, *([verdicts.spell(0.0, float("inf"))] if self.beats else [])])

    def beating(
        self,
        context: ClaimContext,
        other: str,
        beaten: Observations,
        full: Observations,
        own: Any,
        control: Control,
        faithful: Score,
    ) -> Verdict:
        """The verdict on the circuit in ``to`` against the full model of role ``other``.

        If the full ``to`` is worse as well and its circuit is faithful to it, the model lost accuracy,
        which is no finding about the mechanism.
        """
        how, theirs = context.sampling(full), beaten.values["correct"]
        gap = score(
            context,
            f"circuit of {self.source} in {self.to} minus full {other}",
            estimates.difference(own, theirs, how),
            "paired difference of accuracy on the same rows",
            control=Control(
                f"{control.name}, minus full {other}", control.value - float(np.mean(theirs))
            ),
            ablated=True,
        )
        able = above_chance(context, beaten)
        verdict = replace(verdicts.at_least(gap, 0.0), chance=able)
        if able is None:
            return verdicts.reference_fails(
                f"the full {other} is at chance ({verdicts.show(accuracy(context, beaten))}, "
                f"{chance_text(context, beaten)}): beating it means nothing",
                verdict.threshold,
                (gap,),
            )
        if verdict.status != "fail" or self.to == other:
            return verdict
        whole = estimates.difference(full.values["correct"], theirs, how)
        loss = score(context, f"full {self.to} minus full {other}", whole, gap.metric)
        if self.faithfulness_at_least is None:
            kept = faithful.interval[1] >= 1
        else:
            kept = verdicts.within(faithful, *self.bounds).status == "pass"
        if verdicts.at_least(loss, 0.0).status == "pass" or not kept:
            return verdict
        return verdicts.accuracy_loss(
            verdict,
            f"the full model of {self.to} does not reach the threshold either "
            f"({verdicts.show(loss)}), and the circuit is faithful to it ({verdicts.show(faithful)})",
        )


def means(random: Observations) -> list[float]:
    """The accuracy of each random circuit."""
    return [float(np.mean(v)) for name, v in random.values.items() if name.endswith("_correct")]
