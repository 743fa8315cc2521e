"""The key of a measurement: a hash of everything that can change its result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.settings.model_options import HALF
from pytest_mechanism.types import canonical

LIBRARIES = ("pytest-mechanism", "torch", "transformers", "transformer-lens", "tokenizers", "numpy")

QUANTISER = "bitsandbytes"
"""Counts where weights are quantised."""

GGUF_READER = "gguf"

ADAPTERS = "peft"
"""Counts where an adapter is merged or LoRA is trained."""

PIPELINE = 2
"""Revision of how a checkpoint becomes a model and rows become batches, raised when that can change the
numbers of all methods. 2: adapters of shared weights, rotary frequencies of each row, sizes by the
loaded config."""

GPUS = Path("/proc/driver/nvidia/gpus")
"""Where Linux lists GPUs, so that the key needs no torch."""


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that every measurement uses, without importing them."""
    return {name: version_of(name) for name in LIBRARIES}


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def device_kind(device: str) -> str:
    """``cpu`` or ``cuda``; for ``spread``, which GPUs it can use here."""
    if device != "spread":
        return device.split(":", maxsplit=1)[0]
    try:
        gpus = sum(1 for _ in GPUS.iterdir())
    except OSError:
        gpus = 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return f"spread over {gpus} GPUs, {visible} visible" if gpus else "spread without a GPU"


def measurement_key(
    measurement: Measurement,
    fingerprints: Mapping[str, Fingerprint],
    dtype: str,
    device: str,
    engine: str,
    quantize: str | None = None,
    batch_size: int | None = None,
) -> str:
    """sha256 of checkpoints, tokenizers, task, request, dtype, device, engine, quantisation, versions; in half
    precision, of the batch size too, since it changes how sums are rounded.

    Rows depend on the tokenizers of all roles of the run, so all of them count. Which role a checkpoint
    plays does not.
    """
    return hashlib.sha256(
        canonical(
            {
                "measurement": described(measurement, fingerprints),
                "tokenizers": tokenizers(fingerprints),
                "dtype": dtype,
                "device": device_kind(device),
                "engine": engine,
                "opening": PIPELINE,
                "versions": versions()
                | _adapter_versions(measurement, fingerprints)
                | _quantiser_versions(measurement, fingerprints),
                **(
                    {"quantize": f"{quantize} by {version_of(QUANTISER)}, threshold 0"}
                    if quantize
                    else {}
                ),
                **({"batch_size": batch_size} if dtype in HALF else {}),
            }
        ).encode()
    ).hexdigest()


def tokenizers(fingerprints: Mapping[str, Fingerprint]) -> list[str]:
    """The hashes of a run's tokenizers: rows have only words that none of them splits."""
    return sorted({f.tokenizer for f in fingerprints.values()})


def hash_of_tokenizers(fingerprints: Mapping[str, Fingerprint]) -> str:
    """One hash of all tokenizers of a run."""
    return hashlib.sha256(canonical(tokenizers(fingerprints)).encode()).hexdigest()


@dataclass(frozen=True)
class ContentHashes(Mapping[str, str]):
    """Role -> content hash of its checkpoint, and ``tokenizers`` -> one of all tokenizers. Each is computed when it is
    looked at, since claims say what they need before all weights are read.

    Attributes:
        fingerprints: role -> fingerprint, of all checkpoints.
        roles: of the models that take part.
    """

    fingerprints: Mapping[str, Fingerprint]
    roles: Sequence[str]

    def __getitem__(self, key: str) -> str:
        if key == "tokenizers":
            return hash_of_tokenizers(self.fingerprints)
        if key not in self.roles:
            raise KeyError(key)
        return self.fingerprints[key].model

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(self.roles)
        yield "tokenizers"

    def __len__(self) -> int:
        return len({*self.roles}) + 1


def _adapter_versions(
    measurement: Measurement, fingerprints: Mapping[str, Fingerprint]
) -> dict[str, str]:
    """The version of PEFT, if it merges an adapter or trains LoRA."""
    recipe = measurement.request.recipe_used()
    if (recipe is None or recipe.lora is None) and not any(
        fingerprints[r].adapted for r in measurement.roles
    ):
        return {}
    return {ADAPTERS: version_of(ADAPTERS)}


def _quantiser_versions(
    measurement: Measurement, fingerprints: Mapping[str, Fingerprint]
) -> dict[str, str]:
    """Versions of the packages that read the measured weights, if these are quantised; and of the one that
    reads the tokenizer of a GGUF file, on which the rows of all roles depend."""
    libraries = {fingerprints[role].library for role in measurement.roles}
    libraries |= {f.library for f in fingerprints.values() if f.library == GGUF_READER}
    return {name: version_of(name) for name in sorted(libraries - {""})}


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
        "inputs": [described(given, fingerprints) for given in measurement.inputs],
    }
