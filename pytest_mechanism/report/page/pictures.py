"""The pictures of the page: what a run has measured anyway, drawn spec by spec. Nothing is measured for them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.page.view import PictureView, SpecView
from pytest_mechanism.report.run_report import RunReport
from pytest_mechanism.spec.load import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.types import Chart

VIEW_BOX = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')

NO_HEADS = (
    "The run did not measure the effect of every head on both models: 'pytest-mechanism show {path} --model-pair "
    "...' does, and the page of a later run shows it."
)


def pictures_of(report: RunReport, evaluator: ClaimEvaluator, root: Path) -> list[SpecView]:
    """The pictures of the specs of a run.

    Args:
        report: of the run.
        evaluator: of the run.
        root: the folder from which the report names specs.
    """
    views = []
    paths = dict.fromkeys(c.spec for c in report.claims if c.verdict != "skipped")
    circuits = {claim.spec: claim.circuit for claim in report.claims}
    for path in paths:
        try:
            spec = load(root / path)
            pictures = tuple(drawn(spec, evaluator))
        except Exception as problem:  # a page without pictures still explains the run
            reason = str(problem) if isinstance(problem, MechanismError) else type(problem).__name__
            views.append(SpecView(circuits[path], (), (f"Its pictures cannot be drawn: {reason}",)))
            continue
        has_maps = any(picture.title == MAPS for picture in pictures)
        missing = () if has_maps or not spec.groups else (NO_HEADS.format(path=path),)
        views.append(SpecView(circuits[path], pictures, missing))
    return views


NO_BASE = " The run has no such curve of another model: 'pytest-mechanism show' draws that of base beside it."

MAPS = "Which heads and MLPs do the work"
COMPARE = (
    "Compare the two columns: a cell that is red in one model and white in the other fell silent, or took "
    "over."
)


def drawn(spec: Spec, evaluator: ClaimEvaluator) -> Iterator[PictureView]:
    """The pictures of a spec: its members in both models, its circuit, path patching of every head, curves."""
    from pytest_mechanism.report.circuit_graph_data import circuit_graph
    from pytest_mechanism.report.head_map_data import head_maps, profile_maps
    from pytest_mechanism.report.pictures import circuit_graph as graph
    from pytest_mechanism.report.pictures import heatmaps, line_chart
    from pytest_mechanism.report.recalled import charts, circuit_views, example

    recall = evaluator.runner.recall
    labels = {role: ref.label for role, ref in evaluator.runner.references.items()}
    changes = evaluator.recalled_sweep(spec, "ft")
    if changes:
        maps = profile_maps(spec, changes, labels["base"], labels["ft"], evaluator.shapes["base"])
        yield view(MAPS, COMPARE, lambda: heatmaps.draw(maps))
    views = circuit_views(evaluator, spec, recall)
    if any(each.effects for each in views):
        circuit = circuit_graph(spec, views, example(evaluator, spec))
        yield view(
            "The circuit, from the answer back to the input",
            "The wider an arrow, the more the answer depends on what the group passes on.",
            lambda: graph.draw(circuit),
        )
    if views and all(each.stages for each in views):
        heads = head_maps(spec, views)
        yield view("Path patching of every head", "", lambda: heatmaps.draw(heads))
    footnote = f"{spec.task.settings.rows:,} rows; bands: confidence interval"
    for name, chart in charts(evaluator, spec, recall).items():
        yield view(
            f"Curves of {name}",
            words_of(chart),
            lambda chart=chart: line_chart.draw(chart, labels, footnote),  # type: ignore[misc]
        )


def words_of(chart: Chart) -> str:
    """How to read curves, and where those to compare with are, if the run has none."""
    alone = {line.model for line in chart.lines} == {"ft"}
    return f"{chart.explanation}{NO_BASE if alone else ''}".strip()


def view(title: str, words: str, draw: Callable[[], Figure]) -> PictureView:
    """A picture as the page embeds it."""
    from pytest_mechanism.report.pictures import style

    with style.our_style():
        svg = style.rendered(draw(), "svg")
    match = VIEW_BOX.search(svg[:2000].decode("utf-8", "replace"))
    width, height = (float(match[1]), float(match[2])) if match else (800.0, 600.0)
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return PictureView(
        title,
        words,
        f"{title}. {words}".strip(),
        source,
        round(width * 4 / 3),
        round(height * 4 / 3),
    )
