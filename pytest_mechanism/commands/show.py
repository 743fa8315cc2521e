"""``pytest-mechanism show SPEC --model-pair A,B``: pictures of a circuit and of its claims' curves,
one model beside another.

What is measured goes through the store, so showing the same again, or what a gate has measured,
takes no model. A picture is a name, and what draws it: of the circuit (`circuit_pictures`) and of
each claim that has curves (`curve_pictures`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import add_model_options, open_session, print_work
from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import Crashed, MechanismError

if TYPE_CHECKING:  # measuring and drawing are imported when they are asked for
    from matplotlib.figure import Figure

    from pytest_mechanism.claims.base import Claim, ClaimContext
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
        description="Draw what path patching says about a spec's groups, heat maps of all heads "
        "(SPEC_heads) and the circuit as a graph (SPEC_circuit), and the curves of each claim that "
        "has some (SPEC_CLAIM: revival, attack, pruning, probes by layer), each as SVG and PNG.",
    )
    parser.add_argument(
        "spec",
        type=Path,
        metavar="SPEC",
        help="a spec with groups, or with claims that have curves",
    )
    add_model_options(parser)
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FOLDER", help=f"default: {OUT}; made if missing"
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="of each measurement (default: task.rows for the graph, those of discover for maps)",
    )
    parser.set_defaults(run=run)


Pictures = Mapping[str, Callable[[], "Figure"]]
"""Name of each picture -> what draws it."""


def run(arguments: argparse.Namespace) -> int:
    """0 where the pictures were written.

    Raises:
        MechanismError: nothing to show, no place to write to, a head that a model does not have,
            too few rows, a model at chance.
    """
    from pytest_mechanism.spec.load import load

    spec = load(arguments.spec)
    check_folder(arguments.out)
    if arguments.rows is not None:
        task = with_rows(spec.task, arguments.rows, bool(spec.groups))
        spec = spec.model_copy(update={"task": task})
    evaluator = open_session(arguments, read_config(arguments, [arguments.spec])).evaluator
    if spec.groups:
        check_heads(evaluator, spec)
        first_prompt(evaluator, spec, arguments.rows)
    make_preflight(evaluator, spec, arguments.rows)
    try:
        found = {
            **circuit_pictures(evaluator, spec, arguments.rows),
            **curve_pictures(evaluator, spec),
        }
    except Crashed as problem:
        print_work(evaluator.runner)
        raise problem.at(f"{spec.document.path}:{spec.document.line(('groups',))}") from None
    evaluator.runner.release()
    if not found:
        raise MechanismError(
            f"{arguments.spec} has nothing to show: no groups (each needs heads and at), and no claim "
            "that has curves"
        )

    from pytest_mechanism.report.pictures import style

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, draw in found.items():
        for path in style.save(draw, arguments.out / f"{arguments.spec.stem}_{name}"):
            say(f"wrote {path}")
    print_work(evaluator.runner)
    return 0


def with_rows(task: Task, rows: int, groups: bool) -> Task:
    """The same task with another number of rows.

    Raises:
        MechanismError: the task cannot have so many, or so few.
    """
    from pydantic import ValidationError

    settings = task.settings
    if not groups:  # what groups need is said where their contexts are counted
        try:
            type(settings).model_validate(settings.model_dump(mode="json") | {"rows": rows})
        except ValidationError as problem:
            raise MechanismError(f"--rows {rows}: {problem.errors()[0]['msg']}") from None
    return replace(task, settings=settings.model_copy(update={"rows": rows}))


def circuit_pictures(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> Pictures:
    """Heat maps of all heads and the circuit as a graph; nothing where a spec has no groups."""
    if not spec.groups:
        return {}
    from pytest_mechanism.commands.pictures import circuit_graph, head_maps
    from pytest_mechanism.discovery.measured_circuit import look
    from pytest_mechanism.report.pictures import circuit_graph as graph
    from pytest_mechanism.report.pictures import heatmaps

    example = first_prompt(evaluator, spec, rows)
    runner = evaluator.runner
    seen = []
    for role, reference in runner.references.items():
        if role not in ("base", "ft"):
            continue  # a control of some claim has no circuit of the spec's
        context = drawn_case(evaluator, spec, role)
        seen.append(look(context, role, reference.label, runner.measure, rank_rows(rows)))
    maps, circuit = head_maps(spec, seen), circuit_graph(spec, seen, example)
    return {"heads": lambda: heatmaps.draw(maps), "circuit": lambda: graph.draw(circuit)}


def curve_pictures(evaluator: ClaimEvaluator, spec: Spec) -> Pictures:
    """The curves behind claims, of all roles in one picture; a claim whose role the run has no
    checkpoint for is left out."""
    from pytest_mechanism.report.pictures import line_chart

    have = evaluator.runner.references
    labels = {role: reference.label for role, reference in have.items()}
    wanted = drawable(evaluator, spec)
    evaluator.plan([(spec, claim, role) for _, claim, role in wanted])
    found: dict[str, Chart] = {}
    for name, claim, role in wanted:
        chart = claim.chart(evaluator.context(spec, claim, role), evaluator.runner.measure)
        if chart is not None:
            found[name] = joined(found[name], chart) if name in found else chart

    confidence = evaluator.confidence or spec.confidence

    def drawing(chart: Chart) -> Callable[[], Figure]:
        footnote = f"{spec.task.settings.rows:,} rows; bands: {confidence:.0%} interval"
        return lambda: line_chart.draw(chart, labels, footnote)

    return {name: drawing(chart) for name, chart in found.items()}


def drawable(evaluator: ClaimEvaluator, spec: Spec) -> list[tuple[str, Claim, str]]:
    """Name, claim and role of those that have curves and whose models the run has."""
    from pytest_mechanism.claims.base import Claim

    return [
        (name, claim, role)
        for name, claim in spec.claims.items()
        if type(claim).chart is not Claim.chart
        for role in claim.roles()
        if all(model in evaluator.runner.references for model in claim.models(role))
    ]


def joined(first: Chart, second: Chart) -> Chart:
    """Both charts' lines; a control that stands in both is drawn once."""
    return replace(first, lines=tuple(dict.fromkeys((*first.lines, *second.lines))))


