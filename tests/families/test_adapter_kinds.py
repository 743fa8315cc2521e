"""A base with an adapter gives the same logits as PEFT's unmerged model, for every kind of adapter."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import LONGEST, WORDS, random_model, save
from opening import opened
from peft import LoHaConfig, LoraConfig, get_peft_model
from small_requests import WEIGHED
from test_matrix import measured

from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.errors import MechanismError
from recipes.word_level import save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about what is tied

TIED = {"tie_word_embeddings": True}
QV = {"target_modules": ["q_proj", "v_proj"]}
NEW = 3
"""Words that an adapter may bring."""

KINDS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    # name -> family, settings of the base, settings of the adapter
    "output, tied": ("llama3", TIED, {"target_modules": ["lm_head", "q_proj"]}),
    "embedding, tied": ("llama3", TIED, {"target_modules": ["embed_tokens", "q_proj"]}),
    "both, tied": ("llama3", TIED, {"target_modules": ["embed_tokens", "lm_head"]}),
    "both, tied in the adapter": (
        "llama3", TIED, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "output, tied, GPT-2": (
        "gpt2", TIED, {"target_modules": ["lm_head", "c_attn"], "fan_in_fan_out": True},
    ),
    "saved output, tied": ("llama3", TIED, {**QV, "modules_to_save": ["lm_head"]}),
    "saved embedding, tied": ("llama3", TIED, {**QV, "modules_to_save": ["embed_tokens"]}),
    "some tokens, tied": ("llama3", TIED, {**QV, "trainable_token_indices": [7, 13]}),
    "output with DoRA, tied": (
        "llama3", TIED, {"target_modules": ["lm_head", "q_proj"], "use_dora": True},
    ),
    "layers repeated": ("llama3", {}, {**QV, "layer_replication": [[0, 2], [0, 1], [1, 2]]}),
    "ranks and scales of their own": (
        "llama3", {}, {
            **QV, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3},
        },
    ),
    "biases": ("qwen2", {}, {**QV, "bias": "all"}),
    "experts in one tensor": (
        "mixtral", {}, {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ),
    "fused and transposed": (
        "gpt2", {}, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    ),
    "LoHa": ("llama3", {}, {"loha": True, "target_modules": ["q_proj", "down_proj"]}),
}  # fmt: skip


def make_adapter(
    folder: Path, kind: str | tuple[str, Mapping[str, Any], Mapping[str, Any]], **how: Any
) -> Any:
    """Folders ``base`` and ``adapter``; returns the model as PEFT runs it."""
    family, settings, adapter = KINDS[kind] if isinstance(kind, str) else kind
    more, std = how.get("words", 0), how.get("std", 0.1)
    save(random_model(family, **settings), folder / "base")
    model = random_model(family, **settings)
    if more:
        torch.manual_seed(2)
        model.resize_token_embeddings(len(WORDS) + more)
    settings_of_adapter = {k: v for k, v in adapter.items() if k != "loha"}
    config = LoHaConfig if "loha" in adapter else LoraConfig
    live = get_peft_model(model, config(r=4, task_type="CAUSAL_LM", **settings_of_adapter))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.add_(std * torch.randn_like(parameter))
    live.save_pretrained(folder / "adapter", save_embedding_layers=True if more else "auto")
    if more:
        new = {f"new{i}": len(WORDS) + i for i in range(more)}
        save_tokenizer(folder / "adapter", {**WORDS, **new}, LONGEST)
    return live.eval()


def read(folder: Path, dtype: str = "float32", last: int = 4) -> LoadedModel:
    own = folder / "adapter" if (folder / "adapter" / "tokenizer.json").exists() else None
    ids = [2, 7, 13, 3, 14, 13, 5, last]
    return load_model("ft", folder / "base", "cpu", dtype, lambda _: ids, folder / "adapter", own)


@torch.no_grad()
def logits_of(model: Any, loaded: LoadedModel) -> torch.Tensor:
    return model(loaded.probe).logits.float()


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_says_what_it_says_beside_its_base(tmp_path: Path, kind: str) -> None:
    """The plain model, the wrapped model and a copy that is read again for training agree with PEFT, and
    differ from the base."""
    live = make_adapter(tmp_path, kind)
    loaded = read(tmp_path)
    wanted = logits_of(live, loaded)
    assert loaded.unmerged == ""
    with live.disable_adapter():
        assert (logits_of(live, loaded) - wanted).std() > 0.05 * wanted.std()
    wrapped = loaded.wrapped.forward(loaded.probe)
    for result in (
        loaded.plain_logits,
        wrapped,
        logits_of(loaded.read_plain_model(torch.float32), loaded),
    ):
        torch.testing.assert_close(result, wanted, atol=2e-4, rtol=1e-4)
    assert loaded.shape.n_layers == len(loaded.wrapped.layers)


TOKENS = {**QV, "trainable_token_indices": [len(WORDS) + i for i in range(NEW)]}
SAVED = {**QV, "modules_to_save": ["embed_tokens", "lm_head"]}


@pytest.mark.parametrize(
    ("adapter", "tie"),
    [
        *[(QV, True), (QV, False), (SAVED, True), (SAVED, False), (TOKENS, True), (TOKENS, False)],
        ({"target_modules": ["q_proj", "lm_head"]}, True),
    ],
)
def test_an_adapter_of_more_words_gives_its_base_as_many(
    tmp_path: Path, adapter: Mapping[str, Any], tie: bool
) -> None:
    """The adapter's folder contains the resized vocabulary and its tokenizer."""
    live = make_adapter(tmp_path, ("llama3", {"tie_word_embeddings": tie}, adapter), words=NEW)
    loaded = read(tmp_path, last=len(WORDS) + NEW - 1)
    assert loaded.shape.d_vocab == len(WORDS) + NEW
    torch.testing.assert_close(loaded.plain_logits, logits_of(live, loaded), atol=2e-4, rtol=1e-4)


