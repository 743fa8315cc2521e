"""The joint between a prompt and its answer: a space, or nothing.

    "The capital of France is"           + " Paris"
    "Answer:\\n", '{"city": "', "f(", "法国的首都是" + "Paris", ...

In most tokenizers a space belongs to the word after it, so " Paris" and "Paris" are different
tokens. After a line break, an opening quote or bracket, the opening of a chat turn, a hyphen or a
script without spaces, the answer follows without a space. A space at the end of a prompt belongs to
the answer.
"""

from __future__ import annotations

import re
import unicodedata

TAG = re.compile(r"<[^<>/\s][^<>\n]{0,60}>")
"""The opening of a chat turn or an element: ``<|assistant|>``, ``<answer>``."""

SYMMETRIC = "\"'`*~"
"""Quotes and marks of emphasis that look the same at both ends."""

GLUE = "/\\@#_=-‐‑–—$£€¥<"
"""The answer follows these at once where they are attached to something."""

ALWAYS_GLUE = "/\\@#_$£€¥"
"""The ones among them that it follows at once after a space as well."""

ELISION = re.compile(r"(?:^|[^\w'’])(?:\w|[Qq]u)['’]$")
"""French and Italian articles: l', d', qu'."""

CONTRACTION = re.compile(r"['’](?:s|t|d|m|re|ve|ll)\b")

SCRIPTS_WITHOUT_SPACES = (
    "CJK ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO ", "IDEOGRAPHIC ",
    "FULLWIDTH ", "YI ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "JAVANESE ",
    "BALINESE ",
)  # fmt: skip
"""How the Unicode names of their letters begin."""


def strip_trailing_space(text: str) -> tuple[str, str | None]:
    """A prompt without the spaces at its end, and the joint that they leave: a space, or None to
    leave the choice to `joint_between`."""
    bare = text.rstrip(" ")
    return bare, " " if bare != text and bare and not bare[-1].isspace() else None


def last_span(text: str) -> tuple[int, int]:
    """The span of a text's last token, whether or not a tokenizer keeps a final line break."""
    return len(text.rstrip()) - 1, len(text)


def joint_between(text: str, word: str) -> str:
    """The joint between a text and the word that follows it."""
    if not text or text[-1].isspace():
        return ""
    last, before = text[-1], text[-2:-1]
    category = unicodedata.category(last)
    if category == "Ps" or without_spaces(last) or is_closing(word):
        return ""
    if category in ("Pi", "Pf") or last in SYMMETRIC:
        return "" if ends_with_opening_quote(text) else " "
    if last in GLUE:
        detached = not before or before.isspace()
        return "" if last in ALWAYS_GLUE or not detached else " "
    tags = [match for match in TAG.finditer(text) if not match[0].startswith("</")]
    if last == ">" and tags and tags[-1].end() == len(text):
        # as after the other tags of the text
        return " " if " " in [text[tag.end()] for tag in tags[:-1]] else ""
    return " "


def ends_with_opening_quote(text: str) -> bool:
    """Whether the quote at the end of a text opens something."""
    if ELISION.search(text):
        return True
    bare = text.rstrip(SYMMETRIC + "“”‘’«»„‚‹›")
    if not bare or bare[-1].isspace():
        return True
    last = bare[-1]
    return unicodedata.category(last) == "Ps" or last in "=:/<>" or without_spaces(last)


def is_closing(word: str) -> bool:
    """Whether a word is attached to the text before it: punctuation, or a contraction."""
    if not word:
        return False
    first = word[0]
    return (
        first in ",.;:!?%…"
        or unicodedata.category(first) in ("Pe", "Pf")
        or CONTRACTION.match(word) is not None
        or (without_spaces(first) and not first.isalnum())
    )


def without_spaces(letter: str) -> bool:
    """Whether a letter belongs to a script that puts no space between words."""
    code = ord(letter)
    if code < 0x0E00:
        return False
    if 0x3000 <= code <= 0x303F:  # their punctuation
        return True
    return unicodedata.name(letter, "").startswith(SCRIPTS_WITHOUT_SPACES)
