"""Each self-check fails when the property that it guards is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.engine import interface, reference, selfcheck
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import SelfCheckError

CLEAN = Tokens(torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]]), torch.tensor([4, 3]))
OTHER = Tokens(torch.tensor([[50, 60, 70], [90, 100, 110]]), torch.tensor([3, 3]))


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> LoadedModel:
    return load_model("ft", tiny("llama"), "cpu", "float32", lambda _: [5, 6, 7])


def check(model: LoadedModel) -> None:
    selfcheck.check(model, ReferenceEngine(model.wrapped), CLEAN, OTHER)


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "qwen3", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_sound_models_pass(tiny: Callable[[str], Path], family: str, dtype: str) -> None:
    """No self-check fails on a sound model, in any dtype."""
    model = load_model("base", tiny(family), "cpu", dtype, lambda _: [5, 6, 7])
    assert check(model) is None


def test_logits_that_wrapping_changed_are_noticed(model: LoadedModel) -> None:
    """Check 1: the wrapped model must say what plain Hugging Face says."""
    model.plain_logits = model.plain_logits + torch.randn_like(model.plain_logits) * 0.1
    with pytest.raises(SelfCheckError, match="differ from plain Hugging Face's"):
        check(model)


def test_a_part_of_a_layer_that_is_not_all_of_it_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 2: were attn_out another activation, the residual would not add up."""
    monkeypatch.setitem(interface.HOOKS, "attn_out", "blocks.{layer}.hook_mlp_out")
    with pytest.raises(SelfCheckError, match=r"resid_pre \+ attn_out \+ mlp_out of layer 0"):
        check(model)


def test_patching_with_self_that_changes_something_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 3: heads put back in another order."""
    right = reference.edited

    def wrong(activation: Any, edit: Any) -> Any:
        new = right(activation, edit)
        return new.flip(2) if edit.site.part == "z" else new

    monkeypatch.setattr(reference, "edited", wrong)
    with pytest.raises(SelfCheckError, match="patched with the run's own z"):
        check(model)


def test_an_edit_at_the_wrong_position_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 4: the last residual must carry the answer, so it must land where that is read."""
    monkeypatch.setattr(Tokens, "last", property(lambda self: self.lengths * 0))
    right = ReferenceEngine.forward

    def forward(self: Any, tokens: Any, edits: Any, readings: Any, *more: Any) -> Any:
        outcome = right(self, tokens, edits, readings)
        logits = self.model.forward(tokens.ids)
        return outcome if edits else type(outcome)(logits[:, 1].float(), outcome.readings)

    monkeypatch.setattr(ReferenceEngine, "forward", forward)
    with pytest.raises(SelfCheckError, match="another prompt's last residual"):
        selfcheck.last_residual_carries_the_answer(
            model, ReferenceEngine(model.wrapped), CLEAN, OTHER, 1e-3
        )


def test_a_hook_that_does_not_fire_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 5: an edit whose hook never fires would be lost without a word."""
    right = model.wrapped.bridge.run_with_hooks

    def deaf(*args: Any, fwd_hooks: Any = (), **kwargs: Any) -> Any:
        return right(
            *args, fwd_hooks=[h for h in fwd_hooks if "layer_that_is_deaf" in h[0]], **kwargs
        )

    monkeypatch.setattr(model.wrapped.bridge, "run_with_hooks", deaf)
    with pytest.raises(SelfCheckError, match="fired 0 times"):
        check(model)


def test_a_hook_that_fires_twice_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 5: an edit made twice mixes its share twice."""
    right = model.wrapped.bridge.run_with_hooks

    def twice(*args: Any, fwd_hooks: Any = (), **kwargs: Any) -> Any:
        return right(*args, fwd_hooks=[*fwd_hooks, *fwd_hooks], **kwargs)

    monkeypatch.setattr(model.wrapped.bridge, "run_with_hooks", twice)
    with pytest.raises(SelfCheckError, match="fired 2 times"):
        check(model)


def test_logits_that_are_not_numbers_are_noticed(model: LoadedModel) -> None:
    """A comparison with NaN is a failure, not a pass."""
    model.plain_logits = model.plain_logits * float("nan")
    with pytest.raises(SelfCheckError):
        check(model)
