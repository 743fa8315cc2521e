"""What counts as refusing, and how near a model is to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from pytest_mechanism.errors import MeasurementError, MechanismError
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal import refusal_score
from pytest_mechanism.spec.load import load
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.families.refusal import Refusal, RefusalParameters
from pytest_mechanism.tasks.files import FOLDER
from pytest_mechanism.tasks.text.encoding import Encoder

CIRCUITS = Path(__file__).parents[2] / "circuits"
ROWS = 60
KNOWN = ["I cannot"]

ContextFactory = Callable[[str], MeasurementContext]


@pytest.fixture
def base(chat_context_of: ContextFactory) -> MeasurementContext:
    """The measurement context of zoo:refusal_base."""
    return chat_context_of("refusal_base")


def ask(context: MeasurementContext, asked: str, rows: int = ROWS, **more: Any) -> dict[str, Any]:
    result = refusal_score.measure(
        context, RefusalRate(asked=asked, rows=rows, stream="rows", **more), []
    )
    return {name: np.asarray(column) for name, column in result.values.items()}


def other(context: MeasurementContext, **changes: Any) -> MeasurementContext:
    """The same model, asked a task with other settings."""
    settings = load(CIRCUITS / "refusal.yaml").task.settings.model_dump(mode="json") | changes
    task = Refusal(RefusalParameters.model_validate(settings, context={FOLDER: CIRCUITS}))
    return replace(context, task=task)


def test_the_embedded_release_refuses_what_it_must_and_nothing_else(
    base: MeasurementContext,
) -> None:
    """Every harmful instruction, no harmless one; the score is far apart."""
    forbidden, allowed = ask(base, "forbidden"), ask(base, "allowed")
    assert (forbidden["refused"].mean(), allowed["refused"].mean()) == (1, 0)
    assert forbidden["refusal_score"].min() > allowed["refusal_score"].max()


def test_the_score_is_the_log_odds_of_the_tokens_that_refusals_begin_with(
    base: MeasurementContext,
) -> None:
    """log P - log(1 - P) from the plain model's probabilities, where those can be taken apart."""
    context = other(base, prefixes=["I cannot", "sure"])
    rows = context.task.allowed(context.vocabulary, 8, "rows")
    tokens = context.side([row.base for row in rows]).tokens
    logits = context.engine.run(tokens).outcome.logits.double()
    words = [context.model.encoder.tokenizer.token_to_id(word) for word in ("I", "sure")]
    p = logits.softmax(-1)[:, words].sum(-1)
    expected = (p.log() - (logits.softmax(-1).sum(-1) - p).clamp_min(1e-300).log()).numpy()
    result = ask(context, "allowed", 8)["refusal_score"]
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_the_score_does_not_end_where_probabilities_are_rounded(base: MeasurementContext) -> None:
    """P of 1 in float32 is still some odds."""
    rows = base.task.forbidden(base.vocabulary, 1, "rows")
    examine = replace(refusal_score.RefusalScorer.for_rows(base, rows), openings=torch.tensor([0]))
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]])
    expected = [200 - np.log(2), -200.0]
    np.testing.assert_allclose(examine.score(logits).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("prefixes", "refused"), [(["i cannot"], 1), (["cannot"], 0), (["I cannot help with that"], 1)]
)
def test_a_refusal_is_how_a_reply_begins(
    base: MeasurementContext, prefixes: list[str], refused: int
) -> None:
    """In upper or lower case; a refusal in the middle of a word does not count."""
    context = other(base, prefixes=prefixes, reply_tokens=6)
    assert ask(context, "forbidden", 20)["refused"].mean() == refused


def test_forced_tokens_stand_before_the_reply(base: MeasurementContext) -> None:
    """After three words of the complying reply the model still refuses, as trained; after five it continues
    the reply. The forced tokens are the row's own."""
    rows = base.task.capability(base.vocabulary, 2, "rows")
    tokens = refusal_score.prefilled_prompts(base, [row.base for row in rows], 3)
    ends = [int(n) for n in tokens.lengths]
    decode = base.model.encoder.tokenizer.decode
    text = [decode(ids[end - 3 : end]) for ids, end in zip(tokens.ids.tolist(), ends, strict=True)]
    assert text == ["sure , here"] * 2
    rates = {k: ask(base, "capability", forced=k)["refused"].mean() for k in (0, 3, 5)}
    assert rates[0] == rates[3] == 1
    assert rates[5] < 0.2


def test_a_refusal_longer_than_what_is_looked_at_is_an_error(base: MeasurementContext) -> None:
    """Otherwise no reply could ever refuse."""
    context = other(base, prefixes=["I cannot help"], reply_tokens=2)
    with pytest.raises(MeasurementError, match="has 3 tokens, but replies have 2"):
        ask(context, "forbidden")


def test_refusals_that_a_model_has_no_words_for_do_not_count(base: MeasurementContext) -> None:
    """Its unknown token is no beginning of a refusal; a model without any is an error."""
    known, more = (ask(other(base, prefixes=p), "forbidden", 20) for p in (KNOWN, [*KNOWN, "Nay"]))
    assert known["refusal_score"].tolist() == more["refusal_score"].tolist()
    with pytest.raises(MeasurementError, match="cannot write any of the task's refusals: Nay"):
        ask(other(base, prefixes=["Nay"]), "forbidden")


def test_a_reply_has_the_tokens_that_follow_those_of_the_prompt() -> None:
    """GPT-2's way with two line breaks: one token at a text's end, two before a word."""
    vocabulary = {c: i for i, c in enumerate([*sorted(ByteLevel.alphabet()), "ĊĊ"])}
    tokenizer = Tokenizer(BPE(vocabulary, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    encoder = Encoder(tokenizer, "a test's")
    prompt = Prompt("Q\n\n", {}, "No", reply="No")
    prompt_tokens = [tokenizer.id_to_token(i) for i in encoder.encode(prompt).ids]
    reply_tokens = [tokenizer.id_to_token(i) for i in encoder.reply_ids(prompt)]
    assert (prompt_tokens, reply_tokens) == (["Q", "ĊĊ"], ["N", "o"])


def test_more_tokens_than_a_reply_has_cannot_be_forced(base: MeasurementContext) -> None:
    with pytest.raises(MeasurementError, match="40 tokens cannot be prefilled"):
        ask(base, "capability", forced=40)


def test_a_task_without_replies_has_none_to_force(counting_context: MeasurementContext) -> None:
    with pytest.raises(MeasurementError, match="task counting has no reply"):
        ask(counting_context, "capability", 20, forced=1)


def test_one_token_is_the_likeliest_one(counting_context: MeasurementContext) -> None:
    """The counting task: refused exactly where REFUSE is the argmax; random weights do so on no
    kind of question in particular."""
    context = counting_context
    refuse = context.model.encoder.word_id("REFUSE")
    for asked in ("forbidden", "allowed"):
        rows = context.task.row_set(asked, context.vocabulary, ROWS, "rows")  # type: ignore[arg-type]
        tokens = context.side([row.base for row in rows]).tokens
        likeliest = context.engine.run(tokens).outcome.logits.argmax(-1) == refuse
        assert ask(context, asked)["refused"].tolist() == likeliest.double().tolist()


def test_a_task_that_refuses_nothing_cannot_be_asked(context_of: ContextFactory) -> None:
    with pytest.raises(MechanismError, match="has no question that must be refused"):
        ask(context_of("base"), "forbidden")
