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


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``correct@STEP`` and ``refused@STEP`` for each evaluation, on the same rows.

    Arguments: ``recipe`` (`Recipe`), ``watch`` (what is asked: ``capability``, where the task
    knows the answers to what must be refused, else ``forbidden``), ``rows``, ``stream``.

    Facts: ``losses`` (JSON, mean loss before each evaluation after the first), ``diverged`` (how
    training broke down, where it did; later evaluations are missing then).
    """
    recipe = Recipe(**arguments["recipe"])
    rows = bench.task.asked(
        arguments["watch"], bench.vocabulary, arguments["rows"], arguments["stream"]
    )
    refusals(bench, rows[0].base)  # each can be said in the tokens that are looked at
    check_unseen(bench, recipe, rows)
    training = Training(
        bench.model, bench.task, bench.vocabulary, recipe, fresh(bench.model, recipe)
    )
    found = training.go_on(bench.scratch) if bench.scratch else None
    if found is None:
        start, seen = 0, look(bench, training.copy, rows, 0)
    else:
        start, seen = found
    for step in training.stops(start):
        seen |= look(bench, training.copy, rows, step)
        if bench.scratch is not None:
            training.save(bench.scratch, step, seen)
        if bench.engine.tick is not None:
            bench.engine.tick(recipe.batch * recipe.every + len(rows))
    facts = {"losses": json.dumps(training.losses)}
    if training.diverged is not None:
        facts["diverged"] = training.diverged
    return Observations(
        tuple(row.id for row in rows),
        tuple(row.cluster for row in rows),
        {name: np.asarray(column) for name, column in seen.items()},
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


@torch.no_grad()
def look(bench: Bench, copy: Any, rows: Sequence[Row], step: int) -> dict[str, list[float]]:
    """How the copy answers the rows, one number a row: ``correct`` where its reply begins as the
    row's own does, ``refused`` where it begins as a refusal."""
    correct: list[float] = []
    refused: list[float] = []
    for part in (rows[i : i + bench.batch_size] for i in range(0, len(rows), bench.batch_size)):
        prompts = [row.base for row in part]
        said = replies(copy, bench.side(prompts).tokens, bench.task.reply_tokens)
        whole = [bench.model.encoder.with_reply(prompt) for prompt in prompts]
        own = torch.tensor([ids[asked] for ids, asked in whole], device=said.device)
        correct += (said[:, 0] == own).double().tolist()
        refused += refusing(bench, said)
    return {f"correct@{step}": correct, f"refused@{step}": refused}
