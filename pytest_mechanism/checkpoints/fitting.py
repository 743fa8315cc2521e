"""The device, dtype and batch size of a run that leaves them to the machine (``auto``).

A GPU where there is one. float32 if the largest checkpoint fits in it; else the checkpoint's own dtype; and if that
does not fit either, accelerate spreads the layers. All checkpoints of a run get the same dtype. The choice depends
on sizes alone and not on the memory that is free now, so that the processes of a run agree, and a second run finds
the results of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.contents import safetensors_header
from pytest_mechanism.checkpoints.gguf_file import checked_header
from pytest_mechanism.checkpoints.gpus import gpu_memory
from pytest_mechanism.checkpoints.quantisers import already_quantised
from pytest_mechanism.checkpoints.shape import Shape, read_shape
from pytest_mechanism.checkpoints.trust import pickled_files
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import is_gguf

AUTO = "auto"

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""dtype -> bytes of a number."""

STORED = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Safetensors' name of a dtype -> torch's."""

WORK = 1.1
"""Weights and what is computed beside them, as a multiple of the weights' size."""

LIBRARIES = 2 << 30
"""Bytes of a GPU for CUDA and its libraries, and for a small batch."""

CPU_ROWS = 64
"""Rows in a forward pass on a CPU, where more are no faster."""

MOST_ROWS = 256
LEAST_ROWS = 16

SHARE = 1 / 8
"""The part of the memory beside the weights that the activations of a batch may take."""

TOKENS = 128
"""Tokens of a prompt for which batches are sized: more than most tasks have."""


@dataclass(frozen=True)
class Fit:
    """Where and how a run measures.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``spread``.
        dtype: of weights and arithmetic.
        batch_size: rows in a forward pass.
    """

    device: str
    dtype: str
    batch_size: int


@dataclass(frozen=True)
class Weights:
    """The stored weights of a checkpoint.

    Attributes:
        count: how many numbers there are.
        dtype: of most of them.
    """

    count: int
    dtype: str

    def fits(self, memory: float, dtype: str) -> bool:
        """Whether the weights in a dtype fit into a GPU with ``memory`` bytes, and leave room to compute."""
        return WORK * self.count * BYTES[dtype] + LIBRARIES <= memory


def fit(
    device: str,
    dtype: str,
    batch_size: int | str,
    folders: Iterable[Path],
    *,
    quantizes: bool = False,
) -> Fit:
    """Device, dtype and batch size, each as the user names it or, for `AUTO`, as it fits.

    Args:
        device: `AUTO`, or one that the user names.
        dtype: the same.
        batch_size: the same.
        folders: of the run's checkpoints; without any, only the machine counts.
        quantizes: whether weights are quantised on loading, and so fit more often than is counted here.
    """
    memory = gpu_memory() if AUTO in (device, dtype, batch_size) else ()
    if device == AUTO and not memory:
        device = "cpu"
    on_gpu = memory and device not in ("cpu", "spread")
    place = memory_of(device, memory) if on_gpu else 0
    whole = tuple(folders) if on_gpu else ()
    found = () if quantizes else tuple(filter(None, map(stored_weights, whole)))
    largest = max(found, key=lambda weights: weights.count, default=None)
    if dtype == AUTO:
        dtype = "float32"
        if largest is not None and not largest.fits(place, dtype):
            dtype = min(dtype, largest.dtype, key=BYTES.__getitem__)  # not float64
    if device == AUTO:
        device = "cuda" if largest is None or largest.fits(place, dtype) else "spread"
    if batch_size == AUTO:
        batch_size = CPU_ROWS
        if largest is not None and device != "spread":
            sizes = [shape for folder in whole if (shape := known_shape(folder)) is not None]
            left = place - WORK * largest.count * BYTES[dtype] - LIBRARIES
            batch_size = min((rows_that_fit(s, left, dtype) for s in sizes), default=CPU_ROWS)
    return Fit(device, dtype, int(batch_size))


def memory_of(device: str, memory: tuple[int, ...]) -> int:
    """Bytes of the GPU that a device names; the smallest one's if it names none."""
    number = device.partition(":")[2]
    return memory[int(number)] if number and int(number) < len(memory) else min(memory)


def stored_weights(folder: Path) -> Weights | None:
    """The weights of a folder or a GGUF file; None where they are quantised or cannot be counted, which loading
    reports."""
    try:
        if is_gguf(folder):
            return Weights(
                sum(tensor.count for tensor in checked_header(folder).tensors), "float16"
            )
        if already_quantised(folder) is not None:
            return None
        if pickled := pickled_files(folder):
            dtype = config_dtype(read_config(folder))
            return Weights(sum(p.stat().st_size for p in pickled) // BYTES[dtype], dtype)
        numbers: dict[str, int] = {}
        for path in sorted(folder.glob("*.safetensors")):
            for tensor in safetensors_header(path).values():
                start, stop = tensor["data_offsets"]
                numbers[tensor["dtype"]] = numbers.get(tensor["dtype"], 0) + stop - start
    except (MechanismError, OSError, KeyError, TypeError, ValueError):
        return None
    known = {
        STORED[kind]: size // BYTES[STORED[kind]]
        for kind, size in numbers.items()
        if kind in STORED
    }
    if not known:
        return None
    return Weights(sum(known.values()), max(known, key=lambda kind: known[kind]))


def config_dtype(config: Mapping[str, object]) -> str:
    """The dtype that a config names; float32 if it names none."""
    named = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return named if named in BYTES else "float32"


def known_shape(folder: Path) -> Shape | None:
    """Sizes of a checkpoint; None where they cannot be read, which is reported elsewhere."""
    try:
        return read_shape(folder)
    except MechanismError:
        return None


def rows_that_fit(shape: Shape, memory: float, dtype: str) -> int:
    """Rows in a forward pass, a power of two, whose activations take `SHARE` of the memory.

    A record keeps the residual stream, keys, values and z of each token in each layer.
    """
    width = shape.d_model + (2 * shape.n_kv_heads + shape.n_heads) * shape.d_head
    row = TOKENS * BYTES[dtype] * shape.n_layers * width
    rows = LEAST_ROWS
    while rows < MOST_ROWS and 2 * rows * row <= SHARE * memory:
        rows *= 2
    return rows
