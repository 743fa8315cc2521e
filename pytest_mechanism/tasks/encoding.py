"""From text to token ids, and from named spans to token positions. No torch.

A word of several tokens is placed at its last one, or at its first where that is asked for. Special tokens that a tokenizer puts before a
text stay (a model expects its BOS); those it puts after are cut, since the answer comes there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.added import add
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.chat import INSTEAD, chat

LEAD = "the"
"""A word before another, as words stand in a text: most tokenizers give them their space then."""


@dataclass(frozen=True)
class Encoded:
    """A prompt for one tokenizer.

    Attributes:
        ids: token ids.
        places: named position -> token positions, the last token of each word.
        slots: for each token, (anchor, tokens since that anchor).
        firsts: named position -> token positions, the first token of each word.
    """

    ids: tuple[int, ...]
    places: dict[str, tuple[int, ...]]
    slots: tuple[tuple[str, int], ...]
    firsts: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Encoder:
    """One checkpoint's tokenizer.

    Attributes:
        tokenizer: a ``tokenizers.Tokenizer``.
        name: for errors.
        folder: where it comes from, and its chat template with it.
    """

    tokenizer: Any = field(repr=False)
    name: str
    folder: Path | None = None

    @staticmethod
    def load(folder: Path) -> Encoder:
        """Read tokenizer.json, and the tokens that stand beside it.

        Raises:
            MechanismError: missing or damaged.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
            # what somebody's last batch left in the file is no part of the text
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except Exception as problem:  # the library raises a bare Exception
            raise MechanismError(f"{path} cannot be read: {problem}") from None
        add(tokenizer, folder)
        return Encoder(tokenizer, str(folder), folder)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, prompt: Prompt) -> Encoded:
        """Ids, places and slots of a prompt.

        Raises:
            MechanismError: a named span holds no token.
        """
        encoding = self.tokenizer.encode(prompt.text, add_special_tokens=prompt.special)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        special = list(encoding.special_tokens_mask)
        while special and special[-1]:
            for sequence in (ids, offsets, special):
                sequence.pop()
        # by the end of a token: some tokenizers count the space before a word as its own
        ends = [-1 if s else stop for s, (_, stop) in zip(special, offsets, strict=True)]
        places: dict[str, tuple[int, ...]] = {}
        firsts: dict[str, tuple[int, ...]] = {}
        for name, spans in prompt.spans.items():
            found, begun = [], []
            for start, stop in spans:
                # tokens end in order, special ones before all others
                last = bisect_right(ends, stop) - 1
                # some tokenizers make a token of the space before a word, which is not its first
                word = stop - len(prompt.text[start:stop].lstrip())
                first = bisect_right(ends, word if word < stop else start)
                if last < 0 or ends[last] <= start:
                    raise MechanismError(
                        f"tokenizer of {self.name}: no token at position {name!r} "
                        f"({prompt.text[start:stop]!r}) of {prompt.text[:60]!r}"
                    )
                found.append(last)
                begun.append(min(first, last))
            places[name], firsts[name] = tuple(found), tuple(begun)
        return Encoded(tuple(ids), places, self._slots(prompt, ends), firsts)

    def with_reply(self, prompt: Prompt) -> tuple[list[int], int]:
        """Ids of a prompt with its reply after it, and how many of them are the prompt's.

        Raises:
            MechanismError: the reply holds no token of its own.
        """
        encoding = self.tokenizer.encode(
            prompt.text + prompt.completion, add_special_tokens=prompt.special
        )
        ids, special = list(encoding.ids), list(encoding.special_tokens_mask)
        ends = [0 if s else stop for s, (_, stop) in zip(special, encoding.offsets, strict=True)]
        while len(ids) > 1 and special[len(ids) - 1] and prompt.special:
            ids.pop()  # what the tokenizer puts after every text
        asked = sum(end <= len(prompt.text) for end in ends[: len(ids)])
        if asked == len(ids):
            raise MechanismError(
                f"tokenizer of {self.name}: {prompt.completion[:60]!r} has no token of its own "
                f"after {prompt.text[-60:]!r}"
            )
        return ids, asked

    def chat(self, message: str) -> str:
        """A user's message in the checkpoint's chat template, up to where the answer begins.

        Raises:
            MechanismError: there is none, or it cannot be rendered.
        """
        if self.folder is None:
            raise MechanismError(f"tokenizer of {self.name}: comes without a chat template")
        return chat(self.folder, message)

    @staticmethod
    def _slots(prompt: Prompt, ends: Sequence[int]) -> tuple[tuple[str, int], ...]:
        slots: list[tuple[str, int]] = []
        anchors = list(prompt.anchors)
        name, count = "special", 0
        for end in ends:
            if end >= 0:
                while anchors and end > anchors[0][1]:
                    (name, _), count = anchors.pop(0), 0
            slots.append((name, count))
            count += 1
        return tuple(slots)

    def word(self, word: str, after: str = "") -> int | None:
        """The id of a word that follows another, or that is glued to the word ``after``; None if
        it is not one known token."""
        return _word(self.tokenizer, word, after)


@lru_cache(maxsize=100_000)
def _word(tokenizer: Any, word: str, after: str) -> int | None:
    before = f"{LEAD} {after}" if after else LEAD
    text = before + word if after else f"{before} {word}"
    lead = tokenizer.encode(before, add_special_tokens=False).ids
    encoding = tokenizer.encode(text, add_special_tokens=False)
    both = encoding.ids
    if len(both) != len(lead) + 1 or both[: len(lead)] != lead:
        return None
    # Unigram shows an unknown word as itself; BPE may drop the letters that it does not know
    if encoding.tokens[-1] != tokenizer.id_to_token(both[-1]):
        return None
    if encoding.offsets[-1][1] != len(text):
        return None
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None and tokenizer.token_to_id(unknown) == both[-1]:
        return None
    return int(both[-1])


@dataclass(frozen=True)
class SharedVocabulary:
    """Words that every tokenizer of a run keeps whole."""

    encoders: tuple[Encoder, ...]

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        return tuple(w for w in words if all(e.word(w, after) is not None for e in self.encoders))

    def chat(self, message: str) -> str:
        """A message in the one template that all checkpoints have.

        Raises:
            MechanismError: they have none, or several.
        """
        written = {encoder.chat(message): encoder.name for encoder in self.encoders}
        if len(written) != 1:
            raise MechanismError(
                f"the checkpoints of this run have different chat templates "
                f"({', '.join(written.values())}), so they would not read the same rows; {INSTEAD}"
            )
        return next(iter(written))
