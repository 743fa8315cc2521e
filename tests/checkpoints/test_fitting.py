"""What a run takes where device, dtype and batch size are left to the machine."""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_mechanism.checkpoints import fitting, gpus
from pytest_mechanism.checkpoints.fitting import (
    AUTO,
    Fit,
    Weights,
    fit,
    rows_that_fit,
    stored_weights,
)
from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.session import make_session

GB = 10**9
SEVEN = Weights(6_700_000_000, "bfloat16")
LLAMA_7B = Shape(32, 32, 32, 4096, 128, 32000)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the machine GPUs of so many bytes, and each folder the weights of a 7B model."""

    def make(*memory: int) -> None:
        monkeypatch.setattr(fitting, "gpu_memory", lambda: memory)
        monkeypatch.setattr(fitting, "stored_weights", lambda _: SEVEN)
        monkeypatch.setattr(fitting, "known_shape", lambda _: LLAMA_7B)

    return make


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ((), Fit("cpu", "float32", 64)),
        ((140 * GB,), Fit("cuda", "float32", 32)),
        ((80 * GB, 80 * GB), Fit("cuda", "float32", 16)),
        ((24 * GB,), Fit("cuda", "bfloat16", 16)),
        ((12 * GB, 12 * GB), Fit("spread", "bfloat16", 64)),
    ],
)
def test_a_model_takes_the_gpu_in_the_largest_dtype_that_fits(
    machine: Any, memory: tuple[int, ...], expected: Fit
) -> None:
    """No GPU: the CPU. Too large for float32: its own dtype. Too large for one GPU: spread."""
    machine(*memory)

    assert fit(AUTO, AUTO, AUTO, [Path("base"), Path("ft")]) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("cpu", AUTO, AUTO), Fit("cpu", "float32", 64)),
        (("cuda:1", AUTO, AUTO), Fit("cuda:1", "float32", 32)),
        (("cuda", "bfloat16", AUTO), Fit("cuda", "bfloat16", 16)),
        ((AUTO, "float64", 7), Fit("spread", "float64", 7)),
        (("spread", AUTO, AUTO), Fit("spread", "float32", 64)),
    ],
)
def test_what_is_named_stays(machine: Any, named: Any, expected: Fit) -> None:
    """On a machine with a small and a large GPU, what is left out follows from what is named."""
    machine(24 * GB, 140 * GB)

    assert fit(*named, [Path("base")]) == expected


def test_a_checkpoint_in_float64_does_not_grow(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own dtype is larger than the one that does not fit."""
    machine(24 * GB)
    monkeypatch.setattr(fitting, "stored_weights", lambda _: Weights(SEVEN.count, "float64"))

    assert fit(AUTO, AUTO, AUTO, [Path("base")]) == Fit("spread", "float32", 64)


def test_a_batch_grows_with_the_memory_to_a_limit() -> None:
    """At least 16 rows and at most 256, by powers of two; more in half precision."""
    rows = [rows_that_fit(LLAMA_7B, gb * GB, "bfloat16") for gb in (1, 40, 100, 1000)]

    assert rows == [16, 32, 64, 256]
    assert rows_that_fit(LLAMA_7B, 100 * GB, "float32") == 32


def test_weights_are_counted_from_the_headers(tmp_path: Path) -> None:
    """Over all files, in the dtype that most of them have; what is no checkpoint has none."""
    save_file({"a": torch.zeros(3, 4, dtype=torch.bfloat16)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(5, dtype=torch.float32)}, tmp_path / "2.safetensors")
    (tmp_path / "config.json").write_text("{}")

    assert stored_weights(tmp_path) == Weights(17, "bfloat16")
    assert stored_weights(tmp_path / "missing") is None


class Library:
    """NVIDIA's management library of a machine with two GPUs of 10 and 20 bytes."""

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVIDIA's names
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 10 * (number + 1)
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:  # noqa: N802
        handle._obj.value = {b"GPU-b": 20}.get(name, 0)
        return 0 if handle._obj.value else 1

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        memory._obj.total = handle.value
        return 0


@pytest.mark.parametrize(
    ("visible", "memory"),
    [
        (None, (10, 20)),
        ("", ()),
        ("1", (20,)),
        ("1,0", (20, 10)),
        ("0,-1,1", (10,)),
        ("GPU-b", (20,)),
    ],
)
def test_gpus_are_those_that_cuda_shows(visible: str | None, memory: tuple[int, ...]) -> None:
    """All, or those of CUDA_VISIBLE_DEVICES in its order, up to the first that is none."""
    assert gpus.read_memory(Library(), visible) == memory


def test_a_torch_for_cpus_sees_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has; torch is not imported to find out."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(
        gpus, "find_spec", lambda _: argparse.Namespace(origin=str(package / "__init__.py"))
    )
    found = []
    for line in ("cuda: Optional[str] = None", "cuda: Optional[str] = '12.8'"):
        (package / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
        found.append(gpus.torch_has_cuda())

    assert found == [False, True]


def test_the_header_says_what_was_taken(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU: the device, and how to leave it; where float32 does not fit, that too. Nothing on a CPU."""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmodel_pair = {ZOO / 'base'},{ZOO / 'ft'}\n")
    arguments = argparse.Namespace(config_file=tmp_path / "pytest.ini")
    lines = []
    for memory in ((), (140 * GB,), (24 * GB,)):
        machine(*memory)
        lines.append(make_session(read_config(arguments)).device_line())

    taken = "--mechanism-device cpu measures on the CPU"
    assert lines == [
        None,
        f"mechanism: on cuda in float32, 32 rows in a forward pass ({taken})",
        "mechanism: on cuda in bfloat16, 16 rows in a forward pass "
        f"({taken}; float32 does not fit, so the weights stay in bfloat16)",
    ]
