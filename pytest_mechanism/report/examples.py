"""The prompts behind a red claim as lines of text."""

from __future__ import annotations

import re

from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.errors import visible
from pytest_mechanism.types import Evidence, Example

PROMPT = 48
"""Characters of a prompt that are shown, from its end, where it does not fit on a line with the answers."""

LEAST = 20
"""Characters of a prompt that are worth a line with the answers."""

LINE = 76
"""Characters of a line of a narrow terminal, beside the quotation mark and the space before it."""

FIRST = 150
"""Characters of the first prompt that are shown: two lines."""

CLAUSE = 60
"""Characters of the part of a prompt that names the right answer."""

STOPS = ".,;:!?"
"""Where such a part begins and ends."""

ANSWER = 40
"""Characters of an answer that are shown, from its beginning."""


def example_lines(evidence: Evidence | None, count: int = 3) -> list[str]:
    """What was looked at, and a line for each prompt: its end, what is expected, what the models said and what
    the claim measured, base beside the candidate."""
    if evidence is None:
        return []
    if not evidence.examples:
        return [visible(evidence.what)]
    what = f"{evidence.what} ({evidence.measured})"
    shown = evidence.examples[:count]
    whole = all(number == round(number) for x in shown for number in x.numbers.values())
    return [
        visible(what),
        *(
            example_line(example, 0 if whole else 3, first=i == 0)
            for i, example in enumerate(shown)
        ),
    ]


def example_line(example: Example, decimals: int, *, first: bool = False) -> str:
    """A prompt, on one line where that has room for its end; the first one on more, whole if it is short:
    ``"...Box F contains the" wants knife; base: knife (-0.010), ft: pot (-8.200)``."""
    roles = dict.fromkeys((*example.answers, *example.numbers))
    ordered = sorted(roles, key=lambda role: role != REFERENCE)
    parts = [f"{role}: {said(example, role, decimals)}" for role in ordered]
    wanted = shortened(example.expected, ANSWER)
    answers = f'" wants {wanted}; {", ".join(parts)}'
    room = LINE - len(answers)
    prompt = (
        extract(example.prompt, example.expected)
        if first
        else ending(example.prompt, room if room >= LEAST else PROMPT)
    )
    return visible(f'  "{prompt}{answers}')


def said(example: Example, role: str, decimals: int) -> str:
    """What a model said, with what the claim measured on the row."""
    answer = shortened(example.answers.get(role, "").strip(), ANSWER)
    number = example.numbers.get(role)
    shown = "" if number is None else f"{number:.{decimals}f}"
    if answer and shown:
        return f"{answer} ({shown})"
    return answer or shown or "nothing"


def extract(prompt: str, expected: str) -> str:
    """A prompt, or of a long one the end, and before it the last part that names the right answer."""
    text = " ".join(prompt.split())
    if len(text) <= FIRST:
        return text
    end = ending(text, PROMPT)
    before = text[: len(text) - len(end.removeprefix("..."))]
    for answer in expected.split(" or "):
        named = (
            [*re.finditer(rf"\b{re.escape(answer.strip())}\b", before)] if answer.strip() else []
        )
        if named:
            at = named[-1]
            start = max(before.rfind(stop, 0, at.start()) for stop in STOPS) + 1
            after = [i for stop in STOPS if (i := before.find(stop, at.end())) >= 0]
            clause = before[start : min(after, default=len(before))].strip()
            if len(clause) <= CLAUSE:
                return f"{'...' if start else ''}{clause} {end}"
    return end


def ending(prompt: str, most: int) -> str:
    """The end of a prompt, from a word on, as one line of at most ``most`` characters."""
    text = " ".join(prompt.split())
    if len(text) <= most:
        return text
    end = text[3 - most :]
    return f"...{end.partition(' ')[2] or end}"


def shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."
