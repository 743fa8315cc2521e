"""The tokens of a word by what stands before it. No torch.

A word that follows a prompt has the tokens that prompt and word have together, less those of the
prompt: a space before it, or none, makes another token of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mechanism.tasks.text.encoding import Encoder

LEAD = "the"
"""A word before another, as words stand in a text: most tokenizers give them their space then."""


@lru_cache(maxsize=200_000)
def answer_token(encoder: Encoder, text: str, joint: str, word: str, special: bool) -> int | None:
    own = own_tokens(encoder, text, joint + word, special)
    if own is None or len(own) != 1:
        return None
    whole = encoder.trimmed(text + joint + word, special)
    start, stop = whole.offsets[-1]
    # BPE may drop the letters that it does not know
    if start > len(text + joint) or stop != len(text + joint + word):
        return None
    return None if unknown(encoder.tokenizer, own[0], whole.last) else own[0]


def own_tokens(encoder: Encoder, text: str, more: str, special: bool) -> tuple[int, ...] | None:
    """The tokens that a text has more, if more is written after it; None where the two melt.

    Tokens of both together are those of the text, and these. The one exception are spaces and line
    breaks at the text's end, which some tokenizers (GPT-2's) write otherwise where a word follows: a
    model that is asked has read the text alone.
    """
    asked, whole = _asked(encoder, text, special), encoder.trimmed(text + more, special)
    if whole.ids[: len(asked)] == asked:
        return whole.ids[len(asked) :]
    if not text[-1:].isspace():
        return None
    own = [i for i, (_, stop) in enumerate(whole.offsets) if stop > len(text)]
    if not own or whole.offsets[own[0]][0] < len(text):
        return None
    return whole.ids[own[0] :]


@lru_cache(maxsize=20_000)
def _asked(encoder: Encoder, text: str, special: bool) -> tuple[int, ...]:
    return encoder.trimmed(text, special).ids


def unknown(tokenizer: Any, token: int, shown: str) -> bool:
    """Whether a token stands for what its tokenizer does not know."""
    if shown != tokenizer.id_to_token(token):  # Unigram shows an unknown word as itself
        return True
    name = getattr(tokenizer.model, "unk_token", None)
    return name is not None and tokenizer.token_to_id(name) == token


@lru_cache(maxsize=100_000)
def word_token(encoder: Encoder, word: str, after: str) -> int | None:
    before = f"{LEAD} {after}" if after else LEAD
    text = before + word if after else f"{before} {word}"
    lead = encoder.encoded(before, special=False).ids
    encoding = encoder.encoded(text, special=False)
    both = encoding.ids
    if len(both) != len(lead) + 1 or both[: len(lead)] != lead:
        return None
    if encoding.offsets[-1][1] != len(text):  # BPE may drop the letters that it does not know
        return None
    return None if unknown(encoder.tokenizer, both[-1], encoding.tokens[-1]) else int(both[-1])
