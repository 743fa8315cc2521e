"""How much the size of a batch and the engine move numbers on one checkpoint in half precision.

In bfloat16 a sum of a few hundred products keeps two or three digits, and a library adds them in another order
for another number of rows. So a score of an unchanged checkpoint moves with the batch size, with the
engine and with the device, and an accepted score needs an ``atol`` that allows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Engine, Site, Tokens
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.tasks.base import Row


def rounding_error(context: MeasurementContext, reference: Engine, rows: Sequence[Row]) -> float:
    """Change of a row's log-probability of its likeliest next token, in nats: the root mean square over rows, of a
    plain run and of a branch. The larger of two changes: all rows together against each alone, and the context's
    engine against the reference engine.

    Args:
        context: of the loaded checkpoint.
        reference: the reference engine.
        rows: of the self-check; only the base prompts are read.
    """
    prompts = [row.base for row in rows]
    tokens = context.side(prompts).tokens
    words = reference.run(tokens).outcome.logits.argmax(-1)
    together = of_run_and_branch(context.engine, tokens, words)
    alone = [
        of_run_and_branch(context.engine, context.side([prompt]).tokens, words[[i]])
        for i, prompt in enumerate(prompts)
    ]
    changes = [torch.cat(alone, 1) - together]
    if context.engine is not reference:
        changes.append(of_run_and_branch(reference, tokens, words) - together)
    return max(float(change.square().mean().sqrt()) for change in changes)


def of_run_and_branch(
    engine: Engine, tokens: Tokens, words: Int[Tensor, " rows"]
) -> Float[Tensor, "2 rows"]:
    """Log-probability of a word for each row, in float64: of the run, and of a branch that ablates z of the first
    layer at the last token, which goes through all layers."""
    run = engine.run(tokens)
    ablation = Edit(Site(0, "z"), torch.zeros(()), at=tokens.last[:, None])
    (branch,) = run.branches([Branch([ablation])])
    logits = torch.stack([run.outcome.logits, branch.logits]).double()
    return log_probability(logits, words[:, None])
