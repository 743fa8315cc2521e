"""Cross-model activation patching of one member at a time, at every token.

    z of head h at every token of the recipient       <-  z of head h in the donor, same prompt
    output of an MLP at every token of the recipient  <-  its output in the donor

Prakash et al. 2024, section 5, with a single member where the paper has a group. As in a profile
(`methods.circuits.profile`), what is read is the centred logit c of the answer:

    {name} = c(recipient with the donor's member) - c(recipient)
    total  = c(recipient on the source prompt) - c(recipient)

The ratio of their means is the share of what exchanging the whole prompt does to the answer. A head that both models
compute alike gives 0. A large number does not say that the two members *do* another thing: what a member gives may
differ because what it reads differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pytest_mechanism.engine.interface import Branch, Edit, Part, Reading, Site
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.exchange import MemberExchange, WholeDonation
from pytest_mechanism.methods.circuits.profile import TOTAL, centred
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.nodes import Node
from pytest_mechanism.types import Observations

PARTS: tuple[Part, ...] = ("z", "mlp_out")


@dataclass(frozen=True, eq=False)
class WholeActivations:
    """A donor's activations of one batch, on the CPU until the recipient is loaded.

    Attributes:
        ids: of the batch's tokens.
        values: site -> its activation at every token.
    """

    ids: Int[Tensor, "rows tokens"]
    values: dict[Site, Float[Tensor, "rows tokens _ _"]]


def donate(
    context: MeasurementContext, request: WholeDonation, inputs: Sequence[Any]
) -> list[WholeActivations]:
    """The activations of every batch."""
    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    sites = [Site(layer, part) for layer in range(context.model.shape.n_layers) for part in PARTS]
    donated = []
    for batch in context.batches(rows):
        readings = [Reading(site) for site in sites]
        run = context.engine.run(batch.base.tokens, readings=readings, answer=False)
        values = [value.cpu() for value in run.outcome.readings]
        activations = dict(zip(sites, values, strict=True))
        donated.append(WholeActivations(batch.base.tokens.ids.cpu(), activations))
    return donated


def measure(
    context: MeasurementContext, request: MemberExchange, inputs: Sequence[Any]
) -> Observations:
    """``{name}`` for each member, and ``total``.

    Raises:
        MeasurementError: both models read other tokens.
    """
    rows = context.task.pairs(context.vocabulary, request.rows, request.stream)
    answers = context.answer_id_sets([(row.base, row.base.correct_answers) for row in rows])
    words = torch.unique(answers[answers >= 0])
    donated: list[WholeActivations] = inputs[0]
    columns = Columns()
    for batch, given in zip(context.batches(rows), donated, strict=True):
        if not torch.equal(given.ids, batch.base.tokens.ids.cpu()):
            raise MeasurementError(
                "the two models' tokenizers split a prompt into other tokens, so activations cannot be exchanged"
            )
        source = context.engine.run(batch.require_source().tokens).outcome.logits
        run = context.engine.run(batch.base.tokens)
        clean = centred(run.outcome.logits, batch.correct_answers, words)
        columns.add(TOTAL, centred(source, batch.correct_answers, words) - clean)
        branches = [
            Branch(edits(nodes, request.givers.get(name, nodes), given, context.model.device))
            for name, nodes in request.members.items()
        ]
        outcomes = run.branches(branches)
        for name, outcome in zip(request.members, outcomes, strict=True):
            columns.add(name, centred(outcome.logits, batch.correct_answers, words) - clean)
    return columns.observations(rows)


def edits(
    nodes: Sequence[Node], givers: Sequence[Node], given: WholeActivations, device: torch.device
) -> list[Edit]:
    """What puts the donor's activations of ``givers`` into the recipient's ``nodes``, at every token."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    changed: list[Edit] = []
    for (layer, part), (_, giver) in zip(nodes, givers, strict=True):
        if isinstance(part, str) or isinstance(giver, str):
            site = Site(layer, "mlp_out")
            changed.append(Edit(site, given.values[site].to(device)))
        else:
            pairs.setdefault(layer, []).append((part, giver))
    for layer, heads in pairs.items():
        site = Site(layer, "z")
        value = given.values[site][:, :, [giver for _, giver in heads]].to(device)
        changed.append(Edit(site, value, heads=tuple(head for head, _ in heads)))
    return changed
