"""The refusal direction: removed exactly, found where it exists, and not found where it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.checkpoints.loading.weights import read_weights
from pytest_mechanism.errors import MeasurementError, SelfCheckError
from pytest_mechanism.measurements.direction import (
    DirectionAblation,
    DirectionComparison,
    RefusalDirection,
)
from pytest_mechanism.methods.circuits.projection import DirectionHooks
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal import direction
from pytest_mechanism.methods.refusal.refusal_score import HookedModel

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
SEARCH = {"learn": 128, "validate_on": 32, "kl_at_most": 0.1}
JUDGED = {"rows": 100, "stream": "rows", "random": 3, "seed": 0}

ContextFactory = Callable[[str], MeasurementContext]


def means(observations: Any) -> dict[str, float]:
    return {name: float(np.mean(column)) for name, column in observations.values.items()}


# -- taking a direction out

WIDTH = 32


def save_random(family: str, folder: Path) -> Path:
    """Random weights of a family, with a tokenizer that is not used."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if family == "gpt2":
        gpt2 = GPT2Config(vocab_size=163, n_embd=WIDTH, n_layer=3, n_head=4, initializer_range=0.3)
        model = GPT2LMHeadModel(gpt2)
    else:
        llama = LlamaConfig(
            vocab_size=163,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
        model = LlamaForCausalLM(llama)
    model.save_pretrained(folder)
    shutil.copy(ZOO / "base" / "tokenizer.json", folder)
    return folder


def orthogonalised(model: Any, family: str, unit: torch.Tensor) -> None:
    """W <- W - r r^T W for every matrix that writes to the residual stream (Arditi et al., eq. 5)."""
    keep = torch.eye(len(unit), dtype=unit.dtype) - torch.outer(unit, unit)
    inner = model.transformer if family == "gpt2" else model.model
    with torch.no_grad():
        if family == "gpt2":
            for table in (inner.wte, inner.wpe):
                table.weight.copy_(table.weight @ keep)
            for block in inner.h:
                for out in (block.attn.c_proj, block.mlp.c_proj):  # Conv1D: [in, out]
                    out.weight.copy_(out.weight @ keep)
                    out.bias.copy_(out.bias @ keep)
            return
        inner.embed_tokens.weight.copy_(inner.embed_tokens.weight @ keep)
        for layer in inner.layers:
            for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
                out.weight.copy_(keep @ out.weight)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_hooks_do_what_orthogonal_weights_do(family: str, tmp_path: Path) -> None:
    """The paper's two ways give the same logits, on plain Hugging Face weights."""
    folder = save_random(family, tmp_path / family)
    model = load_model("base", folder, "cpu", "float32", lambda _: [5, 6, 7])
    vector = torch.from_numpy(np.random.default_rng(0).standard_normal(WIDTH))
    plain = read_weights(folder, torch.float64).eval()
    if family == "gpt2":  # tied: what is read must stay
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
    ids = torch.randint(0, 160, (3, 9), generator=torch.Generator().manual_seed(0))
    before = plain(ids).logits[:, -1]
    orthogonalised(plain, family, vector / vector.norm())
    expected = plain(ids).logits[:, -1]
    without = DirectionHooks(vector, model.shape.n_layers)
    context = Mock(spec=MeasurementContext, model=model)
    logits = HookedModel(context, without.hooks)(ids, torch.ones_like(ids)).logits
    without.check(1, torch.float32)
    torch.testing.assert_close(logits[:, -1].double(), expected, atol=2e-4, rtol=1e-4)
    assert float((expected - before).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("dropped", "wanted"), [("hook_mlp_out", "came back"), ("hook_attn_out", "came back")]
)
def test_a_write_that_no_hook_reaches_is_seen(
    chat_context_of: ContextFactory, dropped: str, wanted: str
) -> None:
    """A layer that writes to the stream by another way brings the direction back."""
    context = chat_context_of("refusal_base")
    search = direction.find(context, RefusalDirection(**SEARCH), [])
    without = DirectionHooks(search.vector, context.model.shape.n_layers)
    some = [(name, hook) for name, hook in without.hooks if not name.endswith(dropped)]
    rows = context.task.forbidden(context.vocabulary, 8, "rows")
    hooked_forward(context, rows, some)
    without.fired |= {name: 1 for name, _ in without.hooks}
    with pytest.raises(SelfCheckError, match=wanted):
        without.check(1, torch.float32)


def test_a_hook_that_does_not_fire_is_seen(chat_context_of: ContextFactory) -> None:
    context = chat_context_of("refusal_base")
    without = DirectionHooks(torch.ones(context.model.shape.d_model), context.model.shape.n_layers)
    rows = context.task.forbidden(context.vocabulary, 8, "rows")
    hooked_forward(context, rows, without.hooks[1:])
    with pytest.raises(SelfCheckError, match="fired 0 times in 1 forwards"):
        without.check(1, torch.float32)


def hooked_forward(context: MeasurementContext, rows: Any, hooks: Any) -> None:
    """One forward under hooks."""
    tokens = context.side([row.base for row in rows]).tokens
    HookedModel(context, hooks)(tokens.ids, tokens.mask_for(context.model.wrapped.plain))


# -- finding it


def test_the_direction_is_the_difference_of_means_of_plain_activations(
    chat_context_of: ContextFactory,
) -> None:
    """Equal to that of Hugging Face's own hidden states at the chosen layer and token."""
    context = chat_context_of("refusal_base")
    search = direction.find(context, RefusalDirection(**SEARCH), [])
    assert search.best is not None
    plain = read_weights(context.model.folder, torch.float32).eval()
    result = []
    for rows in direction.balanced_instructions(context, SEARCH["learn"], "direction"):
        total = torch.zeros(context.model.shape.d_model, dtype=torch.float64)
        for row in rows:
            ids = torch.tensor([context.model.encoder.encode(row.base).ids])
            hidden = plain(ids, output_hidden_states=True).hidden_states[search.best.layer + 1]
            total += hidden[0, search.best.place].double()
        result.append(total / len(rows))
    torch.testing.assert_close(search.vector, result[0] - result[1], atol=1e-4, rtol=1e-4)


def test_every_token_after_the_instruction_is_tried_in_the_first_layers(
    chat_context_of: ContextFactory,
) -> None:
    """Two tokens of the template, three of four layers; the chosen one spares harmless replies."""
    search = direction.find(chat_context_of("refusal_base"), RefusalDirection(**SEARCH), [])
    assert {(candidate.layer, candidate.place) for candidate in search.candidates} == {
        (layer, place) for layer in range(3) for place in (-2, -1)
    }
    assert search.best is not None
    assert search.best.divergence <= SEARCH["kl_at_most"]
    assert search.best.score == min(
        candidate.score
        for candidate in search.candidates
        if candidate.divergence <= SEARCH["kl_at_most"]
    )


@pytest.mark.parametrize("name", ["refusal_base", "refusal_ft"])
def test_the_embedded_pair_refuses_by_one_direction(
    chat_context_of: ContextFactory, name: str
) -> None:
    """Held-out instructions: at least 95 in 100 refused, at most 10 without it, and no random
    direction changes more than 5."""
    result = means(
        direction.measure(chat_context_of(name), DirectionAblation(search=SEARCH, **JUDGED), [])
    )
    assert result["refused"] >= 0.95
    assert result["without_refused"] <= 0.1
    for i in range(3):
        assert abs(result[f"random_{i}_refused"] - result["refused"]) <= 0.05
    assert result["without_refusal_score"] < result["refusal_score"] - 5


def test_the_release_s_direction_works_in_the_fine_tune(chat_context_of: ContextFactory) -> None:
    """Taken out of refusal_ft, that of refusal_base leaves at most 10 in 100; they are one."""
    search = direction.find(chat_context_of("refusal_base"), RefusalDirection(**SEARCH), [])
    ft = chat_context_of("refusal_ft")
    result = means(direction.measure(ft, DirectionAblation(search=None, **JUDGED), [search]))
    assert result["without_refused"] <= 0.1
    observed = direction.compare(ft, DirectionComparison(learn=SEARCH["learn"]), [search])
    n = len(observed.example_ids)
    own, other, both = (
        sum(float(np.sum(observed.values[f"{name}_{j}"])) for j in range(n))
        for name in ("own", "other", "both")
    )
    assert both / np.sqrt(own * other) > 0.9


@pytest.mark.parametrize("task", ["refusal", "counting"])
def test_the_announced_cost_is_close_to_the_rows_that_run(
    chat_context_of: ContextFactory, counting_context: MeasurementContext, task: str
) -> None:
    """Within a quarter; candidates are fewer where the last layers have none."""
    context = chat_context_of("refusal_base") if task == "refusal" else counting_context
    settings = context.task.settings.model_dump(mode="json")
    request = DirectionAblation(search=SEARCH | {"learn": 20, "validate_on": 10}, **JUDGED)
    rows: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.engine, "tick", rows.append)
        direction.measure(context, request, [])
    announced = request.cost(settings).rows_with(context.model.shape.n_layers)
    assert announced == pytest.approx(sum(rows), rel=0.25)