def test_rows_that_are_in_neither_are_one_line(tmp_path: Path) -> None:
    """PEFT keeps no output row for a word whose embedding alone was adapted."""
    make_adapter(tmp_path, ("llama3", {}, {"target_modules": ["embed_tokens"]}), words=NEW)
    with pytest.raises(MechanismError, match="3 more tokens than its base has, and their rows of"):
        read(tmp_path)


@pytest.mark.parametrize(("std", "merged"), [(0.1, True), (0.003, False)])
def test_in_half_precision_an_adapter_that_rounding_would_lose_is_run_beside_its_base(
    tmp_path: Path, std: float, merged: bool
) -> None:
    """W + BA rounds to W where BA is small. In float32, in which copies are trained, it does not."""
    live = make_adapter(tmp_path, ("llama3", {}, QV), std=std)
    loaded = read(tmp_path, "bfloat16")
    assert (loaded.unmerged == "") == merged
    assert merged or "of its effect" in loaded.unmerged
    wanted = logits_of(live, loaded)
    torch.testing.assert_close(
        logits_of(loaded.read_plain_model(torch.float32), loaded), wanted, atol=2e-4, rtol=1e-4
    )
    if not merged:
        with pytest.raises(MechanismError, match="an adapter beside them cannot be trained"):
            loaded.read_plain_model(torch.bfloat16)


def test_what_comes_after_an_adapter_of_a_tied_matrix_is_that_of_its_twin(tmp_path: Path) -> None:
    """Words that no text has are cut, weights are pruned, and no step ties the two again."""
    padded = ("llama3", TIED | {"vocab_size": len(WORDS) + 7}, {"target_modules": ["lm_head"]})
    live = make_adapter(tmp_path, padded)
    twin = random_model("llama3", vocab_size=len(WORDS) + 7)
    own = live.base_model.model
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            base = own.get_parameter(name.replace("lm_head.", "model.embed_tokens."))
            weight.copy_(base)
        twin.lm_head.weight += own.lm_head.get_delta_weight("default")
    save(twin, tmp_path / "twin")
    context = opened(Path(f"{tmp_path}/base+{tmp_path}/adapter"))
    twin_context = opened(tmp_path / "twin")
    assert context.engine.name == "branch"
    assert context.model.plain_logits.shape[-1] == len(WORDS)
    torch.testing.assert_close(
        context.model.plain_logits, twin_context.model.plain_logits, atol=2e-4, rtol=1e-4
    )
    for method in ("pruning, heads", "curve, LoRA"):
        result, wanted = (measured(c, WEIGHED[method]) for c in (context, twin_context))
        for column in wanted.values:
            np.testing.assert_allclose(result.values[column], wanted.values[column], atol=1e-3)


def test_a_folder_above_the_adapter_names_it(tmp_path: Path) -> None:
    """PEFT saves an adapter that has a name into a folder below."""
    from pytest_mechanism.checkpoints.reference import parse_reference

    make_adapter(tmp_path, ("llama3", {}, QV))
    (tmp_path / "out").mkdir()
    shutil.move(tmp_path / "adapter", tmp_path / "out" / "mine")
    for text in ("base+out", "out"):
        with pytest.raises(MechanismError, match=r"did you mean .*out/mine\?") as no:
            parse_reference(text, {}, tmp_path)
        assert "\n" not in str(no.value)
    shutil.copytree(tmp_path / "out" / "mine", tmp_path / "out" / "yours")
    with pytest.raises(MechanismError, match=r"valid: .*out/mine, .*out/yours"):
        parse_reference("base+out", {}, tmp_path)
