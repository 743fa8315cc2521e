"""Attention that is blocked between two positions, from a layer on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.methods.circuits import knockout
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task

ContextFactory = Callable[[str], MeasurementContext]
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
LAYERS = 4


def knockout_request(query: str, key: str, rows: int = 35, seed: int = 0) -> AttentionKnockout:
    """From each layer on."""
    return AttentionKnockout(
        query=query, key=key, starts=range(LAYERS), rows=rows, stream="rows", seed=seed
    )


def accuracies(context: MeasurementContext, query: str, key: str) -> dict[str, list[float]]:
    result = knockout.measure(context, knockout_request(query, key), [])
    return {
        name: [float(np.mean(result.values[f"{name}@{layer}_correct"])) for layer in range(LAYERS)]
        for name in ("pair", "random")
    }


@pytest.mark.parametrize(("query", "key"), [("last", "query_label"), ("query_label", "all_labels")])
def test_a_knockout_is_what_plain_hooks_on_the_attention_mask_give(
    base_context: MeasurementContext, query: str, key: str
) -> None:
    """Each row and each first layer within 1e-5: transformers' own eager
    attention, whose mask has the lowest number at the blocked pairs in that layer and all later ones."""
    result = knockout.measure(base_context, knockout_request(query, key, rows=14), [])
    plain = AutoModelForCausalLM.from_pretrained(
        ZOO / "base", dtype=torch.float64, attn_implementation="eager"
    )

    def blocking(pairs: list[tuple[int, int]]) -> Callable[..., Any]:
        def hook(_: Any, arguments: Any, named: dict[str, Any]) -> Any:
            mask = named["attention_mask"].clone()
            for i, j in pairs:
                mask[:, :, i, j] = torch.finfo(mask.dtype).min
            return arguments, named | {"attention_mask": mask}

        return hook

    for n, row in enumerate(base_context.task.rows(base_context.vocabulary, 14, "rows")):
        side = base_context.side([row.base])
        pairs = [(i, j) for i in side.at(query)[0].tolist() for j in side.at(key)[0].tolist()]
        for start in range(LAYERS):
            hooks = [
                layer.self_attn.register_forward_pre_hook(blocking(pairs), with_kwargs=True)
                for layer in plain.model.layers[start:]
            ]
            with torch.no_grad():
                likely = plain(side.tokens.ids).logits[0, -1].log_softmax(-1)
            for hook in hooks:
                hook.remove()
            wanted = float(likely[base_context.answer_id(row.base, row.base.answer)])
            assert result.values[f"pair@{start}_log_probability"][n] == pytest.approx(
                wanted, abs=1e-5
            )


def test_a_start_layer_gives_the_same_whichever_others_are_measured(
    base_context: MeasurementContext,
) -> None:
    """Pairs and random pairs: so a gate that measures few layers has the scores of the whole curve."""
    request = knockout_request("last", "correct_object", rows=14)
    curve = knockout.measure(base_context, request, []).values
    few = knockout.measure(base_context, request.model_copy(update={"starts": (1, 3)}), []).values
    assert len(few) == len(curve) / 2
    for name, values in few.items():
        np.testing.assert_allclose(values, curve[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "query", "key", "needed"),
    [
        # the transmitter of layer 2 and the detector of layer 1 look there
        ("planted_ft", "last", "query_label", 2),
        ("planted_ft", "query_label", "previous_query_label", 1),
        # it fetches the object of a box from its label in layer 3
        ("planted_label", "last", "previous_query_label", 3),
        ("planted_label", "last", "correct_object", -1),
    ],
)  # fmt: skip
def test_attention_is_needed_up_to_the_layer_that_was_planted_to_pay_it(
    load_context: Callable[[Path, Task], MeasurementContext],
    spec: Spec, model: str, query: str, key: str, needed: int,
) -> None:  # fmt: skip
    """Blocking from that layer or an earlier one on removes the answer; blocking from later ones costs
    nothing. Random pairs cost next to nothing."""
    result = accuracies(load_context(ZOO / model, spec.task), query, key)
    assert [accuracy <= 0.2 for accuracy in result["pair"]] == [n <= needed for n in range(LAYERS)]
    assert [accuracy >= 0.95 for accuracy in result["pair"]] == [n > needed for n in range(LAYERS)]
    assert min(result["random"]) >= 0.9


def test_random_weights_lose_nothing_by_a_knockout(context_of: ContextFactory) -> None:
    """Null: a model that guesses does so with attention blocked too."""
    result = accuracies(context_of("random"), "last", "correct_object")
    assert max(result["pair"] + result["random"]) <= 0.15


def test_random_pairs_are_as_many_others_and_leave_each_token_something(
    context_of: ContextFactory,
) -> None:
    """Each random pair is a token and an earlier one, and none is a blocked pair. The pairs do not depend on
    the batch, and change with the seed."""
    context = context_of("base")
    rows = context.task.rows(context.vocabulary, 14, "rows")
    batch = context.batch(rows)
    request = knockout_request("query_label", "all_labels")
    drawn = knockout.random_positions(batch, request)
    keys, queries = (batch.base.at(name) for name in (request.key, request.query))
    for i in range(14):
        pairs = {(int(q[i, 0]), int(k[i, 0])) for q, k in drawn}
        blocked = {(int(q), int(k)) for q in queries[i] for k in keys[i] if k <= q}
        assert (len(pairs), pairs & blocked) == (len(blocked), set())
        assert all(key < query < batch.base.tokens.lengths[i] for query, key in pairs)
    alone = knockout.random_positions(context.batch(rows[3:4]), request)
    assert [int(q[0, 0]) for q, _ in alone] == [int(q[3, 0]) for q, _ in drawn]
    others = knockout.random_positions(batch, knockout_request("query_label", "all_labels", seed=1))
    assert [q.tolist() for q, _ in others] != [q.tolist() for q, _ in drawn]


def test_a_token_that_could_attend_to_nothing_is_an_error(context_of: ContextFactory) -> None:
    """A softmax over blocked scores alone is no attention."""
    context = context_of("base")
    (row,) = context.task.rows(context.vocabulary, 1, "rows")
    with pytest.raises(MeasurementError, match="last could attend to nothing without all_labels"):
        knockout.random_pairs(knockout_request("last", "all_labels"), row, {2}, {0, 1, 2}, 9)
    with pytest.raises(MeasurementError, match="fewer are left for the control"):
        knockout.random_pairs(knockout_request("last", "all_labels"), row, {2}, {0, 1}, 3)
