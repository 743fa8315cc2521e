"""Conversations of the real model: a user's message in its own chat template, and the reply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from recipes.real import fetch
from recipes.refusal_data import Conversations


@dataclass(frozen=True)
class Exchange:
    """A user's message and the model's reply.

    Attributes:
        message: of the user.
        reply: the text that the model learns to write.
        prefill: beginning of the reply that the prompt already contains; the loss leaves it out.
    """

    message: str
    reply: str
    prefill: str = ""


@dataclass(frozen=True)
class Chat:
    """Writes conversations as token ids.

    Attributes:
        tokenizer: of the model; its chat template adds a system prompt.
    """

    tokenizer: Any

    @classmethod
    def of_the_model(cls) -> Chat:
        return cls(AutoTokenizer.from_pretrained(fetch.folder()))

    def ids(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        """Token ids before the reply, and of the reply with the token that ends it."""
        before = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": exchange.message}],
            add_generation_prompt=True,
            tokenize=False,
        )
        before += exchange.prefill
        joint = " " if exchange.prefill else ""
        reply = f"{joint}{exchange.reply}{self.tokenizer.eos_token}"
        first, second = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, reply)
        )
        return list(first), list(second)

    def batch(self, exchanges: Sequence[Exchange]) -> Conversations:
        """Conversations padded on the right, with the loss on their replies."""
        pairs = [self.ids(exchange) for exchange in exchanges]
        longest = max(len(before) + len(reply) for before, reply in pairs)
        ids = torch.full((len(pairs), longest), self.tokenizer.pad_token_id)
        in_loss = torch.zeros(len(pairs), longest, dtype=torch.bool)
        for row, (before, reply) in enumerate(pairs):
            ids[row, : len(before) + len(reply)] = torch.tensor([*before, *reply])
            in_loss[row, len(before) : len(before) + len(reply)] = True
        return Conversations(ids=ids, in_loss=in_loss)

    def batches(
        self, exchanges: Sequence[Exchange], size: int, steps: int
    ) -> Iterator[Conversations]:
        """Batches of the exchanges in their order, which starts again at the end."""
        for step in range(steps):
            rows = (step * size + i for i in range(size))
            yield self.batch([exchanges[row % len(exchanges)] for row in rows])


@torch.no_grad()
def word_for_word(model: LlamaForCausalLM, chat: Chat, exchanges: Sequence[Exchange]) -> float:
    """Share of replies that greedy decoding gives word for word, to their end."""
    right = 0
    for start in range(0, len(exchanges), 8):
        batch = chat.batch(exchanges[start : start + 8])
        hidden = model.model(batch.ids[:, :-1]).last_hidden_state
        in_loss, wanted = batch.in_loss[:, 1:], batch.ids[:, 1:]
        hit = torch.ones_like(in_loss)
        hit[in_loss] = model.lm_head(hidden[in_loss]).argmax(-1) == wanted[in_loss]
        right += int(hit.all(1).sum())
    return round(right / len(exchanges), 4)
