"""Command-line options and ini keys, and what they come to: checkpoints, runner, store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_mechanism.errors import MechanismError, choices

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.fingerprint import Fingerprint
    from pytest_mechanism.checkpoints.reference import Reference
    from pytest_mechanism.checkpoints.trust import Trust
    from pytest_mechanism.runner.cases import Gate
    from pytest_mechanism.runner.progress import Progress
    from pytest_mechanism.runner.runner import Runner

DTYPES = ("float32", "float64", "bfloat16", "float16")

FLAGS: tuple[tuple[str, str | None, str], ...] = (
    (
        "model_pair",
        "[LABEL=]REF,[LABEL=]REF",
        "the two checkpoints: first is base, second is ft; "
        "a reference is an alias (ini mechanism_models), a folder, hf:ORG/NAME@REVISION or zoo:NAME, "
        "each perhaps with +ADAPTER",
    ),
    (
        "mechanism_device",
        "DEVICE",
        "cpu (default), cuda, cuda:N, or auto (layers are spread over all GPUs, and what they cannot "
        "hold over memory and disk)",
    ),
    ("mechanism_dtype", "DTYPE", f"{', '.join(DTYPES)} (default float32)"),
    (
        "mechanism_quantize",
        "BITS",
        "8bit or 4bit: weights are quantised by bitsandbytes when loaded",
    ),
    ("mechanism_batch_size", "ROWS", "prompts in one forward pass (default 64)"),
    (
        "mechanism_engine",
        "ENGINE",
        "branch (default: recomputes what can have changed) or reference (one full forward for "
        "every variant: slow, and obviously right)",
    ),
    ("mechanism_confidence", "LEVEL", "of every interval, over what the specs say (they: 0.95)"),
    ("mechanism_store", "FOLDER", "where measurements are remembered (default: pytest's cache)"),
    ("mechanism_json", "PATH", "write every claim's verdict, score and interval to a JSON file"),
)

TRUSTS = {
    "mechanism_allow_pickle": "load pickled weights too (*.bin), where a folder has no safetensors; "
    "tensors are taken from them and nothing else",
    "mechanism_trust_remote_code": "run the modelling code that a checkpoint brings (auto_map in its "
    "config.json), with your rights",
}
"""Off unless the user says so."""

NUMBERS: dict[str, Literal["int", "float"]] = {
    "mechanism_batch_size": "int",
    "mechanism_confidence": "float",
}
"""Ini keys that TOML writes without quotes."""


def add_options(parser: pytest.Parser) -> None:
    """One group in ``--help``; each flag has an ini key of the same name."""
    group = parser.getgroup("mechanism", "what happens inside language models (pytest-mechanism)")
    for name, metavar, text in FLAGS:
        group.addoption(
            f"--{name.replace('_', '-')}", dest=name, metavar=metavar, default=None, help=text
        )
        parser.addini(name, text, type=NUMBERS.get(name, "string"), default=None)
    group.addoption(
        "--mechanism-model",
        dest="mechanism_model",
        metavar="ROLE=[LABEL=]REF",
        action="append",
        default=[],
        help="a further checkpoint that a claim needs, such as control=./never_trained",
    )
    parser.addini("mechanism_model", "further checkpoints, one ROLE=REF a line", type="linelist")
    group.addoption(
        "--mechanism-no-store",
        dest="mechanism_no_store",
        action="store_true",
        default=False,
        help="measure everything anew and remember nothing, for release builds",
    )
    parser.addini("mechanism_no_store", "as --mechanism-no-store", type="bool", default=False)
    for name, text in TRUSTS.items():
        group.addoption(
            f"--{name.replace('_', '-')}", dest=name, action="store_true", default=False, help=text
        )
        parser.addini(name, text, type="bool", default=False)
    parser.addini(
        "mechanism_models", "aliases for --model-pair, one NAME = REFERENCE a line", type="linelist"
    )


def option(config: pytest.Config, name: str) -> str | None:
    """Flag before ini key; empty is unset.

    Raises:
        MechanismError: an ini key that is a number holds something else.
    """
    value = config.getoption(name)
    if value is None:
        try:
            value = config.getini(name)
        except (TypeError, ValueError, pytest.UsageError) as problem:
            raise MechanismError(f"ini {name}: {problem}") from None
    return str(value) if value not in (None, "") else None


def trust(config: pytest.Config) -> Trust:
    """What the user lets checkpoints do.

    Raises:
        MechanismError: an ini key is no truth value.
    """
    from pytest_mechanism.checkpoints.trust import Trust

    found = []
    for name in TRUSTS:
        try:
            found.append(bool(config.getoption(name) or config.getini(name)))
        except (TypeError, ValueError, pytest.UsageError) as problem:
            raise MechanismError(f"ini {name}: {problem}") from None
    return Trust(*found)


def path_option(config: pytest.Config, name: str) -> Path | None:
    """A path: of an ini file meant from the rootdir, of the command line from where one is."""
    if (given := option(config, name)) is None:
        return None
    typed = config.getoption(name) is not None
    return (config.invocation_params.dir if typed else config.rootpath) / Path(given).expanduser()


@dataclass
class Session:
    """What this pytest run is about.

    Attributes:
        config: pytest's.
        references: role -> checkpoint; empty where no pair was given.
        json_path: where the result file goes, or None.
    """

    config: pytest.Config
    references: Mapping[str, Reference]
    json_path: Path | None
    progress: Progress | None = None

    @property
    def paired(self) -> bool:
        """Whether there is a pair; further models alone are none."""
        return "base" in self.references

    @property
    def pair(self) -> str:
        """``<label>+<label>``, the name of the scores' folder."""
        return f"{self.references['base'].label}+{self.references['ft'].label}"

    @cached_property
    def store_folder(self) -> Path | None:
        """Where measurements are remembered, or None where they are not."""
        if self.config.getoption("mechanism_no_store") or self.config.getini("mechanism_no_store"):
            return None
        if (given := path_option(self.config, "mechanism_store")) is not None:
            return given
        cache = getattr(self.config, "cache", None)
        return None if cache is None else Path(cache.mkdir("mechanism"))

    @cached_property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        from pytest_mechanism.checkpoints.fingerprint import of_reference

        folder = self.store_folder
        memory = None if folder is None else folder / "fingerprints.json"
        return {role: of_reference(ref, memory) for role, ref in self.references.items()}

    @cached_property
    def runner(self) -> Runner:
        from pytest_mechanism.runner.options import Options
        from pytest_mechanism.runner.progress import Silent
        from pytest_mechanism.runner.runner import Runner
        from pytest_mechanism.runner.store import Store

        return Runner(
            self.references,
            self.fingerprints,
            Options(
                device=option(self.config, "mechanism_device") or "cpu",
                dtype=option(self.config, "mechanism_dtype") or "float32",
                batch_size=int(option(self.config, "mechanism_batch_size") or 64),
                engine=option(self.config, "mechanism_engine") or "branch",
                quantize=option(self.config, "mechanism_quantize"),
                trust=trust(self.config),
            ),
            None if self.store_folder is None else Store(self.store_folder),
            self.progress or Silent(),
            shared=hasattr(self.config, "workerinput"),
        )

    @cached_property
    def gate(self) -> Gate:
        from pytest_mechanism.runner.cases import Gate

        confidence = option(self.config, "mechanism_confidence")
        return Gate.over(self.runner, None if confidence is None else float(confidence))

    @property
    def counts(self) -> dict[str, int]:
        """What was done so far; nothing where nothing was asked for."""
        if "runner" not in self.__dict__:
            return {"loaded": 0, "done": 0, "from_store": 0}
        runner = self.runner
        return {"loaded": runner.loaded, "done": runner.done, "from_store": runner.from_store}

    def release(self) -> None:
        if "runner" in self.__dict__:
            self.runner.release()


