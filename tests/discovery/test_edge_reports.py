"""Edges of a stage, on a planted model: estimated by gradient, verified by path patching, and reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluators import open_evaluator

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.discovery.remarks import screening
from pytest_mechanism.discovery.stages import Stage, StageSearch
from pytest_mechanism.discovery.write import group_lines
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 140}
groups:
  fetcher:     {heads: {3: [1, 4]}, at: last}
  transmitter: {heads: {2: [6]}, at: last, into: {group: fetcher, via: q}, find: {edges: {keep: 4}}}
claims: {solves: {kind: accuracy, at_least: 0.5}}
"""


def test_a_stage_reports_its_edges(tmp_path: Path) -> None:
    """Of the edges from 24 heads and 3 MLPs into two fetchers, four are patched alone. Those of the transmitter have
    the largest effects; what was left out has none; the lines are in the terminal and in the written spec."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load(tmp_path / "spec.yaml")
    gate = open_evaluator("--model", "zoo:planted_ft", "--store", tmp_path / "store")
    context = gate.context(spec, Accuracy(kind="accuracy", on="base", at_least=0.01), "base")
    group = spec.groups["transmitter"]
    assert isinstance(group, Group)
    stage_search = StageSearch(context, "base", group, [(3, 1), (3, 4)], gate.runner.measure, 70)
    found = stage_search.edges()
    assert found is not None
    assert (len(found.effects), found.left_out, found.opened) == (4, 2 * 27 - 4, ())
    assert {*found.strongest()[:2]} == {((2, 6), (3, 1)), ((2, 6), (3, 4))}
    assert max(abs(effect) for effect in found.rest.values()) < 0.01

    stage = Stage("transmitter", "last", "fetcher", "q", {}, {}, ((2, 6),), ((2, 6),), edges=found)
    result = Discovery({"transmitter": group}, (stage,), None)
    lines = [*found.lines()]
    assert [*screening(result)] == [f"transmitter: {line}" for line in lines]
    assert [*group_lines(result)][1:] == [f"    # {line}" for line in lines]


def test_a_stage_has_no_edges_unless_the_group_asks_for_them(tmp_path: Path) -> None:
    """Then nothing is measured for them."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load(tmp_path / "spec.yaml")
    gate = open_evaluator("--model", "zoo:planted_ft", "--store", tmp_path / "store")
    context = gate.context(spec, Accuracy(kind="accuracy", on="base", at_least=0.01), "base")
    group = spec.groups["fetcher"]
    assert isinstance(group, Group)
    stage_search = StageSearch(context, "base", group, None, gate.runner.measure, 70)
    assert stage_search.edges() is None
    assert replace(stage_search, group=group.without_heads()).edges() is None
