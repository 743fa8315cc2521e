"""What the options of a run come to: checkpoints, runner, store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.flags import check_values, option, path_option, switch, trust

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.fingerprint import Fingerprint
    from pytest_mechanism.checkpoints.reference import Reference
    from pytest_mechanism.errors import NoDevice
    from pytest_mechanism.runner.cases import Gate
    from pytest_mechanism.runner.progress import Progress
    from pytest_mechanism.runner.runner import Runner


@dataclass
class Session:
    """What this pytest run is about.

    Attributes:
        config: pytest's.
        references: role -> checkpoint; empty where no pair was given.
        json_path: where the result file goes, or None.
        requires_accepted: whether a score that nobody accepted is red.
        no_device: what is wrong with the device, once an item has found that out.
    """

    config: pytest.Config
    references: Mapping[str, Reference]
    json_path: Path | None
    requires_accepted: bool = False
    progress: Progress | None = None
    no_device: str | None = None

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
        if switch(self.config, "mechanism_no_store"):
            return None
        if (given := path_option(self.config, "mechanism_store")) is not None:
            return given
        cache = getattr(self.config, "cache", None)
        if cache is None:
            return None
        try:
            return Path(cache.mkdir("mechanism"))
        except OSError as problem:
            raise MechanismError(
                f"pytest's cache, where measurements are remembered, cannot be written: "
                f"{problem.strerror}; choose another place with --mechanism-store, or "
                "--mechanism-no-store"
            ) from None

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
    from pytest_mechanism.checkpoints.reference import further, parse_pair, parse_reference
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
    flags = further(config.getoption("mechanism_model"))
    lines = further(config.getini("mechanism_model"))
    for given, root in ((flags, config.invocation_params.dir), (lines, config.rootpath)):
        for role, text in given.items():
            if role not in references:
                references[role] = parse_reference(
                    text, anchored(aliases, config.rootpath), root, trusted
                )
    for reference in references.values():
        read_shape(
            reference.folder, reference.adapter
        )  # later, under xdist, it would be an internal error
    if (json_path := path_option(config, "mechanism_json")) is not None:
        wrong = "is a folder" if json_path.is_dir() else "no such folder"
        if json_path.is_dir() or not json_path.parent.is_dir():
            raise MechanismError(f"--mechanism-json: {json_path} cannot be written: {wrong}")
    return Session(config, references, json_path, switch(config, "mechanism_require_accepted"))


def no_device(problem: NoDevice) -> str:
    """The line for a device that is not there, with its option."""
    return f"--mechanism-device: {problem.message}"


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
