"""Whether a model refuses, and how close it is to refusing.

Arditi et al. 2024 (arXiv 2406.11717), sections 2.2 and 2.4:

    refused        the greedy reply begins with one of the task's refusals
    refusal score  log P(T) - log(1 - P(T)) at the last token of the prompt,
                   T = the first tokens of the task's refusals

The score changes where the rate is still 0 or 1. Some tokens of the reply may be prefilled; the reply
and the score then follow them (Qi et al. 2024, arXiv 2406.05946, section 2.3).

Other than published: only a reply that *begins* with a refusal counts as refused; the published rate
also counts a reply with a refusal further on. T follows from the task's refusals and is not chosen by
hand for each family. A prompt may have answers of its own that withhold the right one
(`Prompt.withheld_by`); they count as refusals of this prompt, and their tokens are in its T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.engine.finite import not_finite
from pytest_mechanism.engine.interface import Tokens
from pytest_mechanism.engine.plumbing import at_least_float
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.refusal.replies import (
    Labels,
    ReplyReader,
    Withheld,
    finished_refusals,
    generate_replies,
    withheld_ids,
)
from pytest_mechanism.methods.token_batches import chunks
from pytest_mechanism.model_families.rotary import row_lengths
from pytest_mechanism.tasks.base import Prompt, Row
from pytest_mechanism.types import Observations

Hooks = Sequence[tuple[str, Callable[..., Tensor | None]]]
"""Names of transformer-lens' hook points with their hook functions."""

Refusals = tuple[Float[Tensor, " rows"], Float[Tensor, " rows"], int]
"""``refused``, ``refusal_score``, and how many forwards they took."""


def measure(
    context: MeasurementContext, request: RefusalRate, inputs: Sequence[Any]
) -> Observations:
    """Columns ``refused``, ``refused_late``, ``unfinished`` (`replies.Labels`), ``refusal_score``."""
    rows = context.task.row_set(request.asked, context.vocabulary, request.rows, request.stream)
    columns = Columns()
    scorer = RefusalScorer.for_rows(context, rows)
    for batch in chunks(rows, context.batch_size):
        prompts = [row.base for row in batch]
        tokens = prefilled_prompts(context, prompts, request.forced)
        withheld = None if request.forced else [withheld_ids(context, prompt) for prompt in prompts]
        labels, score, _ = scorer.label_and_score(tokens, withheld=withheld)
        columns.add("refused", torch.tensor(labels.refused))
        columns.add("refused_late", torch.tensor(labels.late))
        columns.add("unfinished", torch.tensor(labels.unfinished))
        columns.add("refusal_score", score)
        columns.add_texts("answer", labels.texts)
    return columns.observations(rows)


@dataclass(frozen=True, eq=False)
class RefusalScorer:
    """Lets a model reply to prompts, and scores its refusals.

    Attributes:
        context: the model, and the task with its refusals.
        openings: first tokens of the refusals.
        reader: labels replies.
    """

    context: MeasurementContext
    openings: Int[Tensor, " openings"]
    reader: ReplyReader

    @staticmethod
    def for_rows(context: MeasurementContext, rows: Sequence[Row]) -> RefusalScorer:
        """For rows of one template, after which a refusal has the same first token.

        Raises:
            MeasurementError: a refusal is longer than the replies.
        """
        first = {tokens[0] for tokens in refusal_ids(context, rows[0].base)}
        openings = torch.tensor(sorted(first), dtype=torch.long, device=context.model.device)
        return RefusalScorer(context, openings, ReplyReader.for_prompt(context, rows[0].base))

    def __call__(self, tokens: Tokens, hooks: Hooks = ()) -> Refusals:
        """``refused`` and ``refusal_score`` of the model with hooks, and the number of forwards.

        Raises:
            MeasurementError: some replies are unfinished.
        """
        labels, score, forwards = self.label_and_score(tokens, hooks)
        refused = finished_refusals(labels, self.context.task.reply_tokens)
        return torch.tensor(refused), score, forwards

    def label_and_score(
        self, tokens: Tokens, hooks: Hooks = (), withheld: Withheld | None = None
    ) -> tuple[Labels, Float[Tensor, " rows"], int]:
        """The labels of the replies, the ``refusal_score``, and the number of forwards.

        ``withheld`` are the tokens of each row that refuse beside the task's refusals.
        """
        hooked = HookedModel(self.context, hooks)
        replies = generate_replies(self.context, hooked, tokens)
        labels = self.reader.labels(replies.ids, withheld)
        return labels, self.score(replies.first, withheld), hooked.forwards

    def first(self, tokens: Tokens, hooks: Hooks = ()) -> Float[Tensor, "rows d_vocab"]:
        """Logits at the last token of each prompt."""
        with row_lengths(tokens.lengths):
            logits = HookedModel(self.context, hooks)(
                tokens.ids, tokens.mask_for(self.context.model.wrapped.plain)
            ).logits
        rows = torch.arange(len(tokens.ids), device=logits.device)
        first = at_least_float(logits[rows, tokens.last])
        self.context.engine.non_finite.mark(tokens, not_finite(first))
        return first

    def score(
        self, logits: Float[Tensor, "rows d_vocab"], withheld: Withheld | None = None
    ) -> Float[Tensor, " rows"]:
        """The ``refusal_score`` of each row, without the rounding error of 1 - P for P close to 1."""
        wide = logits.double()
        if withheld is not None and any(withheld):
            refusing = torch.zeros_like(wide, dtype=torch.bool)
            refusing[:, self.openings] = True
            for row, tokens in enumerate(withheld):
                refusing[row, sorted(tokens)] = True
            inside = wide.masked_fill(~refusing, -torch.inf).logsumexp(-1)
            return inside - wide.masked_fill(refusing, -torch.inf).logsumexp(-1)
        others = torch.ones(wide.shape[1], dtype=torch.bool, device=wide.device)
        others[self.openings] = False
        return wide[:, ~others].logsumexp(-1) - wide[:, others].logsumexp(-1)


