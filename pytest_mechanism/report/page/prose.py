"""How a claim kind measures, from the docstring of its module, which is the only place that says so."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from pytest_mechanism import registry

CODE = re.compile(r"``(.+?)``|`([^`]+?)`|\*([^*\s][^*]*?)\*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A paragraph, or lines that keep their line breaks.

    Attributes:
        kept: whether line breaks matter.
        parts: (kind, text), with kind ``text``, ``code`` or ``term``.
    """

    kept: bool
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class KindPage:
    """What the page says about a claim kind.

    Attributes:
        kind: its name.
        summary: one line.
        blocks: how it is measured.
    """

    kind: str
    summary: str
    blocks: tuple[Block, ...]


def kind_page(kind: str) -> KindPage:
    """What an installed kind says about itself; an unknown kind has nothing to say."""
    known: Any = registry.claim_kinds().get(kind)
    if known is None:
        return KindPage(kind, "a kind that is not installed here", ())
    module = sys.modules.get(known.__module__)
    return KindPage(
        kind,
        str(known.summary),
        blocks((module.__doc__ if module else None) or known.__doc__ or ""),
    )


def blocks(text: str) -> tuple[Block, ...]:
    """The paragraphs of a docstring."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.split("\n")
        kept = all(line.startswith("    ") for line in lines if line.strip())
        joined = "\n".join(lines) if kept else " ".join(line.strip() for line in lines)
        if joined.strip():
            found.append(Block(kept, parts(joined)))
    return tuple(found)


def parts(text: str) -> tuple[tuple[str, str], ...]:
    """Text, code and emphasised terms in their order."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in CODE.finditer(text):
        if match.start() > end:
            found.append(("text", text[end : match.start()]))
        code = match[1] or match[2]
        found.append(("code", code) if code else ("term", match[3]))
        end = match.end()
    if end < len(text):
        found.append(("text", text[end:]))
    return tuple(found)
