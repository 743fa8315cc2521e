"""The reference engine against plain Hugging Face with plain torch hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine, edited

FAMILIES = ("llama", "llama-gqa", "qwen3", "gpt2")
HEADS, LAYERS = 4, 3


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> tuple[LoadedModel, Any]:
    """A wrapped model and the same weights as plain Hugging Face."""
    from transformers import AutoModelForCausalLM

    folder = tiny(request.param)
    model = load_model("base", folder, "cpu", "float64", lambda _: [1, 2, 3])
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    return model, plain


def random_tokens(seed: int, lengths: list[int]) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (len(lengths), max(lengths)), generator=generator)
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    return Tokens(ids, torch.tensor(lengths))


def output_projection(plain: Any, layer: int) -> torch.nn.Module:
    """The module whose input is z of all heads, flattened."""
    if hasattr(plain, "transformer"):
        return plain.transformer.h[layer].attn.c_proj
    return plain.model.layers[layer].self_attn.o_proj


@cache
def width(plain: Any) -> int:
    projection = output_projection(plain, 0)
    return int(projection.weight.shape[0 if hasattr(plain, "transformer") else 1]) // HEADS


def plain_logits(plain: Any, tokens: Tokens, patch: dict[int, Callable[[Any], Any]]) -> Any:
    """Logits at the last tokens with z of some layers changed by torch pre-hooks."""
    handles = []
    for layer, change in patch.items():

        def hook(_: Any, args: tuple[Any, ...], change: Callable[[Any], Any] = change) -> Any:
            z = args[0].clone().view(*args[0].shape[:2], HEADS, -1)
            return (change(z).flatten(2), *args[1:])

        handles.append(output_projection(plain, layer).register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            logits = plain(tokens.ids, attention_mask=tokens.mask).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[torch.arange(len(tokens.lengths)), tokens.last]


lengths = st.lists(st.integers(2, 12), min_size=1, max_size=3)
seeds = st.integers(0, 2**20)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, lengths=lengths)
def test_a_run_without_edits_is_the_plain_model(
    pair: tuple[LoadedModel, Any], seed: int, lengths: list[int]
) -> None:
    """Logits at each row's last token equal plain Hugging Face's, padded or not."""
    model, plain = pair
    tokens = random_tokens(seed, lengths)
    result = ReferenceEngine(model.wrapped).run(tokens).outcome.logits.double()
    torch.testing.assert_close(result, plain_logits(plain, tokens, {}), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=seeds, lengths=lengths, layer=st.integers(0, LAYERS - 1))
def test_an_edit_of_z_is_what_a_torch_hook_on_the_projection_does(
    pair: tuple[LoadedModel, Any], data: st.DataObject, seed: int, lengths: list[int], layer: int
) -> None:
    """Any heads at any positions of any rows, replaced or mixed with a share of the old value."""
    model, plain = pair
    tokens = random_tokens(seed, lengths)
    rows = len(lengths)
    heads = tuple(data.draw(st.lists(st.integers(0, HEADS - 1), min_size=1, unique=True)))
    at = torch.tensor([[data.draw(st.integers(0, n - 1))] for n in lengths])
    keep = data.draw(st.sampled_from([None, 0.0, 0.25, 1.0]))
    generator = torch.Generator().manual_seed(seed + 1)
    value = torch.randn(rows, 1, len(heads), width(plain), generator=generator, dtype=torch.float64)

    def change(z: Any) -> Any:
        for row in range(rows):
            for i, head in enumerate(heads):
                share = 0.0 if keep is None else keep
                place = z[row, at[row, 0], head]
                z[row, at[row, 0], head] = share * place + (1 - share) * value[row, 0, i]
        return z

    edit = Edit(
        Site(layer, "z"),
        value,
        at=at,
        heads=heads,
        keep=None if keep is None else torch.full((1,), keep, dtype=torch.float64),
    )
    (result,) = ReferenceEngine(model.wrapped).run(tokens).branches([Branch([edit])])
    wanted = plain_logits(plain, tokens, {layer: change})
    torch.testing.assert_close(result.logits.double(), wanted, rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, lengths=lengths)
def test_a_branch_is_a_run_with_both_sets_of_edits(
    pair: tuple[LoadedModel, Any], seed: int, lengths: list[int]
) -> None:
    """The run's edits hold in its branches too, and several branches do not disturb each other."""
    model, plain = pair
    tokens = random_tokens(seed, lengths)
    engine = ReferenceEngine(model.wrapped)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 1, 1, 1, width(plain), generator=generator, dtype=torch.float64)
    first, second, third = (
        Edit(Site(layer, "z"), value, at=tokens.last[:, None], heads=(layer,))
        for layer, value in enumerate(values)
    )
    result = [
        o.logits for o in engine.run(tokens, [first]).branches([Branch([second]), Branch([third])])
    ]
    wanted = [engine.run(tokens, [first, edit]).outcome.logits for edit in (second, third)]
    torch.testing.assert_close(torch.stack(result), torch.stack(wanted), rtol=0, atol=0)


