"""Weights that are spread, kept on disk, or quantised."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from opening import opened
from small_requests import PATCHED, ROWS, WEIGHED
from test_matrix import extra_fields, largest_difference, measured

from pytest_mechanism.checkpoints import quantisers
from pytest_mechanism.checkpoints.loading import placement
from pytest_mechanism.errors import MeasurementError, MechanismError
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits.grafting import check_sizes
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.settings.model_options import ModelOptions

ContextFactory = Callable[..., MeasurementContext]

BLOCKS = {"gpt2": "transformer.h", "neox": "gpt_neox.layers"}
ENDS = {
    "gpt2": ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"),
    "neox": ("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "gpt_neox.rotary_emb", "lm_head"),
}
OTHERS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")


def on_disk(name: str) -> dict[str, str]:
    """The last layer on disk, all else in memory."""
    blocks = BLOCKS.get(name, "model.layers")
    ends = dict.fromkeys(ENDS.get(name, OTHERS), "cpu")
    return {**ends, f"{blocks}.0": "cpu", f"{blocks}.1": "disk"}


def test_on_one_device_spread_is_that_device(
    context_of: ContextFactory, folder: Callable[..., Path]
) -> None:
    """Where all weights fit, nothing is offloaded, every score is the same, and weights may be
    changed."""
    plain, auto = context_of("llama3"), opened(folder("llama3"), device="spread")
    assert auto.engine.name == "branch"
    for method in ("circuit, zero", "path through v"):
        assert (
            largest_difference(measured(auto, PATCHED[method]), measured(plain, PATCHED[method]))
            < 1e-5
        )
    for method in ("pruning, heads", "curve"):
        result, wanted = (measured(context, WEIGHED[method]) for context in (auto, plain))
        assert extra_fields(result) == extra_fields(wanted)


@pytest.mark.parametrize(
    "name",
    [
        "llama3",
        "gpt2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gemma2", "neox", "mixtral")),
    ],
)
def test_layers_that_do_not_fit_are_read_from_disk(
    context_of: ContextFactory,
    folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """With the same scores, by the fast engine too; what changes weights says that it cannot."""
    monkeypatch.setattr(placement, "LAYOUT", on_disk(name))
    context = opened(folder(name), device="spread")
    assert placement.offloaded(context.model.wrapped)
    assert context.engine.name == "branch"
    plain = context_of(name)
    for method in ("path to the logits", "circuit, positional mean", "path through q", "screen"):
        assert (
            largest_difference(measured(context, PATCHED[method]), measured(plain, PATCHED[method]))
            < 1e-4
        )
    for request in (WEIGHED["pruning, heads"], WEIGHED["curve"]):
        with pytest.raises(MechanismError, match="weights that do not fit into memory"):
            measured(context, request)
    given = {"layer 1": [*plain.model.wrapped.layers[1].module.parameters()]}
    with pytest.raises(MeasurementError, match="weights of layer 1 do not fit into memory"):
        check_sizes(context, given, {1: {}})
    kept = Path(context.model.placement.disk)
    assert kept.is_dir()
    context.model.release()
    del context
    import gc

    gc.collect()
    assert not kept.exists()


def test_weights_of_few_bits_need_a_library_and_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(MechanismError, match="pip install bitsandbytes"):
        ModelOptions(quantize="8bit")
    with pytest.raises(MechanismError, match=r"'2bit'; .*valid: 4bit, 8bit"):
        ModelOptions(quantize="2bit")


def test_a_quantised_checkpoint_without_its_library_is_one_line(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the library that is missing, or the kind of quantisation that is not supported."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        quantisers.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "bitsandbytes" else find(name, *more),
    )
    for file in folder("llama3").iterdir():
        os.link(file, tmp_path / file.name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    for settings, text in (
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "pip install bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "quantization_config in config.json asks for 'awq'"),
    ):
        config["quantization_config"] = settings
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(MechanismError) as problem:
            opened(tmp_path)
        assert text in str(problem.value)
        assert "\n" not in str(problem.value)


def test_quantised_weights_are_not_changed(
    context_of: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is quantised is no copy to train or prune, and its bytes are not its dtype."""
    context = context_of("llama3")
    right = placement.Placement.arguments
    monkeypatch.setattr(type(context.model.wrapped.plain), "is_quantized", True, raising=False)
    with pytest.raises(MechanismError, match="quantised weights cannot be trained"):
        context.model.read_plain_model(torch.float32)
    assert right(placement.Placement()) == {}


def test_bits_are_asked_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With where the weights go; layers may be spread at the same time."""
    here = placement.Placement(quantize="4bit", device="cuda:1").arguments()
    assert here["device_map"] == {"": "cuda:1"}
    assert here["quantization_config"].load_in_4bit
    assert not here["quantization_config"].load_in_8bit
    spread = placement.Placement(spread=True, quantize="8bit").arguments()
    assert spread["device_map"] == "auto"
    assert spread["quantization_config"].load_in_8bit


def test_accelerate_knows_where_families_may_be_cut(
    context_of: ContextFactory, folder: Callable[..., Path]
) -> None:
    """A layout of its own making, on the device that there is."""
    for name in ("llama2", "gemma3", "olmo2", "gpt-oss"):
        auto = opened(folder(name), device="spread")
        assert not placement.offloaded(auto.model.wrapped)
        result, wanted = (measured(b, Performance(**ROWS)) for b in (auto, context_of(name)))
        assert largest_difference(result, wanted) < 1e-4
