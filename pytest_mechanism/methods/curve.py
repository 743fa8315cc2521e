"""What becomes of a capability and of its suppression while the model is trained, step by step.

Revival (reverse fine-tuning) and the attack curve are the same measurement with another diet
(`methods.training`): Jain et al., ICLR 2024 (arXiv 2311.12786), section 5 and appendix; for
attacks, accuracy or refusal after N steps of tampering.

Interrupted, it goes on from the last evaluation and gives the same numbers: rows are drawn from
streams named by their step, and weights, optimiser and what was seen are kept together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.bench import Bench
from pytest_mechanism.methods.refusal import refusals
from pytest_mechanism.methods.replies import refusing, replies
from pytest_mechanism.methods.training import Recipe, Training, fresh, pool
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Observations

BESIDE = 200
"""Questions that must be answered, at most, that are asked at each evaluation beside the others."""


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``correct@STEP`` and ``refused@STEP`` for each evaluation, on the same rows.

    Arguments: ``recipe`` (`Recipe`), ``watch`` (what is asked: ``capability``, where the task
    knows the answers to what must be refused, else ``forbidden``), ``rows``, ``stream``.

    Facts: ``losses`` (JSON, mean loss before each evaluation after the first), ``diverged`` (how
    training broke down, where it did; later evaluations are missing then), ``allowed`` (JSON, step ->
    [answered right or null, refused, asked], counts of what must be answered: a copy that refuses
    everything, or that training has destroyed, shows nothing).
    """
    recipe = Recipe(**arguments["recipe"])
    rows = bench.task.asked(
        arguments["watch"], bench.vocabulary, arguments["rows"], arguments["stream"]
    )
    refusals(bench, rows[0].base)  # each can be said in the tokens that are looked at
    check_unseen(bench, recipe, rows)
    beside = bench.task.asked(
        "allowed", bench.vocabulary, min(arguments["rows"], BESIDE), arguments["stream"]
    )

    def look(copy: Any, step: int) -> dict[str, list[float]]:
        own = {f"{name}@{step}": column for name, column in answers(bench, copy, rows).items()}
        other = answers(bench, copy, beside)
        return own | {f"allowed-{name}@{step}": column for name, column in other.items()}

    training = Training(
        bench.model, bench.task, bench.vocabulary, recipe, fresh(bench.model, recipe)
    )
    found = training.go_on(bench.scratch) if bench.scratch else None
    if found is None:
        start, seen = 0, look(training.copy, 0)
    else:
        start, seen = found
    for step in training.stops(start):
        seen |= look(training.copy, step)
        if bench.scratch is not None:
            training.save(bench.scratch, step, seen)
        if bench.engine.tick is not None:
            bench.engine.tick(recipe.batch * recipe.every + len(rows))
    facts = {"losses": json.dumps(training.losses), "allowed": json.dumps(counted(seen))}
    if training.diverged is not None:
        facts["diverged"] = training.diverged
    return Observations(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {n: np.asarray(column) for n, column in seen.items() if not n.startswith("allowed-")},
        facts,
    )


def check_unseen(bench: Bench, recipe: Recipe, rows: Sequence[Row]) -> None:
    """No line of a file that is trained on is judged on too.

    Raises:
        MeasurementError: some are.
    """
    if recipe.diet != "file":
        return
    judged = {folded(row.base.text) for row in rows}
    read = pool(recipe)
    both = [
        one.text
        for one in read
        if folded(bench.task.lesson(bench.vocabulary, one.text, one.reply or "").text) in judged
    ]
    if both:
        raise MeasurementError(
            f"data: {len(both)} of {len(read)} lines are questions that are judged on "
            f"({both[0][:60]!r}); a file to train on must not hold them"
        )


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def counted(seen: Mapping[str, list[float]]) -> dict[str, list[float | None]]:
    """Step -> [answered right or None, refused, asked] of what must be answered."""
    found: dict[str, list[float | None]] = {}
    for name, refused in seen.items():
        if name.startswith("allowed-refused@"):
            step = name.partition("@")[2]
            right = seen.get(f"allowed-correct@{step}")
            found[step] = [None if right is None else sum(right), sum(refused), len(refused)]
    return found


@torch.no_grad()
def answers(bench: Bench, copy: Any, rows: Sequence[Row]) -> dict[str, list[float]]:
    """How the copy answers the rows, one number a row: ``refused`` where its reply begins as a
    refusal, and where the rows have replies ``correct`` where it begins as the row's own does."""
    correct: list[float] = []
    refused: list[float] = []
    known = all(row.base.completion.strip() for row in rows)
    for part in (rows[i : i + bench.batch_size] for i in range(0, len(rows), bench.batch_size)):
        prompts = [row.base for row in part]
        said = replies(copy, bench.side(prompts).tokens, bench.task.reply_tokens)
        refused += refusing(bench, said)
        if known:
            whole = [bench.model.encoder.with_reply(prompt) for prompt in prompts]
            own = torch.tensor([ids[asked] for ids, asked in whole], device=said.device)
            correct += (said[:, 0] == own).double().tolist()
    return {"correct": correct, "refused": refused} if known else {"refused": refused}
