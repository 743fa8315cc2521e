"""The tokenizer of a checkpoint, read from its files. No torch.

Special tokens that a tokenizer puts before a text stay (a model expects its BOS); the ones that it
puts after a text are cut, since the answer follows there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.files import check_file, is_gguf
from pytest_mechanism.tasks.text.added_tokens import add_tokens
from pytest_mechanism.tasks.text.gguf_tokenizer import tokenizer_folder
from pytest_mechanism.tasks.text.pattern_check import check_patterns

MAX_BYTES = 1 << 28
"""Of a tokenizer.json."""

MOST_KEPT = 400_000
"""Tokens of texts that a tokenizer keeps, about 50 MB: measurements on one task read the same texts."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Attributes:
        ids: token ids.
        offsets: the characters of each token.
        special: whether the tokenizer puts the token before every text.
        last: the last token as the tokenizer shows it.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    last: str


@dataclass
class KeptTokens:
    """Texts that were read, and their tokens; those that were read first make room.

    Attributes:
        texts: a text and whether special tokens were added -> its tokens.
        count: tokens of all texts.
    """

    texts: dict[tuple[str, bool], Tokens] = field(default_factory=dict)
    count: int = 0

    def keep(self, text: str, special: bool, tokens: Tokens) -> None:
        """Keep a text's tokens."""
        self.texts[text, special] = tokens
        self.count += len(tokens.ids)
        while self.count > MOST_KEPT:
            self.count -= len(self.texts.pop(next(iter(self.texts))).ids)


@dataclass(frozen=True)
class CheckpointTokenizer:
    """The tokenizer of one checkpoint.

    Attributes:
        tokenizer: a ``tokenizers.Tokenizer``.
        name: for errors.
        folder: the checkpoint's folder, with its chat template; None without a checkpoint.
        file: the GGUF file that ``folder`` was made from, or None.
        kept: texts that were read, and their tokens.
    """

    tokenizer: Any = field(repr=False)
    name: str
    folder: Path | None = None
    file: Path | None = None
    kept: KeptTokens = field(default_factory=KeptTokens, repr=False, compare=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read tokenizer.json and the files beside it that add tokens; or a GGUF file.

        Raises:
            MechanismError: a file is missing or damaged, or a pattern in it does not terminate.
        """
        from tokenizers import Tokenizer

        name, file = str(folder), None
        if is_gguf(folder):
            file, folder = folder, tokenizer_folder(folder)
        path = folder / "tokenizer.json"
        try:
            check_file(path, MAX_BYTES)
            check_patterns(path)
            tokenizer = Tokenizer.from_file(str(path))
            # padding and truncation of somebody's last batch may be saved in the file
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except MechanismError:
            raise
        except Exception as problem:  # the library raises a bare Exception
            raise MechanismError(f"{path} cannot be read: {problem}") from None
        add_tokens(tokenizer, folder)
        return cls(tokenizer, name, folder, file)

    @property
    def vocabulary_size(self) -> int:
        """The largest token id, plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def tokenize(self, text: str, special: bool) -> Any:
        """The ``tokenizers.Encoding`` of a text.

        Raises:
            MechanismError: a pattern of the tokenizer fails on the text.
        """
        try:
            return self.tokenizer.encode(text, add_special_tokens=special)
        except BaseException as problem:
            if type(problem).__name__ != "PanicException":  # no Exception, and in no module
                raise
            raise MechanismError(
                f"tokenizer of {self.name}: fails on {text[:60]!r}: {one_line(str(problem))[:120]}"
            ) from None

    def tokens(self, text: str, special: bool) -> Tokens:
        """The tokens of a text, without the special tokens after it; read once while there is room."""
        if (kept := self.kept.texts.get((text, special))) is not None:
            return kept
        tokens = self.read_tokens(text, special)
        self.kept.keep(text, special, tokens)
        return tokens

    def read_tokens(self, text: str, special: bool) -> Tokens:
        """As `tokens`, from the tokenizer itself."""
        encoding = self.tokenize(text, special)
        ids, mask = encoding.ids, encoding.special_tokens_mask
        count = len(ids)
        while special and count and mask[count - 1]:
            count -= 1
        return Tokens(
            tuple(ids[:count]),
            tuple(encoding.offsets[:count]),
            tuple(map(bool, mask[:count])),
            encoding.tokens[count - 1] if count else "",
        )
