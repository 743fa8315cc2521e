"""How models are run: device, dtype, rows in a batch, engine."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.checkpoints.trust import NONE, Trust
from pytest_mechanism.errors import MechanismError, choices

ENGINES = ("branch", "reference")


@dataclass(frozen=True)
class Options:
    """How models are run.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: of weights and arithmetic.
        batch_size: rows in one forward.
        engine: ``branch``, or ``reference`` (one full forward for everything).
        trust: whether pickled weights and remote code may be used.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    engine: str = "branch"
    trust: Trust = NONE

    def __post_init__(self) -> None:
        kind, colon, index = self.device.partition(":")
        numbered = index.isascii() and index.isdigit()
        if kind not in ("cpu", "cuda") or (colon and not numbered):
            raise MechanismError(f"no device {self.device!r}; valid: cpu, cuda, cuda:N")
        if self.engine not in ENGINES:
            raise MechanismError(f"no engine {self.engine!r}; {choices(self.engine, ENGINES)}")
        if self.batch_size < 1:
            raise MechanismError(f"batch size {self.batch_size} is no number of rows above 0")
