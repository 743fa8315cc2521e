"""How models run: device, dtype, batch size, engine, quantisation, trust.

Imports no torch, so that the runner and the methods can share the value.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_mechanism.checkpoints.fitting import AUTO
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.errors import MechanismError, choices

DTYPES = ("float32", "float64", "bfloat16", "float16")
HALF = ("bfloat16", "float16")
ENGINES = ("branch", "reference")
QUANTIZATIONS = ("8bit", "4bit")
MAX_BATCH_SIZE = 1_000_000


def one_of(noun: str, valid: Sequence[str]) -> Callable[[str], str]:
    """A function that returns a valid value and refuses others."""

    def check(value: str) -> str:
        if value not in valid:
            raise MechanismError(f"unknown {noun} {value!r}; {choices(value, valid)}")
        return value

    return check


check_dtype = one_of("dtype", (AUTO, *DTYPES))
check_engine = one_of("engine", ENGINES)


def check_device(device: str) -> str:
    """The device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``spread``.

    Raises:
        MechanismError: it is none of these.
    """
    kind, colon, index = device.partition(":")
    numbered = kind == "cuda" and index.isascii() and index.isdigit()
    if kind not in (AUTO, "cpu", "cuda", "spread") or (colon and not numbered):
        raise MechanismError(f"unknown device {device!r}; valid: auto, cpu, cuda, cuda:N, spread")
    return device


def check_quantize(quantize: str) -> str:
    """The quantisation, one of `QUANTIZATIONS`, if its library is installed.

    Raises:
        MechanismError: it is none of these, or bitsandbytes is missing.
    """
    one_of("quantisation", QUANTIZATIONS)(quantize)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MechanismError(f"{quantize} needs the library bitsandbytes: pip install bitsandbytes")
    return quantize


def check_batch_size(batch_size: str | int) -> int | str:
    """The number of rows, from text or as it is, or ``auto``.

    Raises:
        MechanismError: it is neither that word nor an integer from 1 to `MAX_BATCH_SIZE`.
    """
    text = str(batch_size)
    if text == AUTO:
        return AUTO
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_BATCH_SIZE:
        return int(text)
    raise MechanismError(f"{text!r} is not a number of rows from 1 to {MAX_BATCH_SIZE:,}, nor auto")


ADDRESS = re.compile(r"local|auto|[A-Za-z0-9_.-]+:[0-9]{1,5}")


def check_address(text: str) -> str:
    """The address of a Ray cluster: ``local``, ``auto`` or ``HOST:PORT``.

    Raises:
        MechanismError: the text is something else, or Ray is missing.
    """
    if not ADDRESS.fullmatch(text):
        raise MechanismError(
            f"{text!r} is no address; valid: local, auto, HOST:PORT. Write --mechanism-ray=ADDRESS; without an "
            "address, put the option after the specs"
        )
    if importlib.util.find_spec("ray") is None:
        raise MechanismError("needs the library ray: pip install 'pytest-mechanism[ray]'")
    return text


@dataclass(frozen=True)
class ModelOptions:
    """How models run, once nothing is left to the machine (`checkpoints.fitting`).

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``spread`` (accelerate spreads the layers).
        dtype: of weights and arithmetic.
        batch_size: rows in one forward pass.
        engine: ``branch``, or ``reference`` (one full forward pass for every variant).
        quantize: ``8bit`` or ``4bit`` (bitsandbytes quantises the weights on loading), or None.
        trust: whether pickled weights and a checkpoint's own code may be used.
        turn: number of this process among those that share a machine. ``cuda`` without an index is the GPU
            of that number, so that processes use different GPUs as long as there are enough.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    engine: str = "branch"
    quantize: str | None = None
    trust: Trust = TRUST_NOTHING
    turn: int = 0

    def __post_init__(self) -> None:
        check_device(self.device)
        check_dtype(self.dtype)
        check_batch_size(self.batch_size)
        if AUTO in (self.device, self.dtype, self.batch_size):
            raise MechanismError("auto has to be resolved first: checkpoints.fitting.fit")
        check_engine(self.engine)
        if self.quantize is not None:
            check_quantize(self.quantize)

    @property
    def half(self) -> bool:
        """Whether arithmetic is in half precision, in which the size of a batch changes numbers."""
        return self.dtype in HALF

    @property
    def numbers(self) -> str:
        """The dtype and quantisation, as noted beside each score."""
        return self.dtype if self.quantize is None else f"{self.dtype}, {self.quantize} weights"
