"""JSONL files of prompts: one object a line, with positions marked in the text or named by
substring.

    {"prompt": "When [[S1:Mary]] and John went to the shop, John gave a drink to", "answer": "Mary",
     "source": "When [[S1:Anna]] and Paul went to the shop, Paul gave a drink to",
     "positions": {"S2": "John#2"}, "options": ["Mary", "John"], "targets": {"name": "Anna"}}

``[[name:text]]`` marks a position and stays in the text as ``text``; ``"positions"`` names a
substring, ``#2`` its second occurrence. Both hold for the source too, if it has the substring.

`tasks.text.joints` decides whether a space precedes the answer; ``"joint": ""`` and ``"joint": " "``
override it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.text.joints import last_span, strip_trailing_space
from pytest_mechanism.tasks.text.prompt import Prompt, Span, TextBuilder
from pytest_mechanism.tasks.writing.json_lines import at_line, json_object, text_lines, text_of
from pytest_mechanism.tasks.writing.patterns import NAME, is_name

MARK = re.compile(rf"\[\[({NAME}):(.*?)\]\]", re.DOTALL)
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
        base: the prompt that the model answers.
        source: the prompt whose activations are patched in, or None.
        targets: variable -> what comes out if a patch moves it from the source.
        cluster: shared by lines that are not independent, or None.
    """

    base: Prompt
    source: Prompt | None
    targets: Mapping[str, str]
    cluster: str | None

    @property
    def completions(self) -> tuple[tuple[Prompt, str], ...]:
        """Prompts with the words that must follow them as one token each."""
        own = [(self.base, word) for word in (self.base.answer, *self.targets.values())]
        return tuple(own if self.source is None else [*own, (self.source, self.source.answer)])


@lru_cache(maxsize=16)
def prompt_lines(file: DataFile) -> tuple[Line, ...]:
    """The prompts of a file.

    Raises:
        ValueError: what is wrong with a line; with file and line.
    """
    lines: list[Line] = []
    for number, text in text_lines(file):
        with at_line(file, number):
            line = parse_line(text)
            first = lines[0] if lines else line
            if line.base.spans.keys() != first.base.spans.keys():
                own, others = (", ".join(sorted(x.base.spans)) for x in (line, first))
                raise ValueError(f"has the positions {own}, other lines have {others}")
            if (line.source is None) != (first.source is None):
                raise ValueError(
                    "some lines have a source and some have none; give one to all or to none"
                )
        lines.append(line)
    return tuple(lines)


def parse_line(text: str) -> Line:
    """Read a line of JSON; a ValueError says what is wrong with it."""
    keys = json_object(text, KEYS, ("prompt", "answer"), EXAMPLE)
    marked, answer, source_text, source_answer, cluster = (
        text_of(keys, key) for key in ("prompt", "answer", "source", "source_answer", "cluster")
    )
    if marked is None or answer is None:
        raise ValueError("prompt and answer must be texts, not null")
    answer = answer.strip()
    options = keys.get("options", [])
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError("options must be a list of words")
    words = tuple(dict.fromkeys([o.strip() for o in options]))
    if words and answer not in words:
        raise ValueError(f"options: the answer {answer!r} is none of them")
    positions, targets = (table(keys, key) for key in ("positions", "targets"))
    joint = keys.get("joint")
    if joint not in (None, "", " "):
        raise ValueError('joint, which precedes the answer, must be "" or " "')
    base = parse_prompt(marked, answer, words, positions, joint)
    if missing := [name for name in positions if name not in base.spans]:
        substring = positions[missing[0]]
        raise ValueError(f"position {missing[0]!r}: the prompt has no {substring!r}")
    source = None
    if source_text is not None:
        source_answer = (source_answer or answer).strip()
        source = parse_prompt(source_text, source_answer, words, positions, joint)
        if missing := sorted({*base.spans} - {*source.spans}):
            raise ValueError(
                f"source: has no position {missing[0]!r}; mark it, [[{missing[0]}:text]]"
            )
    elif targets:
        raise ValueError("targets need a source, from which a patch moves something")
    return Line(base, source, {k: v.strip() for k, v in targets.items()}, cluster)


def table(keys: Mapping[str, Any], key: str) -> dict[str, str]:
    """The value of a key, which must be an object of names and texts."""
    value = keys.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object of names and texts")  # noqa: TRY004
    for name, text in value.items():
        if not is_name(name) or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{key}: {name!r} needs letters, digits or '_', and a text")
    return value


def parse_prompt(
    marked: str,
    answer: str,
    options: tuple[str, ...],
    positions: Mapping[str, str],
    joint: str | None = None,
) -> Prompt:
    """A prompt from a text with marks.

    ``positions`` are substrings by name; one that the text lacks gets no span. A ValueError says
    what is wrong.
    """
    builder, end = TextBuilder(), 0
    for match in MARK.finditer(marked):
        name, place = match.groups()
        if name in builder.spans:
            raise ValueError(f"position {name!r} is marked twice")
        if not place.strip():
            raise ValueError(f"position {name!r} marks nothing")
        builder.add(marked[end : match.start()])
        builder.add(place, name)
        end = match.end()
    text, own_joint = strip_trailing_space(builder.text + marked[end:])
    if not text.strip():
        raise ValueError("prompt must be a text that is not empty")
    spans = builder.spans
    for name, substring in positions.items():
        if name not in spans and (span := occurrence(text, substring)) is not None:
            spans[name] = (span,)
    if LAST in spans:
        raise ValueError("position 'last' is the prompt's last token; choose another name")
    anchors = sorted((span[0][0], name) for name, span in spans.items())
    spans[LAST] = (last_span(text),)
    return Prompt(
        text=text,
        spans=spans,
        answer=answer,
        options=options,
        anchors=(("start", 0), *((name, start) for start, name in anchors)),
        joint=own_joint if joint is None else joint,
    )


def occurrence(text: str, substring: str) -> Span | None:
    """The span of a substring in a text; ``#n`` at its end means the n-th occurrence."""
    piece, _, number = substring.rpartition("#")
    count = 1
    if piece and number.isascii() and number.isdigit():
        substring, count = piece, max(1, int(number))
    start = -1
    for _ in range(count):
        start = text.find(substring, start + 1)
        if start < 0:
            return None
    return start, start + len(substring)
