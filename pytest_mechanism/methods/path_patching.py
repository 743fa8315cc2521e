"""Path patching: what a sender tells its receivers, and nothing else.

Prakash et al., section 3.1 and appendix; Wang et al. 2022. For a sender, one head or several, at a
position p, on the clean prompt:

run 1   its z at p comes from the source prompt; every other head at p and at later positions is
        reset to its clean z; MLPs and norms recompute. The receivers' q, k or v at p is recorded.
run 2   nothing frozen; only those recorded slices are put in.

Without receivers the answer is read in run 1 (the direct path to the logits). Under GQA, v and k of
a head are those of its key-value group.

Score of a sender, row by row: log p(answer | patched) - log p(answer | clean). Beside it under
``ratio ...`` the published one, (p_patched - p_clean) / p_clean, whose mean explodes where the
model is wrong and sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Outcome, Part, Reading, Site
from pytest_mechanism.methods.bench import Batch, Bench, Columns
from pytest_mechanism.types import Head, Observations


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``{name}`` and ``ratio {name}`` for each sender.

    Args:
        bench: the model.
        arguments: ``rows``, ``stream``; ``senders``: name -> [layer, head] each; ``at``: their
            named position; ``receivers``: [layer, head] each, none for the logits; ``via``: ``q``,
            ``k`` or ``v`` of the receivers, or None.
        inputs: none.
    """
    rows = bench.task.pairs(bench.vocabulary, arguments["rows"], arguments["stream"])
    senders = {
        name: [(layer, head) for layer, head in heads]
        for name, heads in arguments["senders"].items()
    }
    receivers = [(layer, head) for layer, head in arguments["receivers"]]
    columns = Columns()
    for batch in bench.batches(rows):
        outcomes = patched(
            bench, batch, list(senders.values()), arguments["at"], receivers, arguments["via"]
        )
        clean = bench.engine.run(batch.base.tokens).outcome
        before = answer_log_probability(clean, batch)
        for name, outcome in zip(senders, outcomes, strict=True):
            change = answer_log_probability(outcome, batch) - before
            columns.add(name, change)
            columns.add(f"ratio {name}", change.expm1())
    return columns.observations(rows)


def answer_log_probability(outcome: Outcome, batch: Batch) -> Tensor:
    """[R]."""
    return outcome.logits.log_softmax(-1).gather(1, batch.answers[:, None])[:, 0]


def patched(
    bench: Bench,
    batch: Batch,
    senders: Sequence[Sequence[Head]],
    at: str,
    receivers: Sequence[Head],
    via: Part | None,
) -> list[Outcome]:
    """One outcome a sender: of run 1 to the logits, of run 2 to receivers."""
    source = batch.the_source()
    place, source_place = batch.base.at(at), source.at(at)
    z_sites = [Site(layer, "z") for layer in range(bench.model.shape.n_layers)]
    theirs = bench.engine.run(
        source.tokens, readings=[Reading(site, source_place) for site in z_sites]
    ).outcome.readings
    run = bench.engine.run(batch.base.tokens, readings=[Reading(site) for site in z_sites])
    clean = run.outcome.readings
    listening = receiver_readings(bench, receivers, via, place)
    first = [Branch(frozen(clean, theirs, place, heads), listening) for heads in senders]
    outcomes = list(run.branches(first))
    if via is None:
        return outcomes
    second = [
        Branch(
            [
                Edit(r.site, v, at=r.at, heads=r.heads)
                for r, v in zip(listening, o.readings, strict=True)
            ]
        )
        for o in outcomes
    ]
    return list(run.branches(second))


def frozen(
    clean: Sequence[Tensor], theirs: Sequence[Tensor], place: Tensor, heads: Sequence[Head]
) -> list[Edit]:
    """Run 1's edits: at p and later every z is the clean one, but the sender's at p the source's.

    Below the sender's first layer nothing can have changed, so nothing is reset there.
    """
    length = clean[0].shape[1]
    positions = torch.arange(length, device=place.device)
    # with several places (every label of a context) everything from the first on is reset
    before = (positions[None] < place.min(dim=1).values[:, None])[:, :, None, None].float()
    rows = torch.arange(place.shape[0], device=place.device)[:, None]
    found = []
    for layer in range(min(layer for layer, _ in heads), len(clean)):
        value = clean[layer]
        mine = [head for at, head in heads if at == layer]
        if mine:
            value = value.clone()
            for head in mine:
                value[rows, place, head] = theirs[layer][:, :, head]
        found.append(Edit(Site(layer, "z"), value, keep=before))
    return found


def receiver_readings(
    bench: Bench, receivers: Sequence[Head], via: Part | None, place: Tensor
) -> list[Reading]:
    """Where the receivers listen: q of the heads, or k and v of their key-value groups, at p."""
    if via is None:
        return []
    shape = bench.model.shape
    share = 1 if via == "q" else shape.n_heads // shape.n_kv_heads
    by_layer: dict[int, set[int]] = {}
    for layer, head in receivers:
        by_layer.setdefault(layer, set()).add(head // share)
    return [
        Reading(Site(layer, via), place, tuple(sorted(heads)))
        for layer, heads in sorted(by_layer.items())
    ]
