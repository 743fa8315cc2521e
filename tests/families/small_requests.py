"""Every measurement that needs no long training, small enough for a tiny model."""

from __future__ import annotations

from dataclasses import replace

from configs import HEADS, LAYERS

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.attention import AttentionShare
from pytest_mechanism.measurements.cells import CellPerformance
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.dcm import DcmMask
from pytest_mechanism.measurements.direction import DirectionAblation
from pytest_mechanism.measurements.edges import EdgeAttribution
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.measurements.pruning import Pruning
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.measurements.sizes import CircuitSizes
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters

TASK = Counting(
    CountingParameters(
        family="counting", letters="abcd", refuse="a", shortest=6, longest=7, most=5, rows=20
    )
)
ROWS = {"rows": 12, "stream": "test"}
EVERY = [[layer, head] for layer in range(LAYERS) for head in range(HEADS)]
LAST = [[1, 0, "last"], [1, 3, "last"], [0, 2, "operand"]]
MLPS = ((1, "mlp", "last"), (0, "mlp", "everywhere"))
OTHERS = [[1, 1, "last"], [0, 3, "letters"]]
LEARNED = [[layer, head, "last" if layer else "letters"] for layer, head in EVERY]
SENDERS = {f"{layer}.{head}": [[layer, head]] for layer, head in EVERY}
LOWEST = {f"0.{head}": [[0, head]] for head in range(HEADS)}
RECIPE = Recipe(data_mix="capability", rate=1e-3, steps=2, every=1, seed=0, batch=4)
SEARCH = {"learn": 6, "validate_on": 4, "kl_at_most": 100.0}


def circuit(value: str, prompts: int = 50) -> CircuitPerformance:
    alive = {"none": [], "some": LAST, "all": [[*head, "last"] for head in EVERY]}
    return CircuitPerformance(**ROWS, ablation=Ablation(value=value, prompts=prompts), alive=alive)


def paths(at: str, via: str | None) -> PathPatching:
    receivers = [] if via is None else [[1, 0], [1, 3]]
    senders = SENDERS if via is None else LOWEST
    return PathPatching(**ROWS, senders=senders, at=at, receivers=receivers, via=via)


PATCHED: dict[str, Request] = {
    "performance": Performance(**ROWS),
    "cells": CellPerformance(**ROWS),
    "circuit, zero": circuit("zero"),
    "circuit, positional mean": circuit("positional_mean", 110),
    "circuit, resample": circuit("resample"),
    "circuit with MLPs": circuit("mean").model_copy(
        update={"alive": {"none": (), "some": (*map(tuple, LAST), *MLPS)}, "ablate_mlps": True}
    ),
    "path from and into MLPs": PathPatching(
        **ROWS,
        senders={"mlp": [[0, "mlp"]], "head": [[0, 1]]},
        at="last",
        receivers=[[1, "mlp"]],
        via="input",
    ),
    "interchange": Interchange(
        rows=12,
        heads=EVERY,
        control=EVERY[:2],
        at="operand",
        variable="operand",
        mlps=range(LAYERS),
        control_mlps=[0],
    ),
    "mask": DcmMask(
        heads=EVERY,
        at="operand",
        variable="operand",
        sparsity=0.01,
        rate=0.1,
        mlps=range(LAYERS),
        training="published",
    ),
    "path to the logits": paths("last", None),
    "path through q": paths("last", "q"),
    "path through k": paths("operand", "k"),
    "path through v": paths("operand", "v"),
    "path through v within a window": paths("letters", "v"),
    "profile": EffectProfile(**ROWS, senders={"1.0": [[1, 0]], "0.mlp": [[0, "mlp"]]}, at="last"),
    "attention": AttentionShare(
        **ROWS,
        heads={"some": [[1, 0], [1, 3]], "others": LOWEST["0.0"]},
        query="last",
        key="letters",
    ),
    "knockout": AttentionKnockout(**ROWS, query="last", key="letters", starts=[0, 1], seed=0),
    "removal": HeadRemoval(
        **ROWS,
        ablation=Ablation(value="positional_mean", prompts=110),
        removed={"some": LAST, "no": []},
    ),
    **{
        f"sizes, ranked by {how}": CircuitSizes(
            **ROWS,
            heads=LAYERS * HEADS,
            counts=[0, 1, 3],
            ranking="signed",
            ranked_by=how,
            draws=1,
            seed=0,
            rank_rows=6,
            ablation=Ablation(value="positional_mean", prompts=110),
        )
        for how in ("ablation", "attribution")
    },
    "edges": EdgeAttribution(
        **ROWS, senders=[*EVERY, [0, "mlp"]], at="operand", receivers=[[1, 0], [1, 3]], via="v"
    ),
    "screen": AttributionPatching(**ROWS, heads=EVERY, at="last"),
    "probing": LinearProbes(
        **ROWS, asked="capability", position="last", train=24, chosen=8, penalty=1e-2, seed=0
    ),
}
"""Name -> request of what goes through an engine."""

DONATED = ActivationDonation(**ROWS, heads=LAST + OTHERS)
CROSSED = CrossModelPatching(**ROWS, heads=LAST, control=OTHERS)
"""CMAP, and what the donor is asked for."""

INPUTS = ("q", "k", "v")
DONATED_INPUTS = ActivationDonation(**ROWS, heads=LAST + OTHERS, parts=INPUTS)
CROSSED_INPUTS = {
    part: CrossModelPatching(**ROWS, heads=LAST, control=OTHERS, parts=(part,)) for part in INPUTS
}
"""CMAP of q, k and v."""

TEXT = TextDonation(
    name="text", lines=[(f"line {i}", f"{'a b c d b ' * (i + 1)}d c", str(i)) for i in range(10)]
)
READ = TextDivergence(lines=10)
"""The divergence of two models on text, and what the reference model is asked for."""

WEIGHED: dict[str, Request] = {
    **{
        f"pruning, {units}": Pruning(
            **ROWS, units=units, counts=[0, 2], draws=1, seed=0, scored=6, chosen=4
        )
        for units in ("weights", "neurons", "heads")
    },
    "curve": TrainingCurve(**ROWS, recipe=RECIPE, watch="capability"),
    "curve, LoRA": TrainingCurve(**ROWS, recipe=replace(RECIPE, lora=2), watch="capability"),
    "refusal": RefusalRate(**ROWS, asked="forbidden"),
    "direction": DirectionAblation(**ROWS, search=SEARCH, random=1, seed=0),
}
"""Name -> request of what changes weights, or the stream by hooks of its own."""
