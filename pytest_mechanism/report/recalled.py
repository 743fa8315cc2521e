"""The circuit and the curves of a spec, as far as a run has measured them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from pytest_mechanism.claims.base import REFERENCE, Claim, PerRoleClaim
from pytest_mechanism.claims.context import ClaimContext, Measure
from pytest_mechanism.claims.path import patched_path, path_scores
from pytest_mechanism.claims.places import elsewhere
from pytest_mechanism.discovery.discover import Effort
from pytest_mechanism.discovery.measured_circuit import CircuitView
from pytest_mechanism.discovery.stages import Stage, search
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Prompt, first_row
from pytest_mechanism.types import Chart, Score

PAIR = ("base", "ft")


def example(evaluator: ClaimEvaluator, spec: Spec) -> Prompt:
    """The first prompt of the task, as the graph's example."""
    return first_row(spec.task.pairs(evaluator.runner.checkpoint.vocabulary, 1)).base


def circuit_views(evaluator: ClaimEvaluator, spec: Spec, recall: Measure) -> list[CircuitView]:
    """The circuit of both models, with what is known of it; none where a search finds the heads."""
    if not spec.groups or not all(isinstance(g, Group) for g in spec.groups.values()):
        return []
    return [
        recalled_circuit(
            evaluator.model_context(spec, role),
            role,
            evaluator.runner.references[role].label,
            recall,
        )
        for role in PAIR
    ]


def recalled_circuit(context: ClaimContext, on: str, label: str, recall: Measure) -> CircuitView:
    """What `measured_circuit.measure_circuit` measures, as far as it was measured before."""
    stages: tuple[Stage, ...] = ()
    with suppress(MechanismError):
        stages = tuple(search(context, on, recall, Effort().rank_rows))
    context = replace(context, role=on)
    effects: dict[str, Score] = {}
    groups = {name: context.group(name, on) for name in context.groups}
    for name, group in groups.items():
        with suppress(MechanismError):
            if elsewhere(group) is None:
                effects[name], _ = path_scores(context, name, recall(patched_path(context, name)))
    return CircuitView(label, context.shapes[on], stages, groups, effects)


def charts(evaluator: ClaimEvaluator, spec: Spec, recall: Measure) -> dict[str, Chart]:
    """Name of a claim -> its curves, all roles in one chart, without claims whose curves are unknown."""
    found: dict[str, Chart] = {}
    for name, claim, role in claims_with_curves(evaluator, spec):
        with suppress(MechanismError):
            chart = claim.chart(evaluator.context(spec, claim, role), recall)
            if chart is not None:
                found[name] = merge(found[name], chart) if name in found else chart
    return found


def claims_with_curves(evaluator: ClaimEvaluator, spec: Spec) -> Iterator[tuple[str, Claim, str]]:
    """Name, claim and role of each claim that has curves and whose models the run has. A claim about the candidate
    alone has a curve of the reference model too, unless that cannot be measured."""
    for name, claim in spec.claims.items():
        if type(claim).chart is Claim.chart:
            continue
        beside = isinstance(claim, PerRoleClaim) and REFERENCE not in claim.roles()
        for role in ([REFERENCE] if beside else []) + list(claim.roles()):
            known = all(model in evaluator.runner.references for model in claim.models(role))
            extra = role not in claim.roles()
            if known and not (extra and evaluator.obstacle(spec, claim, role) is not None):
                yield name, claim, role


def merge(first: Chart, second: Chart) -> Chart:
    """The lines of both charts; a control that both have is drawn once."""
    return replace(first, lines=tuple(dict.fromkeys((*first.lines, *second.lines))))
