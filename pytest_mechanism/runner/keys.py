"""The key of a measurement: a hash of everything that can change its result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.types import canonical

LIBRARIES = ("pytest-mechanism", "torch", "transformers", "transformer-lens", "tokenizers", "numpy")


QUANTISER = "bitsandbytes"
ADAPTERS = "peft"
"""Take part in some measurements only."""

OPENING = 2
"""How a checkpoint becomes a model and rows become batches: raised when the numbers of all methods
can change by it. 2: adapters of shared weights, rotary frequencies of each row, sizes by the loaded
config."""

GPUS = Path("/proc/driver/nvidia/gpus")
"""Where Linux lists them, so that torch is not needed to know whether there are any."""


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that take part, without importing them."""
    return {name: version_of(name) for name in LIBRARIES}


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def device_kind(device: str) -> str:
    """``cpu`` or ``cuda``; of ``auto``, what it will find here."""
    if device != "auto":
        return device.split(":", maxsplit=1)[0]
    try:
        found = sorted(each.name for each in GPUS.iterdir())
    except OSError:
        found = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return f"auto over {len(found)} GPUs, {visible} visible" if found else "auto without a GPU"


def measurement_key(
    measurement: Measurement,
    fingerprints: Mapping[str, Fingerprint],
    dtype: str,
    device: str,
    engine: str,
    quantize: str | None = None,
) -> str:
    """sha256 over checkpoints, tokenizers, task, method, arguments, dtype, device, versions, and
    how weights are quantised.

    Rows depend on the tokenizers of all models of the run, so all of them count; which role a
    checkpoint plays does not.
    """
    return hashlib.sha256(
        canonical(
            {
                "measurement": described(measurement, fingerprints),
                "tokenizers": sorted({f.tokenizer for f in fingerprints.values()}),
                "dtype": dtype,
                "device": device_kind(device),
                "engine": engine,
                "opening": OPENING,
                "versions": versions() | _adapting(measurement, fingerprints),
                **({"quantize": f"{quantize} by {version_of(QUANTISER)}"} if quantize else {}),
            }
        ).encode()
    ).hexdigest()


def _adapting(measurement: Measurement, fingerprints: Mapping[str, Fingerprint]) -> dict[str, str]:
    """PEFT's version where it takes part: an adapter is merged in, or LoRA is trained."""
    recipe = measurement.request.recipe_used()
    if (recipe is None or recipe.lora is None) and not any(
        fingerprints[r].adapted for r in measurement.roles
    ):
        return {}
    return {ADAPTERS: version_of(ADAPTERS)}


def described(
    measurement: Measurement, fingerprints: Mapping[str, Fingerprint]
) -> dict[str, object]:
    """A measurement with checkpoints by content instead of by role."""
    return {
        "method": measurement.request.implementation,
        "revision": measurement.request.revision,
        "on": fingerprints[measurement.on].model,
        "task": measurement.task,
        "arguments": measurement.request.spelled(),
        "inputs": [described(each, fingerprints) for each in measurement.inputs],
    }
