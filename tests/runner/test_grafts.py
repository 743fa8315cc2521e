"""What grafts say of a candidate: which head, MLP or layer of the base brings the answers back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators import open_evaluator

from pytest_mechanism.measurements.grafting import MemberGraft
from pytest_mechanism.runner.grafts import NO_GRAFTS, Grafts, about_grafts, behind, grafts
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Sampling
from pytest_mechanism.types import Observations

CONTEXTS = 20
CLUSTERS = tuple(f"context {i}" for i in range(CONTEXTS))
SPEC = Path(__file__).parents[2] / "circuits" / "entity_tracking.yaml"


def found(before: Any, now: Any, **grafted: Any) -> Grafts:
    """Answers of one row in each context, with grafts such as ``h1_0=-0.1`` and ``layer_1=0``."""

    def rows(value: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, float), (CONTEXTS,)).copy()

    names = {k: k.replace("layer_", "layer ").lstrip("h").replace("_", ".") for k in grafted}
    values = {names[k]: rows(v) for k, v in grafted.items()}
    return Grafts(rows(before), rows(now), values, 24, Sampling(CLUSTERS, 0.95, 0))


LOSS = -1 - 0.02 * np.arange(CONTEXTS)


def test_the_member_that_brings_the_answers_back_is_named_first() -> None:
    """Its layer, which brings as much back, is not; a reader, which brings nothing back, is not."""
    result = found(-0.1, LOSS, h1_0=-0.1, layer_1=-0.1, h2_2=LOSS, h0_mlp=LOSS + 0.2)
    said = about_grafts(result, "ft")
    assert said.names == ("1.0", "0.mlp")
    assert said.lines == (
        "with head 1.0 of base in its place, ft regains 100% [100%, 100%] of the log-probability that its answers lost "
        "(-1.19 -> -0.10; base -0.10); alone, the MLP of layer 0 18%",
    )


def test_a_layer_is_named_where_no_member_of_it_is_behind_the_loss() -> None:
    """Each of its heads brings back a fifth; a head of another layer is named beside it."""
    result = found(
        -0.1, LOSS, layer_1=-0.1, h1_0=LOSS + 0.2, h1_1=LOSS + 0.2, h2_2=LOSS + 0.3, layer_2=LOSS + 0.3
    )  # fmt: skip
    assert [each.name for each in behind(result)] == ["layer 1", "2.2"]
    assert about_grafts(result, "ft").lines[0].startswith("with layer 1 of base in its place, ft")


@pytest.mark.parametrize("gain", [0.0, 0.004])
def test_where_nothing_was_lost_nobody_is_named(gain: float) -> None:
    """Null: equal models; and gains on every row that are too small to matter."""
    same = found(LOSS, LOSS, h1_0=LOSS + gain, layer_1=LOSS + gain, h2_2=LOSS)
    assert about_grafts(same, "ft") == NO_GRAFTS


def test_a_loss_that_no_member_brings_back_is_said() -> None:
    """A head that helps on half of the rows and harms on the others is not named as sure."""
    both = LOSS + 0.3 * np.where(np.arange(CONTEXTS) % 2, 1.6, -1.0)
    said = about_grafts(found(-0.1, LOSS, h1_0=both, layer_1=LOSS), "ft")
    assert said.names == ()
    assert said.lines == (
        "no head, MLP or layer of base, alone in ft, surely brings back 5% of the log-probability that its answers "
        "lost (base -0.10, ft -1.19); most: head 1.0, 8%",
    )


def test_a_few_lost_answers_are_enough() -> None:
    """Two rows of twenty lose three nats, all others a little: the mean's interval contains 0, the ranks are sure."""
    now = np.full(CONTEXTS, -0.101) - 3.0 * (np.arange(CONTEXTS) < 2) - 1e-4 * np.arange(CONTEXTS)
    result = found(-0.1, now, h0_3=-0.1, layer_0=-0.1)
    assert about_grafts(result, "ft").names == ("0.3",)


def test_a_candidate_that_is_better_than_the_base_can_still_lack_a_head() -> None:
    """Then the gain is said in log-probability, because there is no loss to have a share of; a small one is none."""
    small = found(-2.0, LOSS, h1_0=LOSS + 0.09, layer_1=LOSS)
    assert about_grafts(small, "ft") == NO_GRAFTS
    said = about_grafts(found(-2.0, LOSS, h1_0=LOSS + 0.5, layer_1=LOSS + 0.5), "ft")
    assert said.lines == (
        "with head 1.0 of base in its place, ft finds the right answers likelier (log-probability -1.19 -> -0.69; base "
        "-2.00)",
    )


def test_heads_of_a_large_model_are_grafted_in_the_best_layers_alone() -> None:
    """Of ten layers of eight heads: first the layers, then what the three that bring most back consist of."""
    gate = open_evaluator("--model-pair", "base=zoo:base,ft=zoo:ft", "--mechanism-no-store")
    context = gate.model_context(load(SPEC), "ft", ("base", "ft"))
    shape = replace(context.shapes["ft"], n_layers=10, n_heads=8)
    context = replace(context, shapes={"base": shape, "ft": shape})
    asked: list[list[str]] = []

    def measure(measurement: Any) -> Observations:
        request = measurement.request
        if not isinstance(request, MemberGraft):
            return Observations(CLUSTERS, CLUSTERS, {"log_probability": np.full(CONTEXTS, -0.1)})
        asked.append([*request.members])
        values = {"before": LOSS}
        for name in request.members:
            best = name in ("layer 4", "4.2")
            second = name in ("layer 7", "layer 8")
            values[name] = np.full(CONTEXTS, -0.1) if best else LOSS + 0.1 * second
        return Observations(CLUSTERS, CLUSTERS, values)

    result = grafts(context, "ft", measure)
    layers, inside = asked
    assert layers == [f"layer {k}" for k in range(10)]
    assert {name.split(".")[0] for name in inside} == {"4", "7", "8"}
    assert len(inside) == 3 * 9
    assert about_grafts(result, "ft").names[0] == "4.2"
