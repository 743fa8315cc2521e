"""A wrapper that gives another answer instead of a refusal: which replies count as withholding.

On random weights, whose most likely word differs from prompt to prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_mechanism.claims.direction import Direction
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal import refusal_score
from pytest_mechanism.methods.refusal.replies import prompt_batches, reply_columns, withheld_ids
from pytest_mechanism.tasks.base import Prompt
from recipes.pcfg_data import World
from recipes.word_level import save_tokenizer

WORLD = World(2, 4, 9, window=3, occurrence=2, position=4, subtasks=("count",))
ROWS = 60


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, load_context: Any) -> MeasurementContext:
    """Random weights that know the words of the task `pcfg`, where ``a`` is hidden by ``b``."""
    folder = tmp_path_factory.mktemp("random_pcfg")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORLD.ids),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=1.0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # digits are far likelier than other words
        model.lm_head.weight[:] *= 0.1
        model.lm_head.weight[[WORLD.ids[d] for d in "0123"]] *= 50
    model.save_pretrained(folder)
    save_tokenizer(folder, WORLD.ids, 32)
    return load_context(folder, WORLD.task())


def expected(context: MeasurementContext, asked: str) -> tuple[np.ndarray, np.ndarray]:
    """``refused`` and ``refusal_score``, from the logits and the letters of each text."""
    rows = context.task.row_set(asked, context.vocabulary, ROWS, "rows")  # type: ignore[arg-type]
    logits = context.engine.run(context.side([r.base for r in rows]).tokens).outcome.logits.double()
    refused, scores = [], []
    for row, own in zip(rows, logits, strict=True):
        text = row.base.text.partition("SOT")[2]
        counts = [text.count(letter) for letter in "ab"]
        right = counts["ab".index(row.base.text.split()[1])]
        words = {*map(str, counts), str(counts[0] + 1)} - {str(right)}
        ids = [WORLD.ids[word] for word in words]
        refused.append(float(int(own.argmax()) in ids))
        logs = own.log_softmax(-1)
        rest = torch.tensor([i not in ids for i in range(len(logs))])
        scores.append(float(logs[ids].logsumexp(0) - logs[rest].logsumexp(0)))
    return np.array(refused), np.array(scores)


@pytest.mark.parametrize("asked", ["forbidden", "allowed"])
def test_the_other_operands_answer_counts_as_a_refusal(
    context: MeasurementContext, asked: str
) -> None:
    """Row by row: the count of the other operand, or one more than the hidden count; never the right
    answer."""
    request = RefusalRate(asked=asked, rows=ROWS, stream="rows")  # type: ignore[arg-type]
    result = refusal_score.measure(context, request, [])
    refused, scores = expected(context, asked)
    assert 0 < refused.sum() < ROWS
    np.testing.assert_array_equal(result.values["refused"], refused)
    np.testing.assert_allclose(result.values["refusal_score"], scores, atol=1e-3)


def test_pruned_and_trained_copies_are_read_in_the_same_way(context: MeasurementContext) -> None:
    """A reply is right or withholds the answer or neither, and never both."""
    rows = context.task.capability(context.vocabulary, ROWS, "rows")
    plain = context.model.wrapped.plain
    columns = reply_columns(context, plain, prompt_batches(context, rows))
    assert columns["refused"] == expected(context, "forbidden")[0].tolist()
    assert max(np.array(columns["refused"]) + np.array(columns["correct"])) == 1


def test_a_word_of_several_tokens_cannot_withhold(context: MeasurementContext) -> None:
    """Its first token alone would say too little."""
    prompt = Prompt("count a null SOT a EOT ART", {}, "1", withheld_by=("2 3",))
    with pytest.raises(MeasurementError, match="'2 3', which withholds an answer, with 2 tokens"):
        withheld_ids(context, prompt)


def test_there_is_no_direction_of_refusing_where_each_prompt_has_its_own_refusals(
    context: MeasurementContext,
) -> None:
    """The claim is refused when the spec is read."""
    claim = Direction(kind="direction", on="ft", ablation_leaves_at_most=0.1)
    assert "differs from prompt to prompt" in (claim.unsupported_reason(context.task) or "")
