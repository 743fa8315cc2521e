"""Pairs whose models are stored in different ways: the scores equal those of plainly stored twins."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from evaluators import open_evaluator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: unlike
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 70, seed: 0}
groups:
  value_fetcher:   {heads: {3: [0, 1, 2, 3]}, at: last}
  pos_transmitter: {heads: {2: [2]}, at: last, into: {group: value_fetcher, via: q}}
ablation: {value: mean, prompts: 70}
claims:
  solves: {kind: accuracy, on: ft, at_least: 0.5}
  holds: {kind: encodes, on: ft, group: pos_transmitter, variable: position, at_least: 0.1}
  tells: {kind: path, on: ft, group: pos_transmitter, drops_at_least: 0.1}
  gains: {kind: cmap, group: value_fetcher, donor: ft, recipient: base, recovers_at_least: 0.1}
  loses: {kind: cmap, group: value_fetcher, donor: base, recipient: ft, recovers_at_least: 0.1, carries: loss}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("unlike")
    (result / "spec.yaml").write_text(SPEC)
    return result


@pytest.fixture(scope="module")
def scores(folder: Path) -> Callable[..., dict[str, tuple[float, float, float]]]:
    """Value and interval of every score of the claims (all, unless named), by claim and name."""

    def of(ft: str, *names: str) -> dict[str, tuple[float, float, float]]:
        gate = open_evaluator("--model-pair", f"base=zoo:base,ft={ft}", "--store", folder / "store")
        spec = load(folder / "spec.yaml")
        result: dict[str, tuple[float, float, float]] = {}
        for name in names or spec.claims:
            claim = spec.claims[name]
            for role in claim.roles():
                verdict = gate.judge(spec, claim, role)
                assert verdict.status != "error", verdict.reason
                for score in verdict.scores:
                    result[f"{name}: {score.name}"] = (score.value, *score.interval)
        gate.runner.checkpoint.release()
        return result

    return of


@pytest.fixture(scope="module")
def plain(scores) -> dict[str, tuple[float, float, float]]:
    """Of the embedded pair as it is."""
    return scores("zoo:ft")


def model() -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(ZOO / "ft", dtype=torch.float32)


def with_tokenizer(folder: Path) -> str:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "ft" / name, folder / name)
    return str(folder)


def assert_close(observed, wanted) -> None:
    assert observed.keys() == wanted.keys()
    assert len(observed) >= 5
    for name, numbers in wanted.items():
        assert observed[name] == pytest.approx(numbers, abs=1e-4), name


@pytest.mark.slow
def test_an_adapter_is_its_merged_twin(folder: Path, scores) -> None:
    """``base+adapter`` as one side of a pair, whose scores are not those of its base."""
    torch.manual_seed(0)
    with warnings.catch_warnings():  # PEFT asks transformers for what it has renamed
        warnings.simplefilter("ignore")
        adapted = get_peft_model(
            model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    twin = scores(with_tokenizer(folder / "merged"))
    assert_close(scores(f"zoo:ft+{folder}/adapter"), twin)
    for name, (value, *_) in scores("zoo:ft", "tells").items():
        assert abs(twin[name][0] - value) > 1e-3, name


@pytest.mark.slow
def test_a_resized_vocabulary_changes_nothing(folder: Path, scores, plain) -> None:
    """More embeddings than the tokenizer has words, as after adding special tokens."""
    resized = model()
    resized.resize_token_embeddings(resized.config.vocab_size + 13, mean_resizing=False)
    with torch.no_grad():  # what nobody trained must not be said
        resized.lm_head.weight[-13:] = 0.0
    resized.save_pretrained(folder / "resized")
    assert_close(scores(with_tokenizer(folder / "resized")), plain)


@pytest.mark.slow
def test_another_tokenizer_for_the_same_words_changes_nothing(folder: Path, scores, plain) -> None:
    """Ids in another order: answers are matched by their words, not by their numbers."""
    source = json.loads((ZOO / "ft" / "tokenizer.json").read_text())
    words = source["model"]["vocab"]
    special = {token["id"] for token in source["added_tokens"]}
    free = sorted(set(words.values()) - special)
    shuffled = list(free)
    random.Random(0).shuffle(shuffled)
    new = {i: i for i in special} | dict(zip(free, shuffled, strict=True))
    assert any(a != b for a, b in new.items())
    source["model"]["vocab"] = {word: new[i] for word, i in words.items()}
    permuted = model()
    order = torch.tensor([old for old, _ in sorted(new.items(), key=lambda item: item[1])])
    with torch.no_grad():
        for matrix in (permuted.model.embed_tokens.weight, permuted.lm_head.weight):
            matrix[: len(order)] = matrix[order].clone()
    permuted.save_pretrained(folder / "permuted")
    with_tokenizer(folder / "permuted")
    (folder / "permuted" / "tokenizer.json").write_text(json.dumps(source))
    assert_close(scores(str(folder / "permuted")), plain)
