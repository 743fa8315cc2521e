"""Loads a checkpoint's folder as a model that can be run: Hugging Face weights in a TransformerBridge.

Only the runner uses this module, since it imports torch. It uses no network, and neither pickled
weights nor remote code unless the user allows them (`checkpoints.trust`).
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
from pytest_mechanism.checkpoints.loading.weights import check_finite, cut_vocabulary, read_model
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


def no_check() -> None:
    """For checkpoints that nobody can change."""


@dataclass
class LoadedModel:
    """A checkpoint in memory.

    Attributes:
        role: its role in this run.
        folder: of the checkpoint.
        wrapped: the model with hooks, in eval mode, weights frozen; None after `release`.
        shape: its sizes.
        encoder: its tokenizer.
        device: the device of its inputs.
        plain_logits: logits of the probe prompt from the plain Hugging Face model.
        probe: token ids of the probe prompt, [1, S].
        adapter: folder of the adapter, or None.
        trust: what the folder may do.
        placement: of the weights.
        unmerged: why the adapter runs beside the weights; empty if it is merged.
        check_unchanged: raises if the files have changed since the fingerprint was taken.
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
    check_unchanged: Callable[[], None] = no_check

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights; of quantised weights, that of the multiplication."""
        dtypes = (parameter.dtype for parameter in self.wrapped.parameters())
        floating: torch.dtype = next(dtype for dtype in dtypes if dtype.is_floating_point)
        return floating

    def read_plain_model(self, dtype: torch.dtype) -> Any:
        """Reads the weights again, as a separate plain Hugging Face model in eval mode.

        Raises:
            MechanismError: the weights cannot be changed, since they are quantised, do not all fit
                into memory, or have an adapter beside them.
            CheckpointChanged: the files have changed.
        """
        model, unmerged = read_model(
            self.folder, dtype, self.adapter, self.trust, self.placement, self.probe.cpu()
        )
        self.check_unchanged()
        model = cut_vocabulary(model, self.encoder)
        if getattr(model, "is_quantized", False):
            advice = (
                "name a checkpoint with full weights"
                if self.placement.quantize is None
                else "load the checkpoint without --mechanism-quantize"
            )
            raise MechanismError(
                f"{self.role}: quantised weights cannot be trained, pruned or ranked; {advice}"
            )
        if offloaded(model):
            raise MechanismError(
                f"{self.role}: weights that do not fit into memory cannot be trained, pruned or "
                "ranked; use a machine with more memory, or a smaller --mechanism-dtype"
            )
        if unmerged:
            raise MechanismError(
                f"{self.role}: weights with an adapter beside them cannot be trained, pruned or ranked, "
                f"and {self.adapter} cannot be merged: {unmerged}"
            )
        return (model if self.placement.spread else model.to(self.device)).eval()

    def release(self) -> None:
        """Frees the memory of the weights."""
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
    tokenizer: Path | Encoder | None = None,
    trust: Trust = TRUST_NOTHING,
    quantize: str | None = None,
    check_unchanged: Callable[[], None] = no_check,
    turn: int = 0,
) -> LoadedModel:
    """Loads a checkpoint.

    Args:
        role: its role in this run.
        folder: with config.json, *.safetensors and tokenizer.json.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``spread``.
        dtype: one of `DTYPES`.
        probe: token ids of the prompt on which plain and wrapped logits are compared.
        adapter: folder of an adapter to merge into the weights.
        tokenizer: the tokenizer, or its folder if that is not the checkpoint's own.
        trust: whether pickled weights and remote code may be used.
        quantize: ``8bit``, ``4bit`` or None.
        check_unchanged: called when files were read again (`checkpoints.watch`).
        turn: see `pick_device`.

    Raises:
        MechanismError: weights missing, damaged, not matching the config, or not finite.
    """
    encoder = tokenizer if isinstance(tokenizer, Encoder) else Encoder.load(tokenizer or folder)
    torch_device = pick_device(device, turn)
    placement = Placement(device == "spread", quantize, str(torch_device))
    ids = torch.tensor([probe(encoder)])
    weights, unmerged = read_model(folder, DTYPES[dtype], adapter, trust, placement, ids)
    shape = loaded_shape(weights.config, folder, adapter)
    model = cut_vocabulary(weights, encoder).eval()
    if not placement.spread and not placed_by_bitsandbytes(model):
        model = model.to(torch_device)
    check_finite(model, str(folder) if adapter is None else f"{adapter}, merged into {folder}")
    ids = ids.to(torch_device)
    largest = int(ids.max())
    if largest >= shape.d_vocab:
        raise MechanismError(
            f"{folder}: the tokenizer gives id {largest}, but the model has {shape.d_vocab} embeddings"
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
        torch_device,
        logits,
        ids,
        adapter,
        trust,
        placement,
        unmerged,
        check_unchanged,
    )


def placed_by_bitsandbytes(model: Any) -> bool:
    """Whether bitsandbytes has put the weights where they are to stay."""
    method = getattr(model, "quantization_method", "")
    return bool(getattr(model, "is_quantized", False)) and "bitsandbytes" in str(
        getattr(method, "value", method)
    )


def count_gpus() -> int:
    """How many CUDA devices torch sees."""
    return torch.cuda.device_count()


def pick_device(name: str, turn: int = 0) -> torch.device:
    """The torch device of ``cpu``, ``cuda`` or ``cuda:N``; with ``auto`` or ``spread``, that of the prompts.

    Args:
        name: as typed.
        turn: number of this process among those that share the machine; ``cuda`` without an index is the
            GPU of that number, counted from the first again where there are fewer.

    Raises:
        NoDevice: torch has no such device.
    """
    if name in ("auto", "spread"):
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = count_gpus() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        cuda = [f"cuda:{n}" for n in range(count)]
        raise NoDevice(
            f"no device {name!r}, torch sees {count} CUDA devices; "
            f"{choices(name, ['auto', 'cpu', *cuda, 'spread'])}"
        )
    if name == "cuda" and count > 1:
        return torch.device("cuda", turn % count)
    return device
