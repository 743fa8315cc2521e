"""The GPUs that torch will see, without importing torch: what a run takes must be known before it measures.

NVIDIA's management library tells how many GPUs there are and how much memory each has. A torch that is built
for CPUs sees none of them. GPUs of other makers are not found here: ``--mechanism-device cuda`` names them.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LIBRARY = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"

BUILT_FOR_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"]", re.MULTILINE)
"""A line of torch/version.py."""


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``, in bytes."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


@cache
def gpu_memory() -> tuple[int, ...]:
    """Bytes of memory of each GPU that torch will see, in the order of the PCI bus; empty without any."""
    if not torch_has_cuda():
        return ()
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return ()
    return read_memory(library, os.environ.get("CUDA_VISIBLE_DEVICES"))


def torch_has_cuda() -> bool:
    """Whether the installed torch is built for NVIDIA's GPUs."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    with suppress(OSError):
        return (
            BUILT_FOR_CUDA.search((Path(spec.origin).parent / "version.py").read_text()) is not None
        )
    return False


def read_memory(library: Any, visible: str | None) -> tuple[int, ...]:
    """Bytes of memory of each visible GPU.

    Args:
        library: NVIDIA's management library.
        visible: the value of ``CUDA_VISIBLE_DEVICES``; None where it is not set.
    """
    if library.nvmlInit_v2() != 0:
        return ()
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return ()
        return tuple(_memory_of(library, name) for name in visible_gpus(visible, count.value))
    finally:
        library.nvmlShutdown()


def visible_gpus(visible: str | None, count: int) -> Iterator[int | str]:
    """Numbers or identifiers of the GPUs that CUDA shows, which end at the first that is none.

    Args:
        visible: the value of ``CUDA_VISIBLE_DEVICES``; None where it is not set.
        count: number of GPUs of the machine.
    """
    if visible is None:
        yield from range(count)
        return
    for name in map(str.strip, visible.split(",")):
        if name.startswith(("GPU-", "MIG-")):
            yield name
        elif name.isascii() and name.isdigit() and int(name) < count:
            yield int(name)
        else:
            return


def _memory_of(library: Any, name: int | str) -> int:
    """Bytes of memory of a GPU; 0 if the library does not tell."""
    handle, memory = ctypes.c_void_p(), _Memory()
    if isinstance(name, int):
        failed = library.nvmlDeviceGetHandleByIndex_v2(name, ctypes.byref(handle))
    else:
        failed = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    if failed or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        return 0
    return int(memory.total)
