"""``pytest-mechanism show SPEC --model-pair A,B``: pictures of a circuit and of its claims' curves, model
beside model.

Every measurement goes through the store, so a second call, or one after a gate, loads no model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session, print_work
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import Crashed, MechanismError
from pytest_mechanism.files import check_folder, remove_output
from pytest_mechanism.report.pictures import FORMATS, MARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_mechanism.claims.base import Claim
    from pytest_mechanism.discovery.measured_circuit import CircuitView
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.tasks.base import Prompt, Task
    from pytest_mechanism.types import Chart

OUT = Path("pictures")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "show",
        help="draw a spec's circuit (heat maps of all heads, a graph with effect sizes) and the "
        "curves behind its claims",
        description="Draw the path patching effects of a spec's groups, as heat maps of all heads "
        "(SPEC_heads) and as a graph of the circuit (SPEC_circuit), and the curves of each claim that "
        "has any (SPEC_CLAIM: revival, attack, pruning, probes by layer, "
        "blocked attention, circuits by size). Each picture is written "
        "as SVG and PNG.",
    )
    parser.add_argument(
        "spec",
        type=Path,
        metavar="SPEC",
        help="a spec with groups, or with claims that have curves",
    )
    add_model_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="FOLDER",
        help=f"folder for the pictures (default: {OUT})",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="rows of each measurement (default: task.rows for the graph, the rows of discover for "
        "the heat maps)",
    )
    parser.set_defaults(run=run)


Pictures = Mapping[str, Callable[[], "Figure"]]
"""Name of a picture -> the function that draws it."""


def run(arguments: argparse.Namespace) -> int:
    """Write the pictures; always 0.

    Raises:
        MechanismError: there is nothing to show, no folder to write to, a head that a model does not
            have, or too few rows.
    """
    from pytest_mechanism.spec.load import load

    rows: int | None = arguments.rows
    spec = load(arguments.spec)
    remove_earlier(arguments, spec)
    check_folder(arguments.out)
    if rows is not None:
        if not spec.groups:
            check_rows(spec.task, rows)
        task = replace(spec.task, settings=spec.task.settings.model_copy(update={"rows": rows}))
        spec = spec.model_copy(update={"task": task})
    evaluator = open_session(arguments, read_config(arguments, [arguments.spec])).evaluator
    if spec.groups:
        check_heads(evaluator, spec)
        first_prompt(evaluator, spec, rows)  # counts the contexts, which says more than the rows
        if rows is not None:
            check_rows(spec.task, rows)
        if not any(claim.needs_groups for claim in spec.claims.values()):
            say(
                f"note: no claim of {arguments.spec} is about its groups, which are drawn all the same",
                err=True,
            )
    make_preflight(evaluator, spec, rows)
    try:
        pictures = measured_pictures(evaluator, spec, rows)
    except Crashed as problem:
        print_work(evaluator.runner)
        raise problem.at(spec.place("groups")) from None
    evaluator.runner.checkpoint.release()
    if not pictures:
        raise MechanismError(
            f"{arguments.spec} has nothing to show: no groups (each needs heads and at), and no claim "
            "that has curves"
        )

    from pytest_mechanism.report.pictures import style

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures.items():
        for path in style.save(draw, stem_of(arguments, name)):
            say(f"wrote {path}")
    print_work(evaluator.runner)
    return 0


def remove_earlier(arguments: argparse.Namespace, spec: Spec) -> None:
    """Remove the pictures of the spec by an earlier call, which must not stand for one that fails."""
    for name in ("heads", "circuit", *spec.claims):
        stem = stem_of(arguments, name)
        for kind in FORMATS:
            remove_output(stem.with_name(f"{stem.name}.{kind}"), MARK)


def stem_of(arguments: argparse.Namespace, name: str) -> Path:
    """The path of a picture, without its ending."""
    out: Path = arguments.out
    return out / f"{arguments.spec.stem}_{name}"


def check_rows(task: Task, rows: int) -> None:
    """Check that a task allows a number of rows.

    Raises:
        MechanismError: it does not.
    """
    from pydantic import ValidationError

    settings = task.settings
    try:
        type(settings).model_validate(settings.model_dump(mode="json") | {"rows": rows})
    except ValidationError as problem:
        raise MechanismError(f"--rows {rows}: {problem.errors()[0]['msg']}") from None


def measured_pictures(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> Pictures:
    """The circuit of a spec with groups, and the curves of claims; each model is measured for both before the next."""
    from pytest_mechanism.report.pictures import line_chart
    from pytest_mechanism.report.recalled import claims_with_curves, merge

    curves = list(claims_with_curves(evaluator, spec))
    evaluator.plan([(spec, claim, role) for _, claim, role in curves])
    views: list[CircuitView] = []
    charts: dict[str, Chart] = {}
    drawn = drawn_roles(evaluator, spec)
    for role in dict.fromkeys([*drawn, *(role for *_, role in curves)]):
        if role in drawn:
            views.append(circuit_view(evaluator, spec, role, rows))
        for name, claim, of in curves:
            if of == role and (chart := chart_of(evaluator, spec, claim, role)) is not None:
                charts[name] = merge(charts[name], chart) if name in charts else chart

    labels = {role: ref.label for role, ref in evaluator.runner.references.items()}
    confidence = evaluator.confidence or spec.confidence

    def drawing(chart: Chart) -> Callable[[], Figure]:
        footnote = f"{spec.task.settings.rows:,} rows; bands: {confidence:.0%} confidence interval"
        return lambda: line_chart.draw(chart, labels, footnote)

    of_claims = {name: drawing(charts[name]) for name in spec.claims if name in charts}
    return {**circuit_pictures(evaluator, spec, views, rows), **of_claims}


def circuit_view(evaluator: ClaimEvaluator, spec: Spec, role: str, rows: int | None) -> CircuitView:
    """The circuit as measured on the model of a role."""
    from pytest_mechanism.discovery.measured_circuit import measure_circuit

    runner = evaluator.runner
    context, label = evaluator.model_context(spec, role), runner.references[role].label
    return measure_circuit(context, role, label, runner.measure, rank_rows(rows))


def chart_of(evaluator: ClaimEvaluator, spec: Spec, claim: Claim, role: str) -> Chart | None:
    """The curves of a claim on a role; None without any, and where those of the reference model, beside a claim
    about the candidate alone, cannot be measured.

    Raises:
        MechanismError: those of the claim's own role cannot.
    """
    try:
        return claim.chart(evaluator.context(spec, claim, role), evaluator.runner.measure)
    except MechanismError:
        if role in claim.roles():
            raise
        return None


def circuit_pictures(
    evaluator: ClaimEvaluator, spec: Spec, views: Sequence[CircuitView], rows: int | None
) -> Pictures:
    """Heat maps of all heads and the circuit as a graph; none for a spec without groups."""
    if not views:
        return {}
    from pytest_mechanism.report.circuit_graph_data import circuit_graph
    from pytest_mechanism.report.head_map_data import head_maps
    from pytest_mechanism.report.pictures import circuit_graph as graph
    from pytest_mechanism.report.pictures import heatmaps

    for view in views:
        if view.warning:
            say(f"warning: {view.warning}", err=True)
    example = first_prompt(evaluator, spec, rows)
    maps, circuit = head_maps(spec, views), circuit_graph(spec, views, example)
    return {"heads": lambda: heatmaps.draw(maps), "circuit": lambda: graph.draw(circuit)}


# -- preflight


def make_preflight(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> None:
    """Check that everything that the pictures show can be measured.

    Raises:
        MechanismError: some of it cannot.
    """
    from pytest_mechanism.discovery.preflight import view_measurements
    from pytest_mechanism.report.recalled import claims_with_curves

    for role in drawn_roles(evaluator, spec):
        needed = view_measurements(evaluator.model_context(spec, role), role, rank_rows(rows))
        if (problem := evaluator.first_obstacle(needed)) is not None:
            raise problem.at(spec.place("groups"))
    for _, claim, role in claims_with_curves(evaluator, spec):
        if (problem := evaluator.obstacle(spec, claim, role)) is not None:
            raise problem


def drawn_roles(evaluator: ClaimEvaluator, spec: Spec) -> list[str]:
    """The roles whose circuits are drawn; further checkpoints are controls of claims."""
    if not spec.groups:
        return []
    return [role for role in ("base", "ft") if role in evaluator.runner.references]


def rank_rows(rows: int | None) -> int:
    """The number of rows on which heads are compared."""
    from pytest_mechanism.discovery.discover import Effort

    return rows or Effort().rank_rows


def check_heads(evaluator: ClaimEvaluator, spec: Spec) -> None:
    """Check that every model has the heads that the spec names.

    Raises:
        MechanismError: a model lacks one.
    """
    from pytest_mechanism.fields.groups import Group

    for role in evaluator.runner.references:
        for name, group in spec.groups.items():
            if isinstance(group, Group):
                evaluator.model_context(spec, role).group(name, role)


def first_prompt(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> Prompt:
    """The first prompt, as the picture's example.

    Raises:
        MechanismError: ``rows`` prompts are too few for a confidence interval.
    """
    from pytest_mechanism.claims.context import LEAST_CLUSTERS
    from pytest_mechanism.tasks.base import first_row

    pairs = spec.task.pairs(evaluator.runner.checkpoint.vocabulary, max(rows or 1, 1))
    contexts = len({row.cluster for row in pairs}) if rows is None or rows > 0 else 0
    if rows is not None and contexts < LEAST_CLUSTERS:
        raise MechanismError(
            f"--rows {rows} is too few: a confidence interval needs {LEAST_CLUSTERS} contexts, these "
            f"rows come from {contexts}"
        )
    return first_row(pairs).base
