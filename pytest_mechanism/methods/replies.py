"""What a plain model says, greedily, and whether that refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.rotary import of_reply, restart, seen
from pytest_mechanism.engine.finite import unsound
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.bench import Bench, chunks
from pytest_mechanism.tasks.base import Row


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
    token keeps those that it has in generate's cache (`checkpoints.rotary`).

    Args:
        model: called as a plain one.
        tokens: the prompts.
        count: tokens of a reply.

    Raises:
        NotFinite: logits that the likeliest is to be found among are no numbers.
    """
    restarts = restart(model)
    rows = torch.arange(len(tokens.ids), device=tokens.ids.device)
    ids = torch.cat([tokens.ids, tokens.ids.new_zeros(len(rows), count)], 1)
    wrong = torch.zeros_like(tokens.lengths, dtype=torch.bool)
    for i in range(count):
        ends = tokens.lengths + i
        read = ids[:, : int(ends.max())]
        mask = torch.ones_like(read)  # as in `Tokens.unmasked`
        with seen(of_reply(tokens.lengths, ends, restarts)):
            logits = model(input_ids=read, attention_mask=mask, use_cache=False).logits
        last = logits[rows, ends - 1]
        ids[rows, ends] = last.argmax(-1)
        wrong |= unsound(last)
    if bool(wrong.any()):
        raise NotFinite(wrong)
    return ids[rows[:, None], tokens.lengths[:, None] + torch.arange(count, device=ids.device)]


def said_by(bench: Bench, model: Any, tokens: Tokens) -> Tensor:
    """As many tokens of replies as the task looks at.

    Raises:
        MeasurementError: logits are no numbers; says on which row.
    """
    try:
        return replies(model, tokens, bench.task.reply_tokens)
    except NotFinite as problem:
        bench.engine.finite.note(tokens, problem.rows)
        bench.check_finite()
        raise


def refusing(bench: Bench, said: Tensor) -> list[float]:
    """1 for each reply ([R, tokens]) that begins as one of the task's refusals does, else 0."""
    begins = tuple(text.casefold() for text in bench.task.refusals)
    tokenizer = bench.model.encoder.tokenizer
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return [
        float(
            any(t.strip().casefold().startswith(begins) for t in readings(tokenizer, row, special))
        )
        for row in said.tolist()
    ]


def readings(tokenizer: Any, ids: list[int], special: set[int]) -> Iterator[str]:
    """A reply as text, without special tokens and with them: those before a refusal (the mark of a
    channel, say) do not hide it, and a refusal may be one itself."""
    yield tokenizer.decode(ids)
    for start, token in enumerate(ids):
        if token not in special:
            return
        yield tokenizer.decode(ids[start:], skip_special_tokens=False)


@dataclass(frozen=True, eq=False)
class Question:
    """A batch of prompts, encoded once to be asked again and again.

    Attributes:
        tokens: the prompts.
        own: [R], the first token of each one's own reply; None where some have none.
    """

    tokens: Tokens
    own: Tensor | None


def questions(bench: Bench, rows: Sequence[Row]) -> list[Question]:
    """Rows in batches."""
    known = all(row.base.completion.strip() for row in rows)
    found: list[Question] = []
    for some in chunks(rows, bench.batch_size):
        prompts = [row.base for row in some]
        own = None
        if known:
            whole = [bench.model.encoder.with_reply(prompt) for prompt in prompts]
            own = torch.tensor([ids[asked] for ids, asked in whole], device=bench.model.device)
        found.append(Question(bench.side(prompts).tokens, own))
    return found


def answers(bench: Bench, model: Any, asked: Sequence[Question]) -> dict[str, list[float]]:
    """How a plain model replies, one number a row: ``refused`` where a reply begins as a refusal,
    and where the rows have replies ``correct`` where it begins as the row's own does."""
    correct: list[float] = []
    refused: list[float] = []
    for question in asked:
        said = said_by(bench, model, question.tokens)
        refused += refusing(bench, said)
        if question.own is not None:
            correct += (said[:, 0] == question.own).double().tolist()
        bench.tick(len(said))
    return {"correct": correct, "refused": refused} if correct else {"refused": refused}
