"""A JSONL file of prompts: one object a line, with places marked in the text or named by substring.

    {"prompt": "When [[S1:Mary]] and John went to the shop, John gave a drink to", "answer": "Mary",
     "source": "When [[S1:Anna]] and Paul went to the shop, Paul gave a drink to",
     "positions": {"S2": "John#2"}, "options": ["Mary", "John"], "targets": {"name": "Anna"}}

``[[name:text]]`` marks a place and stays in the text as ``text``; ``"positions"`` names a substring,
``#2`` its second occurrence. Both hold for the source too, if the substring stands there.

Answers follow the prompt as `tasks.joints` says: after a space, or at once where the prompt ends with
a line break, an opening quote, a chat turn's opening. ``"joint": ""`` and ``"joint": " "`` say it
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_mechanism.tasks.base import Prompt, Span
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.text.joints import last_of, parted
from pytest_mechanism.tasks.writing.json_lines import json_object, said, text_lines

MARK = re.compile(r"\[\[([A-Za-z_][A-Za-z0-9_]*):(.*?)\]\]", re.DOTALL)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEYS = (
    "prompt", "answer", "source", "source_answer", "positions", "options", "targets", "cluster",
    "joint",
)  # fmt: skip
LAST = "last"
EXAMPLE = '{"prompt": "The capital of France is", "answer": "Paris"}'


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        base: the prompt that is answered.
        source: the prompt that activations come from, or None.
        targets: variable -> what comes out if a patch moves it from the source.
        cluster: what the line shares with others, or None.
    """

    base: Prompt
    source: Prompt | None
    targets: Mapping[str, str]
    cluster: str | None

    @property
    def said(self) -> tuple[tuple[Prompt, str], ...]:
        """Prompts with words that must follow them as one token each."""
        own = [(self.base, word) for word in (self.base.answer, *self.targets.values())]
        return tuple(own if self.source is None else [*own, (self.source, self.source.answer)])


def lines(file: DataFile) -> tuple[Line, ...]:
    """The lines of a file.

    Raises:
        ValueError: a line that cannot be meant; with file and line.
    """
    return _lines(file.sha256, file)


@lru_cache(maxsize=16)
def _lines(sha256: str, file: DataFile) -> tuple[Line, ...]:
    found: list[Line] = []
    names: tuple[str, ...] | None = None
    for number, each in text_lines(file):
        try:
            one = line(each)
            own = tuple(sorted(one.base.spans))
            if names is not None and own != names:
                raise ValueError(
                    f"has the positions {', '.join(own)}, other lines have {', '.join(names)}"
                )
            if found and (one.source is None) != (found[0].source is None):
                raise ValueError("a source stands in every line or in none, which is not so here")
        except ValueError as problem:
            raise ValueError(f"{file.file}:{number}: {problem}") from None
        names = own
        found.append(one)
    return tuple(found)


def line(text: str) -> Line:
    """One line of JSON.

    Raises:
        ValueError: what is wrong with it.
    """
    given = json_object(text, KEYS, ("prompt", "answer"), EXAMPLE)
    marked, answer, source_text, source_answer, cluster = (
        said(given, key) for key in ("prompt", "answer", "source", "source_answer", "cluster")
    )
    if marked is None or answer is None:
        raise ValueError("prompt and answer must be texts, not null")
    answer = answer.strip()
    options = given.get("options", [])
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError("options must be a list of words")
    positions, targets = (table(given, key) for key in ("positions", "targets"))
    words = tuple(dict.fromkeys([o.strip() for o in options]))
    if words and answer not in words:
        raise ValueError(f"options: the answer {answer!r} is none of them")
    joint = given.get("joint")
    if joint not in (None, "", " "):
        raise ValueError('joint, which stands before the answer, must be "" or " "')
    base = prompt(marked, answer, words, positions, must=True, joint=joint)
    source = None
    if source_text is not None:
        source = prompt(
            source_text, (source_answer or answer).strip(), words, positions, False, joint
        )
        if missing := sorted({*base.spans} - {*source.spans}):
            raise ValueError(
                f"source: has no position {missing[0]!r}; mark it, [[{missing[0]}:text]]"
            )
    elif targets:
        raise ValueError("targets need a source, from which a patch moves something")
    return Line(base, source, {k: v.strip() for k, v in targets.items()}, cluster)


def table(given: Mapping[str, Any], key: str) -> dict[str, str]:
    """A JSON object of names and texts."""
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object of names and texts")  # noqa: TRY004
    for name, text in value.items():
        if not NAME.fullmatch(name) or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{key}: {name!r} needs letters, digits or '_', and a text")
    return value


def prompt(
    marked: str,
    answer: str,
    options: tuple[str, ...],
    positions: Mapping[str, str],
    must: bool,
    joint: str | None = None,
) -> Prompt:
    """A text with its places.

    Args:
        marked: the text with its marks.
        answer: what should come next.
        options: what somebody who guesses would choose among.
        positions: name -> substring, ``#n`` for its n-th occurrence.
        must: whether every substring has to be there.
        joint: what stands before the answer, where the line says so.

    Raises:
        ValueError: a place that is not there, or stands twice.
    """
    text, spans, at = "", {}, 0
    for match in MARK.finditer(marked):
        text += marked[at : match.start()]
        if match[1] in spans:
            raise ValueError(f"position {match[1]!r} is marked twice")
        if not match[2].strip():
            raise ValueError(f"position {match[1]!r} marks nothing")
        spans[match[1]] = ((len(text), len(text) + len(match[2])),)
        text += match[2]
        at = match.end()
    text, space = parted(text + marked[at:])
    if not text.strip():
        raise ValueError("prompt must be a text that is not empty")
    for name, wanted in positions.items():
        if name in spans:
            continue
        span = occurrence(text, wanted)
        if span is not None:
            spans[name] = (span,)
        elif must:
            raise ValueError(f"position {name!r}: the prompt has no {wanted!r}")
    if LAST in spans:
        raise ValueError("position 'last' is the prompt's last token; choose another name")
    spans[LAST] = (last_of(text),)
    anchors = sorted((span[0][0], name) for name, span in spans.items() if name != LAST)
    return Prompt(
        text=text,
        spans=spans,
        answer=answer,
        options=options,
        anchors=(("start", 0), *((name, start) for start, name in anchors)),
        joint=space if joint is None else joint,
    )


def occurrence(text: str, wanted: str) -> Span | None:
    """Where a substring stands; ``#n`` at its end is its n-th occurrence."""
    piece, _, number = wanted.rpartition("#")
    which = int(number) if piece and number.isascii() and number.isdigit() else 1
    piece = piece if piece and number.isascii() and number.isdigit() else wanted
    start = -1
    for _ in range(max(1, which)):
        start = text.find(piece, start + 1)
        if start < 0:
            return None
    return start, start + len(piece)
