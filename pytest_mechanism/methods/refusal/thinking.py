"""What a reply says after its thinking: reasoning models write that first, between marks."""

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
"""What stands before and after, in the families that are known."""

NAMED = re.compile(
    r"(?P<open>[<\[◁])(?P<name>\|?[\w:|]*(?:think|thought|reason|reflect)[\w:|]*)(?P<shut>[>\]▷])",
    re.IGNORECASE,
)
"""A mark that a chat template may name."""


@dataclass(frozen=True)
class Thinking:
    """How a model thinks.

    Attributes:
        marks: what may stand before and after its thoughts.
        begun: what stands after them, where its prompts end within them; else nothing.
    """

    marks: tuple[tuple[str, str], ...] = MARKS
    begun: str = ""

    def rest(self, said: str, cut: bool) -> str | None:
        """What a reply says when it has thought; None where it has not finished.

        Args:
            said: the reply.
            cut: whether the model would have gone on.
        """
        if self.begun:
            _, found, rest = said.partition(self.begun)
            return rest if found else None
        bare = said.lstrip()
        for before, after in self.marks:
            if bare.startswith(after):  # it began to answer at once
                return bare[len(after) :]
            if bare.startswith(before):
                _, found, rest = bare.partition(after)
                return rest if found else None
            if cut and bare and before.startswith(bare.rstrip()):  # the mark itself is not finished
                return None
        return said


def thinking(prompt: str, template: str = "") -> Thinking:
    """How a model thinks whose prompts end like this one, and that has this chat template."""
    marks = (*MARKS, *named(template))
    end = prompt.rstrip()
    begun = [after for before, after in marks if end.endswith(before)]
    return Thinking(marks, begun[0] if begun else "")


def named(template: str) -> Sequence[tuple[str, str]]:
    """Pairs of marks that a template names: ``<x>`` and ``</x>``."""
    found = []
    for match in NAMED.finditer(template):
        before, after = match[0], f"{match['open']}/{match['name']}{match['shut']}"
        if after in template and (before, after) not in MARKS:
            found.append((before, after))
    return tuple(dict.fromkeys(found))
