"""How many background prompts are behind a positional mean: counted here, without torch.

A slot is (anchor of the template, tokens since it). A row needs a mean for each of its own slots, and
a mean of fewer than `LEAST_PROMPTS` prompts is an error. `methods.ablation` applies the rule to a
loaded model; the look-ahead (`runner.ahead`) applies it to the tokenizer alone, before a model is
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pytest_mechanism.fields.ablation import LEAST_PROMPTS

MARGIN = 1.2
"""Prompts advised over those that would just do: which slots they have is a matter of chance."""

MOST_PROMPTS = 20_000
"""More are not advised: each is run through the model."""

Slot = tuple[str, int]


def too_few(slot: Slot, count: int | None = None, of: int | None = None) -> str:
    """The sentence about one slot that no mean can be given for."""
    anchor, offset = slot
    seen = "" if count is None else f" ({count} of {of} have it)"
    return (
        f"fewer than {LEAST_PROMPTS} background prompts have token {offset} after the anchor "
        f"{anchor!r}{seen}"
    )


def lacking(needed: Iterable[Slot], counts: Mapping[Slot, int]) -> list[Slot]:
    """Needed slots that too few prompts have, the worst first."""
    found = {slot for slot in needed if counts.get(slot, 0) < LEAST_PROMPTS}
    return sorted(found, key=lambda slot: (counts.get(slot, 0), slot))


def enough(
    needed: Collection[Slot], counted: Callable[[int], tuple[Mapping[Slot, int], int]], asked: int
) -> int | None:
    """How many prompts give each needed slot a mean, rounded up; None where the task has not so many.

    Args:
        needed: slots of the rows.
        counted: a number of prompts -> (slot -> prompts that have it, prompts that there are).
        asked: too few.
    """
    wanted = float(asked)
    while wanted < MOST_PROMPTS:
        counts, drawn = counted(round(wanted))
        if not lacking(needed, counts):
            return round(wanted)
        if drawn < round(wanted):
            return None
        least = min(counts.get(slot, 0) for slot in needed)
        step = 10 ** max(1, math.floor(math.log10(wanted)) - 1)
        more = min(10.0, MARGIN * LEAST_PROMPTS / max(1, least))
        wanted = math.ceil(max(wanted * more, wanted + 1) / step) * step
    return None


def shortage(
    slots: Sequence[Slot], counts: Mapping[Slot, int], drawn: int, asked: int, suffice: int | None
) -> str:
    """What is missing for a mean at these slots, the worst first, and what to change.

    Args:
        slots: see `lacking`; one at least.
        counts: slot -> background prompts that have it.
        drawn: background prompts that there are.
        asked: ``ablation.prompts``; a task may have fewer different prompts.
        suffice: see `enough`.
    """
    several = "" if len(slots) == 1 else f", nor {len(slots) - 1:,} other places"
    if suffice is not None:
        advice = f"raise ablation.prompts from {asked} to {suffice}"
    else:
        few = f"there are {drawn} different ones and not {asked}: " if drawn < asked else ""
        advice = (
            f"{few}more prompts would not do; give the task more words or fewer texts, or write "
            "ablation: {value: mean}"
        )
    return f"{too_few(slots[0], counts.get(slots[0], 0), drawn)}{several}; {advice}"
