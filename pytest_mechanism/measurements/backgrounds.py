"""How many background prompts a positional mean is taken over, counted without torch.

A slot is (anchor of the template, tokens after it). An ablated head gets a mean for each slot of a row,
and a mean over fewer than `LEAST_PROMPTS` prompts is an error. `methods.circuits.ablation` applies this
rule with a loaded model, `runner.preflight` with the tokenizer alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pytest_mechanism.fields.ablation import LEAST_PROMPTS

MARGIN = 1.2
"""Factor on the number of prompts that would just suffice, because slots are distributed by chance."""

MOST_PROMPTS = 20_000
"""More are not advised, because the model runs on each."""

Slot = tuple[str, int]


def too_few(slot: Slot, count: int | None = None, of: int | None = None) -> str:
    """Says that there is no mean for a slot."""
    anchor, offset = slot
    counts = "" if count is None else f" ({count} of {of} have it)"
    return (
        f"fewer than {LEAST_PROMPTS} background prompts have token {offset} after the anchor "
        f"{anchor!r}{counts}"
    )


def rare_slots(needed: Iterable[Slot], counts: Mapping[Slot, int]) -> list[Slot]:
    """Needed slots with too few prompts, fewest first."""
    rare = {slot for slot in needed if counts.get(slot, 0) < LEAST_PROMPTS}
    return sorted(rare, key=lambda slot: (counts.get(slot, 0), slot))


def sufficient_prompts(
    needed: Collection[Slot], count: Callable[[int], tuple[Mapping[Slot, int], int]], prompts: int
) -> int | None:
    """A round number of prompts that gives each needed slot a mean; None if the task has too few.

    Args:
        needed: slots of the rows.
        count: number of prompts -> (slot -> prompts that have it, prompts that the task wrote).
        prompts: too few.
    """
    wanted = float(prompts)
    while wanted < MOST_PROMPTS:
        counts, written = count(round(wanted))
        if not rare_slots(needed, counts):
            return round(wanted)
        if written < round(wanted):
            return None
        least = min(counts.get(slot, 0) for slot in needed)
        step = 10 ** max(1, math.floor(math.log10(wanted)) - 1)
        growth = min(10.0, MARGIN * LEAST_PROMPTS / max(1, least))
        wanted = math.ceil(max(wanted * growth, wanted + 1) / step) * step
    return None


def shortage(
    rare: Sequence[Slot],
    counts: Mapping[Slot, int],
    written: int,
    prompts: int,
    sufficient: int | None,
) -> str:
    """Says which slots have no mean, and what to change.

    Args:
        rare: see `rare_slots`; at least one.
        counts: slot -> background prompts that have it.
        written: background prompts that the task wrote.
        prompts: ``ablation.prompts``; a task may have fewer different prompts.
        sufficient: see `sufficient_prompts`.
    """
    others = "" if len(rare) == 1 else f", nor {len(rare) - 1:,} other places"
    if sufficient is not None:
        advice = f"raise ablation.prompts from {prompts} to {sufficient}"
    else:
        few = f"there are {written} different ones and not {prompts}: " if written < prompts else ""
        advice = (
            f"{few}more prompts would not do; give the task more words or fewer texts, or write "
            "ablation: {value: mean}"
        )
    return f"{too_few(rare[0], counts.get(rare[0], 0), written)}{others}; {advice}"
