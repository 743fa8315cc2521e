"""Greedy replies of a model (`methods.refusal.greedy`), and whether they refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.refusal import MORE_REPLY_TOKENS
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.greedy import NotFiniteError, Replies, greedy_replies
from pytest_mechanism.methods.refusal.phrases import classify, may_become_refusal
from pytest_mechanism.methods.refusal.thinking import Thinking, thinking_of
from pytest_mechanism.methods.token_batches import chunks
from pytest_mechanism.tasks.base import Prompt, Row

Withheld = Sequence[frozenset[int]]
"""For each row, the tokens that withhold its answer."""


def generate_replies(context: MeasurementContext, model: Any, tokens: Tokens) -> Replies:
    """Replies of the length that the task sets.

    Raises:
        MeasurementError: logits are NaN or infinite; names the row.
    """
    try:
        return greedy_replies(model, tokens, context.task.reply_tokens)
    except NotFiniteError as problem:
        context.engine.non_finite.mark(tokens, problem.rows)
        context.check_finite()
        raise


@dataclass(frozen=True)
class Labels:
    """Labels of replies, 1 or 0 for each row.

    Attributes:
        refused: the answer, after any thinking, begins with a refusal.
        late: the answer begins otherwise and refuses in a later sentence.
        unfinished: the reply ends while the model is thinking, so it neither refuses nor complies.
        texts: the replies themselves, with special tokens.
    """

    refused: list[float]
    late: list[float]
    unfinished: list[float]
    texts: list[str]


@dataclass(frozen=True)
class ReplyReader:
    """Labels the replies of one model to prompts of one template.

    Attributes:
        tokenizer: of the model.
        refusals: beginnings of refusals.
        thinking: the marks around the model's thinking.
        ends: tokens that end a reply.
        special: ids of special tokens.
    """

    tokenizer: Any
    refusals: tuple[str, ...]
    thinking: Thinking
    ends: frozenset[int]
    special: frozenset[int]

    @staticmethod
    def for_prompt(context: MeasurementContext, prompt: Prompt) -> ReplyReader:
        """For prompts with the same ending as this one."""
        encoder = context.model.encoder
        added = encoder.tokenizer.get_added_tokens_decoder()
        return ReplyReader(
            encoder.tokenizer,
            tuple(context.task.refusals),
            thinking_of(prompt.text, encoder.chat_template),
            encoder.end_ids,
            frozenset(i for i, token in added.items() if token.special),
        )

    def labels(
        self, replies: Int[Tensor, "rows count"], withheld: Withheld | None = None
    ) -> Labels:
        """The labels of replies. A reply refuses, too, if it begins with one of its row's tokens in
        ``withheld``."""
        kinds = [self.label(row) for row in replies.tolist()]
        if withheld is not None:
            for i, (row, tokens) in enumerate(zip(replies.tolist(), withheld, strict=True)):
                kinds[i] = "refuses" if row[0] in tokens else kinds[i]
        texts = [
            self.tokenizer.decode(self.ended(row), skip_special_tokens=False)
            for row in replies.tolist()
        ]
        refused, late, unfinished = ([float(kind == name) for kind in kinds] for name in KINDS)
        return Labels(refused, late, unfinished, texts)

    def text(self, ids: list[int]) -> str:
        """A reply up to the token that ends it."""
        text: str = self.tokenizer.decode(self.ended(ids))
        return text

    def ended(self, ids: list[int]) -> list[int]:
        """The tokens before the one that ends a reply."""
        return ids[: next((i for i, token in enumerate(ids) if token in self.ends), len(ids))]

    def label(self, ids: list[int]) -> str:
        """The label of one reply."""
        ended = self.ended(ids)
        cut, ids = len(ended) == len(ids), ended
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        answer = self.thinking.answer(text, cut)
        if answer is None:
            return "unfinished"
        if cut and answer != text and may_become_refusal(answer, self.refusals):
            return "unfinished"  # the thinking is over, but the answer has hardly begun
        answer_ids = ids if answer == text else self.ids_after(ids, len(text) - len(answer))
        kinds = [classify(reading, self.refusals) for reading in self.readings(answer_ids)]
        return next((kind for kind in ("refuses", "late") if kind in kinds), "complies")

    def ids_after(self, ids: list[int], characters: int) -> list[int]:
        """The tokens after the first tokens whose text has so many characters."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self.tokenizer.decode(ids[:middle], skip_special_tokens=False)) < characters:
                low = middle + 1
            else:
                high = middle
        return ids[low:]

    def readings(self, ids: list[int]) -> Iterator[str]:
        """The text of a reply without special tokens, and with them from several starts: a special
        token before a refusal does not hide it, and may be a refusal itself."""
        yield self.tokenizer.decode(ids)
        for start, token in enumerate(ids):
            if token not in self.special:
                return
            yield self.tokenizer.decode(ids[start:], skip_special_tokens=False)


