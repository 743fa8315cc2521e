"""From a folder to a model that can be run: Hugging Face weights under a TransformerBridge.

Imports torch; only the runner comes here. No network; safetensors only and no remote code, unless
the user said otherwise (`checkpoints.trust`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_mechanism.checkpoints.loading.placement import Placement, offloaded
from pytest_mechanism.checkpoints.loading.weights import check_weights, known_words, read_adapted
from pytest_mechanism.checkpoints.shape import Shape, loaded_shape
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.errors import MechanismError, NoDevice, choices
from pytest_mechanism.model_families.bridge import wrap
from pytest_mechanism.model_families.rotary import unmodified
from pytest_mechanism.model_families.wrapped import WrappedModel
from pytest_mechanism.tasks.text.encoding import Encoder

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def unwatched() -> None:
    """For checkpoints that nobody can change."""


@dataclass
class LoadedModel:
    """A checkpoint in memory.

    Attributes:
        role: the role it plays in this run.
        folder: where it comes from.
        wrapped: the model under hooks, in eval mode, weights frozen; None after `release`.
        shape: its sizes.
        encoder: its tokenizer.
        device: where it is.
        plain_logits: logits of the probe prompt before it was wrapped, as plain HF gives them.
        probe: token ids of that prompt, [1, S].
        adapter: merged into the weights, or None.
        trust: what the folder was allowed to do.
        placement: where the weights went, and in how many bits.
        unmerged: why the adapter runs beside the weights; empty where it is merged into them.
        look: raises where the files are no longer what the fingerprint was taken of.
    """

    role: str
    folder: Path
    wrapped: WrappedModel
    shape: Shape
    encoder: Encoder
    device: torch.device
    plain_logits: Tensor
    probe: Tensor
    adapter: Path | None = None
    trust: Trust = TRUST_NOTHING
    placement: Placement = field(default_factory=Placement)
    unmerged: str = ""
    look: Callable[[], None] = unwatched

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: the run's, whatever the files have; quantised ones count as wide as what
        they are multiplied in."""
        kinds = (parameter.dtype for parameter in self.wrapped.parameters())
        found: torch.dtype = next(kind for kind in kinds if kind.is_floating_point)
        return found

    def fresh(self, dtype: torch.dtype) -> Any:
        """A plain Hugging Face model of its own, read anew, in eval mode on the same device.

        Raises:
            MechanismError: its weights cannot be changed: they are quantised, not all of them fit,
                or an adapter lies beside them.
            CheckpointChanged: the files are not those that were loaded.
        """
        model, unmerged = read_adapted(
            self.folder, dtype, self.adapter, self.trust, self.placement, self.probe.cpu()
        )
        self.look()
        model = known_words(model, self.encoder)
        if getattr(model, "is_quantized", False):
            raise MechanismError(
                f"{self.role}: quantised weights are neither trained nor pruned, nor is their "
                "importance measured; load it without"
            )
        if offloaded(model):
            raise MechanismError(
                f"{self.role}: weights that do not fit are neither trained nor pruned, nor is their "
                "importance measured; it takes more memory, or a smaller dtype"
            )
        if unmerged:
            raise MechanismError(
                f"{self.role}: weights with an adapter beside them are neither trained nor pruned, "
                f"nor is their importance measured, and {self.adapter} cannot be merged: {unmerged}"
            )
        return (model if self.placement.spread else model.to(self.device)).eval()

    def release(self) -> None:
        """Let go of the weights."""
        self.wrapped = None  # type: ignore[assignment]
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_model(
    role: str,
    folder: Path,
    device: str,
    dtype: str,
    probe: Callable[[Encoder], list[int]],
    adapter: Path | None = None,
    tokenizer: Path | None = None,
    trust: Trust = TRUST_NOTHING,
    quantize: str | None = None,
    look: Callable[[], None] = unwatched,
) -> LoadedModel:
    """Load a checkpoint.

    Args:
        role: the role it plays.
        folder: config.json, *.safetensors, tokenizer.json.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        dtype: one of `DTYPES`.
        probe: a prompt on which plain and wrapped logits are compared, as token ids.
        adapter: folder of an adapter that is merged into the weights.
        tokenizer: folder of another tokenizer than the checkpoint's own.
        trust: whether pickled weights and remote code may be used.
        quantize: ``8bit``, ``4bit`` or None.
        look: what `LoadedModel.fresh` calls when it has read the files (`checkpoints.watch`).

    Raises:
        MechanismError: weights missing, damaged, not matching the config, or not finite.
    """
    encoder = Encoder.load(tokenizer or folder)
    where = pick_device(device)
    placement = Placement(device == "auto", quantize, str(where))
    ids = torch.tensor([probe(encoder)])
    weights, unmerged = read_adapted(folder, DTYPES[dtype], adapter, trust, placement, ids)
    shape = loaded_shape(weights.config, folder, adapter)
    model = known_words(weights, encoder).eval()
    if not (placement.spread or getattr(model, "is_quantized", False)):
        model = model.to(where)
    check_weights(model, str(folder) if adapter is None else f"{adapter}, merged into {folder}")
    ids = ids.to(where)
    largest = int(ids.max())
    if largest >= shape.d_vocab:
        raise MechanismError(
            f"{folder}: the tokenizer gives id {largest}, the model has {shape.d_vocab} embeddings"
        )
    with torch.no_grad(), unmodified(model):
        logits = model(ids).logits.float().cpu()
    wrapped = wrap(model, folder)
    for parameter in wrapped.parameters():  # after wrapping: some families get new parameters there
        parameter.requires_grad_(False)
    return LoadedModel(
        role,
        folder,
        wrapped,
        shape,
        encoder,
        where,
        logits,
        ids,
        adapter,
        trust,
        placement,
        unmerged,
        look,
    )


def pick_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:N``; for ``auto`` where prompts go.

    Raises:
        NoDevice: torch sees no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    found = torch.device(name)
    there = torch.cuda.device_count() if found.type == "cuda" else 1
    if (found.index or 0) >= there:
        seen = [f"cuda:{n}" for n in range(there)]
        raise NoDevice(
            f"no device {name!r}, torch sees {there} CUDA devices; "
            f"{choices(name, ['auto', 'cpu', *seen])}"
        )
    return found