def test_where_nothing_may_change_no_direction_is_chosen(chat_context_of: ContextFactory) -> None:
    """Then nothing is taken out, and the result says how near the best came."""
    context = chat_context_of("refusal_base")
    result = direction.measure(
        context,
        DirectionAblation(search=SEARCH | {"kl_at_most": 1e-12}, **(JUDGED | {"rows": 20})),
        [],
    )
    assert result.direction is None
    assert result.least_divergence > 1e-12
    assert "without_refused" not in result.values


def test_random_weights_refuse_nothing_and_lose_nothing(
    counting_context: MeasurementContext,
) -> None:
    """Null test: no direction removes a refusal that does not exist. For a task whose prompts do not mark the
    end of the instruction, the method reads the last token."""
    context = counting_context
    search = direction.find(context, RefusalDirection(**SEARCH), [])
    assert {candidate.place for candidate in search.candidates} == {-1}
    result = means(direction.measure(context, DirectionAblation(search=SEARCH, **JUDGED), []))
    assert result["refused"] <= 0.1
    assert result.get("without_refused", 0) <= 0.1


def test_a_direction_of_another_width_cannot_be_taken_out(
    chat_context_of: ContextFactory, counting_context: MeasurementContext
) -> None:
    search = direction.find(chat_context_of("refusal_base"), RefusalDirection(**SEARCH), [])
    with pytest.raises(MeasurementError, match="cannot be ablated there"):
        direction.measure(counting_context, DirectionAblation(search=None, **JUDGED), [search])


def test_models_that_were_asked_other_instructions_are_not_compared(
    chat_context_of: ContextFactory,
) -> None:
    search = direction.find(chat_context_of("refusal_base"), RefusalDirection(**SEARCH), [])
    with pytest.raises(MeasurementError, match="different rows"):
        direction.compare(
            chat_context_of("refusal_ft"),
            DirectionComparison(learn=SEARCH["learn"]),
            [replace(search, rows=search.rows[::-1])],
        )
