"""Which replies count as refusals, by what their tokens say."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import ReplyReader
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.encoding import Encoder

WORDS = {"[UNK]": 0, "I": 1, "cannot": 2, "sure": 3, "here": 4}


@pytest.fixture
def context() -> Mock:
    """A tokenizer with two special tokens: one that opens replies, and one that refuses."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<final>"), AddedToken("<refuse>")])
    return Mock(
        spec=MeasurementContext,
        task=SimpleNamespace(refusals=("I cannot", "<refuse>")),
        model=SimpleNamespace(encoder=Encoder(tokenizer, "a test's")),
    )


@pytest.mark.parametrize(
    ("reply", "refuses"),
    [
        ("I cannot here", 1.0),
        ("<final> I cannot", 1.0),
        ("<refuse> sure", 1.0),
        ("<final> <refuse>", 1.0),
        ("<final> <final>", 0.0),
        ("sure <refuse>", 0.0),
        ("sure I cannot", 0.0),
        ("<final> sure", 0.0),
        ("here here", 0.0),
    ],
)
def test_special_tokens_neither_hide_a_refusal_nor_are_lost(
    context: Mock, reply: str, refuses: float
) -> None:
    """A special token before a refusal is skipped; a special token that is a refusal counts."""
    ids = context.model.encoder.tokenizer.encode(reply).ids
    reader = ReplyReader.for_prompt(context, Prompt("ask", {}, ""))
    assert reader.labels(torch.tensor([ids])).refused == [refuses]
