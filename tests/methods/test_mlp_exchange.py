"""Outputs of MLPs, from another model or another prompt, against plain hooks on the embedded pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pytest_mechanism.engine.interface import Branch
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.methods.circuits import cmap, interchange, mixing
from pytest_mechanism.methods.circuits.patching import mlps_of
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.methods.readout import log_probability

ContextFactory = Callable[[str], MeasurementContext]
ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 7
Nodes = Sequence[tuple[int, Any, str]]
Place = tuple[int, str]
"""(layer, ``z`` or ``mlp``)."""


def plain(name: str) -> Any:
    """transformers' model."""
    return AutoModelForCausalLM.from_pretrained(ZOO / name, dtype=torch.float32)


def run(
    model: Any, ids: Tensor, new: Mapping[Place, Callable[[Tensor], Tensor]]
) -> tuple[Tensor, dict[Place, Tensor]]:
    """Log-probabilities after the last token, and every z and MLP output, by plain hooks."""
    kept: dict[Place, Tensor] = {}

    def changed(place: Place, activation: Tensor) -> Tensor:
        kept[place] = new.get(place, lambda same: same)(activation)
        return kept[place]

    handles = []
    for n, block in enumerate(model.model.layers):
        handles += [
            block.self_attn.o_proj.register_forward_pre_hook(
                lambda _, inputs, n=n: (changed((n, "z"), inputs[0]),)
            ),
            block.mlp.register_forward_hook(lambda _, __, out, n=n: changed((n, "mlp"), out)),
        ]
    with torch.no_grad():
        likely = model(ids).logits[0, -1].log_softmax(-1)
    for handle in handles:
        handle.remove()
    return likely, kept


def exchanged(
    model: Any, ids: Tensor, given: Mapping[Place, Tensor], places: Any, nodes: Nodes, width: int
) -> Tensor:
    """Log-probabilities with these heads' z and MLPs' outputs replaced; ``places`` gives the tokens that are
    replaced, and those that they come from, of a named position."""

    def put(layer: int, part: str) -> Callable[[Tensor], Tensor]:
        def replaced(old: Tensor) -> Tensor:
            out = old.clone()
            for of_layer, head, name in nodes:
                if of_layer != layer or (head == "mlp") != (part == "mlp"):
                    continue
                here, there = places(name)
                own = slice(None) if head == "mlp" else slice(head * width, (head + 1) * width)
                out[:, here, own] = given[layer, part][:, there, own]
            return out

        return replaced

    new = {(layer, part): put(layer, part) for layer in range(4) for part in ("z", "mlp")}
    return run(model, ids, new)[0]


SETS: dict[str, Nodes] = {
    "mlp": [(2, "mlp", "last")],
    "several": [
        (0, "mlp", "query_label"),
        (3, 1, "last"),
        (3, "mlp", "last"),
        (1, 3, "query_label"),
    ],
}


def test_a_donors_mlp_outputs_give_what_plain_hooks_give(
    base_context: MeasurementContext, context_of: ContextFactory
) -> None:
    """Row by row within 1e-5 (of the value, above 1 nat), with each engine; beside heads, too."""
    donor = context_of("ft")
    if base_context.engine.name == "reference":
        donor = replace(donor, engine=ReferenceEngine(donor.model.wrapped))
    rows: dict[str, Any] = {"rows": ROWS, "stream": "rows"}
    donated = sorted({node for nodes in SETS.values() for node in nodes}, key=str)
    donation = cmap.donate(donor, ActivationDonation(heads=donated, **rows), [])
    request = CrossModelPatching(heads=SETS["several"], control=SETS["mlp"], **rows)
    result = cmap.measure(base_context, request, [donation])
    base, ft = plain("base"), plain("ft")
    width = base_context.model.shape.d_head
    moved = 0.0
    for i, row in enumerate(base_context.task.rows(base_context.vocabulary, ROWS, "rows")):
        side = base_context.side([row.base])
        _, given = run(ft, side.tokens.ids, {})
        clean, _ = run(base, side.tokens.ids, {})
        answer = base_context.answer_id(row.base, row.base.answer)
        for column, nodes in (("patched", SETS["several"]), ("control", SETS["mlp"])):
            places = lambda name, side=side: (side.at(name)[0], side.at(name)[0])  # noqa: E731
            likely = exchanged(base, side.tokens.ids, given, places, nodes, width)
            found = result.values[f"{column}_log_probability"][i]
            assert found == pytest.approx(float(likely[answer]), rel=1e-5, abs=1e-5), column
            moved = max(moved, abs(float(likely[answer] - clean[answer])))
    assert moved > 0.01
    streams = [code for code in result.codes if code.part == "stream"]
    assert {(code.layer, code.head, code.at) for code in streams} == {
        node for node in donated if node[1] == "mlp"
    }
    assert all(code.agrees for code in streams)


def test_streams_of_unrelated_models_do_not_agree(context_of: ContextFactory) -> None:
    """Random weights have another basis, so the exchange of an MLP's output means nothing."""
    rows: dict[str, Any] = {"rows": ROWS, "stream": "rows"}
    donation = cmap.donate(context_of("random"), ActivationDonation(heads=SETS["mlp"], **rows), [])
    request = CrossModelPatching(heads=SETS["mlp"], control=[], **rows)
    (code,) = cmap.measure(context_of("base"), request, [donation]).codes
    assert (code.layer, code.head, code.part, code.agrees) == (2, "mlp", "stream", False)
    (place,) = donation.outputs
    narrow = replace(
        donation,
        outputs={place: donation.outputs[place][..., :-1]},
        streams={place: donation.streams[place][..., :-1]},
    )
    with pytest.raises(MeasurementError, match="the outputs of their MLPs cannot be exchanged"):
        cmap.measure(context_of("base"), request, [narrow])


def test_a_sources_mlp_outputs_give_what_plain_hooks_give(
    base_context: MeasurementContext,
) -> None:
    """Row by row within 1e-5, with each engine: MLPs and heads of a group that is said to carry a variable."""
    request = Interchange(
        heads=[(3, 1)], mlps=[1, 3], control=[], control_mlps=[2],
        at="last", variable="position", rows=ROWS,
    )  # fmt: skip
    result = interchange.measure(base_context, request, [])
    model, width = plain("base"), base_context.model.shape.d_head
    rows = base_context.task.interchange(base_context.vocabulary, "position", ROWS, "test")
    nodes: Nodes = [(3, 1, "last"), (1, "mlp", "last"), (3, "mlp", "last")]
    for i, row in enumerate(rows):
        batch = base_context.batch([row])
        source = batch.require_source()
        _, given = run(model, source.tokens.ids, {})
        places = lambda name, b=batch, s=source: (b.base.at(name)[0], s.at(name)[0])  # noqa: E731
        likely = exchanged(model, batch.base.tokens.ids, given, places, nodes, width)
        target = base_context.answer_id(row.base, row.target)
        assert bool(result.values["patched"][i]) == (int(likely.argmax()) == target)
        heads, mlps = [nodes[0]], mlps_of(nodes)
        wanted = mixing.readings(heads, mlps, source)
        read = base_context.engine.run(source.tokens, readings=wanted).outcome.readings
        branch = Branch(mixing.edits(heads, mlps, batch.base, read))
        (outcome,) = base_context.engine.run(batch.base.tokens).branches([branch])
        expected = likely[torch.tensor([target])].numpy()
        found = log_probability(outcome.logits, batch.correct_targets).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
