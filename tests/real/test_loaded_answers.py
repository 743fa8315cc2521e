"""The real model's answers, loaded from its folder and from its GGUF file, are those of plain transformers."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.text.encoding import Encoder, SharedVocabulary

ROWS = 200
BATCH = 20
SPEC = Path(__file__).parents[2] / "circuits" / "real" / "ioi.yaml"


@cache
def prompts(folder: Path) -> list[str]:
    """200 prompts of the shipped task."""
    vocabulary = SharedVocabulary((Encoder.load(folder),))
    return [row.base.text for row in load(SPEC).task.rows(vocabulary, ROWS, "test")]


@torch.no_grad()
def last_logits(forward, ids: list[list[int]]) -> torch.Tensor:
    """[200, V], after the last token of each prompt; prompts of one length together."""
    found: dict[int, torch.Tensor] = {}
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for length in sorted({len(row) for row in ids}):
        rows = [i for i in order if len(ids[i]) == length]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            logits = forward(torch.tensor([ids[i] for i in part]))[:, -1].float()
            found |= dict(zip(part, logits, strict=True))
    return torch.stack([found[i] for i in range(len(ids))])


@pytest.fixture(scope="module")
def plain(real_folder: Path) -> torch.Tensor:
    """The logits of plain transformers, tokens included."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    model = AutoModelForCausalLM.from_pretrained(real_folder, dtype=torch.float32)
    ids = [tokenizer(text)["input_ids"] for text in prompts(real_folder)]
    return last_logits(lambda batch: model(batch).logits, ids)


@pytest.fixture(scope="module", params=["folder", "gguf"])
def ours(request: pytest.FixtureRequest, real_folder: Path, real_gguf: Path) -> torch.Tensor:
    """The logits of the model as a gate loads it."""
    path = real_folder if request.param == "folder" else real_gguf
    encoder = Encoder.load(path)
    ids = [encoder.tokenizer.encode(text).ids for text in prompts(real_folder)]
    model = load_model("base", path, "cpu", "float32", lambda _: ids[0])
    return last_logits(model.wrapped.forward, ids)


def test_greedy_answers_agree(ours: torch.Tensor, plain: torch.Tensor) -> None:
    """On 200 prompts, and they are not all the same word."""
    assert ours.argmax(-1).tolist() == plain.argmax(-1).tolist()
    assert len(set(ours.argmax(-1).tolist())) > 10


def test_logits_agree(ours: torch.Tensor, plain: torch.Tensor) -> None:
    """Within 1e-4 of their standard deviation."""
    assert (ours - plain).abs().max().item() < 1e-4 * plain.std().item()
