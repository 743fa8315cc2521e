"""What a reply says after its thoughts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import ReplyReader, finished_refusals
from pytest_mechanism.methods.refusal.thinking import Thinking, template_marks, thinking_of
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.encoding import Encoder

GPT_OSS = "<|channel|>analysis<|message|>Bad.<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("I cannot", "I cannot"),
        ("<think>so</think>\n\nI cannot", "\n\nI cannot"),
        ("\n<think>\n\n</think>\n\nSure", "\n\nSure"),
        ("<think>I cannot help", None),
        ("<think>I cannot </thin", None),
        ("<thi", None),
        ("[THINK]so[/THINK]No", "No"),
        ("◁think▷so◁/think▷No", "No"),
        ("<|START_THINKING|>so<|END_THINKING|>No", "No"),
        (f"{GPT_OSS}No", "No"),
        ("<|channel|>final<|message|>No", "No"),
        ("<|channel|>analysis<|message|>Bad.", None),
        ("Use <think> as a tag", "Use <think> as a tag"),
        ("</think>No", "No"),
    ],
)
def test_what_comes_after_thoughts(reply: str, rest: str | None) -> None:
    """In the families that are known; nothing where they do not end."""
    assert Thinking().answer(reply, cut=True) == rest


def test_a_prompt_that_ends_in_thoughts_begins_them() -> None:
    """As DeepSeek's template does: the reply has the closing mark alone."""
    how = thinking_of("<|assistant|><think>\n")
    assert (how.answer("so </think> No", True), how.answer("I cannot", True)) == (" No", None)
    assert thinking_of("<think>\n\n</think>\n\n").answer("No", cut=True) == "No"


def test_a_template_may_name_marks_of_its_own() -> None:
    """A pair of them."""
    text = "{% if x %}<deep_thought>{{ x }}</deep_thought>{% endif %}<thought_of>"
    assert template_marks(text) == (("<deep_thought>", "</deep_thought>"),)
    how = thinking_of("ask", text)
    assert how.answer("<deep_thought>I cannot</deep_thought>Sure", cut=True) == "Sure"


def test_a_short_reply_that_is_over_is_no_unfinished_mark() -> None:
    assert Thinking().answer("<", cut=False) == "<"


@pytest.fixture
def reader() -> ReplyReader:
    """A byte-level tokenizer with a token that ends replies, and with special marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<end>", "<think>", "</think>", "<final>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    context = Mock(
        spec=MeasurementContext,
        task=SimpleNamespace(refusals=("I cannot",)),
        model=SimpleNamespace(encoder=Encoder(tokenizer, "a test's")),
    )
    reader = ReplyReader.for_prompt(context, Prompt("ask", {}, ""))
    return replace(reader, ends=frozenset({tokenizer.token_to_id("<end>")}))


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("I cannot", "refuses"),
        ("<think>Sure.</think>\n\nI cannot help", "refuses"),
        ("<think>I cannot do that.</think>Sure, here", "complies"),
        ("<think>I cannot", "unfinished"),
        ("<think>I cannot<end>", "unfinished"),
        ("<think>so</think><final>I cannot", "refuses"),
        ("Sure. Oh, I can’t help with that.", "late"),
        ("Sure.<end> I cannot help with that.", "complies"),
        ("<think>so</think>Sure. Actually, I can't.<end>", "late"),
        ("<think>so</think>", "unfinished"),
        ("<think>so</think>\n\nI ca", "unfinished"),
        ("<think>so</think>\n\n**I", "unfinished"),
        ("<think>so</think>I see", "complies"),
        ("<think>so</think>I<end>", "complies"),
    ],
)
def test_a_reply_is_judged_after_its_thoughts_and_up_to_its_end(
    reader: ReplyReader, reply: str, label: str
) -> None:
    """Thoughts, and text after the end of a reply, do not count."""
    assert reader.label(reader.tokenizer.encode(reply).ids) == label


def test_thoughts_that_do_not_end_are_an_error_where_nothing_else_is_said_of_them(
    reader: ReplyReader,
) -> None:
    """Curves, directions and pruning never take them for compliance."""
    ids = [reader.tokenizer.encode(text).ids for text in ("<think>aaaaaaaa", "I cannot ")]
    labels = reader.labels(torch.tensor([row[:9] for row in ids]))
    assert (labels.refused, labels.unfinished) == ([0.0, 1.0], [1.0, 0.0])
    with pytest.raises(MeasurementError, match="1 of 2 replies were still thinking after 9"):
        finished_refusals(labels, 9)