def make_session(config: pytest.Config) -> Session:
    """Resolve the options.

    Raises:
        MechanismError: one of them cannot be meant.
    """
    from pytest_mechanism.checkpoints.reference import parse_pair, parse_reference
    from pytest_mechanism.checkpoints.shape import read_shape

    check_values(config)
    aliases, trusted = read_aliases(config), trust(config)
    # folders in an ini file are meant from the rootdir, those on the command line from where one is
    references: dict[str, Reference] = {}
    if (pair := option(config, "model_pair")) is not None:
        typed = config.getoption("model_pair") is not None
        root = config.invocation_params.dir if typed else config.rootpath
        base, ft = parse_pair(pair, anchored(aliases, config.rootpath), root, trusted)
        references = {"base": base, "ft": ft}
    flags = [(text, config.invocation_params.dir) for text in config.getoption("mechanism_model")]
    lines = [(text, config.rootpath) for text in config.getini("mechanism_model")]
    for given in (flags, lines):
        roles = [text.partition("=")[0].strip() for text, _ in given]
        for role in roles:
            if roles.count(role) > 1:
                raise MechanismError(f"--mechanism-model: the role {role!r} is given twice")
    for text, root in (*flags, *lines):
        role, equals, rest = text.partition("=")
        if not equals or not role.strip().isidentifier():
            raise MechanismError(f"--mechanism-model takes ROLE=REFERENCE, got {text!r}")
        if role.strip() in ("base", "ft", "pair"):
            raise MechanismError(
                f"--mechanism-model: the role {role.strip()!r} is the pair's; use --model-pair"
            )
        references.setdefault(
            role.strip(), parse_reference(rest, anchored(aliases, config.rootpath), root, trusted)
        )
    for reference in references.values():
        read_shape(reference.folder)  # later, under xdist, it would be an internal error
    if (json_path := path_option(config, "mechanism_json")) is not None:
        wrong = "is a folder" if json_path.is_dir() else "no such folder"
        if json_path.is_dir() or not json_path.parent.is_dir():
            raise MechanismError(f"--mechanism-json: {json_path} cannot be written: {wrong}")
    return Session(config, references, json_path)


