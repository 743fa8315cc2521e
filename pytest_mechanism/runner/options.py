"""How models are run: device, dtype, rows in a batch, engine."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.errors import MechanismError, choices

ENGINES = ("branch", "reference")
QUANTIZE = ("8bit", "4bit")


def check_device(name: str) -> None:
    """``cpu``, ``cuda``, ``cuda:N`` or ``auto``.

    Raises:
        MechanismError: it is none of these.
    """
    kind, colon, index = name.partition(":")
    numbered = index.isascii() and index.isdigit()
    if kind not in ("cpu", "cuda", "auto") or (colon and not (numbered and kind == "cuda")):
        raise MechanismError(f"no device {name!r}; valid: auto, cpu, cuda, cuda:N")


def check_quantize(name: str | None) -> None:
    """One of `QUANTIZE`, and the library for it.

    Raises:
        MechanismError: neither, or it is not installed.
    """
    if name is None:
        return
    if name not in QUANTIZE:
        raise MechanismError(f"no quantisation {name!r}; {choices(name, QUANTIZE)}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MechanismError(f"{name} needs the library bitsandbytes: pip install bitsandbytes")


@dataclass(frozen=True)
class Options:
    """How models are run.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: layers are spread over what there is.
        dtype: of weights and arithmetic.
        batch_size: rows in one forward.
        engine: ``branch``, or ``reference`` (one full forward for everything).
        quantize: ``8bit`` or ``4bit`` weights, made by bitsandbytes when they are loaded; or None.
        trust: whether pickled weights and remote code may be used.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    engine: str = "branch"
    quantize: str | None = None
    trust: Trust = TRUST_NOTHING

    def __post_init__(self) -> None:
        check_device(self.device)
        check_quantize(self.quantize)
        if self.engine not in ENGINES:
            raise MechanismError(f"no engine {self.engine!r}; {choices(self.engine, ENGINES)}")
        if self.batch_size < 1:
            raise MechanismError(f"batch size {self.batch_size} is no number of rows above 0")

    @property
    def numbers(self) -> str:
        """What arithmetic is done in, as noted beside each score."""
        return self.dtype if self.quantize is None else f"{self.dtype}, {self.quantize} weights"
