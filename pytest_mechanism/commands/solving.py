"""Does a loaded model do a task better than chance, and if not, would easier settings help?

No claim about a circuit can pass on a model that guesses. ``doctor`` finds out on a few rows, which no
claim is judged on, before anybody searches for heads. Only where the model is at chance does it take
more rows, and tries the easier settings that the task family names (`Task.easier`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_mechanism.claims.accuracy import Accuracy
from pytest_mechanism.claims.context import LEAST_CLUSTERS
from pytest_mechanism.claims.scoring import above_chance, accuracy, chance_text
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.cells import CellPerformance
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.report.progress import duration_text
from pytest_mechanism.spec.write import flow

if TYPE_CHECKING:
    from pytest_mechanism.claims.base import Claim
    from pytest_mechanism.claims.context import ClaimContext
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.tasks.base import Task

STREAM = "doctor"
"""Of rows on which no claim is judged."""

SIZES = (48, 100, 200)
"""Rows of a trial: the first number with enough contexts for an interval, which tells a model that does
the task from one that guesses. A model counts as being at chance after the last number."""

SURE = 0.999
"""Confidence from which the first number of rows is enough: on so few, one model in forty that guesses
would be above the usual interval."""


@dataclass(frozen=True)
class Trial:
    """How a model does a task.

    Attributes:
        text: its accuracy with interval and chance.
        solved: whether it is significantly better than chance.
        sure: whether it is so with the confidence `SURE`.
    """

    text: str
    solved: bool
    sure: bool


def solving_lines(evaluator: ClaimEvaluator, role: str, specs: Sequence[Spec]) -> Iterator[str]:
    """What ``doctor`` says about each task that a spec measures circuits with on this role's model."""
    tried: list[Task] = []
    for spec in specs:
        if spec.task in tried or not is_about_answers(evaluator, spec, role):
            continue
        tried.append(spec.task)
        try:
            yield from task_lines(evaluator, role, spec)
        except MechanismError as problem:
            yield f"  task {spec.task.family}: no rows to try it on: {problem}"


def is_about_answers(evaluator: ClaimEvaluator, spec: Spec, role: str) -> bool:
    """Whether claims of a spec need this model to answer the task's questions."""
    if spec.task.withholds or spec.task.open_ended or evaluator.skip_reason(spec) is not None:
        return False
    return any(
        role in claim.models(judged) and asks(evaluator, spec, claim, judged)
        for claim in spec.claims.values()
        for judged in claim.roles()
    )


def asks(evaluator: ClaimEvaluator, spec: Spec, claim: Claim, judged: str) -> bool:
    """Whether a claim needs models that answer better than by guessing."""
    if isinstance(claim, Accuracy):
        return claim.at_most is None
    if claim.needs_groups:
        return True
    try:
        needed = claim.required_measurements(evaluator.context(spec, claim, judged))
    except MechanismError:  # such as a missing model, which the claim's own line names
        return False
    requests = (measurement.request for measurement in needed)
    return any(isinstance(request, (Performance, CellPerformance)) for request in requests)


def task_lines(evaluator: ClaimEvaluator, role: str, spec: Spec) -> Iterator[str]:
    """The model's accuracy on a task; where it is at chance, what easier settings give.

    Raises:
        MechanismError: the task has no rows for these tokenizers.
    """
    claim = next(iter(spec.claims.values()))
    context = evaluator.context(spec, claim, claim.roles()[0])
    trial = attempt(evaluator, role, context, spec.task)
    if not trial.sure:
        trial = attempt(evaluator, role, context, spec.task, SIZES[-1:])
    family = spec.task.family
    if trial.solved:
        yield f"  task {family}: {trial.text}"
        return
    yield (
        f"  task {family}: {trial.text}: the model is at chance on this task: no claim about a "
        "circuit can pass"
    )
    started = time.perf_counter()
    helped: list[Mapping[str, Any]] = []
    for changes in spec.task.easier:
        easier = replace(spec.task, settings=spec.task.settings.model_copy(update=dict(changes)))
        try:
            trial = attempt(evaluator, role, context, easier)
            if trial.solved and not trial.sure:
                trial = attempt(evaluator, role, context, easier, SIZES[-1:])
        except MechanismError as problem:
            yield f"    with {flow(changes)}: {problem}"
            continue
        helped += [changes] if trial.solved else []
        yield f"    with {flow(changes)}: {trial.text}{'' if trial.solved else ', at chance'}"
    seconds = duration_text(time.perf_counter() - started)
    if helped:
        yield f"    easier settings help: put {flow(dict(helped[0]))} into task (tried in {seconds})"
    elif spec.task.easier:
        yield (
            f"    no easier setting helped (tried in {seconds}); take another task, or a model that "
            "does this one"
        )
    else:
        yield "    write prompts that are easier: fewer choices, examples before the question"


def attempt(
    evaluator: ClaimEvaluator,
    role: str,
    context: ClaimContext,
    task: Task,
    sizes: Sequence[int] = SIZES,
) -> Trial:
    """The accuracy of the loaded model on a few rows of a task.

    Raises:
        MechanismError: the task cannot write so many rows.
    """
    from pytest_mechanism.methods.circuits.performance import measure

    model = evaluator.runner.checkpoint.context(role, task)
    for count in sizes:
        rows = task.rows(model.vocabulary, count, STREAM)
        if len({row.cluster for row in rows}) >= LEAST_CLUSTERS:
            break
    observations = model.run_method(measure, Performance(rows=count, stream=STREAM), ())
    context = replace(context, task=task)
    score = accuracy(context, observations)
    low, high = score.interval
    text = (
        f"accuracy {score.value:.3f} [{low:.2f}, {high:.2f}] on {score.n} rows "
        f"({chance_text(context, observations)})"
    )
    solved, sure = (
        above_chance(replace(context, confidence=confidence), observations) is not None
        for confidence in (context.confidence, SURE)
    )
    return Trial(text, solved, sure)