def test_readings_come_after_edits_and_are_copies(pair: tuple[LoadedModel, Any]) -> None:
    """A reading shows the edited value; changing it later changes no other reading."""
    model, _ = pair
    tokens = random_tokens(0, [5, 7])
    site = Site(1, "z")
    value = torch.zeros(1, dtype=torch.float64)
    run = ReferenceEngine(model.wrapped).run(
        tokens,
        [Edit(site, value, at=tokens.last[:, None], heads=(2,))],
        [Reading(site, tokens.last[:, None]), Reading(site, tokens.last[:, None], (2,))],
    )
    whole, edited = run.outcome.readings
    assert whole.shape[:3] == (2, 1, HEADS)
    assert float(edited.abs().max()) == 0.0
    assert float(whole[:, :, :2].abs().min()) > 0.0
    whole.zero_()
    assert float(run.outcome.readings[1].abs().max()) == 0.0


def test_gradients_of_a_mask_match_finite_differences(pair: tuple[LoadedModel, Any]) -> None:
    """What DCM learns from: the gradient of the loss in each head's share of the old value."""
    model, plain = pair
    tokens = random_tokens(3, [6, 6])
    run = ReferenceEngine(model.wrapped).run(tokens)
    value = torch.randn(2, 1, HEADS, width(plain), dtype=torch.float64)
    weights = torch.randn(256, dtype=torch.float64)

    def loss(mask: Any, gradients: bool) -> Any:
        edit = Edit(Site(1, "z"), value, at=tokens.last[:, None], keep=mask[None, None, :, None])
        (outcome,) = run.branches([Branch([edit])], gradients=gradients)
        return (outcome.logits.double() * weights).mean()

    mask = torch.full((HEADS,), 0.6, dtype=torch.float64, requires_grad=True)
    loss(mask, gradients=True).backward()
    step = 1e-3
    for head in range(HEADS):
        shift = torch.zeros(HEADS, dtype=torch.float64)
        shift[head] = step
        with torch.no_grad():
            slope = (loss(mask + shift, False) - loss(mask - shift, False)) / (2 * step)
        assert mask.grad is not None
        assert float(mask.grad[head]) == pytest.approx(float(slope), rel=1e-2, abs=1e-4)


def test_weights_get_no_gradient(pair: tuple[LoadedModel, Any]) -> None:
    """Every weight is frozen after wrapping, those that wrapping adds included."""
    model, _ = pair
    assert [n for n, p in model.wrapped.bridge.named_parameters() if p.requires_grad] == []


def test_positions_repeated_for_padding_are_edited_once(pair: tuple[LoadedModel, Any]) -> None:
    """A row with fewer places repeats its last one, which gives the same as naming it once."""
    activation = torch.randn(2, 6, HEADS, 3)
    value = torch.randn(2, 1, 1, 3)
    once = edited(activation, Edit(Site(0, "z"), value, at=torch.tensor([[1], [4]]), heads=(1,)))
    twice = edited(
        activation, Edit(Site(0, "z"), value, at=torch.tensor([[1, 1], [4, 4]]), heads=(1,))
    )
    torch.testing.assert_close(once, twice, rtol=0, atol=0)


@pytest.mark.parametrize(
    "part", ["q", "k", "v", "z", "attn_out", "mlp_out", "resid_pre", "resid_post"]
)
def test_every_part_can_be_read_and_patched_with_itself(
    pair: tuple[LoadedModel, Any], part: Any
) -> None:
    """Reading a part and putting it back changes no logit, in every layer."""
    model, _ = pair
    tokens = random_tokens(5, [4, 8])
    engine = ReferenceEngine(model.wrapped)
    sites = [Site(layer, part) for layer in range(LAYERS)]
    run = engine.run(tokens, readings=[Reading(site) for site in sites])
    edits = [Edit(site, value) for site, value in zip(sites, run.outcome.readings, strict=True)]
    (again,) = run.branches([Branch(edits)])
    torch.testing.assert_close(again.logits, run.outcome.logits, rtol=0, atol=1e-6)
