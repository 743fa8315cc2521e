"""Every measurement that needs no long training, small enough for a tiny model."""

from __future__ import annotations

from typing import Any

from configs import HEADS, LAYERS

from pytest_mechanism.measurements import catalogue
from pytest_mechanism.tasks.families.counting import Counting, CountingParameters
from pytest_mechanism.types import Method

TASK = Counting(
    CountingParameters(
        family="counting", letters="abcd", refuse="a", shortest=6, longest=7, most=5, rows=20
    )
)
ROWS = {"rows": 12, "stream": "test"}
EVERY = [[layer, head] for layer in range(LAYERS) for head in range(HEADS)]
LAST = [[1, 0, "last"], [1, 3, "last"], [0, 2, "operand"]]
OTHERS = [[1, 1, "last"], [0, 3, "letters"]]
LEARNED = [[layer, head, "last" if layer else "letters"] for layer, head in EVERY]
SENDERS = {f"{layer}.{head}": [[layer, head]] for layer, head in EVERY}
LOWEST = {f"0.{head}": [[0, head]] for head in range(HEADS)}
RECIPE = {"diet": "capability", "rate": 1e-3, "steps": 2, "every": 1, "seed": 0, "batch": 4}
SEARCH = {"learn": 6, "validate": 4, "kl_at_most": 100.0}


def circuit(value: str, prompts: int = 0) -> dict[str, Any]:
    alive = {"none": [], "some": LAST, "all": [[*head, "last"] for head in EVERY]}
    return {**ROWS, "ablation": {"value": value, "prompts": prompts}, "alive": alive}


def paths(at: str, via: str | None) -> dict[str, Any]:
    receivers = [] if via is None else [[1, 0], [1, 3]]
    senders = SENDERS if via is None else LOWEST
    return {**ROWS, "senders": senders, "at": at, "receivers": receivers, "via": via}


PATCHED: dict[str, tuple[Method, dict[str, Any]]] = {
    "performance": (catalogue.PERFORMANCE, ROWS),
    "circuit, zero": (catalogue.CIRCUIT, circuit("zero")),
    "circuit, positional mean": (catalogue.CIRCUIT, circuit("positional_mean", 110)),
    "circuit, resample": (catalogue.CIRCUIT, circuit("resample")),
    "interchange": (
        catalogue.INTERCHANGE,
        {
            "rows": 12, "heads": EVERY, "control": EVERY[:2], "at": "operand",
            "variable": "operand",
        },
    ),
    "mask": (
        catalogue.MASK,
        {"heads": EVERY, "at": "operand", "variable": "operand", "sparsity": 0.01, "rate": 0.1},
    ),
    "activation patching": (catalogue.HEAD_EFFECTS, {**ROWS, "heads": EVERY, "at": "last"}),
    "path to the logits": (catalogue.PATH_PATCHING, paths("last", None)),
    "path through q": (catalogue.PATH_PATCHING, paths("last", "q")),
    "path through k": (catalogue.PATH_PATCHING, paths("operand", "k")),
    "path through v": (catalogue.PATH_PATCHING, paths("operand", "v")),
    "path through v within a window": (catalogue.PATH_PATCHING, paths("letters", "v")),
    "screen": (catalogue.SCREEN, {**ROWS, "heads": EVERY, "at": "last"}),
    "probing": (
        catalogue.PROBING,
        {
            **ROWS, "asked": "capability", "position": "last", "train": 24, "chosen": 8,
            "penalty": 1e-2, "seed": 0,
        },
    ),
}  # fmt: skip
"""Name -> method and arguments of what goes through an engine."""

CROSSED = {**ROWS, "heads": LAST, "control": OTHERS}
"""Of CMAP; the donor is asked for both."""

WEIGHED: dict[str, tuple[Method, dict[str, Any]]] = {
    **{
        f"pruning, {units}": (
            catalogue.PRUNING,
            {
                **ROWS, "units": units, "counts": [0, 2], "draws": 1, "seed": 0, "scored": 6,
                "chosen": 4,
            },
        )
        for units in ("weights", "neurons", "heads")
    },
    "curve": (catalogue.CURVE, {**ROWS, "recipe": RECIPE, "watch": "capability"}),
    "curve, LoRA": (
        catalogue.CURVE, {**ROWS, "recipe": RECIPE | {"lora": 2}, "watch": "capability"}
    ),
    "refusal": (catalogue.REFUSAL, {**ROWS, "asked": "forbidden"}),
    "direction": (catalogue.DIRECTION, {**ROWS, **SEARCH, "random": 1, "seed": 0}),
}  # fmt: skip
"""Name -> method and arguments of what changes weights, or the stream by hooks of its own."""
