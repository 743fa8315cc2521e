"""The model with only some heads alive: every other head's z is ablated at every position.

Prakash et al., section 3.2 and appendix. MLPs stay alive. A head is alive at named positions; at
all others it is ablated like the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Site
from pytest_mechanism.methods.ablation import replacements
from pytest_mechanism.methods.bench import Batch, Bench, Columns
from pytest_mechanism.types import Observations


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``{name}_correct`` and ``{name}_log_probability`` for each circuit in ``alive``.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``, ``ablation``, and ``alive``: name -> list of
            [layer, head, named position].
        inputs: none.
    """
    rows = bench.task.rows(bench.vocabulary, arguments["rows"], arguments["stream"])
    columns = Columns()
    for batch in bench.batches(rows):
        silent = replacements(bench, batch, arguments["ablation"])
        run = bench.engine.run(batch.base.tokens)
        circuits = [
            circuit_branch(bench, batch, silent, heads) for heads in arguments["alive"].values()
        ]
        for name, outcome in zip(arguments["alive"], run.branches(circuits), strict=True):
            columns.add_answers(f"{name}_", outcome.logits, batch.answers)
    return columns.observations(rows)


def circuit_branch(
    bench: Bench, batch: Batch, silent: Sequence[Tensor], heads: Sequence[Sequence[Any]]
) -> Branch:
    """Everything silenced but the given heads at their positions."""
    rows, length = batch.base.tokens.ids.shape
    shape, device = bench.model.shape, bench.model.device
    keep = torch.zeros(shape.n_layers, rows, length, shape.n_heads, 1, device=device)
    index = torch.arange(rows, device=device)[:, None]
    for layer, head, name in heads:
        keep[layer, index, batch.base.at(name), head] = 1
    return Branch(
        [Edit(Site(layer, "z"), silent[layer], keep=keep[layer]) for layer in range(shape.n_layers)]
    )
