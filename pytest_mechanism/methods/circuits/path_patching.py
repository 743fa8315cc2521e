"""Path patching: the effect that a sender has through its receivers alone.

Prakash et al. 2024, section 3.1 and appendix; Wang et al. 2022. For a sender, one head or MLP or several,
at a position p, on the clean prompt:

run 1   its z at p, or its output if it is an MLP, comes from the source prompt; every other head at p and
        at later positions keeps its clean z; other MLPs and norms recompute (a branch with frozen
        attention: before p nothing can have changed). The receivers' q, k or v at p is recorded.
run 2   nothing is frozen; only those recorded slices are put in.

An MLP is a receiver by its input, and what is recorded and put in is its output, which depends on nothing
else.

Without receivers the answer is read in run 1 (the direct path to the logits). Under GQA, v and k of
a head are those of its key-value group.

    score = log p(answer | patched) - log p(answer | clean), for each sender and row

Beside it, ``ratio ...`` is the published score, (p_patched - p_clean) / p_clean.

Other than published: heads are ranked and claims judged by the change of the log-probability, since
the mean of ratios explodes where the model is wrong and sure. A source prompt whose query label
appears nowhere in its context has ``previous_query_label`` at the label of the position that was
asked for; the paper takes any label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pytest_mechanism.engine.interface import (
    Branch,
    Edit,
    Outcome,
    Part,
    Positions,
    Reading,
    Run,
    Site,
)
from pytest_mechanism.engine.plumbing import chosen_heads
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.paths import Paths
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probabilities, log_probability
from pytest_mechanism.methods.token_batches import Batch
from pytest_mechanism.nodes import MLP, Node, by_layer
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Head, Observations

Via = Literal["q", "k", "v", "input"]
"""Which input of the receivers is patched."""


def measure(
    context: MeasurementContext, request: PathPatching, inputs: Sequence[Any]
) -> Observations:
    """``{name}`` and ``ratio {name}`` for each sender."""
    rows = pairs(context, request)
    columns = Columns()
    for batch in context.batches(rows):
        run = context.engine.run(batch.base.tokens)
        clean = log_probability(run.outcome.logits, batch.correct_answers)
        outcomes = patched(
            context,
            batch,
            run,
            list(request.senders.values()),
            request.at,
            request.receivers,
            request.via,
        )
        patched_ones = [*log_probabilities(outcomes, batch.correct_answers)]
        if not patched_ones:
            continue
        change = torch.stack(patched_ones) - clean
        names = [column for name in request.senders for column in (name, f"ratio {name}")]
        columns.add_all(names, torch.stack([change, change.expm1()], 1).flatten(0, 1))
    return columns.observations(rows)


def patched(
    context: MeasurementContext,
    batch: Batch,
    run: Run,
    senders: Sequence[Sequence[Node]],
    at: str,
    receivers: Sequence[Node],
    via: Via | None,
) -> Iterator[Outcome]:
    """Each sender's outcome: of run 1 for the logits, of run 2 for receivers."""
    place = batch.base.at(at)
    from_source = source_z(context, batch, at)
    has_mlps = any(part == MLP for nodes in senders for _, part in nodes)
    mlp_source = source_z(context, batch, at, "mlp_out") if has_mlps else ()
    inputs = receiver_readings(context, receivers, via, place)
    first = (
        Branch(
            [
                *sender_edits(from_source, place, heads_among(nodes)),
                *mlp_edits(mlp_source, place, nodes),
            ],
            inputs,
            freeze_attention=True,
            answer=via is None,
        )
        for nodes in senders
    )
    outcomes = run.branches(first)
    if via is None:
        return outcomes
    return run.branches(second_run(inputs, outcome) for outcome in outcomes)


def second_run(inputs: Sequence[Reading], first: Outcome) -> Branch:
    """The branch of run 2: the receivers' inputs as run 1 gave them."""
    return Branch(
        [
            Edit(reading.site, value, at=reading.at, heads=reading.heads)
            for reading, value in zip(inputs, first.readings, strict=True)
        ]
    )


def pairs(context: MeasurementContext, request: Paths) -> Sequence[Row]:
    """The rows of a request; streams write the same rows first, however many are asked for."""
    count = request.first + request.rows
    return context.task.pairs(context.vocabulary, count, request.stream)[request.first :]


def source_z(
    context: MeasurementContext, batch: Batch, at: str, part: Part = "z"
) -> Sequence[Float[Tensor, "rows places heads width"]]:
    """The source prompts' z, or another part, of each layer at a named position.

    Every call reads all layers at all named positions, so that the engine can answer it from memory
    whatever the position.
    """
    source = batch.require_source()
    wanted, known = source.at(at), source.places
    spans = torch.cat([*known.values()], dim=1)
    readings = [Reading(Site(layer, part), spans) for layer in range(context.model.shape.n_layers)]
    z = context.engine.run(source.tokens, readings=readings, answer=False).outcome.readings
    start = 0
    for places in known.values():
        if places is wanted:
            break
        start += places.shape[1]
    return [layer[:, start : start + wanted.shape[1]] for layer in z]


def sender_edits(
    source_z: Sequence[Float[Tensor, "rows places heads d_head"]],
    place: Positions,
    heads: Sequence[Head],
    kept: Mapping[int, Float[Tensor, "rows _ _ _"]] | None = None,
) -> list[Edit]:
    """The senders' z at their position from the source prompt, in one edit a layer; ``kept`` has the share
    of their own z that the senders of each layer keep."""
    return [
        Edit(
            Site(layer, "z"),
            chosen_heads(source_z[layer], numbers),
            at=place,
            heads=tuple(numbers),
            keep=None if kept is None else kept[layer],
        )
        for layer, numbers in by_layer(heads).items()
    ]


def heads_among(nodes: Sequence[Node]) -> list[Head]:
    """The nodes that are heads."""
    return [(layer, part) for layer, part in nodes if isinstance(part, int)]


def mlp_edits(
    source: Sequence[Float[Tensor, "rows places 1 d_model"]],
    place: Positions,
    nodes: Sequence[Node],
) -> list[Edit]:
    """The outputs, at a position, of the senders that are MLPs, from the source prompt."""
    layers = sorted({layer for layer, part in nodes if part == MLP})
    return [Edit(Site(layer, "mlp_out"), source[layer], at=place) for layer in layers]


def receiver_readings(
    context: MeasurementContext, receivers: Sequence[Node], via: Via | None, place: Positions
) -> list[Reading]:
    """The receivers' inputs at p: q of the heads, or k and v of their key-value groups; of MLPs, the output
    that their input gives."""
    if via is None:
        return []
    if via == "input":
        layers = sorted({layer for layer, part in receivers if part == MLP})
        return [Reading(Site(layer, "mlp_out"), place) for layer in layers]
    shape = context.model.shape
    group_size = 1 if via == "q" else shape.n_heads // shape.n_kv_heads
    inputs = {(layer, head // group_size) for layer, head in heads_among(receivers)}
    return [
        Reading(Site(layer, via), place, tuple(numbers))
        for layer, numbers in by_layer(inputs).items()
    ]
