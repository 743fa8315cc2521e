"""The table of settings: pytest's options and ini keys, the options of commands, their validation
and both help pages come from it. To add a setting, add an entry here and to `SETTINGS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pytest_mechanism.checkpoints.fitting import AUTO, CPU_ROWS, MOST_ROWS
from pytest_mechanism.checkpoints.trust import ALLOW_PICKLE, TRUST_REMOTE_CODE
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.settings.model_options import (
    DTYPES,
    ModelOptions,
    check_address,
    check_batch_size,
    check_device,
    check_dtype,
    check_engine,
    check_quantize,
)

T_co = TypeVar("T_co", covariant=True)
Ini = Literal["string", "int", "float", "bool", "linelist"]


@dataclass(frozen=True)
class Setting(Generic[T_co]):
    """A setting of a run.

    Attributes:
        name: the ini key; the option is derived from it.
        metavar: stands for the value in help pages; empty for a switch.
        purpose: the help text, without the default.
        parse: text -> value; raises `MechanismError` for a text that makes no sense.
        default: the value where neither the option nor the ini key is set.
        ini: the ini key's type, in pytest's words; ``bool`` makes the option a switch, ``linelist``
            lets it be repeated.
        short_flag: another name of the option, in commands alone.
        gate_only: whether only pytest takes the option, and no command does.
        ini_only: whether there is an ini key and no option.
        implied: the value of the option where none follows it; empty if one must.
    """

    name: str
    metavar: str
    purpose: str
    parse: Callable[[str], T_co]
    default: T_co
    ini: Ini = "string"
    short_flag: str = ""
    gate_only: bool = False
    ini_only: bool = False
    implied: str = ""

    @property
    def flag(self) -> str:
        """The option's name in pytest and in commands."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """The help text, with the default if there is one to name."""
        return f"{self.purpose}; default: {self.default}" if self.default else self.purpose

    @property
    def keywords(self) -> dict[str, Any]:
        """Keywords of the option, for argparse and for pytest."""
        if self.ini == "bool":
            return {"action": "store_true", "default": False}
        if self.ini == "linelist":
            return {"action": "append", "default": [], "metavar": self.metavar}
        if self.implied:
            return {
                "default": None, "metavar": self.metavar, "nargs": "?", "const": self.implied,
            }  # fmt: skip
        return {"default": None, "metavar": self.metavar}

    def error(self, problem: MechanismError) -> MechanismError:
        """The error, led by the option's name."""
        return MechanismError(f"{self.flag}: {problem.message}")


def switch(flag: str, purpose: str, *, gate_only: bool = False) -> Setting[bool]:
    """A setting that is off unless the user turns it on."""
    name = flag.removeprefix("--").replace("-", "_")
    return Setting(name, "", purpose, bool, default=False, ini="bool", gate_only=gate_only)


def text(
    name: str,
    metavar: str,
    purpose: str,
    *,
    ini: Ini = "string",
    short_flag: str = "",
    gate_only: bool = False,
    ini_only: bool = False,
) -> Setting[str | None]:
    """A setting that may be any text, without a default."""
    return Setting(name, metavar, purpose, str, None, ini, short_flag, gate_only, ini_only)


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


