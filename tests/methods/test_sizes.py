"""Circuits of growing size: their ranking, and what they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.sizes import RANK_STREAM, CircuitSizes
from pytest_mechanism.methods.circuits import ablation, circuit, performance, sizes
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task

ContextFactory = Callable[[str], MeasurementContext]
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
MEAN = Ablation(value="positional_mean", prompts=200)
HEADS = 16


def sizes_request(counts: list[int], rows: int = 28, **fields: Any) -> CircuitSizes:
    """Circuits of the embedded pair's shape."""
    defaults = {
        "heads": HEADS,
        "ranking": "signed",
        "ranked_by": "ablation",
        "draws": 0,
        "seed": 0,
        "rank_rows": 35,
        "ablation": MEAN,
    }
    return CircuitSizes(counts=counts, rows=rows, stream="rows", **defaults | fields)


def test_the_ends_are_no_head_and_the_whole_model(base_context: MeasurementContext) -> None:
    """No head alive is the empty circuit, all heads alive at every token is the model."""
    observations = sizes.measure(base_context, sizes_request([0, HEADS]), [])
    full = performance.measure(base_context, Performance(rows=28, stream="rows"), [])
    request = CircuitPerformance(rows=28, stream="rows", ablation=MEAN, alive={"no": []})
    empty = circuit.measure(base_context, request, [])
    for observed, expected in (
        (observations.values["0_log_probability"], empty.values["no_log_probability"]),
        (observations.values[f"{HEADS}_log_probability"], full.values["log_probability"]),
    ):
        np.testing.assert_allclose(observed, expected, atol=1e-5)


def test_slopes_are_those_of_plain_gradients(context_of: ContextFactory) -> None:
    """Each head's first step within 1e-5: autograd through transformers' own model, with a hook at the
    input of each output matrix, which is z."""
    context = context_of("base")
    plain = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
    shape = context.model.shape
    z: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            arguments[0].retain_grad()
            z[layer] = arguments[0]

        return hook

    for layer, block in enumerate(plain.model.layers):
        block.self_attn.o_proj.register_forward_pre_hook(keep(layer))
    wanted = torch.zeros(shape.n_layers, shape.n_heads)
    rows = context.task.rows(context.vocabulary, 14, RANK_STREAM)
    for row in rows:
        batch = context.batch([row])
        values = ablation.replacements(context, batch, MEAN)
        likely = plain(batch.base.tokens.ids).logits[0, -1].log_softmax(-1)
        plain.zero_grad()
        likely[batch.answers[0]].backward()
        for layer, own in z.items():
            change = values[layer].flatten(2) - own
            by_head = (change * own.grad).unflatten(-1, (shape.n_heads, -1))
            wanted[layer] += by_head.sum((0, 1, 3)).detach() / len(rows)
    batch = context.batch(rows)
    slopes = sizes.slopes(context, batch, ablation.replacements(context, batch, MEAN), 0.0).mean(1)
    torch.testing.assert_close(slopes, wanted, atol=1e-5, rtol=1e-5)
    order = sizes.ranked(slopes, "signed")
    assert [float(slopes[head]) for head in order] == sorted(slopes.flatten().tolist())
    largest = [abs(float(slopes[head])) for head in sizes.ranked(slopes, "absolute")]
    assert largest == sorted(largest, reverse=True)


def test_effects_of_single_heads_are_what_plain_hooks_give(
    base_context: MeasurementContext,
) -> None:
    """Within 1e-5: one head's part of the input of an output matrix is replaced at every token."""
    plain = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
    shape = base_context.model.shape
    wanted = torch.zeros(shape.n_layers, shape.n_heads, dtype=torch.float64)
    rows = base_context.task.rows(base_context.vocabulary, 7, RANK_STREAM)
    for row in rows:
        batch = base_context.batch([row])
        values = ablation.replacements(base_context, batch, MEAN)

        def likely(batch: Any = batch) -> float:
            with torch.no_grad():
                logits = plain(batch.base.tokens.ids).logits[0, -1]
            return float(logits.log_softmax(-1)[batch.answers[0]])

        for layer, head in shape.heads():

            def put(_: Any, z: Any, head: int = head, value: Any = values[layer]) -> Any:
                by_head = z[0].unflatten(-1, (shape.n_heads, -1)).clone()
                by_head[:, :, head] = value[:, :, head]
                return (by_head.flatten(2),)

            matrix = plain.model.layers[layer].self_attn.o_proj
            hook = matrix.register_forward_pre_hook(put)
            without = likely()
            hook.remove()
            wanted[layer, head] += (without - likely()) / len(rows)
    torch.testing.assert_close(sizes.ablations(base_context, MEAN, 7), wanted, atol=1e-5, rtol=0)


def test_four_heads_of_the_embedded_model_do_most_of_the_task(context_of: ContextFactory) -> None:
    """Ranked by ablation, on a trained model. Ranked by gradients they do not: attention is sharp
    there, and a head that fetches looks harmful while the heads that tell it where to are half
    ablated."""
    accuracy = {
        by: float(
            np.mean(
                sizes.measure(context_of("ft"), sizes_request([4], ranked_by=by), []).values[
                    "4_correct"
                ]
            )
        )
        for by in ("ablation", "attribution")
    }
    assert accuracy["ablation"] >= 0.8
    assert accuracy["attribution"] <= 0.3


def test_effects_of_all_heads_add_up_to_that_of_ablating_them_all(
    context_of: ContextFactory,
) -> None:
    """The integral of all slopes is what the answer's log-probability loses without any head."""
    context = context_of("base")
    request = CircuitPerformance(rows=35, stream=RANK_STREAM, ablation=MEAN, alive={"no": []})
    empty = circuit.measure(context, request, []).values["no_log_probability"]
    full = performance.measure(context, Performance(rows=35, stream=RANK_STREAM), [])
    lost = float(np.mean(empty - full.values["log_probability"]))
    assert float(sizes.attributions(context, MEAN, 35).sum()) == pytest.approx(lost, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("ranked_by", ["ablation", "attribution"])
def test_the_first_heads_of_a_planted_model_are_the_planted_ones(
    load_context: Callable[[Path, Task], MeasurementContext], spec: Spec, ranked_by: str
) -> None:
    """They alone answer every row; a random order needs nearly all heads."""
    context = load_context(ZOO / "planted_ft", spec.task)
    planted = {(3, 1), (3, 4), (2, 6), (1, 2), (0, 1), (0, 5)}
    observations = sizes.measure(
        context, sizes_request([3, 6, 12, 32], rows=35, draws=1, ranked_by=ranked_by), []
    )
    accuracy = {
        name: float(np.mean(v)) for name, v in observations.values.items() if "correct" in name
    }
    assert set(observations.ranking[:6]) == planted
    assert (accuracy["6_correct"], accuracy["32_correct"]) == (1.0, 1.0)
    assert accuracy["3_correct"] <= 0.2
    assert accuracy["random0@12_correct"] <= 0.5
