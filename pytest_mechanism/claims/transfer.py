"""``transfer``: one model's circuit works in another.

Prakash et al., section 3.3: the base's circuit run inside the fine-tuned model beats the *full*
base model. Three things must hold: m(circuit in ``to``) is at least m of the full model that it
``beats``; its faithfulness in ``to`` is at least x, where asked for; and at most one random circuit
of the same sizes in ten does as well, with confidence 0.95. None of at least 29 may, since 0.9^29 <
0.05. Of a model of few heads, one random circuit in some hundreds holds the right ones by luck, and
a claim that such a draw makes red is red for one seed in ten. So where a single one does as well, 38
more are drawn, of which none may: 0.9^29 + 29 * 0.1 * 0.9^28 * 0.9^38 < 0.05.

What is compared with the accepted score is the faithfulness in ``to``, claimed or not: it is
relative to the accuracy of ``to`` itself. The difference of accuracies that ``beats`` judges falls
with any loss of accuracy, which accuracy claims report and which says nothing of the mechanism.

A head of the circuit is the head of the same number in ``to``. Where the circuit does not work there,
it may be that heads have changed places, which no training does and a conversion may: whether another
head of the layer does the work of one is then measured (`methods.codes`), and such models are not
comparable by index.

Other than published: the paper compares accuracies without intervals, and has 10 random circuits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import PAIR, Claim, ClaimContext, Measure
from pytest_mechanism.claims.circuits import active_heads, circuit, random_circuits
from pytest_mechanism.claims.codes import (
    changed_places,
    not_comparable,
    other_codes,
)
from pytest_mechanism.claims.faithfulness import faithfulness_scores
from pytest_mechanism.claims.scoring import (
    above_chance,
    accuracy,
    check_paired,
    performance,
    score,
)
from pytest_mechanism.fields.part import Part
from pytest_mechanism.fields.thresholds import Faithful
from pytest_mechanism.measurements.cmap import CODE_ROWS, ActivationDonation, HeadCode, HeadCodes
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Control, Measurement, Observations, Safeguard, Score, Verdict

MORE = 38
"""Random circuits that are drawn where a single one of the first does as well."""


class Beats(Part):
    """The full model that a circuit must not fall behind.

    Attributes:
        model: its role.
    """

    model: StrictStr


class Transfer(Claim):
    """The circuit found on one model does its work in another.

    Attributes:
        source: YAML ``from``: role on which the circuit was found.
        to: role in which it is run.
        beats: the full model that it must be at least as good as.
        faithfulness_at_least: least normalised faithfulness in ``to``.
        random: how many random circuits it must beat.
    """

    summary: ClassVar[str] = "one model's circuit works in another"
    if_red: ClassVar[str] = (
        "the circuit of one model does not do the work in the other: it solves the task by other parts"
    )
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
        heads = sorted(set(active_heads(context, self.source)))
        donation = ActivationDonation(heads=heads, rows=CODE_ROWS, stream="rows")
        inputs = (context.measurement(donation, self.source),)
        request = HeadCodes(rows=CODE_ROWS, stream="rows")
        return other_codes(measure(context.measurement(request, self.to, inputs)), heads)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        beaten, full, parts, chosen = (measure(m) for m in self.required_measurements(context))
        check_paired(beaten, full, parts, chosen)
        how = context.sampling(full)
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{self.to} is at chance (accuracy {np.mean(full.values['correct']):.3f}, chance "
                f"{context.task.chance:.3f}), so no circuit works in it",
                "a circuit that works",
            )
        k = len(chosen.example_ids)
        # without the hint of where the answer stands, where the spec's circuit has one
        variant = min(
            (n for n in ("circuit_correct", "circuit_without_oracle_correct") if n in parts.values),
            key=lambda n: float(np.mean(parts.values[n])),
        )
        mine = parts.values[variant]
        least = float(np.mean(mine[:k]))
        draws = means(chosen)
        if sum(drawn >= least for drawn in draws) == 1:
            draws += means(measure(random_circuits(context, self.to, MORE, first=self.random)))
        lucky, best_random = sum(drawn >= least for drawn in draws), max(draws)
        control = Control(f"best of {len(draws)} random circuits of the same sizes", best_random)
        own = score(
            context,
            f"circuit of {self.source} in {self.to}: accuracy",
            estimates.proportion(mine, how),
            "accuracy with only the circuit alive",
            control=control,
            ablated=True,
        )
        try:
            faithful = faithfulness_scores(
                context, full, parts, chosen, "normalised", "accuracy", self.bounds
            )[0]
        except estimates.UndefinedScoreError as problem:
            return verdicts.inconclusive(
                f"faithfulness in {self.to} has no value: {problem}", self.claimed, (own,)
            )
        found: list[Verdict] = []
        if self.faithfulness_at_least is not None:
            found.append(replace(verdicts.within(faithful, *self.bounds), chance=solved))
        if self.beats is not None:
            found.append(self.beating(context, beaten, full, mine, control, faithful))
        together = verdicts.together(found)
        if together.status == "fail" and (moved := changed_places(self.codes(context, measure))):
            reason = f"{together.reason}, but {not_comparable(moved, self.source, self.to)}"
            cause = Cause.NOT_COMPARABLE
            together = replace(together, status="inconclusive", reason=reason, cause=cause)
        if together.status == "pass" and lucky > (len(draws) > self.random):
            reason = (
                f"{together.reason}, but {lucky} of {len(draws)} random circuits of the same sizes "
                f"do as well (the best {best_random:.3f} on {k} rows)"
            )
            cause = Cause.CONTROL_AS_GOOD
            together = replace(together, status="fail", reason=reason, cause=cause)
        judged = [each for each in together.scores if each != faithful]
        beaten_by = Safeguard(control.name)
        return replace(together, scores=(faithful, *judged, own), control=beaten_by)

    @property
    def bounds(self) -> tuple[float, float]:
        """On the circuit's faithfulness in ``to``."""
        return verdicts.bounds(self.faithfulness_at_least, None)

    @property
    def claimed(self) -> str:
        """Everything that is claimed, in words."""
        least = [] if self.faithfulness_at_least is None else [verdicts.spell(*self.bounds)]
        return " and ".join([*least, *([verdicts.spell(0.0, float("inf"))] if self.beats else [])])

    def beating(
        self,
        context: ClaimContext,
        beaten: Observations,
        full: Observations,
        mine: Any,
        control: Control,
        faithful: Score,
    ) -> Verdict:
        """The circuit in ``to`` against the full model that it must not fall behind.

        Where the full ``to`` falls behind as well and its circuit is faithful to it, accuracy was
        lost, and nothing is found out about the mechanism.
        """
        assert self.beats is not None  # noqa: S101 - for mypy
        how, other = context.sampling(full), self.beats.model
        gap = score(
            context,
            f"circuit of {self.source} in {self.to} minus full {other}",
            estimates.difference(mine, beaten.values["correct"], how),
            "paired difference of accuracy on the same rows",
            control=Control(
                f"{control.name}, minus full {other}",
                control.value - float(np.mean(beaten.values["correct"])),
            ),
            ablated=True,
        )
        able = above_chance(context, beaten)
        verdict = replace(verdicts.at_least(gap, 0.0), chance=able)
        if able is None:
            return verdicts.reference_fails(
                f"the full {other} is at chance ({verdicts.show(accuracy(context, beaten))}, "
                f"chance {context.task.chance:.3f}): beating it means nothing",
                verdict.threshold,
                (gap,),
            )
        if verdict.status != "fail" or self.to == other:
            return verdict
        whole = estimates.difference(full.values["correct"], beaten.values["correct"], how)
        loss = score(context, f"full {self.to} minus full {other}", whole, gap.metric)
        if self.faithfulness_at_least is None:
            kept = faithful.interval[1] >= 1
        else:
            kept = verdicts.within(faithful, *self.bounds).status == "pass"
        if verdicts.at_least(loss, 0.0).status == "pass" or not kept:
            return verdict
        return verdicts.accuracy_loss(
            verdict,
            f"the full {self.to} does not reach it either ({verdicts.show(loss)}), and its circuit "
            f"is faithful to it ({verdicts.show(faithful)})",
        )


def means(chosen: Observations) -> list[float]:
    """The accuracy of each random circuit."""
    return [float(np.mean(v)) for n, v in chosen.values.items() if n.endswith("_correct")]