# -- what can be known before anything is measured


def check_folder(out: Path) -> None:
    """Whether a folder is there or can be made.

    Raises:
        MechanismError: a file stands in its place.
    """
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise MechanismError(f"--out takes a folder, and {there} is none")


def make_preflight(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> None:
    """Whether all that pictures are drawn from can be measured.

    Raises:
        MechanismError: some of it cannot.
    """
    from pytest_mechanism.discovery.preflight import of_look

    groups = f"{spec.document.path}:{spec.document.line(('groups',))}"
    for role in ("base", "ft") if spec.groups else ():
        if role in evaluator.runner.references:
            wanted = of_look(drawn_case(evaluator, spec, role), role, rank_rows(rows))
            if (problem := evaluator.first_obstacle(wanted)) is not None:
                raise problem.at(groups)
    for _, claim, role in drawable(evaluator, spec):
        if (refused := evaluator.refusal(spec, claim, role)) is not None:
            raise refused


def drawn_case(evaluator: ClaimEvaluator, spec: Spec, role: str) -> ClaimContext:
    """Of a probe of the first group; each has the same rows."""
    from pytest_mechanism.discovery.measured_circuit import probe

    return evaluator.context(spec, probe(next(iter(spec.groups)), role), role)


def rank_rows(rows: int | None) -> int:
    """Rows on which heads are compared."""
    from pytest_mechanism.discovery.discover import Effort

    return rows or Effort().rank_rows


def check_heads(evaluator: ClaimEvaluator, spec: Spec) -> None:
    """Whether every model has the heads that the spec names.

    Raises:
        MechanismError: one of them has not.
    """
    from pytest_mechanism.discovery.measured_circuit import probe
    from pytest_mechanism.fields.groups import Group

    for role in evaluator.runner.references:
        for name, group in spec.groups.items():
            if isinstance(group, Group):
                evaluator.context(spec, probe(name, role), role).group(name, role)


def first_prompt(evaluator: ClaimEvaluator, spec: Spec, rows: int | None) -> Prompt:
    """The first prompt, as an example.

    Raises:
        MechanismError: ``rows`` of them are too few for an interval.
    """
    from pytest_mechanism.claims.base import LEAST_CLUSTERS
    from pytest_mechanism.tasks.base import first_row

    pairs = spec.task.pairs(evaluator.runner.vocabulary, max(rows or 1, 1))
    contexts = len({row.cluster for row in pairs}) if rows is None or rows > 0 else 0
    if rows is not None and contexts < LEAST_CLUSTERS:
        raise MechanismError(
            f"--rows {rows} is too few: an interval needs {LEAST_CLUSTERS} contexts, these rows "
            f"come from {contexts}"
        )
    return first_row(pairs).base
