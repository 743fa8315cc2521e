"""Attention weights, read through the engine's values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.attention import AttentionShare
from pytest_mechanism.methods.circuits import attention
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.tasks.base import Task

ContextFactory = Callable[[str], MeasurementContext]
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 28


def share_request(
    context: MeasurementContext, query: str, key: str, rows: int = ROWS
) -> AttentionShare:
    """Every head of the model by itself."""
    heads = {f"{layer}.{head}": [(layer, head)] for layer, head in context.model.shape.heads()}
    return AttentionShare(heads=heads, query=query, key=key, rows=rows, stream="rows")


def mean_weights(
    context: MeasurementContext, query: str, key: str, rows: int = 84
) -> dict[str, float]:
    result = attention.measure(context, share_request(context, query, key, rows), [])
    return {name: float(np.mean(values)) for name, values in result.values.items()}


@pytest.mark.parametrize(
    ("query", "key"),
    [("last", "correct_object"), ("query_label", "all_labels"), ("all_labels", "all_objects")],
)
def test_weights_are_those_that_transformers_gives(
    base_context: MeasurementContext, query: str, key: str
) -> None:
    """Row by row and head by head within 1e-5: eager attention's own weights, summed over the tokens
    of the key and averaged over the tokens of the query."""
    result = attention.measure(base_context, share_request(base_context, query, key), [])
    plain = AutoModelForCausalLM.from_pretrained(
        ZOO / "base", dtype=torch.float64, attn_implementation="eager"
    )
    for i, row in enumerate(base_context.task.rows(base_context.vocabulary, ROWS, "rows")):
        side = base_context.side([row.base])
        with torch.no_grad():
            layers = plain(side.tokens.ids, output_attentions=True).attentions
        wanted: dict[str, Any] = {}
        for layer, weights in enumerate(layers):
            of_pairs = weights[0][:, side.at(query)[0].unique()][:, :, side.at(key)[0].unique()]
            for head, value in enumerate(of_pairs.sum(2).mean(1).tolist()):
                wanted[f"{layer}.{head}"] = pytest.approx(value, abs=1e-5)
        assert {name: values[i] for name, values in result.values.items()} == wanted


def test_a_word_that_pads_a_row_with_fewer_counts_once(context_of: ContextFactory) -> None:
    """A row with one word where others have three has that word's weight, as query and as key."""
    context = context_of("base")
    batch = context.batch(context.task.rows(context.vocabulary, 2, "rows"))

    def weights(words: list[list[int]], query: str, key: str) -> torch.Tensor:
        positions = {**batch.base.positions, "words": torch.tensor(words)}
        placed = replace(batch, base=replace(batch.base, positions=positions))
        return torch.stack(
            list(attention.attention(context, placed, share_request(context, query, key)).values())
        )

    for query, key in (("words", "correct_object"), ("last", "words")):
        padded = weights([[9, 12, 15], [11, 15, 15]], query, key)
        alone = weights([[9, 12, 15], [15, 15, 11]], query, key)
        two = weights([[11, 15], [11, 15]], query, key)
        torch.testing.assert_close(padded, alone, atol=1e-6, rtol=0)
        torch.testing.assert_close(padded[:, 1], two[:, 1], atol=1e-6, rtol=0)


def test_planted_heads_attend_where_they_were_planted_to(
    load_context: Callable[[Path, Task], MeasurementContext], spec: Spec
) -> None:
    """The two fetchers share the seven objects, four and three; the transmitter attends to the query's
    label, the detector to the same label before."""
    context = load_context(ZOO / "planted_ft", spec.task)
    fetched = mean_weights(context, "last", "correct_object")
    assert fetched["3.1"] == pytest.approx(4 / 7, abs=0.03)
    assert fetched["3.4"] == pytest.approx(3 / 7, abs=0.03)
    assert mean_weights(context, "last", "query_label")["2.6"] >= 0.95
    assert mean_weights(context, "query_label", "previous_query_label")["1.2"] >= 0.95


def test_random_weights_attend_to_all_tokens_alike(context_of: ContextFactory) -> None:
    """Null: each head gives one token about one part in the length of the prompt."""
    context = context_of("random")
    length = context.side(
        [context.task.rows(context.vocabulary, 1, "rows")[0].base]
    ).tokens.ids.shape[1]
    weights = mean_weights(context, "last", "correct_object")
    assert max(abs(weight - 1 / length) for weight in weights.values()) <= 0.5 / length


def test_a_key_behind_its_query_is_an_error(context_of: ContextFactory) -> None:
    """Its weight is 0 in every model, so that the number would say nothing about this one."""
    context = context_of("base")
    with pytest.raises(MeasurementError, match="last comes after query_label in "):
        attention.measure(context, share_request(context, "query_label", "last"), [])


def test_a_head_whose_output_is_no_sum_of_values_is_an_error(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family that gates z would give numbers that are no weights."""
    context = context_of("base")
    monkeypatch.setattr(attention, "TOLERANCE", -1e-9)
    with pytest.raises(MeasurementError, match="is not its attention times its values"):
        attention.measure(context, share_request(context, "last", "query_label"), [])
