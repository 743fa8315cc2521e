"""Tries a tokenizer's patterns on long texts, in a separate process (`child_process`).

Imports nothing of this package.
"""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

LENGTHS = (30, 200, 2_000)
"""Letters: a pattern that tries every way to match does not finish the last ones."""

LETTERS = "aA1 \n\t'.,-_éЖ中\u00a0\U0001f600"
"""Letters that the texts are made of, beside those of the patterns."""

MAX_LETTERS = 80
"""Letters that are tried."""


def texts(patterns: list[str]) -> list[str]:
    """One letter, or two letters in turns, repeated, and then something else."""
    own = "".join(dict.fromkeys("".join(patterns)))
    letters = list(dict.fromkeys(LETTERS + own))[:MAX_LETTERS]
    # a pattern that needs one of its letters backtracks only if the text has it: all at the end
    ends = ("", "!", "\x01", "\x01" + own)
    tried = []
    for length in LENGTHS:
        tried += [letter * length + end for letter in letters for end in ends]
        tried += [(a + b) * (length // 2) + ends[-1] for a, b in pairwise(letters)]
    return tried


def run(arguments: dict[str, Any], limit: Callable[[], None]) -> str | None:
    """Why a pattern fails, or None."""
    from tokenizers import Tokenizer

    limit()
    tokenizer = Tokenizer.from_str(json.dumps(arguments["tokenizer"]))
    try:
        for text in texts(arguments["patterns"]):
            tokenizer.encode(text)
            if tokenizer.decoder is not None:
                tokenizer.decoder.decode([text])
    except BaseException as problem:
        if "retry-limit" not in str(problem):
            raise
        return "a pattern of it tries too many ways to match a text"
    return None


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    from child_main import main  # type: ignore[import-not-found] # beside it

    main(run)