MODEL_PAIR = text(
    "model_pair", "[LABEL=]REF,[LABEL=]REF",
    "the two checkpoints: the first is base, the second is ft; a reference is an alias (ini "
    "mechanism_models), a folder, hf:ORG/NAME@REVISION or zoo:NAME, each with +ADAPTER if needed",
)  # fmt: skip
MODELS = text(
    "mechanism_model", "ROLE=[LABEL=]REF",
    "a further checkpoint that a claim needs, such as control=./never_trained; repeatable",
    ini="linelist",
)  # fmt: skip
ALIASES = text(
    "mechanism_models", "", "aliases of checkpoints, one NAME = REFERENCE per line",
    ini="linelist", ini_only=True,
)  # fmt: skip
DEVICE = Setting(
    "mechanism_device", "DEVICE",
    "cpu, cuda, cuda:N, spread (accelerate spreads the layers over all GPUs, and over memory and "
    "disk if they do not fit), or auto (a GPU where there is one, spread if the weights do not fit in it)",
    check_device, AUTO, short_flag="--device",
)  # fmt: skip
DTYPE = Setting(
    "mechanism_dtype", "DTYPE",
    f"{', '.join(DTYPES)}, or auto (float32; on a GPU in which that does not fit, the checkpoint's own)",
    check_dtype, AUTO, short_flag="--dtype",
)  # fmt: skip
QUANTIZE: Setting[str | None] = Setting(
    "mechanism_quantize", "BITS", "8bit or 4bit: bitsandbytes quantises the weights on loading",
    check_quantize, ModelOptions.quantize, short_flag="--quantize",
)  # fmt: skip
BATCH_SIZE: Setting[int | str] = Setting(
    "mechanism_batch_size", "ROWS",
    f"rows in one forward pass, or auto ({CPU_ROWS} on a CPU; on a GPU as many as its memory allows, up to "
    f"{MOST_ROWS})",
    check_batch_size, AUTO, ini="int", short_flag="--batch-size",
)  # fmt: skip
ENGINE = Setting(
    "mechanism_engine", "ENGINE",
    "branch (recomputes only what a change can reach) or reference (one full forward pass for every "
    "variant: slow and simple)",
    check_engine, ModelOptions.engine, short_flag="--engine",
)  # fmt: skip
CONFIDENCE: Setting[float | None] = Setting(
    "mechanism_confidence", "LEVEL",
    "confidence level of every interval, instead of the specs' own (0.95 unless they name another)",
    confidence_level, None, ini="float", short_flag="--confidence",
)  # fmt: skip
STORE = text(
    "mechanism_store", "FOLDER",
    "folder in which measurements are kept for later runs; default: pytest's cache",
    short_flag="--store",
)  # fmt: skip
JSON = text(
    "mechanism_json", "PATH", "write every claim's verdict, score and interval to a JSON file",
    gate_only=True,
)  # fmt: skip
REPORT = text(
    "mechanism_report", "PATH.html",
    "write a page that explains the run: conclusion, claims, intervals, evidence and circuit in one file",
    gate_only=True,
)  # fmt: skip
HISTORY = text(
    "mechanism_history", "FOLDER",
    "add the run's result file to a folder, which 'pytest-mechanism history' shows over time",
    gate_only=True,
)  # fmt: skip
LOG = text(
    "mechanism_log", "TRACKER", "send scores, verdicts and reports to mlflow or wandb, where it is installed",
    gate_only=True,
)  # fmt: skip
NO_STORE = switch(
    "--mechanism-no-store", "measure everything again and keep nothing, for release builds"
)
PICKLE = switch(
    ALLOW_PICKLE,
    "also load pickled weights (*.bin) where a folder has no safetensors; only tensors are unpickled",
)
REMOTE_CODE = switch(
    TRUST_REMOTE_CODE,
    "run the modelling code that a checkpoint brings (auto_map in its config.json), with your user's permissions",
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
NO_LOCATE = switch(
    "--mechanism-no-locate",
    "do not look for the heads and MLPs behind a red claim about a circuit, which takes a sweep over all of them",
    gate_only=True,
)

RAY: Setting[str | None] = Setting(
    "mechanism_ray", "ADDRESS",
    "make the measurements on the workers of a Ray cluster: local (this machine, the default of the "
    "option), auto, or HOST:PORT; needs pytest-mechanism[ray]",
    check_address, None, gate_only=True, implied="local",
)  # fmt: skip

TRUST = (PICKLE, REMOTE_CODE)

SETTINGS: tuple[Setting[object], ...] = (
    MODEL_PAIR, MODELS, ALIASES, DEVICE, DTYPE, QUANTIZE, BATCH_SIZE, ENGINE, CONFIDENCE, STORE,
    NO_STORE, *TRUST, REQUIRE_ACCEPTED, NO_SKIPS, NO_LOCATE, JSON, REPORT, HISTORY, LOG, RAY,
)  # fmt: skip

OF_COMMANDS = tuple(s for s in SETTINGS if not (s.gate_only or s.ini_only))
"""Settings that every command takes which measures models."""