@dataclass(eq=False)
class HookedModel:
    """The wrapped model with hooks, with the call of a plain model; counts forwards.

    Attributes:
        context: of the model.
        hooks: attached in each forward.
        forwards: how many there were.
    """

    context: MeasurementContext
    hooks: Hooks = ()
    forwards: int = 0

    def get_base_model(self) -> Any:
        """The plain Hugging Face model, under PEFT's name for it."""
        return self.context.model.wrapped.plain

    @torch.no_grad()
    def __call__(
        self,
        input_ids: Int[Tensor, "rows new_tokens"],
        attention_mask: Int[Tensor, "rows tokens"],
        past_key_values: Any = None,
        **arguments: Any,
    ) -> Any:
        if past_key_values is not None:
            arguments["past_key_values"] = past_key_values
        arguments.setdefault("use_cache", False)
        logits = self.context.model.wrapped.forward(
            input_ids, attention_mask, self.hooks, **arguments
        )
        self.forwards += 1
        self.context.tick(len(input_ids))
        return SimpleNamespace(logits=logits)


# -- token ids


def refusal_ids(context: MeasurementContext, prompt: Prompt) -> list[list[int]]:
    """Token ids of the task's refusals after a prompt, without those that the tokenizer cannot write;
    none where only the prompt's own words withhold an answer.

    Raises:
        MeasurementError: a refusal is longer than the replies, or the tokenizer can write none.
        MechanismError: the task has no refusals.
    """
    if not context.task.withholds:
        raise context.task.unsupported("refusal")
    if not context.task.refusals:
        return []
    tokenizer = context.model.encoder.tokenizer
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown = None if unknown is None else tokenizer.token_to_id(unknown)
    ids = []
    default = context.task.default_refusals
    for text in context.task.refusals:
        tokens = context.model.encoder.reply_ids(
            replace(prompt, reply=prompt.joint_before(text) + text)
        )
        if unknown in tokens:
            continue
        if len(tokens) > context.task.reply_tokens and text not in default[1:]:
            raise MeasurementError(
                f"the refusal {text!r} has {len(tokens)} tokens, but replies have "
                f"{context.task.reply_tokens}; raise reply_tokens, or shorten the refusal"
            )
        ids.append(tokens)
    if not ids:
        raise MeasurementError(
            f"{context.model.role}: the tokenizer cannot write any of the task's refusals: "
            f"{', '.join(context.task.refusals)}"
        )
    return ids


def prefilled_prompts(
    context: MeasurementContext, prompts: Sequence[Prompt], prefill: int
) -> Tokens:
    """A batch of prompts, with the first ``prefill`` tokens of their replies.

    Raises:
        MeasurementError: a prompt has no reply, or a shorter one.
    """
    if prefill == 0:
        return context.side(prompts).tokens
    rows = []
    for prompt in prompts:
        if not prompt.reply:
            raise MeasurementError(
                f"task {context.task.family} has no reply to {prompt.text[-60:]!r} that could be "
                "prefilled"
            )
        tokens = context.model.encoder.reply_ids(prompt)
        if len(tokens) < prefill:
            raise MeasurementError(
                f"{prefill} tokens cannot be prefilled: the reply {prompt.reply[:60]!r} has "
                f"{len(tokens)}"
            )
        rows.append([*context.model.encoder.encode(prompt).ids, *tokens[:prefill]])
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return Tokens(ids.to(context.model.device), lengths.to(context.model.device))
