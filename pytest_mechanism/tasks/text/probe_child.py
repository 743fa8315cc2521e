"""Tries a tokenizer's patterns on long texts, in a process that may not run or grow for long.

Started by `tasks.probing` with a JSON object on standard input; writes ``ok`` when it is through.
Nothing of this package is imported but the file beside it.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

OK = "#tried#"
LENGTHS = (30, 200, 2_000)
"""Letters: a pattern that tries every way to match is through with none of the last ones."""

ALWAYS = "aA1 \n\t'.,-_éЖ中\u00a0\U0001f600"
"""Letters that texts are made of; those of the patterns come to them."""

MOST = 80
"""Letters that are tried."""


def texts(patterns: list[str]) -> list[str]:
    """What is tried: one letter, or two in turns, again and again, and then something else."""
    letters = list(dict.fromkeys(ALWAYS + "".join(c for p in patterns for c in p)))[:MOST]
    # with every letter of the patterns at the end: without one that it needs, none of them is tried
    ends = ("", "!", "\x01", "\x01" + "".join(dict.fromkeys("".join(patterns))))
    found = []
    for length in LENGTHS:
        for letter in letters:
            found += [letter * length + end for end in ends]
        for one, two in pairwise(letters):
            found.append((one + two) * (length // 2) + ends[-1])
    return found


def tried(given: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(given["tokenizer"]))
    for text in texts(given["patterns"]):
        tokenizer.encode(text)
        if tokenizer.decoder is not None:
            tokenizer.decoder.decode([text])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from render_child import limit  # type: ignore[import-not-found] # beside it

    asked = json.loads(sys.stdin.read())
    limit(asked["seconds"], asked["bytes"])
    tried(asked)
    sys.stdout.write(OK)
