"""The table of settings: pytest's options and ini keys, the options of commands, their validation
and both help pages come from it. To add a setting, add an entry here and to `SETTINGS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pytest_mechanism.checkpoints.trust import ALLOW_PICKLE, TRUST_REMOTE_CODE
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.settings.model_options import (
    DTYPES,
    ModelOptions,
    check_batch_size,
    check_device,
    check_dtype,
    check_engine,
    check_quantize,
)

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Setting(Generic[T_co]):
    """A setting of a run.

    Attributes:
        name: the ini key; the option is derived from it.
        purpose: the help text, without the default.
        parse: text -> value; raises `MechanismError` for a text that makes no sense.
        default: the value where neither the option nor the ini key is set.
        metavar: what stands for the value in help pages; empty for a switch.
        ini: the ini key's type, in pytest's words; ``bool`` makes the option a switch, ``linelist``
            lets it be repeated.
        short_flag: another name of the option, in commands alone.
        gate_only: whether only pytest takes the option, and no command does.
        ini_only: whether there is an ini key and no option.
    """

    name: str
    purpose: str
    parse: Callable[[str], T_co]
    default: T_co
    metavar: str = ""
    ini: Literal["string", "int", "float", "bool", "linelist"] = "string"
    short_flag: str = ""
    gate_only: bool = False
    ini_only: bool = False

    @property
    def flag(self) -> str:
        """The option's name in pytest and in commands."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """The help text, with the default if there is one to name."""
        return f"{self.purpose}; default: {self.default}" if self.default else self.purpose

    def error(self, problem: MechanismError) -> MechanismError:
        """The error, led by the option's name."""
        return MechanismError(f"{self.flag}: {problem.message}")


def switch(flag: str, purpose: str, *, gate_only: bool = False) -> Setting[bool]:
    """A setting that is off unless the user turns it on."""
    name = flag.removeprefix("--").replace("-", "_")
    return Setting(name, purpose, bool, default=False, ini="bool", gate_only=gate_only)


def confidence_level(text: str) -> float:
    """A confidence level from text.

    Raises:
        MechanismError: it is not a number, or lies outside the allowed range.
    """
    from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE

    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not LEAST_CONFIDENCE <= level < 1:
        raise MechanismError(f"{text!r} does not lie between {LEAST_CONFIDENCE:g} and 1")
    return level


MODEL_PAIR: Setting[str | None] = Setting(
    "model_pair",
    "the two checkpoints: the first is base, the second is ft; a reference is an alias (ini "
    "mechanism_models), a folder, hf:ORG/NAME@REVISION or zoo:NAME, each with +ADAPTER if needed",
    str,
    None,
    metavar="[LABEL=]REF,[LABEL=]REF",
)
MODELS: Setting[tuple[str, ...]] = Setting(
    "mechanism_model",
    "a further checkpoint that a claim needs, such as control=./never_trained; repeatable",
    lambda text: (text,),
    (),
    metavar="ROLE=[LABEL=]REF",
    ini="linelist",
)
ALIASES: Setting[tuple[str, ...]] = Setting(
    "mechanism_models",
    "aliases for checkpoints, one NAME = REFERENCE a line",
    lambda text: (text,),
    (),
    ini="linelist",
    ini_only=True,
)
DEVICE = Setting(
    "mechanism_device",
    "cpu, cuda, cuda:N, or auto (accelerate spreads the layers over all GPUs, and over memory and "
    "disk if they do not fit)",
    check_device,
    ModelOptions.device,
    metavar="DEVICE",
    short_flag="--device",
)
DTYPE = Setting(
    "mechanism_dtype",
    ", ".join(DTYPES),
    check_dtype,
    ModelOptions.dtype,
    metavar="DTYPE",
    short_flag="--dtype",
)
QUANTIZE: Setting[str | None] = Setting(
    "mechanism_quantize",
    "8bit or 4bit: bitsandbytes quantises the weights on loading",
    check_quantize,
    ModelOptions.quantize,
    metavar="BITS",
    short_flag="--quantize",
)
BATCH_SIZE = Setting(
    "mechanism_batch_size",
    "rows in one forward pass",
    check_batch_size,
    ModelOptions.batch_size,
    metavar="ROWS",
    ini="int",
    short_flag="--batch-size",
)
ENGINE = Setting(
    "mechanism_engine",
    "branch (recomputes only what a change can reach) or reference (one full forward pass for every "
    "variant: slow and simple)",
    check_engine,
    ModelOptions.engine,
    metavar="ENGINE",
    short_flag="--engine",
)
CONFIDENCE: Setting[float | None] = Setting(
    "mechanism_confidence",
    "confidence level of every interval, instead of the specs' own (0.95 unless they name another)",
    confidence_level,
    None,
    metavar="LEVEL",
    ini="float",
    short_flag="--confidence",
)
STORE: Setting[str | None] = Setting(
    "mechanism_store",
    "folder in which measurements are kept for later runs; default: pytest's cache",
    str,
    None,
    metavar="FOLDER",
    short_flag="--store",
)
NO_STORE = switch(
    "--mechanism-no-store", "measure everything anew and keep nothing, for release builds"
)
PICKLE = switch(
    ALLOW_PICKLE,
    "also load pickled weights (*.bin) where a folder has no safetensors; only tensors are unpickled",
)
REMOTE_CODE = switch(
    TRUST_REMOTE_CODE,
    "run the modelling code that a checkpoint brings (auto_map in its config.json), with your rights",
)
REQUIRE_ACCEPTED = switch(
    "--mechanism-require-accepted",
    "fail a claim without an accepted score, whatever its verdict, and a skipped claim that has one; "
    "--snapshot-update accepts scores",
    gate_only=True,
)
NO_SKIPS = switch(
    "--mechanism-no-skips",
    "fail a skipped claim, whatever skips it: applies_to, a mark, a fixture, xfail",
    gate_only=True,
)
JSON: Setting[str | None] = Setting(
    "mechanism_json",
    "write every claim's verdict, score and interval to a JSON file",
    str,
    None,
    metavar="PATH",
    gate_only=True,
)

TRUST = (PICKLE, REMOTE_CODE)

SETTINGS: tuple[Setting[object], ...] = (
    MODEL_PAIR, MODELS, ALIASES, DEVICE, DTYPE, QUANTIZE, BATCH_SIZE, ENGINE, CONFIDENCE, STORE,
    NO_STORE, *TRUST, REQUIRE_ACCEPTED, NO_SKIPS, JSON,
)  # fmt: skip

OF_COMMANDS = tuple(s for s in SETTINGS if not (s.gate_only or s.ini_only))
"""Settings that every command takes which measures models."""
