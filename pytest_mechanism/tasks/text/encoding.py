"""From text to token ids, and from named spans to token positions. No torch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import (
    DEFAULT_CHAT,
    WRITE_TEMPLATE,
    ChatPrompt,
    ChatSettings,
    ChatTemplate,
    ending_ids,
    ending_tokens,
    read_template,
    render_chat,
)
from pytest_mechanism.tasks.text.checkpoint_tokenizer import CheckpointTokenizer
from pytest_mechanism.tasks.text.prompt import Prompt
from pytest_mechanism.tasks.text.word_tokens import answer_token, continuation_tokens, word_token


@dataclass(frozen=True)
class Encoded:
    """A prompt in the tokens of one tokenizer.

    Attributes:
        ids: token ids.
        positions: position -> the last token of each of its spans.
        slots: for each token, its anchor and the number of tokens since that anchor.
        first_positions: position -> the first token of each of its spans.
    """

    ids: tuple[int, ...]
    positions: dict[str, tuple[int, ...]]
    slots: tuple[tuple[str, int], ...]
    first_positions: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Encoder(CheckpointTokenizer):
    """A checkpoint's tokenizer, for prompts, words and chat messages."""

    def encode(self, prompt: Prompt) -> Encoded:
        """The ids, positions and slots of a prompt.

        Raises:
            MechanismError: a named span holds no token.
        """
        tokens = self.tokens(prompt.text, prompt.add_special_tokens)
        # a span is found by the ends of tokens: some tokenizers count the space before a word as
        # part of it. Tokens end in order, special ones before all others
        ends = [
            -1 if special else stop
            for special, (_, stop) in zip(tokens.special, tokens.offsets, strict=True)
        ]
        last: dict[str, tuple[int, ...]] = {}
        first: dict[str, tuple[int, ...]] = {}
        for name, spans in prompt.spans.items():
            tokens_of_spans = [self._tokens_of_span(prompt, name, span, ends) for span in spans]
            first[name] = tuple(start for start, _ in tokens_of_spans)
            last[name] = tuple(stop for _, stop in tokens_of_spans)
        return Encoded(tokens.ids, last, _slots(prompt, ends), first)

    def _tokens_of_span(
        self, prompt: Prompt, name: str, span: tuple[int, int], ends: Sequence[int]
    ) -> tuple[int, int]:
        """The first and the last token of a span."""
        start, stop = span
        text = prompt.text[start:stop]
        last = bisect_right(ends, stop) - 1
        if last < 0 or ends[last] <= start:
            raise MechanismError(
                f"tokenizer of {self.name}: no token at position {name!r} ({text!r}) of "
                f"{prompt.text[:60]!r}"
            )
        # some tokenizers make a token of the space before a word, which is not its first token
        word = stop - len(text.lstrip())
        return min(bisect_right(ends, word if word < stop else start), last), last

    # -- words

    def reply_ids(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt's completion, for a model that has read the prompt's own ids.

        Raises:
            MechanismError: the completion has no token.
        """
        ids = continuation_tokens(self, prompt.text, prompt.completion, prompt.add_special_tokens)
        if ids is None:  # prompt and completion together begin with other ids than the prompt's
            ids = tuple(self.tokenize(prompt.completion, special=False).ids)
        if not ids:
            raise MechanismError(
                f"tokenizer of {self.name}: {prompt.completion[:60]!r} has no token of its own "
                f"after {prompt.text[-60:]!r}"
            )
        return list(ids)

    def answer_id(self, prompt: Prompt, word: str) -> int | None:
        """The id of a word that follows a prompt; None where the word is several tokens, unknown,
        or merges with the last token of the prompt."""
        joint = prompt.joint_before(word)
        return answer_token(self, prompt.text, joint, word, prompt.add_special_tokens)

    def word_id(self, word: str, after: str = "") -> int | None:
        """The id of a word after a space, or glued to the word ``after``; None where the word is
        not one known token."""
        return word_token(self, word, after)

    # -- chat

    @property
    def chat_template(self) -> str:
        """The checkpoint's chat template; empty where it has none."""
        if self.folder is None:
            return ""
        with suppress(MechanismError):
            return self._template.text
        return ""

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a reply: those that the checkpoint's settings name, and the token
        that its chat template writes after a reply."""
        if self.folder is None:
            return frozenset()
        named = (self.tokenizer.token_to_id(token) for token in ending_tokens(self.folder))
        ids = ending_ids(self.folder) | {i for i in named if i is not None}
        with suppress(MechanismError):
            after_reply = self.chat("hello").end.lstrip()
            added = self.tokenizer.get_added_tokens_decoder().items()
            ids |= {i for i, t in added if t.content and after_reply.startswith(t.content)}
        return frozenset(ids)

    def chat(self, message: str, settings: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        """A user's message in the checkpoint's chat template, up to where the answer begins.

        Raises:
            MechanismError: there is no template, or it cannot be rendered.
        """
        if self.folder is None:
            raise MechanismError(f"tokenizer of {self.name}: comes without a chat template")
        return render_chat(Path(self.name), message, settings, self._template)

    @cached_property
    def _template(self) -> ChatTemplate:
        return read_template(self.folder or Path(), self.name)


def _slots(prompt: Prompt, ends: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """For each token, its anchor and the number of tokens since that anchor."""
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


@dataclass(frozen=True)
class SharedVocabulary:
    """The words that are one token in every tokenizer of a run."""

    encoders: tuple[Encoder, ...]

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        """As `Vocabulary.whole`."""
        return tuple(
            w for w in words if all(e.word_id(w, after) is not None for e in self.encoders)
        )

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        """As `Vocabulary.answers`."""
        return tuple(
            w for w in words if all(e.answer_id(prompt, w) is not None for e in self.encoders)
        )

    def chat(self, message: str, settings: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        """As `Vocabulary.chat`."""
        prompts = [encoder.chat(message, settings) for encoder in self.encoders]
        if len({prompt.text for prompt in prompts}) != 1:
            names = {p.text: e.name for p, e in zip(prompts, self.encoders, strict=True)}
            raise MechanismError(
                f"the checkpoints of this run have different chat templates "
                f"({', '.join(names.values())}), so they would not read the same rows; "
                f"{WRITE_TEMPLATE}"
            )
        joints = {prompt.joint for prompt in prompts}
        return replace(prompts[0], joint=joints.pop() if len(joints) == 1 else None)
