"""Path patching: what a sender tells its receivers, and nothing else.

Prakash et al., section 3.1 and appendix; Wang et al. 2022. For a sender, one head or several, at a
position p, on the clean prompt:

run 1   its z at p comes from the source prompt; every other head at p and at later positions is
        reset to its clean z; MLPs and norms recompute (a *held* branch: before p nothing can have
        changed). The receivers' q, k or v at p is recorded.
run 2   nothing frozen; only those recorded slices are put in.

Without receivers the answer is read in run 1 (the direct path to the logits). Under GQA, v and k of
a head are those of its key-value group.

Score of a sender, row by row: log p(answer | patched) - log p(answer | clean). Beside it under
``ratio ...`` the published one, (p_patched - p_clean) / p_clean, whose mean explodes where the
model is wrong and sure.

Other than published: what is judged and ranked by is the change of the log-probability, which is
bounded where the model is wrong. A source prompt whose query label stands nowhere in its context has
``previous_query_label`` at the label of the position that was asked for; the paper takes any label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Part, Reading, Run, Site
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.methods.context import Batch, Columns, MeasurementContext
from pytest_mechanism.methods.readout import log_probability
from pytest_mechanism.types import Head, Observations


def measure(
    context: MeasurementContext, request: PathPatching, inputs: Sequence[Any]
) -> Observations:
    """``{name}`` and ``ratio {name}`` for each sender.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``; ``senders``: name -> [layer, head] each; ``at``: their
            named position; ``receivers``: [layer, head] each, none for the logits; ``via``: ``q``,
            ``k`` or ``v`` of the receivers, or None.
        inputs: none.
    """
    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        run = context.engine.run(batch.base.tokens)
        before = answer_log_probability(run.outcome, batch)
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
            change = answer_log_probability(outcome, batch) - before
            columns.add(name, change)
            columns.add(f"ratio {name}", change.expm1())
    return columns.observations(rows)


def answer_log_probability(outcome: Outcome, batch: Batch) -> Tensor:
    """[R]."""
    return log_probability(outcome.logits, batch.accepted)


def patched(
    context: MeasurementContext,
    batch: Batch,
    run: Run,
    senders: Sequence[Sequence[Head]],
    at: str,
    receivers: Sequence[Head],
    via: Part | None,
) -> Iterator[Outcome]:
    """One outcome a sender: of run 1 to the logits, of run 2 to receivers."""
    source, place = batch.the_source(), batch.base.at(at)
    layers = sorted({layer for heads in senders for layer, _ in heads})
    taken = context.engine.run(
        source.tokens,
        readings=[Reading(Site(layer, "z"), source.at(at)) for layer in layers],
        answer=False,
    ).outcome.readings
    theirs = dict(zip(layers, taken, strict=True))
    listening = receiver_readings(context, receivers, via, place)
    first = (
        Branch(sent(theirs, place, heads), listening, freeze_attention=True, answer=via is None)
        for heads in senders
    )
    outcomes = run.branches(first)
    if via is None:
        return outcomes
    second = (
        Branch(
            [
                Edit(r.site, v, at=r.at, heads=r.heads)
                for r, v in zip(listening, o.readings, strict=True)
            ]
        )
        for o in outcomes
    )
    return run.branches(second)


def sent(theirs: Mapping[int, Tensor], place: Tensor, heads: Sequence[Head]) -> list[Edit]:
    """The senders' z at their position from the source prompt, one edit a layer."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    # stacked, since a list as an index would be copied to the GPU, and waited for
    return [
        Edit(
            Site(layer, "z"),
            torch.stack([theirs[layer][:, :, head] for head in mine], 2),
            at=place,
            heads=tuple(mine),
        )
        for layer, mine in sorted(by_layer.items())
    ]


def receiver_readings(
    context: MeasurementContext, receivers: Sequence[Head], via: Part | None, place: Tensor
) -> list[Reading]:
    """Where the receivers listen: q of the heads, or k and v of their key-value groups, at p."""
    if via is None:
        return []
    shape = context.model.shape
    share = 1 if via == "q" else shape.n_heads // shape.n_kv_heads
    by_layer: dict[int, set[int]] = {}
    for layer, head in receivers:
        by_layer.setdefault(layer, set()).add(head // share)
    return [
        Reading(Site(layer, via), place, tuple(sorted(heads)))
        for layer, heads in sorted(by_layer.items())
    ]
