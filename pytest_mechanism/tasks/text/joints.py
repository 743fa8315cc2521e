"""What stands between a prompt and its answer: a space, or nothing.

    "The capital of France is"           + " Paris"
    "Answer:\\n", '{"city": "', "f(", "法国的首都是" + "Paris", ...

A space belongs to the word after it in most tokenizers, so " Paris" and "Paris" are different
tokens. Prompts that end with a line break, an opening quote or bracket, the opening of a chat turn,
a hyphen or a script without spaces are followed by their answer at once. A prompt that ends with a
space has given that space to its answer.
"""

from __future__ import annotations

import re
import unicodedata

TAG = re.compile(r"<[^<>/\s][^<>\n]{0,60}>")
"""The opening of a turn, or of an element: ``<|assistant|>``, ``<answer>``."""

MARKS = "\"'`*~"
"""Quotes and marks of emphasis that look the same at both ends."""

GLUE = "/\\@#_=-‐‑–—$£€¥<"
"""After these an answer follows at once, if they themselves stand at the end of something."""

ALWAYS = "/\\@#_$£€¥"
"""Those of them that do so after a space too."""

ELISION = re.compile(r"(?:^|[^\w'’])(?:\w|[Qq]u)['’]$")
"""French and Italian articles: l', d', qu'."""

CONTRACTION = re.compile(r"['’](?:s|t|d|m|re|ve|ll)\b")

WITHOUT_SPACES = (
    "CJK ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO ", "IDEOGRAPHIC ",
    "FULLWIDTH ", "YI ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "JAVANESE ",
    "BALINESE ",
)  # fmt: skip
"""How the names of letters begin whose scripts put no space between words."""


def parted(text: str) -> tuple[str, str | None]:
    """A prompt without the spaces at its end, and what they leave for the answer."""
    bare = text.rstrip(" ")
    return bare, " " if bare != text and bare and not bare[-1].isspace() else None


def last_of(text: str) -> tuple[int, int]:
    """The span of a text's last token, whether or not a tokenizer keeps its last line break."""
    return len(text.rstrip()) - 1, len(text)


def between(text: str, word: str) -> str:
    """What stands between a text and the word that follows it."""
    if not text or text[-1].isspace():
        return ""
    last, before = text[-1], text[-2:-1]
    kind = unicodedata.category(last)
    if kind == "Ps" or no_spaces(last) or closes(word):
        return ""
    if kind in ("Pi", "Pf") or last in MARKS:
        return "" if opens(text) else " "
    if last in GLUE:
        apart = not before or before.isspace()
        return "" if last in ALWAYS or not apart else " "
    tags = [match for match in TAG.finditer(text) if not match[0].startswith("</")]
    if last == ">" and tags and tags[-1].end() == len(text):
        # as after the other tags of the text
        others = [text[tag.end()] for tag in tags[:-1]]
        return " " if " " in others else ""
    return " "


def opens(text: str) -> bool:
    """Whether the quote at the end of a text opens something."""
    if ELISION.search(text):
        return True
    bare = text.rstrip(MARKS + "“”‘’«»„‚‹›")
    if not bare or bare[-1].isspace():
        return True
    return unicodedata.category(bare[-1]) == "Ps" or bare[-1] in "=:/<>" or no_spaces(bare[-1])


def closes(word: str) -> bool:
    """Whether a word belongs to what stands before it: punctuation, or a contraction."""
    if not word:
        return False
    first = word[0]
    return (
        first in ",.;:!?%…"
        or unicodedata.category(first) in ("Pe", "Pf")
        or CONTRACTION.match(word) is not None
        or (no_spaces(first) and not first.isalnum())
    )


def no_spaces(letter: str) -> bool:
    """Whether a letter belongs to a script that puts no space between words."""
    code = ord(letter)
    if code < 0x0E00:
        return False
    if 0x3000 <= code <= 0x303F:  # their punctuation
        return True
    return unicodedata.name(letter, "").startswith(WITHOUT_SPACES)
