"""What discovery finds: on planted models the planted circuit, on trained ones one that suffices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.faithfulness import Faithfulness
from pytest_mechanism.discovery.claims import without_heads
from pytest_mechanism.discovery.discover import Discovery, Effort, discover
from pytest_mechanism.discovery.remarks import screening
from pytest_mechanism.runner.evaluator import ClaimEvaluator
from pytest_mechanism.spec.load import load
from recipes.planted import MODELS

BY_POSITION = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 70, seed: 0}
groups:
  value_fetcher:   {heads: discovered, at: last}
  pos_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
  pos_detector:    {heads: discovered, at: query_label, into: {group: pos_transmitter, via: v}}
  struct_reader:
    {heads: discovered, at: previous_query_label, into: {group: pos_detector, via: v}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.5}
"""

BY_LABEL = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 7, rows: 70, seed: 0}
groups:
  value_fetcher:     {heads: discovered, at: last}
  label_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
  object_reader:
    {heads: discovered, at: previous_query_label, into: {group: value_fetcher, via: v}}
claims:
  solves: {kind: accuracy, on: base, at_least: 0.5}
"""

TRAINED = Path(__file__).parents[2] / "circuits" / "entity_tracking.yaml"

Search = Callable[..., tuple[Discovery, ClaimContext, ClaimEvaluator]]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Runs discovery of a spec's groups on an embedded model."""

    def run(
        spec_file: Path, model: str, seed: int
    ) -> tuple[Discovery, ClaimContext, ClaimEvaluator]:
        gate = open_evaluator("--model", f"zoo:{model}", "--store", tmp_path / "store")
        spec = load(spec_file)
        settings = spec.task.settings.model_copy(update={"seed": seed})
        spec = spec.model_copy(update={"task": replace(spec.task, settings=settings)})
        case = gate.context(spec, Accuracy(kind="accuracy", on="base", at_least=0.01), "base")
        case = replace(case, groups=without_heads(spec.groups))
        return discover(case, "base", gate.runner.measure, Effort()), case, gate

    return run


SHARED_AND_SLOW = [
    pytest.param(model, marks=() if model == "planted_shared" else pytest.mark.slow)
    for model in MODELS
]


@pytest.mark.parametrize("model", SHARED_AND_SLOW)
def test_on_a_planted_model_exactly_the_planted_heads_are_found(
    search: Search, tmp_path: Path, model: str
) -> None:
    """Every group, no head more and none less; the planted heads lead every ranking."""
    spec = tmp_path / "planted.yaml"
    spec.write_text(BY_LABEL if model == "planted_label" else BY_POSITION)
    discovery, _, _ = search(spec, model, 0)
    assert discovery.reason is None
    assert {name: group.members() for name, group in discovery.groups.items()} == planted(model)
    for stage in discovery.stages:
        wanted = planted(model)[stage.group]
        further = {h for name, hs in planted(model).items() if name != stage.group for h in hs}
        ranked = sorted(stage.effects, key=lambda head: stage.effects[head].value)
        assert set([h for h in ranked if h not in further][: len(wanted)]) == set(wanted)


def planted(model: str) -> dict[str, list[tuple[int, int]]]:
    return {name: sorted(group.heads) for name, group in MODELS[model].items()}


@pytest.mark.parametrize("model", SHARED_AND_SLOW)
def test_a_screen_by_gradient_keeps_the_planted_heads(
    search: Search, tmp_path: Path, model: str
) -> None:
    """Two heads a group are patched alone, the others together, and the circuit is the planted one."""
    spec = tmp_path / "planted.yaml"
    text = BY_LABEL if model == "planted_label" else BY_POSITION
    spec.write_text(text.replace("discovered,", "discovered, find: {screen: {keep: 2}},"))
    discovery, _, gate = search(spec, model, 0)
    assert {name: group.members() for name, group in discovery.groups.items()} == planted(model)
    shape = gate.shapes["base"]
    fetchers = discovery.stages[0]
    left_out = len(fetchers.screening.left_out)
    assert left_out + len(fetchers.effects) == shape.n_layers * shape.n_heads
    assert left_out > 0
    assert next(screening(discovery)).startswith(
        f"value_fetcher: {left_out} of {shape.n_layers * shape.n_heads} heads left out by gradient"
    )


@pytest.mark.slow
def test_on_a_trained_model_a_small_circuit_suffices_whatever_the_seed(search: Search) -> None:
    """Faithfulness between 0.9 and 1.1 on rows that the search never saw, fewer than all heads in
    every layer above the first, and two seeds agree up to one head."""
    circuits = []
    for seed in (0, 1):
        discovery, case, gate = search(TRAINED, "ft", seed)
        assert discovery.reason is None
        claim = Faithfulness(kind="faithfulness", on="base", between=(0.9, 1.1))
        judged = claim.judge(replace(case, groups=discovery.groups), gate.runner.measure)
        assert judged.status == "pass", judged.reason
        heads = {
            (name, head) for name, group in discovery.groups.items() for head in group.members()
        }
        shape = gate.shapes["base"]
        for layer in range(1, shape.n_layers):
            in_layer = {head for _, head in heads if head[0] == layer}
            assert len(in_layer) < shape.n_heads
        circuits.append(heads)
    first, second = circuits
    assert max(len(first - second), len(second - first)) <= 1
