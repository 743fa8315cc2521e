"""The tokens that a word has after a text. No torch.

A word that follows a prompt has the tokens of prompt and word together, less those of the prompt.
So its tokens depend on what precedes it: with a space before it, a word is another token.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pytest_mechanism.tasks.text.checkpoint_tokenizer import CheckpointTokenizer

LEAD = "the"
"""A word before another, as in a text: most tokenizers then give the word its space."""


@lru_cache(maxsize=200_000)
def answer_token(
    tokenizer: CheckpointTokenizer, text: str, joint: str, word: str, special: bool
) -> int | None:
    """The id of a word after a text; None if the word is not exactly one known token."""
    ids = continuation_tokens(tokenizer, text, joint + word, special)
    if ids is None or len(ids) != 1:
        return None
    tokens = tokenizer.tokens(text + joint + word, special)
    start, stop = tokens.offsets[-1]
    # BPE may drop the letters that it does not know
    if start > len(text + joint) or stop != len(text + joint + word):
        return None
    return None if _is_unknown(tokenizer.tokenizer, ids[0], tokens.last) else ids[0]


def continuation_tokens(
    tokenizer: CheckpointTokenizer, text: str, more: str, special: bool
) -> tuple[int, ...] | None:
    """The tokens that ``more`` adds to a text; None where the text's own tokens change.

    White space at the end of the text is an exception: some tokenizers (GPT-2's) write it otherwise
    if a word follows. The model has read the text alone, so its tokens may differ there.
    """
    prompt, tokens = tokenizer.tokens(text, special).ids, tokenizer.tokens(text + more, special)
    if tokens.ids[: len(prompt)] == prompt:
        return tokens.ids[len(prompt) :]
    if not text[-1:].isspace():
        return None
    added = [i for i, (_, stop) in enumerate(tokens.offsets) if stop > len(text)]
    if not added or tokens.offsets[added[0]][0] < len(text):
        return None
    return tokens.ids[added[0] :]


def _is_unknown(tokenizer: Any, token: int, shown: str) -> bool:
    """Whether a token stands for a word that its tokenizer does not know."""
    if shown != tokenizer.id_to_token(token):  # Unigram shows an unknown word as itself
        return True
    name = getattr(tokenizer.model, "unk_token", None)
    return name is not None and tokenizer.token_to_id(name) == token


@lru_cache(maxsize=100_000)
def word_token(tokenizer: CheckpointTokenizer, word: str, after: str) -> int | None:
    """The id of a word after a space, or glued to the word ``after``; None where it is not one
    known token."""
    before = f"{LEAD} {after}" if after else LEAD
    text = before + word if after else f"{before} {word}"
    prefix = tokenizer.tokenize(before, special=False).ids
    encoding = tokenizer.tokenize(text, special=False)
    ids = encoding.ids
    if len(ids) != len(prefix) + 1 or ids[: len(prefix)] != prefix:
        return None
    if encoding.offsets[-1][1] != len(text):  # BPE may drop the letters that it does not know
        return None
    return None if _is_unknown(tokenizer.tokenizer, ids[-1], encoding.tokens[-1]) else int(ids[-1])
