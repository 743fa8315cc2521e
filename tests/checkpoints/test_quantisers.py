"""Folders with quantised weights: which libraries may read them, and what the config may ask of these."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints import quantisers
from pytest_mechanism.checkpoints.fingerprint import fingerprint
from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.checkpoints.quantisers import quantiser, quantiser_problem
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.engine import selfcheck
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MechanismError

BASE = ZOO / "ft"
IDS = [2, 7, 13, 3, 14, 13]


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every library were installed."""
    monkeypatch.setattr(quantisers.importlib.util, "find_spec", lambda _: object())


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
        (None, None),
    ],
)
def test_a_config_says_how_its_weights_are_quantised(entry: Any, kind: str | None) -> None:
    """For doctor and for errors."""
    assert quantiser({"quantization_config": entry}) == kind


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    "entry",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"load_in_4bit": True},
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
        {"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*mlp.gate$"]},
    ],
)
def test_three_libraries_are_accepted(entry: dict[str, Any]) -> None:
    """With what their own tools write."""
    assert quantiser_problem("quantization_config", entry, TRUST_NOTHING) is None


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"quant_method": "gptq"},
            "asks for 'gptq', for which transformers imports or fetches more code; save the weights "
            "unquantised, or quantised by one of bitsandbytes, compressed-tensors, torchao",
        ),
        ("a text", "asks for 'a text'"),
        ({"quant_method": ["torchao"]}, "asks for"),
        (
            {"quant_method": "torchao", "quant_type": {"a": [{"_type": "quantize_", "_data": {}}]}},
            "names 'quantize_', which is no class of torchao",
        ),
        (
            {"quant_method": "torchao", "quant_type": {"_type": "os.system"}},
            "names 'os.system', which is no class of torchao",
        ),
        (
            {"quant_method": "compressed-tensors", "ignore": ["re:(.*)*x"]},
            "has the pattern 're:(.*)*x', which may take for ever",
        ),
        (
            {"quant_method": "compressed-tensors", "ignore": ["re:" + ".*" * 9 + "x"]},
            "at most 6 repetitions",
        ),
    ],
)
def test_what_reaches_beyond_the_weights_is_refused(entry: Any, message: str) -> None:
    """In one line, unless the user trusts the checkpoint's code."""
    assert message in str(quantiser_problem("quantization_config", entry, TRUST_NOTHING))
    trusting = Trust(remote_code=True)
    assert quantiser_problem("quantization_config", entry, trusting) is None


@pytest.mark.parametrize("library", ["bitsandbytes", "compressed-tensors", "torchao"])
def test_a_library_that_is_missing_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(quantisers.importlib.util, "find_spec", lambda _: None)
    assert quantiser_problem("x", {"quant_method": library}, TRUST_NOTHING) == (
        f"its weights are quantised by {library}, which is not installed: pip install {library}"
    )


# -- with the libraries, which .ci/run installs for this file


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    shutil.copy(BASE / "tokenizer.json", folder)
    return folder


def torchao(folder: Path) -> Path:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    return save(plain(quantization_config=config), folder)


def bitsandbytes(folder: Path) -> Path:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    return save(plain(quantization_config=config, device_map={"": "cpu"}), folder)


def compressed_tensors(folder: Path) -> Path:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    weights = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    config = QuantizationConfig(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        quantization_status="frozen",
    )
    model = plain()
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data = module.weight.data.abs().amax(1, keepdim=True) / 127
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save(model, folder)
    compressor.update_config(folder)
    return folder


def plain(**arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, **arguments)


MAKERS = {
    "torchao": torchao,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": compressed_tensors,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", MAKERS)
def test_quantised_weights_are_measured_and_not_trained(library: str, tmp_path: Path) -> None:
    """Logits near those of the full weights and equal under hooks; training is one line; the library's
    version is part of every key."""
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        pytest.skip(f"{library} is not installed; .ci/run installs it and runs this file again")
    folder = MAKERS[library](tmp_path / "quantised")
    kind = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    assert (kind, fingerprint(folder).library) == (library, library)
    full = load_model("base", BASE, "cpu", "float32", lambda _: IDS)
    model = load_model("ft", folder, "cpu", "float32", lambda _: IDS)
    gap = (model.plain_logits - full.plain_logits).abs().mean() / full.plain_logits.std()
    assert 0 < gap.item() < 0.1
    with torch.no_grad():
        wrapped = model.wrapped.forward(torch.tensor([IDS])).float()
    torch.testing.assert_close(wrapped, model.plain_logits, rtol=0, atol=1e-5)
    with pytest.raises(MechanismError, match="quantised weights cannot be trained, pruned or"):
        model.read_plain_model(torch.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_weights_that_are_quantised_on_loading_pass_the_self_checks(bits: str) -> None:
    """``--mechanism-quantize``: logits near those of the full weights, and a row's numbers hang on no other row."""
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed; .ci/run installs it and runs this file again")
    full = load_model("base", BASE, "cpu", "float32", lambda _: IDS)
    model = load_model("ft", BASE, "cpu", "float32", lambda _: IDS, quantize=bits)
    gap = (model.plain_logits - full.plain_logits).abs().mean() / full.plain_logits.std()
    assert 0 < gap.item() < 0.2
    rows = torch.tensor([[*IDS, *IDS], [*IDS, *[0] * len(IDS)]])
    tokens = Tokens(rows, torch.tensor([2 * len(IDS), len(IDS)]))
    assert selfcheck.check(model, ReferenceEngine(model.wrapped), tokens, tokens) is None
