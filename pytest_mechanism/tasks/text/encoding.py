"""From text to token ids, and from named spans to token positions. No torch.

A word of several tokens is placed at its last one, or at its first where that is asked for. Special tokens that a tokenizer puts before a
text stay (a model expects its BOS); those it puts after are cut, since the answer comes there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.files import check_file
from pytest_mechanism.tasks.base import Prompt
from pytest_mechanism.tasks.text.added import add
from pytest_mechanism.tasks.text.chat import (
    INSTEAD,
    PLAIN,
    Asking,
    Template,
    Turn,
    ending_ids,
    ending_tokens,
    template_of,
    turn,
)
from pytest_mechanism.tasks.text.own_tokens import answer_token, own_tokens, word_token
from pytest_mechanism.tasks.text.probing import probe

MOST = 1 << 28
"""Bytes of a tokenizer.json."""


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
class Pieces:
    """The tokens of a text.

    Attributes:
        ids: token ids.
        offsets: characters that each of them stands for.
        added: whether the tokenizer puts it before every text.
        last: the last token as its tokenizer shows it.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    added: tuple[bool, ...]
    last: str


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
            MechanismError: missing or damaged, or its patterns do not come to an end.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        try:
            check_file(path, MOST)
            probe(path)
            tokenizer = Tokenizer.from_file(str(path))
            # what somebody's last batch left in the file is no part of the text
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except MechanismError:
            raise
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
        pieces = self.trimmed(prompt.text, prompt.special)
        # by the end of a token: some tokenizers count the space before a word as its own
        ends = [
            -1 if s else stop for s, (_, stop) in zip(pieces.added, pieces.offsets, strict=True)
        ]
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
        return Encoded(pieces.ids, places, self._slots(prompt, ends), firsts)

    def reply(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt's reply, or of its answer, said by a model that has read the prompt's.

        Raises:
            MechanismError: there is no token in it.
        """
        own = own_tokens(self, prompt.text, prompt.completion, prompt.special)
        if own is None:  # together, they would have other tokens than those that the model has read
            own = tuple(self.encoded(prompt.completion, special=False).ids)
        if not own:
            raise MechanismError(
                f"tokenizer of {self.name}: {prompt.completion[:60]!r} has no token of its own "
                f"after {prompt.text[-60:]!r}"
            )
        return list(own)

    def answer(self, prompt: Prompt, word: str) -> int | None:
        """The id of a word that follows a prompt; None where it is not one known token of its own,
        but several, or melts into the last token of the prompt."""
        return answer_token(self, prompt.text, prompt.lead(word), word, prompt.special)

    def encoded(self, text: str, special: bool) -> Any:
        """As the tokenizers library writes a text.

        Raises:
            MechanismError: a pattern of the tokenizer gives up.
        """
        try:
            return self.tokenizer.encode(text, add_special_tokens=special)
        except BaseException as problem:
            if type(problem).__name__ != "PanicException":  # no Exception, and in no module
                raise
            raise MechanismError(
                f"tokenizer of {self.name}: fails on {text[:60]!r}: {one_line(str(problem))[:120]}"
            ) from None

    def trimmed(self, text: str, special: bool) -> Pieces:
        """The tokens of a text, without the special ones that are put after every text."""
        encoding = self.encoded(text, special)
        ids, added = encoding.ids, encoding.special_tokens_mask
        count = len(ids)
        while special and count and added[count - 1]:
            count -= 1
        return Pieces(
            tuple(ids[:count]),
            tuple(encoding.offsets[:count]),
            tuple(bool(each) for each in added[:count]),
            encoding.tokens[count - 1] if count else "",
        )

    @property
    def template(self) -> str:
        """The checkpoint's chat template; nothing where it has none."""
        if self.folder is None:
            return ""
        with suppress(MechanismError):
            return template_of(self.folder)[0]
        return ""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a reply: those that the checkpoint names, and the one that its chat
        template writes after a reply."""
        return _ends(self)

    def chat(self, message: str, asking: Asking = PLAIN) -> Turn:
        """A user's message in the checkpoint's chat template, up to where the answer begins.

        Raises:
            MechanismError: there is none, or it cannot be rendered.
        """
        if self.folder is None:
            raise MechanismError(f"tokenizer of {self.name}: comes without a chat template")
        return turn(self.folder, message, asking, self._template)

    @cached_property
    def _template(self) -> Template:
        return template_of(self.folder or Path())

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
        return word_token(self, word, after)


@lru_cache(maxsize=64)
def _ends(encoder: Encoder) -> frozenset[int]:
    if encoder.folder is None:
        return frozenset()
    found = {encoder.tokenizer.token_to_id(each) for each in ending_tokens(encoder.folder)}
    found |= ending_ids(encoder.folder)
    with suppress(MechanismError):
        after = encoder.chat("hello").end.lstrip()
        added = {i: t.content for i, t in encoder.tokenizer.get_added_tokens_decoder().items()}
        found |= {i for i, content in added.items() if content and after.startswith(content)}
    return frozenset(each for each in found if each is not None)


@dataclass(frozen=True)
class SharedVocabulary:
    """Words that every tokenizer of a run keeps whole."""

    encoders: tuple[Encoder, ...]

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        return tuple(w for w in words if all(e.word(w, after) is not None for e in self.encoders))

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            w for w in words if all(e.answer(prompt, w) is not None for e in self.encoders)
        )

    def chat(self, message: str, asking: Asking = PLAIN) -> Turn:
        """A message in the one template that all checkpoints have.

        Raises:
            MechanismError: they have none, or several.
        """
        turns = [(encoder.chat(message, asking), encoder.name) for encoder in self.encoders]
        written = {one.text: name for one, name in turns}
        if len(written) != 1:
            raise MechanismError(
                f"the checkpoints of this run have different chat templates "
                f"({', '.join(written.values())}), so they would not read the same rows; {INSTEAD}"
            )
        joints = {one.joint for one, _ in turns}
        return replace(turns[0][0], joint=joints.pop() if len(joints) == 1 else None)