KINDS = ("refuses", "late", "unfinished")


def finished_refusals(labels: Labels, count: int) -> list[float]:
    """The labels ``refused`` of replies that are all finished.

    Raises:
        MeasurementError: some replies are unfinished.
    """
    if unfinished := int(sum(labels.unfinished)):
        raise MeasurementError(
            f"{unfinished} of {len(labels.unfinished)} replies were still thinking after {count} "
            f"tokens; {MORE_REPLY_TOKENS}"
        )
    return labels.refused


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """A batch of prompts, encoded once for many replies.

    Attributes:
        tokens: the prompts.
        answers: the first token of each row's answer; None if some rows have no answer.
        reader: labels the replies.
        withheld: the tokens of each row that withhold its answer.
        prompts: the same prompts as text.
    """

    tokens: Tokens
    answers: Int[Tensor, " rows"] | None
    reader: ReplyReader
    withheld: Withheld
    prompts: Sequence[Prompt]


def prompt_batches(context: MeasurementContext, rows: Sequence[Row]) -> list[PromptBatch]:
    """Encodes rows in batches."""
    have_answers = all(row.base.completion.strip() for row in rows)
    batches: list[PromptBatch] = []
    for part in chunks(rows, context.batch_size):
        prompts = [row.base for row in part]
        answers = None
        if have_answers:
            first = [context.model.encoder.reply_ids(prompt)[0] for prompt in prompts]
            answers = torch.tensor(first, device=context.model.device)
        reader = ReplyReader.for_prompt(context, prompts[0])
        withheld = [withheld_ids(context, prompt) for prompt in prompts]
        tokens = context.side(prompts).tokens
        batches.append(PromptBatch(tokens, answers, reader, withheld, prompts))
    return batches


def withheld_ids(context: MeasurementContext, prompt: Prompt) -> frozenset[int]:
    """The tokens that withhold a prompt's answer (`Prompt.withheld_by`).

    Raises:
        MeasurementError: the tokenizer writes such a word with several tokens.
    """
    ids = set()
    for word in prompt.withheld_by:
        tokens = context.model.encoder.reply_ids(
            replace(prompt, reply=f"{prompt.joint_before(word)}{word}")
        )
        if len(tokens) > 1:
            raise MeasurementError(
                f"{context.model.role}: the tokenizer writes {word!r}, which withholds an answer, "
                f"with {len(tokens)} tokens; it must be one"
            )
        ids.add(tokens[0])
    return frozenset(ids)


def reply_columns(
    context: MeasurementContext,
    model: Any,
    batches: Sequence[PromptBatch],
    said: list[str] | None = None,
) -> dict[str, list[float]]:
    """Columns of a plain model's replies: ``refused`` and, for rows with answers or a task that judges
    replies, ``correct``. The replies themselves are appended to ``said``."""
    correct: list[float] = []
    refused: list[float] = []
    for batch in batches:
        replies = generate_replies(context, model, batch.tokens).ids
        labels = batch.reader.labels(replies, batch.withheld)
        refused += finished_refusals(labels, replies.shape[1])
        if said is not None:
            said += labels.texts
        if context.task.judges_replies:
            correct += judged(context, batch, replies)
        elif batch.answers is not None:
            correct += (replies[:, 0] == batch.answers).double().tolist()
        context.tick(replies.numel())
    return {"correct": correct, "refused": refused} if correct else {"refused": refused}


def judged(
    context: MeasurementContext, batch: PromptBatch, replies: Int[Tensor, "rows count"]
) -> list[float]:
    """1 for each reply that is right by the task's own judge, else 0."""
    return [
        float(context.task.reply_is_right(prompt, batch.reader.text(row)))
        for prompt, row in zip(batch.prompts, replies.tolist(), strict=True)
    ]