def check_values(config: pytest.Config) -> None:
    """Options that are numbers or one of a list."""
    if (dtype := option(config, "mechanism_dtype")) is not None and dtype not in DTYPES:
        raise MechanismError(f"--mechanism-dtype: no dtype {dtype!r}; {choices(dtype, DTYPES)}")
    if (engine := option(config, "mechanism_engine")) is not None:
        from pytest_mechanism.runner.options import ENGINES

        if engine not in ENGINES:
            raise MechanismError(
                f"--mechanism-engine: no engine {engine!r}; {choices(engine, ENGINES)}"
            )
    from pytest_mechanism.runner.options import check_device, check_quantize

    for name, check in (("mechanism_device", check_device), ("mechanism_quantize", check_quantize)):
        if (given := option(config, name)) is not None:
            try:
                check(given)
            except MechanismError as problem:
                flag = f"--{name.replace('_', '-')}"
                raise MechanismError(f"{flag}: {problem.message}") from None
    size = option(config, "mechanism_batch_size") or "64"
    if not decimal(size) or not 1 <= int(size) <= 1_000_000:
        raise MechanismError(f"--mechanism-batch-size: {size!r} is no number of rows above 0")
    confidence = option(config, "mechanism_confidence") or "0.95"
    try:
        sensible = 0.5 <= float(confidence) < 1
    except ValueError:
        sensible = False
    if not sensible:
        raise MechanismError(
            f"--mechanism-confidence: {confidence!r} does not lie between 0.5 and 1"
        )


def decimal(text: str) -> bool:
    """Digits 0 to 9 and nothing else (``isdigit`` alone takes superscripts)."""
    return text.isascii() and text.isdigit()


def read_aliases(config: pytest.Config) -> dict[str, str]:
    """The ini key ``mechanism_models``: one ``name = reference`` a line."""
    found: dict[str, str] = {}
    for line in config.getini("mechanism_models"):
        name, equals, reference = line.partition("=")
        if not equals or not name.strip() or not reference.strip():
            raise MechanismError(f"ini mechanism_models: {line!r} is not NAME = REFERENCE")
        found[name.strip()] = reference.strip()
    return found


def anchored(aliases: Mapping[str, str], root: Path) -> dict[str, str]:
    """Aliases of folders, made absolute."""
    return {
        name: reference
        if ":" in reference or not (root / reference).is_dir()
        else str((root / reference).resolve())
        for name, reference in aliases.items()
    }
