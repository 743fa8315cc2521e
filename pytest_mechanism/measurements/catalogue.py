"""Where the methods are, and their revisions, without importing torch.

Raise a method's revision whenever its numbers can change: stored results of older revisions are
then measured anew.
"""

from __future__ import annotations

import json

from pytest_mechanism.types import Measurement, Method

PERFORMANCE = Method("pytest_mechanism.methods.circuits.performance:measure", 1)
CIRCUIT = Method("pytest_mechanism.methods.circuits.circuit:measure", 1)
INTERCHANGE = Method("pytest_mechanism.methods.circuits.interchange:measure", 2)
MASK = Method("pytest_mechanism.methods.circuits.dcm:measure", 1)
HEAD_EFFECTS = Method("pytest_mechanism.methods.circuits.activation_patching:measure", 1)
PATH_PATCHING = Method("pytest_mechanism.methods.circuits.path_patching:measure", 1)
SCREEN = Method("pytest_mechanism.methods.circuits.screen:measure", 1)
PROBING = Method("pytest_mechanism.methods.circuits.probing:measure", 1)
PRUNING = Method("pytest_mechanism.methods.weights.pruning:measure", 3)
SAFETY_ENTRIES = Method("pytest_mechanism.methods.weights.snip:donate", 3)
WEIGHT_CHANGE = Method("pytest_mechanism.methods.weights.snip:measure", 2)
CURVE = Method("pytest_mechanism.methods.weights.curve:measure", 4)
DONATION = Method("pytest_mechanism.methods.circuits.cmap:donate", 2)
CMAP = Method("pytest_mechanism.methods.circuits.cmap:measure", 3)
CODE = Method("pytest_mechanism.methods.circuits.cmap:code", 1)
REFUSAL = Method("pytest_mechanism.methods.refusal.refusal:measure", 3)
FIND_DIRECTION = Method("pytest_mechanism.methods.refusal.direction:find", 3)
DIRECTION = Method("pytest_mechanism.methods.refusal.direction:measure", 3)
SAME_DIRECTION = Method("pytest_mechanism.methods.refusal.direction:compare", 1)

ONE_CODE = 0.5
"""Agreement of heads that speak one code (`methods.codes`): fine-tuning leaves 0.78 at the least that
was seen, heads that have nothing to do with each other have about 0."""


def rows_of(measurement: Measurement) -> int:
    """About how many rows a measurement sends through the model: for progress, nothing else."""
    given = json.loads(measurement.arguments)
    rows: int | None = given.get("rows")
    if measurement.method == SAFETY_ENTRIES:
        return 7 * int(given["scored"])  # forbidden and allowed, with a backward; replies
    if measurement.method == MASK:
        # 1,000 rows and 500 for validation, twice with a backward, which costs two forwards; a few
        # different masks are judged
        return 1_500 + 2 * 4 * 1_000 + 4 * 2 * 500
    if not isinstance(rows, int):
        return 1
    if measurement.method == PROBING:
        return rows + int(given["train"]) + int(given["chosen"])
    if measurement.method == PRUNING:
        looks = rows * (1 + int(given["draws"])) + int(given["chosen"])
        return looks * len(given["counts"]) + 3 * int(given["scored"])
    if measurement.method == CURVE:
        recipe = given["recipe"]
        looks = 1 + -(-recipe["steps"] // recipe["every"])
        return int(recipe["steps"] * recipe["batch"] + rows * looks)
    if measurement.method in (REFUSAL, DIRECTION):
        replies = int(json.loads(measurement.task).get("reply_tokens", 1))
        return rows * replies * (2 + int(given.get("random", -1)))
    if measurement.method == CIRCUIT:
        return rows * (1 + len(given["alive"])) + int(given["ablation"]["prompts"])
    if measurement.method == INTERCHANGE:
        return rows * (3 + bool(given["control"]))
    if measurement.method == CMAP:
        return rows * (2 + bool(given["control"]))
    if measurement.method == PATH_PATCHING:
        return rows * (3 + len(given["senders"]) * (2 if given["via"] else 1))
    if measurement.method == SCREEN:
        return rows * 4  # two forwards, and a backward that costs as much as two
    if measurement.method == HEAD_EFFECTS:
        return rows * (2 + len(given["heads"]))
    return rows


def parts_of(measurement: Measurement) -> tuple[str, int, str] | None:
    """What a long measurement is called, how many parts it has, and what they are; None where it has
    none that are worth counting."""
    given = json.loads(measurement.arguments)
    if measurement.method == PATH_PATCHING:
        into = f" into {given['via']}" if given["via"] else ""
        return f"path patching at {given['at']}{into}", len(given["senders"]), "heads"
    if measurement.method == SCREEN:
        return f"screening by gradient at {given['at']}", len(given["heads"]), "heads"
    if measurement.method == CIRCUIT:
        return "circuits of some heads alone", len(given["alive"]), "circuits"
    if measurement.method == CURVE:
        return "training", int(given["recipe"]["steps"]), "steps"
    return None


def prompts_of(measurement: Measurement) -> tuple[tuple[object, ...], int]:
    """Which prompts a measurement branches from, and how many there are: about, as `rows_of`."""
    given = json.loads(measurement.arguments)
    patched = measurement.method in (INTERCHANGE, PATH_PATCHING, HEAD_EFFECTS)
    branches = (PERFORMANCE, CIRCUIT, CMAP, DIRECTION, REFUSAL)
    if not patched and measurement.method not in branches:
        return (), 0
    name = (measurement.task, given.get("stream"), given.get("variable"), patched)
    return name, int(given["rows"]) * (1 + patched)


def gradients_of(measurement: Measurement, batch: int) -> int:
    """Rows that a measurement has gradients of at once."""
    given = json.loads(measurement.arguments)
    if measurement.method == CURVE:
        return int(given["recipe"]["batch"])
    if measurement.method == MASK:
        return 32
    if measurement.method in (PRUNING, SCREEN):
        return batch
    return int(measurement.method == SAFETY_ENTRIES)


def copies_of(measurement: Measurement) -> int:
    """How often a measurement holds the weights beside the model: a copy, its gradient, and what
    an optimiser remembers or SNIP adds up."""
    if measurement.method == CURVE:
        return 1 if json.loads(measurement.arguments)["recipe"].get("lora") else 4
    if measurement.method == SAFETY_ENTRIES:
        return 4
    return 2 if measurement.method in (PRUNING, WEIGHT_CHANGE) else 0
