"""The profile of a circuit: how much of the answer's logit goes through the path of each head and MLP.

Path patching (`methods.circuits.path_patching`; Prakash et al. 2024, section 3.1; Wang et al. 2022) of each
sender into the same readers. What is read is not the log-probability but the centred logit

    c(logits) = logit of the right answer - mean logit of all right answers of the measured rows

and a sender's effect is c(patched) - c(clean). ``total`` is c(source prompt) - c(clean): what exchanging the
whole prompt does. The claim divides the means, so that a profile is a share of what the prompt does.

Why: a model that is surer of its answers has larger logits everywhere, and the log-probability of a sure model
hardly falls when one of several heads is patched. In the embedded pair (accuracy .70 and .99), the four value
fetchers have +.02, +.02, +.01 and +.05 of the log-probability in the base and +.02, +.02, +.01 and +.01 in the
fine-tune, and .18, .19, .19 and .22 against .19, .21, .19 and .19 of the logit. Logits are nearly linear in what heads
write, log-probabilities are not. The mean is over the task's own answers, so that words which no tokenizer of
the run has do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.methods.circuits.path_patching import pairs, patched
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_sum_exp
from pytest_mechanism.types import Observations

TOTAL = "total"
"""The column of the whole source prompt; no sender has this name."""


def measure(
    context: MeasurementContext, request: EffectProfile, inputs: Sequence[Any]
) -> Observations:
    """``{name}`` for each sender, and ``total``."""
    rows = pairs(context, request)
    answers = context.answer_id_sets([(row.base, row.base.correct_answers) for row in rows])
    words = torch.unique(answers[answers >= 0])
    columns = Columns()
    for batch in context.batches(rows):
        source = context.engine.run(batch.require_source().tokens).outcome.logits
        run = context.engine.run(batch.base.tokens)
        clean = centred(run.outcome.logits, batch.correct_answers, words)
        columns.add(TOTAL, centred(source, batch.correct_answers, words) - clean)
        outcomes = patched(
            context,
            batch,
            run,
            list(request.senders.values()),
            request.at,
            request.receivers,
            request.via,
        )
        for name, outcome in zip(request.senders, outcomes, strict=True):
            columns.add(name, centred(outcome.logits, batch.correct_answers, words) - clean)
    return columns.observations(rows)


def centred(
    logits: Float[Tensor, "rows words"],
    answers: Int[Tensor, "rows answers"],
    words: Int[Tensor, " chosen"],
) -> Float[Tensor, " rows"]:
    """The logit of the right answer minus the mean logit of some words."""
    return log_sum_exp(logits, answers) - logits[:, words].mean(-1)
