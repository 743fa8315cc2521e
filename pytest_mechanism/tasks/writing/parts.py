"""What is judged on what: three parts of a task's prompts, which no two streams of rows share.

One half is judged on, a quarter is what heads are ranked on, masks are trained on and means are
taken over, a quarter is what they are chosen on.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["judged", "found", "chosen"]

JUDGED = ("rows", "pairs", "test", "self-check")
"""Streams that are judged on."""

FIRST = ("discover_rank", "dcm_train", "ablation", "resample")
"""Streams that something is found on; what is found is chosen on the others."""


def part_of_stream(stream: str) -> Part:
    """The part that a stream draws from."""
    if stream in JUDGED:
        return "judged"
    return "found" if stream in FIRST else "chosen"


def part_of_text(seed: int, text: str) -> Part:
    """The part that a prompt belongs to: its own doing and the seed's, whatever else is drawn."""
    parts: tuple[Part, ...] = ("judged", "judged", "found", "chosen")
    return parts[hashlib.sha256(f"{seed}/{text}".encode()).digest()[0] % 4]
