"""Path patching from and into heads and MLPs on the embedded pair, against plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.methods.circuits import path_patching
from pytest_mechanism.methods.context import MeasurementContext

ZOO = Path(__file__).parents[2] / "pytest_mechanism" / "zoo"
ROWS = 7
LAYERS = range(4)
Place = tuple[int, str]
"""(layer, ``z``, ``mlp``, ``q``, ``k`` or ``v``)."""


class Hooked:
    """transformers' model, whose z, MLP outputs, q, k and v are read and replaced by plain hooks."""

    def __init__(self) -> None:
        self.plain = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float64)

    def run(
        self, ids: Tensor, new: Mapping[Place, Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, dict[Place, Tensor]]:
        """Log-probabilities after the last token, and every activation after its replacement."""
        kept: dict[Place, Tensor] = {}

        def changed(place: Place, activation: Tensor) -> Tensor:
            kept[place] = new.get(place, lambda same: same)(activation)
            return kept[place]

        handles = []
        for n, block in enumerate(self.plain.model.layers):
            attention = block.self_attn
            handles += [
                attention.o_proj.register_forward_pre_hook(
                    lambda _, inputs, n=n: (changed((n, "z"), inputs[0]),)
                ),
                block.mlp.register_forward_hook(lambda _, __, out, n=n: changed((n, "mlp"), out)),
                *(
                    getattr(attention, f"{part}_proj").register_forward_hook(
                        lambda _, __, out, place=(n, part): changed(place, out)
                    )
                    for part in "qkv"
                ),
            ]
        with torch.no_grad():
            likely = self.plain(ids).logits[0, -1].log_softmax(-1)
        for handle in handles:
            handle.remove()
        return likely, kept


def effect(
    hooked: Hooked, context: MeasurementContext, row: Any, request: PathPatching, name: str
) -> float:
    """One sender's effect, by the definition: run 1 with every z frozen, run 2 with nothing frozen."""
    base, source = context.side([row.base]), context.side([row.source])
    at, there = base.at(request.at)[0], source.at(request.at)[0]
    width = context.model.shape.d_head
    clean, of_base = hooked.run(base.tokens.ids, {})
    _, of_source = hooked.run(source.tokens.ids, {})
    first: dict[Place, Callable[[Tensor], Tensor]] = {}
    frozen = {layer: of_base[layer, "z"].clone() for layer in LAYERS}
    for layer, part in request.senders[name]:
        if part == "mlp":
            value = of_source[layer, "mlp"][:, there]
            first[layer, "mlp"] = lambda out, value=value: out.index_copy(1, at, value)
        else:
            own = slice(part * width, (part + 1) * width)
            frozen[layer][:, at, own] = of_source[layer, "z"][:, there, own]
    first |= {(layer, "z"): lambda _, z=z: z for layer, z in frozen.items()}
    likely, patched = hooked.run(base.tokens.ids, first)
    if request.via is not None:
        second: dict[Place, Callable[[Tensor], Tensor]] = {}
        for layer, part in request.receivers:
            place = (layer, "mlp" if part == "mlp" else request.via)
            own = slice(None) if part == "mlp" else slice(part * width, (part + 1) * width)

            def put(out: Tensor, place: Place = place, own: slice = own) -> Tensor:
                out = out.clone()
                out[:, at, own] = patched[place][:, at, own]
                return out

            before = second.get(place, lambda same: same)
            second[place] = lambda out, put=put, before=before: put(before(out))
        likely, _ = hooked.run(base.tokens.ids, second)
    answer = context.answer_id(row.base, row.base.answer)
    return float(likely[answer] - clean[answer])


@pytest.mark.parametrize(
    ("at", "via", "receivers", "head"),
    [
        ("last", None, (), (2, 2)),
        ("last", "q", [(3, 0), (3, 2)], (2, 2)),
        ("query_label", "k", [(2, 2), (3, 1)], (1, 3)),
        ("query_label", "v", [(2, 2), (3, 1)], (1, 3)),
        ("last", "input", [(2, "mlp"), (3, "mlp")], (2, 2)),
    ],
)
def test_paths_are_what_plain_hooks_give(
    base_context: MeasurementContext, at: Any, via: Any, receivers: Any, head: Any
) -> None:
    """Row by row within 1e-5, on both engines, from heads and MLPs: into the logits, into q, k and v of heads,
    into the input of MLPs."""
    senders = {"mlp": [(1, "mlp")], "mlps and head": [(0, "mlp"), (head[0], "mlp"), head], "head": [head]}  # fmt: skip
    request = PathPatching(
        senders=senders, at=at, receivers=receivers, via=via, rows=ROWS, stream="pairs"
    )
    result = path_patching.measure(base_context, request, [])
    hooked = Hooked()
    rows = base_context.task.pairs(base_context.vocabulary, ROWS, "pairs")
    for name in senders:
        wanted = [effect(hooked, base_context, row, request, name) for row in rows]
        assert list(result.values[name]) == pytest.approx(wanted, abs=1e-5), name
        assert max(map(abs, wanted)) > 1e-3, name


def test_an_mlp_is_not_heard_by_mlps_below_it(base_context: MeasurementContext) -> None:
    """The MLP of layer 3 as sender into the MLPs of layers 0 and 1: exactly no effect."""
    request = PathPatching(
        senders={"late": [(3, "mlp")]},
        at="last",
        receivers=[(0, "mlp"), (1, "mlp")],
        via="input",
        rows=ROWS,
        stream="pairs",
    )
    result = path_patching.measure(base_context, request, [])
    assert list(result.values["late"]) == pytest.approx([0.0] * ROWS, abs=1e-5)
