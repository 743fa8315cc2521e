"""How many background prompts are behind a positional mean: counted here, without torch.

A slot is (anchor of the template, tokens since it). A row needs a mean for each of its own slots, and
a mean of fewer than `LEAST_PROMPTS` prompts is an error. `methods.ablation` applies the rule to a
loaded model; the look-ahead (`runner.ahead`) applies it to the tokenizer alone, before a model is
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

LEAST_PROMPTS = 50
"""Fewer prompts behind a mean is an error."""

MARGIN = 1.2
"""Prompts advised over those that would just do: which slots they have is a matter of chance."""

Slot = tuple[str, int]


def too_few(slot: Slot, count: int | None = None, of: int | None = None) -> str:
    """The sentence about one slot that no mean can be given for."""
    anchor, offset = slot
    seen = "" if count is None else f" ({count} of {of} have it)"
    return (
        f"fewer than {LEAST_PROMPTS} background prompts have token {offset} after the anchor "
        f"{anchor!r}{seen}"
    )


def shortage(
    needed: Iterable[Slot], counts: Mapping[Slot, int], drawn: int, asked: int
) -> str | None:
    """What is missing for a mean at every needed slot, and what to change; None if nothing is.

    Args:
        needed: slots of the rows.
        counts: slot -> background prompts that have it.
        drawn: background prompts that there are.
        asked: ``ablation.prompts``; a task may have fewer different prompts.
    """
    lacking = sorted({slot for slot in needed if counts.get(slot, 0) < LEAST_PROMPTS})
    if not lacking:
        return None
    worst = min(lacking, key=lambda slot: counts.get(slot, 0))
    count = counts.get(worst, 0)
    if drawn < asked:
        advice = (
            f"the task has {drawn} different background prompts and not the {asked} of "
            "ablation.prompts: give it more words, or write ablation: {value: mean}"
        )
    elif count == 0:
        advice = (
            f"raise ablation.prompts (now {asked}), or write ablation: {{value: mean}}, which needs "
            "no place in common"
        )
    else:
        wanted = asked * LEAST_PROMPTS / count * MARGIN
        step = 10 ** max(1, math.floor(math.log10(wanted)) - 1)
        advice = f"raise ablation.prompts from {asked} to {math.ceil(wanted / step) * step}"
    several = "" if len(lacking) == 1 else f", nor {len(lacking) - 1} other places"
    return f"{too_few(worst, count, drawn)}{several}; {advice}"
