"""The model without some heads and MLPs, and these without the model, against plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.methods.circuits import ablation, circuit, performance, removal
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task

ContextFactory = Callable[[str], MeasurementContext]
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 14
HEADS = [
    (3, 0, "last"),
    (3, 2, "last"),
    (2, 2, "last"),
    (1, 3, "query_label"),
    (0, 1, "all_labels"),
]
FEWER = HEADS[1:4]
MLPS = [(3, "mlp", "last"), (0, "mlp", "everywhere"), (1, "mlp", "all_labels")]


def log_probability(
    plain: Any,
    context: MeasurementContext,
    row: Any,
    values: Sequence[Tensor],
    heads: Any,
    kept: bool,
    mlp_values: Sequence[Tensor] | None = None,
) -> float:
    """The answer's log-probability by hooks on transformers' output matrices, whose input is z, and on its
    MLPs: replaced at these heads and MLPs (``kept`` False), or everywhere else (True)."""
    side = context.side([row.base])
    tokens, d_head = side.tokens.ids.shape[1], context.model.shape.d_head

    def hook(layer: int) -> Callable[..., Any]:
        named = torch.zeros(1, tokens, context.model.shape.n_heads, 1, dtype=torch.bool)
        for of_layer, head, name in heads:
            if of_layer == layer and head != "mlp":
                named[0, side.at(name)[0], head] = True

        def put(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = arguments[0].unflatten(-1, (-1, d_head))
            return (torch.where(named == kept, z, values[layer]).flatten(2),)

        return put

    def mlp_hook(layer: int) -> Callable[..., Any]:
        named = torch.zeros(1, tokens, 1, dtype=torch.bool)
        for of_layer, part, name in heads:
            if (of_layer, part) == (layer, "mlp"):
                named[0, slice(None) if name == "everywhere" else side.at(name)[0]] = True
        assert mlp_values is not None
        return lambda _, __, out: torch.where(named == kept, out, mlp_values[layer][:, :, 0])

    hooks = [
        block.mlp.register_forward_hook(mlp_hook(layer))
        for layer, block in enumerate(plain.model.layers)
        if mlp_values is not None
    ]
    hooks += [
        block.self_attn.o_proj.register_forward_pre_hook(hook(layer))
        for layer, block in enumerate(plain.model.layers)
    ]
    with torch.no_grad():
        likely = plain(side.tokens.ids).logits[0, -1].log_softmax(-1)
    for handle in hooks:
        handle.remove()
    return float(likely[context.answer_id(row.base, row.base.answer)])


@pytest.mark.parametrize("value", ["zero", "mean", "positional_mean"])
def test_removed_and_kept_heads_are_what_plain_hooks_give(
    base_context: MeasurementContext, value: str
) -> None:
    """Row by row within 1e-5: F(M without K) and F(C without K) in the terms of
    completeness."""
    plain = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float64)
    how: dict[str, Any] = {
        "rows": ROWS, "stream": "rows", "ablation": Ablation(value=value, prompts=200)
    }  # fmt: skip
    sets = {"some": HEADS, "fewer": FEWER, "none": []}
    without = removal.measure(base_context, HeadRemoval(**how, removed=sets), [])
    alone = circuit.measure(base_context, CircuitPerformance(**how, alive=sets), [])
    for i, row in enumerate(base_context.task.rows(base_context.vocabulary, ROWS, "rows")):
        values = ablation.replacements(base_context, base_context.batch([row]), how["ablation"])
        for name, heads in sets.items():
            for result, kept in ((without, False), (alone, True)):
                wanted = log_probability(plain, base_context, row, values, heads, kept)
                column = result.values[f"{name}_log_probability"]
                assert column[i] == pytest.approx(wanted, abs=1e-5), (name, kept)


@pytest.mark.parametrize("value", ["zero", "positional_mean", "resample"])
def test_removed_and_kept_mlps_are_what_plain_hooks_give(
    base_context: MeasurementContext, value: str
) -> None:
    """Row by row within 1e-5. In a circuit that names MLPs, every other MLP is
    ablated at every position; in the full model, no other one is."""
    plain = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float64)
    how: dict[str, Any] = {
        "rows": ROWS, "stream": "rows", "ablation": Ablation(value=value, prompts=200)
    }  # fmt: skip
    sets = {"mlps": MLPS, "both": [*HEADS, *MLPS], "none": []}
    without = removal.measure(base_context, HeadRemoval(**how, removed=sets), [])
    request = CircuitPerformance(**how, alive=sets, ablate_mlps=True)
    alone = circuit.measure(base_context, request, [])
    for i, row in enumerate(base_context.task.rows(base_context.vocabulary, ROWS, "rows")):
        batch = base_context.batch([row])
        z, out = (
            ablation.replacements(base_context, batch, how["ablation"], part)
            for part in ("z", "mlp_out")
        )
        for name, nodes in sets.items():
            for result, kept in ((without, False), (alone, True)):
                wanted = log_probability(plain, base_context, row, z, nodes, kept, out)
                column = result.values[f"{name}_log_probability"]
                assert column[i] == pytest.approx(wanted, abs=1e-5), (name, kept)


def test_a_circuit_of_everything_is_the_whole_model(base_context: MeasurementContext) -> None:
    """All heads and all MLPs, everywhere: what the model gives, row by row."""
    shape = base_context.model.shape
    everything = [
        (layer, part, "everywhere")
        for layer in range(shape.n_layers)
        for part in (*range(shape.n_heads), "mlp")
    ]
    request = CircuitPerformance(
        rows=ROWS,
        stream="rows",
        ablation=Ablation(value="positional_mean", prompts=200),
        alive={"whole": everything},
        ablate_mlps=True,
    )
    result = circuit.measure(base_context, request, []).values["whole_log_probability"]
    wanted = performance.measure(base_context, Performance(rows=ROWS, stream="rows"), [])
    np.testing.assert_allclose(result, wanted.values["log_probability"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_planted_model_fails_without_its_heads_and_only_without_these(
    load_context: Callable[[Path, Task], MeasurementContext], spec: Spec
) -> None:
    """Any one head of the four steps; all distractors together are not missed."""
    context = load_context(ZOO / "planted_ft", spec.task)
    planted = [(3, 1, "last"), (3, 4, "last"), (2, 6, "last"), (1, 2, "query_label")]
    rest = [
        (*head, at)
        for at in ("last", "query_label", "all_labels")
        for head in context.model.shape.heads()
        if (*head, at) not in planted and head not in ((0, 1), (0, 5))
    ]
    sets = {f"{layer}.{head}": [(layer, head, at)] for layer, head, at in planted} | {"rest": rest}
    request = HeadRemoval(rows=35, stream="rows", ablation=Ablation(prompts=200), removed=sets)
    result = removal.measure(context, request, [])
    accuracy = {name: float(np.mean(result.values[f"{name}_correct"])) for name in sets}
    assert accuracy.pop("rest") == 1.0
    # each fetcher finds its own four or three of the seven objects
    assert {name: round(7 * share) for name, share in accuracy.items()} == {
        "3.1": 3, "3.4": 4, "2.6": pytest.approx(1, abs=1), "1.2": pytest.approx(1, abs=1),
    }  # fmt: skip
