"""What a plain model says, greedily, and whether that refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.refusal import MORE_REPLY_TOKENS
from pytest_mechanism.methods.context import MeasurementContext, chunks
from pytest_mechanism.methods.refusal.phrases import begun, read
from pytest_mechanism.methods.refusal.thinking import Thinking, thinking
from pytest_mechanism.model_families.rotary import reply_lengths, restart_length, row_lengths
from pytest_mechanism.tasks.base import Prompt, Row


class NotFinite(MeasurementError):
    """Logits that are NaN or infinite.

    Attributes:
        rows: [R], True where they are.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__("the logits of a reply are not finite numbers (NaN or infinity)")
        self.rows = rows


@torch.no_grad()
def replies(model: Any, tokens: Tokens, count: int) -> Tensor:
    """[R, count] likeliest next tokens, one after another: what ``generate(do_sample=False)`` of the
    plain model says after each row alone.

    One forward a token on the padded batch, without a cache: replies are short here, and padding
    on the right leaves every position as it was. Where rotary frequencies depend on length, each
    token keeps those that it has in generate's cache (`model_families.rotary`).

    Args:
        model: called as a plain one.
        tokens: the prompts.
        count: tokens of a reply.

    Raises:
        NotFinite: logits that the likeliest is to be found among are no numbers.
    """
    restarts = restart_length(model)
    rows = torch.arange(len(tokens.ids), device=tokens.ids.device)
    ids = torch.cat([tokens.ids, tokens.ids.new_zeros(len(rows), count)], 1)
    wrong = torch.zeros_like(tokens.lengths, dtype=torch.bool)
    for i in range(count):
        ends = tokens.lengths + i
        read = ids[:, : int(ends.max())]
        mask = torch.ones_like(read)  # as in `Tokens.unmasked`
        with row_lengths(reply_lengths(tokens.lengths, ends, restarts)):
            logits = model(input_ids=read, attention_mask=mask, use_cache=False).logits
        last = logits[rows, ends - 1]
        ids[rows, ends] = last.argmax(-1)
        wrong |= not_finite(last)
    if bool(wrong.any()):
        raise NotFinite(wrong)
    return ids[rows[:, None], tokens.lengths[:, None] + torch.arange(count, device=ids.device)]


def said_by(context: MeasurementContext, model: Any, tokens: Tokens) -> Tensor:
    """As many tokens of replies as the task looks at.

    Raises:
        MeasurementError: logits are no numbers; says on which row.
    """
    try:
        return replies(model, tokens, context.task.reply_tokens)
    except NotFinite as problem:
        context.engine.non_finite.mark(tokens, problem.rows)
        context.check_finite()
        raise


@dataclass(frozen=True)
class Labels:
    """What replies do, a number a row each: 1 where it is so, else 0.

    Attributes:
        refused: it begins as a refusal, after what was thought first.
        late: it begins otherwise and refuses in a later sentence.
        unfinished: it was still thinking when the tokens that are looked at were over, or ended
            there; it neither refuses nor complies.
    """

    refused: list[float]
    late: list[float]
    unfinished: list[float]


@dataclass(frozen=True)
class Reader:
    """Reads replies of one model to prompts of one template.

    Attributes:
        tokenizer: the model's.
        refusals: what a reply that refuses begins with.
        thinking: how the model thinks before it answers.
        ends: tokens that end a reply.
        special: ids of special tokens.
    """

    tokenizer: Any
    refusals: tuple[str, ...]
    thinking: Thinking
    ends: frozenset[int]
    special: frozenset[int]

    @staticmethod
    def on(context: MeasurementContext, prompt: Prompt) -> Reader:
        """For prompts that end like this one."""
        encoder = context.model.encoder
        added = encoder.tokenizer.get_added_tokens_decoder()
        return Reader(
            encoder.tokenizer,
            tuple(context.task.refusals),
            thinking(prompt.text, encoder.chat_template),
            encoder.end_ids,
            frozenset(i for i, token in added.items() if token.special),
        )

    def labels(self, said: Tensor) -> Labels:
        """What replies ([R, tokens]) do."""
        found = [self.label(row) for row in said.tolist()]
        return Labels(*([float(kind == name) for kind in found] for name in KINDS))

    def label(self, ids: list[int]) -> str:
        """What one reply does."""
        stop = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        cut, ids = stop == len(ids), ids[:stop]
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        rest = self.thinking.rest(text, cut)
        if rest is None:
            return "unfinished"
        if cut and rest != text and begun(rest, self.refusals):
            return "unfinished"  # the thoughts are over, and the answer has hardly begun
        said = ids if rest == text else self.after(ids, len(text) - len(rest))
        kinds = [read(each, self.refusals) for each in self.readings(said)]
        return next((kind for kind in ("refuses", "late") if kind in kinds), "complies")

    def after(self, ids: list[int], thought: int) -> list[int]:
        """The tokens of what is said after so many letters of thoughts."""
        low, high = 0, len(ids)
        while low < high:  # the first tokens whose text holds them
            middle = (low + high) // 2
            if len(self.tokenizer.decode(ids[:middle], skip_special_tokens=False)) < thought:
                low = middle + 1
            else:
                high = middle
        return ids[low:]

    def readings(self, ids: list[int]) -> Iterator[str]:
        """A reply as text, without special tokens and with them: those before a refusal (the mark of
        a channel, say) do not hide it, and a refusal may be one itself."""
        yield self.tokenizer.decode(ids)
        for start, token in enumerate(ids):
            if token not in self.special:
                return
            yield self.tokenizer.decode(ids[start:], skip_special_tokens=False)


KINDS = ("refuses", "late", "unfinished")


def settled(labels: Labels, count: int) -> list[float]:
    """``refused``, of replies that are all finished.

    Raises:
        MeasurementError: some are not.
    """
    if waiting := int(sum(labels.unfinished)):
        raise MeasurementError(
            f"{waiting} of {len(labels.unfinished)} replies had not finished thinking after {count} "
            f"tokens; {MORE_REPLY_TOKENS}"
        )
    return labels.refused


@dataclass(frozen=True, eq=False)
class Question:
    """A batch of prompts, encoded once to be asked again and again.

    Attributes:
        tokens: the prompts.
        own: [R], the first token of each one's own reply; None where some have none.
        reader: reads replies to them.
    """

    tokens: Tokens
    own: Tensor | None
    reader: Reader


def questions(context: MeasurementContext, rows: Sequence[Row]) -> list[Question]:
    """Rows in batches."""
    known = all(row.base.completion.strip() for row in rows)
    found: list[Question] = []
    for some in chunks(rows, context.batch_size):
        prompts = [row.base for row in some]
        own = None
        if known:
            first = [context.model.encoder.reply_ids(prompt)[0] for prompt in prompts]
            own = torch.tensor(first, device=context.model.device)
        reader = Reader.on(context, prompts[0])
        found.append(Question(context.side(prompts).tokens, own, reader))
    return found


def answers(
    context: MeasurementContext, model: Any, asked: Sequence[Question]
) -> dict[str, list[float]]:
    """How a plain model replies, one number a row: ``refused`` where a reply begins as a refusal,
    and where the rows have replies ``correct`` where it begins as the row's own does."""
    correct: list[float] = []
    refused: list[float] = []
    for question in asked:
        said = said_by(context, model, question.tokens)
        refused += settled(question.reader.labels(said), said.shape[1])
        if question.own is not None:
            correct += (said[:, 0] == question.own).double().tolist()
        context.tick(len(said))
    return {"correct": correct, "refused": refused} if correct else {"refused": refused}
