"""A user's own text as passages: the lines of a file, in tokens, as far as two models can read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import BadFile, read_bytes

if TYPE_CHECKING:
    from pytest_mechanism.tasks.text.encoding import Encoder

MOST_BYTES = 16 << 20
"""Of the file; a comparison reads a small part of it."""

PASSAGES = 200
"""Passages that are read, unless the user asks for another number."""

LONGEST = 256
"""Tokens of a passage; the rest of a longer line is left out. A model may know fewer positions."""

MOST_NUMBERS = 1 << 28
"""Log-probabilities of the reference model that are kept: 1 GiB."""

LEAST = 10
"""Passages and paragraphs that an interval needs."""

MOST_UNKNOWN = 0.1
"""Share of unknown tokens from which a text says nothing about the models."""


@dataclass(frozen=True)
class Text:
    """A user's text in tokens.

    Attributes:
        texts: the passages.
        passages: token ids of each.
        clusters: the paragraph of each.
        places: of each among the lines that were given, counted from 0.
        lines: how many lines the file has that are not empty.
        notes: what a reader of the numbers has to know.
    """

    texts: tuple[str, ...]
    passages: tuple[tuple[int, ...], ...]
    clusters: tuple[str, ...]
    places: tuple[int, ...]
    lines: int
    notes: tuple[str, ...] = ()

    @property
    def predictions(self) -> int:
        """Tokens that are predicted."""
        return sum(len(passage) - 1 for passage in self.passages)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines that are not empty, each with the number of its paragraph.

    Raises:
        MechanismError: there is no such file, it is not text in UTF-8, or it is empty.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise MechanismError(f"--text {path}: no such file") from None
    except BadFile as problem:
        raise MechanismError(f"--text {path} {problem.problem}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise MechanismError(f"--text {path} is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise MechanismError(
            f"--text {path} is not UTF-8: {problem.reason} at byte {problem.start}"
        ) from None
    if "\0" in text:
        raise MechanismError(f"--text {path} has null characters, so it is no text")
    lines, paragraph = [], 0
    for line in text.splitlines():
        if line.strip():
            lines.append((line.strip(), str(paragraph)))
        else:
            paragraph += 1
    if not lines:
        raise MechanismError(f"--text {path} is empty")
    return lines


def tokens_of(
    what: str,
    lines: Sequence[tuple[str, str]],
    encoder: Encoder,
    most: int,
    *,
    longest: int,
    d_vocab: int,
) -> Text:
    """The passages that are read: different lines, each once.

    Args:
        what: the file, for errors.
        lines: of the file, each with the number of its paragraph.
        encoder: of the reference model.
        most: passages.
        longest: tokens of a passage.
        d_vocab: words of the larger vocabulary.

    Raises:
        MechanismError: too few different lines have two tokens.
    """
    texts: list[str] = []
    passages: list[tuple[int, ...]] = []
    clusters: list[str] = []
    places: list[int] = []
    cut, repeated, room, read = 0, 0, MOST_NUMBERS // d_vocab, 0
    seen: set[tuple[int, ...]] = set()
    for line, paragraph in lines:
        ids = tuple(encoder.tokens(line, True).ids)
        kept = ids[:longest]
        if len(passages) == most or len(kept) > room:
            break
        read += 1
        if len(kept) < 2:
            continue
        if kept in seen:  # says nothing new, and an interval would take it for one more passage
            repeated += 1
            continue
        seen.add(kept)
        cut += len(ids) > longest
        texts.append(line)
        passages.append(kept)
        clusters.append(paragraph)
        places.append(read - 1)
        room -= len(kept)
    if len(passages) < LEAST:
        short = "" if read == len(lines) else f", and memory for {read} of its {len(lines)} lines"
        raise MechanismError(
            f"{what} has {len(passages)} different lines of two tokens or more (up to token {longest}){short}, and an "
            f"interval needs {LEAST}"
        )
    if len(set(clusters)) < LEAST:
        clusters = [str(number) for number in range(len(passages))]
    text = Text(tuple(texts), tuple(passages), tuple(clusters), tuple(places), len(lines))
    why = "--rows reads more" if len(passages) == most else "there is no memory for more"
    notes = [f"read the first {read} of {len(lines)} lines ({why})"] if read < len(lines) else []
    if cut:
        notes.append(f"{counted(cut)} cut to {longest} tokens")
    if too_few := read - len(passages) - repeated:
        notes.append(f"{counted(too_few)} of fewer than two tokens left out")
    if repeated:
        notes.append(f"{counted(repeated)} left out that repeat another one")
    return replace(text, notes=(*notes, *unknown_words(text, encoder)))


def counted(lines: int) -> str:
    """``1 line``, ``2 lines``."""
    return f"{lines} line" if lines == 1 else f"{lines} lines"


def unknown_words(text: Text, encoder: Encoder) -> Iterator[str]:
    """A note if many tokens stand for words that the tokenizer does not know."""
    share = sum(unknown_tokens(text, encoder)) / sum(map(len, text.passages))
    if share > MOST_UNKNOWN:
        yield f"{share:.0%} of the tokens are unknown to the tokenizer: this is no text for these models"


def unknown_tokens(text: Text, encoder: Encoder) -> list[int]:
    """How many tokens of each passage stand for words that the tokenizer does not know."""
    known = (encoder.tokenizer.token_to_id(word) for word in ("[UNK]", "<unk>"))
    unknown = {i for i in known if i is not None}
    return [sum(i in unknown for i in ids) for ids in text.passages]
