"""The answer of a reply without its thinking, which reasoning models write first, between marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARKS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
"""The marks around the thinking of known families."""

NAMED = re.compile(
    r"(?P<open>[<\[◁])(?P<name>\|?[\w:|]*(?:think|thought|reason|reflect)[\w:|]*)(?P<shut>[>\]▷])",
    re.IGNORECASE,
)
"""The opening mark of a chat template."""


@dataclass(frozen=True)
class Thinking:
    """The marks around a model's thinking.

    Attributes:
        marks: pairs of an opening and a closing mark.
        closing: the closing mark, if prompts end with the opening one; else empty.
    """

    marks: tuple[tuple[str, str], ...] = MARKS
    closing: str = ""

    def answer(self, reply: str, cut: bool) -> str | None:
        """The reply after its thinking; None if the thinking is not finished.

        Args:
            reply: the text.
            cut: whether the model would have written more.
        """
        if self.closing:
            _, mark, rest = reply.partition(self.closing)
            return rest if mark else None
        text = reply.lstrip()
        for opening, closing in self.marks:
            if text.startswith(closing):  # the model answers at once
                return text[len(closing) :]
            if text.startswith(opening):
                _, mark, rest = text.partition(closing)
                return rest if mark else None
            if cut and text and opening.startswith(text.rstrip()):  # an incomplete opening mark
                return None
        return reply


def thinking_of(prompt: str, template: str = "") -> Thinking:
    """The marks of a model with this chat template, whose prompts have the ending of this one."""
    marks = (*MARKS, *template_marks(template))
    end = prompt.rstrip()
    pending = [closing for opening, closing in marks if end.endswith(opening)]
    return Thinking(marks, pending[0] if pending else "")


def template_marks(template: str) -> Sequence[tuple[str, str]]:
    """Pairs of marks in a chat template: ``<x>`` and ``</x>``."""
    pairs = []
    for match in NAMED.finditer(template):
        opening, closing = match[0], f"{match['open']}/{match['name']}{match['shut']}"
        if closing in template and (opening, closing) not in MARKS:
            pairs.append((opening, closing))
    return tuple(dict.fromkeys(pairs))
