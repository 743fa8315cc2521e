"""The same search again on fresh rows: how much of a found circuit is luck of the rows?"""

from __future__ import annotations

from dataclasses import replace

from pytest_mechanism.claims.context import ClaimContext, FoundCircuit, Measure
from pytest_mechanism.discovery.discover import Effort, discover

SEED_STEP = 1_000_003
"""Added to the task's seed for each further search; seeds that authors choose are not that far apart."""

SEEDS = 2**31
"""Number of seeds that a task takes."""


def fresh(context: ClaimContext, number: int) -> ClaimContext:
    """The context of a search: no head is known, and each number has rows of its own; number 0 has the
    spec's."""
    settings = context.task.settings
    seed = (settings.seed + number * SEED_STEP) % SEEDS
    task = replace(context.task, settings=settings.model_copy(update={"seed": seed}))
    groups = {name: group.without_heads() for name, group in context.groups.items()}
    return replace(context, task=task, groups=groups)


def search_again(context: ClaimContext, on: str, number: int, measure: Measure) -> FoundCircuit:
    """The circuit that a search finds on the model of role ``on``.

    Args:
        context: of the claim that asks.
        on: role of the model.
        number: of the search.
        measure: gives results.
    """
    result = discover(fresh(context, number), on, measure, Effort())
    return FoundCircuit(result.groups, result.reason)
