"""``knockout``: the answer needs the attention from one position to another.

In layer l and all later ones no head of any kind may attend from ``from`` to ``to``
(`methods.circuits.knockout`; Geva et al. 2023, section 3; Prakash et al. 2024, appendix). Score: the
accuracy that the model loses. Control: as many random pairs of tokens, blocked from the same layer on.

``drops_at_least`` claims that the answer needs the attention from ``from_layer`` on, ``drops_at_most``
that it no longer does. A gate blocks from the layers that the spec's claims about these positions name;
``pytest-mechanism show`` measures all others too and draws the curve over l: the layer at which it rises
is that by which the model has moved the information.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt, model_validator

from pytest_mechanism.claims.base import PerRoleClaim, Reference
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.scoring import (
    above_chance,
    check_paired,
    guesses,
    performance,
    score,
)
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.groups import At
from pytest_mechanism.fields.thresholds import Cost, Margin, need_one
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.statistics import estimates, verdicts
from pytest_mechanism.statistics.honesty import UPPER_BOUND, beats_control
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.types import Chart, Control, Line, Verdict

RANDOM = "as many random pairs of tokens"


class Knockout(PerRoleClaim):
    """The accuracy that a model loses when attention between two positions is blocked.

    Attributes:
        source: YAML ``from``: the named position that attends.
        to: the named position that is attended to.
        from_layer: attention is blocked in this layer and all later ones.
        drops_at_least: the accuracy that is lost, at least.
        drops_at_most: the accuracy that is lost, at most.
    """

    summary: ClassVar[str] = "the answer needs the attention from one position to another"
    if_red: ClassVar[str] = (
        "the answer does not depend on this attention as claimed: the model moves the information "
        "another way, or in other layers. The curve of `show` has the loss for each first layer"
    )
    thresholds: ClassVar[tuple[str, ...]] = ("drops_at_least", "drops_at_most")
    needs_groups: ClassVar[bool] = False

    kind: Literal["knockout"]
    source: At = Field(alias="from")
    to: At
    from_layer: Annotated[StrictInt, Field(ge=0, lt=1000)] = 0
    drops_at_least: Cost | None = None
    drops_at_most: Margin | None = None

    @model_validator(mode="after")
    def check_thresholds(self) -> Knockout:
        need_one(drops_at_least=self.drops_at_least, drops_at_most=self.drops_at_most)
        return self

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("from", "position", self.source),
            Reference("to", "position", self.to),
        )

    def row_sets(self, task: Task) -> tuple[tuple[str, str], ...]:
        return (("rows", ""),)

    def named_layers(self, context: ClaimContext) -> list[int]:
        """``from_layer`` of each claim of the spec about these positions of this model: one measurement
        serves them all, and its random pairs cost most of a run.

        Raises:
            MechanismError: the model has no such layer.
        """
        layers = context.shapes[context.role].n_layers
        if self.from_layer >= layers:
            raise MechanismError(
                f"from_layer is {self.from_layer}; the model of role {context.role} has layers 0 to "
                f"{layers - 1}"
            )
        others = (
            c for c in context.claims if isinstance(c, Knockout) and context.role in c.roles()
        )
        named = {c.from_layer for c in others if (c.source, c.to) == (self.source, self.to)}
        return sorted((named | {self.from_layer}).intersection(range(layers)))

    def blocked(self, context: ClaimContext, starts: Iterable[int]) -> Measurement:
        """The model with attention blocked from each of some layers on."""
        request = AttentionKnockout(
            query=self.source,
            key=self.to,
            starts=tuple(starts),
            rows=context.rows,
            stream="rows",
            seed=context.seed,
        )
        return context.measurement(request, context.role)

    def required_measurements(self, context: ClaimContext) -> tuple[Measurement, ...]:
        named = self.named_layers(context)
        return performance(context, context.role), self.blocked(context, named)

    def judge(self, context: ClaimContext, measure: Measure) -> Verdict:
        full, blocked = (measure(m) for m in self.required_measurements(context))
        check_paired(full, blocked)
        bounds = verdicts.bounds(self.drops_at_least, self.drops_at_most)
        threshold = f"drops {verdicts.spell(*bounds)}"
        solved = above_chance(context, full)
        if solved is None:
            return verdicts.at_chance(
                f"{guesses(context, context.role, full)}, so no attention can matter to its answer",
                threshold,
            )
        how, whole = context.sampling(full), full.values["correct"]
        pair, random = (
            blocked.values[f"{w}@{self.from_layer}_correct"] for w in ("pair", "random")
        )
        harmless = estimates.difference(whole, random, how)
        judged = score(
            context,
            f"accuracy lost without attention {self.source} -> {self.to} from layer "
            f"{self.from_layer} on",
            estimates.difference(whole, pair, how),
            "m(M) - m(M with the attention blocked in these layers), accuracy on the same rows",
            "higher" if self.drops_at_most is None else "lower",
            Control(RANDOM, harmless.value, harmless.interval),
        )
        left = score(
            context,
            f"accuracy without attention {self.source} -> {self.to} from layer {self.from_layer} on",
            estimates.proportion(pair, how),
            "share of rows whose most likely next token is the answer (Prakash et al., appendix)",
            judged.better,
        )
        verdict = verdicts.within(judged, *bounds, claimed=threshold)
        verdict = replace(verdict, scores=(judged, left), chance=solved)
        if self.drops_at_most is not None:
            return replace(verdict, control=UPPER_BOUND)
        gap = estimates.difference(random, pair, how)
        return beats_control(verdict, RANDOM, gap, f"{RANDOM} cost as much ({harmless.value:.3f})")

    def chart(self, context: ClaimContext, measure: Measure) -> Chart:
        full, blocked = (measure(m) for m in self.required_measurements(context))
        how, layers = context.sampling(full), context.shapes[context.role].n_layers
        values = dict(blocked.values)
        if others := set(range(layers)).difference(self.named_layers(context)):
            values.update(measure(self.blocked(context, sorted(others))).values)

        def point(x: int, rows: Any) -> tuple[float, float, tuple[float, float]]:
            share = estimates.proportion(rows, how)
            return float(x), share.value, share.interval

        lines = []
        for what in ("pair", "random"):
            points = [point(x, values[f"{what}@{x}_correct"]) for x in range(layers)]
            points.append(point(layers, full.values["correct"]))
            name = f"{self.source} -> {self.to}" if what == "pair" else RANDOM
            lines.append(Line(context.role, name, tuple(points), control=what == "random"))
        return Chart(
            f"Does the answer need the attention from {self.source} to {self.to}?",
            "first layer in which it is blocked (it is in all later ones too)",
            "accuracy",
            tuple(lines),
            (context.task.chance, "guessing"),
            "Where the line is low, the answer needs this attention in that layer or a later one. "
            "Where it has reached the accuracy of the whole model, at the right end, earlier layers "
            "have moved the information already.",
            {float(x): str(x) if x < layers else "none" for x in range(layers + 1)},
        )
