"""Draws docs/methods/attribution-patching.svg: edges of the embedded fine-tune, by gradient and by path patching.

    python -m docs.edges_picture

From the root of the repository.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pytest_mechanism.discovery.edges import EdgeSearch, search_edges
from pytest_mechanism.measurements.edges import edge_name
from pytest_mechanism.nodes import Node
from pytest_mechanism.report.pictures import style

ROOT = Path(__file__).parents[1]
RECEIVERS: list[Node] = [(3, 0), (3, 1), (3, 2), (3, 3)]
EDGES = 4 * (12 + 3)
"""From 12 heads and 3 MLPs into four readers."""


def measured() -> EdgeSearch:
    """Every edge into the queries of the fetchers, estimated and patched."""
    sys.path.insert(0, str(ROOT / "tests"))
    from evaluators import open_evaluator

    from pytest_mechanism.claims.accuracy import Accuracy
    from pytest_mechanism.spec.load import load

    spec = load(ROOT / "circuits" / "entity_tracking.yaml")
    with tempfile.TemporaryDirectory() as store:
        gate = open_evaluator("--model", "zoo:ft", "--store", store)
        context = gate.context(spec, Accuracy(kind="accuracy", on="base", at_least=0.01), "base")
        heads = [head for head in context.shapes["base"].heads() if head[0] < 3]
        group = spec.groups["pos_transmitter"]
        return search_edges(
            context, "base", group, heads, RECEIVERS, gate.runner.measure, 70, EDGES
        )


def draw(found: EdgeSearch) -> Figure:
    """A point for each edge; the largest have their names."""
    figure = style.new_figure(5.4, 3.8)
    page = figure.add_axes((0.14, 0.16, 0.82, 0.74))
    exact = np.array([found.effects[edge].value for edge in found.estimates])
    estimated = np.array(list(found.estimates.values()))
    low = min(exact.min(), estimated.min()) * 1.15
    page.plot([low, 0.2], [low, 0.2], color=style.LINE, linewidth=1, zorder=1)
    page.scatter(exact, estimated, s=16, color=style.INK, zorder=3)
    for edge, x, y in zip(found.estimates, exact, estimated, strict=True):
        if x < low / 8 or y < low / 8:
            page.annotate(edge_name(*edge), (x, y), xytext=(5, -4), textcoords="offset points",
                          fontsize=8)  # fmt: skip
    correlation, n = found.agreement()
    page.set_title(f"Edges into q of the fetchers in ft: rank correlation {correlation:.2f} (n = {n})",
                   fontsize=9)  # fmt: skip
    page.set_xlabel("path patching (nats)", fontsize=9)
    page.set_ylabel("EAP-IG (nats)", fontsize=9)
    return figure


def save(path: Path = ROOT / "docs" / "methods" / "attribution-patching") -> None:
    """Writes the picture as SVG and PNG, and prints the search's lines."""
    result = measured()
    style.save(lambda: draw(result), path)
    print("\n".join(result.lines()))  # noqa: T201


if __name__ == "__main__":
    save()
