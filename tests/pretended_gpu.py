"""A simulated GPU: tensors that were created without a device cannot be combined with the model's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MADE = {
    *(torch.tensor, torch.as_tensor, torch.arange, torch.linspace, torch.eye),
    *(torch.zeros, torch.ones, torch.full, torch.empty, torch.scalar_tensor),
    *(torch.rand, torch.randn, torch.randint, torch.randperm),
}
"""What makes tensors on the host if it is not told where."""

WAITS = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "argwhere"),
    *("unique", "masked_select", "equal", "repeat_interleave", "bincount"),
}
"""What needs to know what a GPU has computed."""


class PretendedGPU(TorchFunctionMode):
    """Context in which tensors that nothing says otherwise of are a GPU's, and those made without a
    device, or brought over by ``cpu()``, the host's.

    As in CUDA, tensors of both may not meet, but for the host's single numbers and its indices.

    Attributes:
        waits: how often the host waited for the GPU.
        elsewhere: whether what is done is nobody's business: loading ends on the GPU.
    """

    elsewhere = False

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __enter__(self) -> Self:
        # the one that tells nobody when it is called
        self.patch = pytest.MonkeyPatch()
        right = torch.from_numpy
        self.patch.setattr(torch, "from_numpy", lambda array: of_host(right(array)))
        super().__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)
        self.patch.undo()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.elsewhere:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func in MADE:
            result = func(*args, **kwargs)
            there = kwargs.get("device") is not None
            self.waits += there and func in (torch.tensor, torch.as_tensor)
            return result if there else of_host(result)
        inputs = list(tensors((args, kwargs)))
        gpu = any(not on_host(tensor) for tensor in inputs)
        if name in ("to", "cpu", "cuda"):
            return self.carried(func, name, args, kwargs)
        if name == "numpy" and gpu:
            raise TypeError("a GPU's tensor has no numpy(): bring it over with cpu()")
        if name in ("__getitem__", "__setitem__") and not on_host(args[0]):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.waits += any(waited_for(tensor) for tensor in indices)
            inputs = [args[0], *tensors(args[2:])]
        mixed = gpu and any(on_host(tensor) and tensor.dim() for tensor in inputs)
        if mixed and name != "copy_":
            where = [("host" if on_host(e) else "GPU", tuple(e.shape)) for e in inputs]
            raise RuntimeError(f"{name}: tensors on two devices, {where}")
        self.waits += (gpu and name in WAITS) or mixed
        result = func(*args, **kwargs)
        if inputs and not gpu:
            for tensor in tensors(result):
                of_host(tensor)
        return result

    def carried(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A tensor on another device, or as it was in another dtype."""
        result = func(*args, **kwargs)
        targets = [kwargs.get("device"), kwargs.get("other"), *args[1:]]
        to_gpu = name == "cuda" or any(
            isinstance(target, str | torch.device)
            or (isinstance(target, Tensor) and not on_host(target))
            for target in targets
        )
        to_host = name == "cpu" or any(isinstance(e, Tensor) and on_host(e) for e in targets)
        host = to_host or (on_host(args[0]) and not to_gpu)
        self.waits += host != on_host(args[0])
        if result is args[0] and host == on_host(args[0]):
            return result
        with torch._C.DisableTorchFunction():
            result = result.clone() if result is args[0] else result
        return of_host(result) if host else result


def of_host(tensor: Tensor) -> Tensor:
    tensor._of_host = True  # type: ignore[attr-defined]
    return tensor


def on_host(tensor: Tensor) -> bool:
    return getattr(tensor, "_of_host", False)


def waited_for(index: Any) -> bool:
    """Whether an index has to be carried to the GPU, or looked at there."""
    if isinstance(index, Tensor):
        return (on_host(index) and index.dim() > 0) or index.dtype == torch.bool
    return isinstance(index, list | range)


def tensors(value: Any) -> Iterator[Tensor]:
    """All in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
