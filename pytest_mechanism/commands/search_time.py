"""How long a search for heads takes, as far as it is known before the search: for ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_mechanism.discovery.discover import Effort
from pytest_mechanism.discovery.forecast import stages_ahead
from pytest_mechanism.discovery.repeated import fresh
from pytest_mechanism.report.progress import duration_text
from pytest_mechanism.runner.evaluator import discovery_role

if TYPE_CHECKING:
    from pytest_mechanism.claims.context import ClaimContext
    from pytest_mechanism.commands.trial import Trial
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec


def search_lines(
    evaluator: ClaimEvaluator, spec: Spec, trials: Mapping[str, Trial]
) -> Iterator[str]:
    """A line for each role on whose model a spec searches heads.

    Args:
        evaluator: of the run.
        spec: with its groups.
        trials: role -> trial of its checkpoint.
    """
    for role, numbers in searches(spec).items():
        if role in trials:
            context = fresh(evaluator.model_context(spec, role), 0)
            yield search_line(context, role, trials[role], len(numbers))


def searches(spec: Spec) -> dict[str, set[int]]:
    """Role -> the numbers of the searches on its model; number 0 is that of ``heads: discovered``."""
    numbers: dict[str, set[int]] = {}
    for claim in spec.claims.values():
        for role in claim.roles():
            if (on := discovery_role(spec, claim, role)) is not None:
                numbers.setdefault(on, set()).add(0)
            for on, number in claim.required_searches(role, spec.groups):
                numbers.setdefault(on, set()).add(number)
    return numbers


def search_line(context: ClaimContext, on: str, trial: Trial, count: int) -> str:
    """The time of the stages, from that with few rows to that with all; the rest depends on what they find."""
    times = []
    for settled in (True, False):
        recorded: set[Any] = set()
        stages = stages_ahead(context, on, Effort().rank_rows, settled=settled)
        times.append([trial.seconds(stage, recorded) for stage in stages.values()])
    first, *others = stages
    how = "the search" if count == 1 else f"each of {count} searches"
    text = f"{how} on {on}: path patching {first} takes about {span(times[0][0], times[1][0])}"
    if others:
        text += f", all {len(stages)} groups about {span(sum(times[0]), sum(times[1]))}"
    return f"{text}; growing the circuit and minimality come on top"


def span(least: float, most: float) -> str:
    """``2 to 5 min``, or one duration where both read the same."""
    low, high = duration_text(least), duration_text(most)
    return low if low == high else f"{low} to {high}"
