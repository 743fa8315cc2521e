"""Which prompts of a task are for evaluation and which for search: three parts that share none.

Half of the prompts are evaluated. A quarter is searched on: heads are ranked on it, masks are
trained on it, means are taken over it. The last quarter selects among the results of the search.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["evaluation", "search", "selection"]

EVALUATION_STREAMS = ("rows", "pairs", "test", "self-check")

RESAMPLE = "resample"
"""The stream of prompts whose activations replace those of an ablated head one by one."""

SEARCH_STREAMS = ("discover_rank", "dcm_train", "ablation", RESAMPLE)
"""All other streams select."""


def part_of_stream(stream: str) -> Part:
    """The part that a stream draws from. A stream ``name/1`` is a further draw of ``name``."""
    stream = stream.partition("/")[0]
    if stream in EVALUATION_STREAMS:
        return "evaluation"
    return "search" if stream in SEARCH_STREAMS else "selection"


def part_of_text(seed: int, text: str) -> Part:
    """The part that a prompt belongs to, which its text and the seed alone decide."""
    parts: tuple[Part, ...] = ("evaluation", "evaluation", "search", "selection")
    return parts[hashlib.sha256(f"{seed}/{text}".encode()).digest()[0] % 4]
