"""What the options of a run come to: checkpoints, runner, store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.errors import CheckpointChanged, MechanismError, visible
from pytest_mechanism.flags import (
    check_values,
    ini_folder,
    option,
    path_option,
    seen_from,
    switch,
    trust,
)

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.fingerprint import Fingerprint
    from pytest_mechanism.checkpoints.reference import Aliases, Reference
    from pytest_mechanism.errors import NoDevice
    from pytest_mechanism.progress import Progress
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.runner.runner import Runner

FINGERPRINTS = "mechanism_fingerprints"
"""Under which workers of xdist are told role -> fingerprint."""


@dataclass
class Session:
    """What this pytest run is about.

    Attributes:
        config: pytest's.
        references: role -> checkpoint; empty where no pair was given.
        json_path: where the result file goes, or None.
        requires_accepted: whether a score that nobody accepted is red.
        no_skips: whether a claim that is skipped is red.
        no_device: what is wrong with the device, once an item has found that out.
    """

    config: pytest.Config
    references: Mapping[str, Reference]
    json_path: Path | None
    requires_accepted: bool = False
    no_skips: bool = False
    progress: Progress | None = None
    no_device: str | None = None

    def whereabouts(self) -> list[str]:
        """A line for each checkpoint: role, label, what was said, and the folder that it came to."""
        lines = []
        for role, each in self.references.items():
            place = "" if each.place == each.text else f" {each.place}"
            mark = self.fingerprints[role].short
            lines.append(visible(f"mechanism: {role} = {each.label} ({each.text}) {mark}{place}"))
        return lines

    @property
    def paired(self) -> bool:
        """Whether there is a pair; further models alone are none."""
        return "base" in self.references and "ft" in self.references

    @property
    def pair(self) -> str:
        """``<label>+<label>``, the name of the scores' folder."""
        return f"{self.references['base'].label}+{self.references['ft'].label}"

    @cached_property
    def store_folder(self) -> Path | None:
        """Where measurements are remembered, or None where they are not."""
        if switch(self.config, "mechanism_no_store"):
            return None
        given_by = getattr(self.config, "workerinput", {}).get(WORKERINPUT)
        if given_by is not None and given_by["store"] is not None:
            return Path(given_by["store"]) if given_by["store"] else None
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

    def check_workers(self) -> None:
        """Whether this worker of xdist sees the checkpoints that the run's report will name.

        Raises:
            CheckpointChanged: it does not.
        """
        told = getattr(self.config, "workerinput", {}).get(FINGERPRINTS, {})
        for role, fingerprint in told.items():
            if fingerprint != self.fingerprints[role].model:
                raise CheckpointChanged(
                    f"{role} ({self.references[role].label}): {self.references[role].folder} was "
                    "changed or replaced while the run began; a checkpoint must stay as it is during a "
                    "run: run again"
                )

    @cached_property
    def runner(self) -> Runner:
        from pytest_mechanism.progress import Silent
        from pytest_mechanism.runner.options import Options
        from pytest_mechanism.runner.runner import Runner
        from pytest_mechanism.runner.store import Store

        self.check_workers()
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
    def evaluator(self) -> ClaimEvaluator:
        from pytest_mechanism.runner.evaluator import ClaimEvaluator

        confidence = option(self.config, "mechanism_confidence")
        return ClaimEvaluator.over(self.runner, None if confidence is None else float(confidence))

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


def make_session(config: pytest.Config, model: str | None = None) -> Session:
    """Resolve the options.

    Args:
        config: pytest's.
        model: the only checkpoint of a run that has no pair.

    Raises:
        MechanismError: one of them cannot be meant.
    """
    from pytest_mechanism.checkpoints.shape import read_shape

    check_values(config)
    found = handed_over(config)
    references = resolved(config, model) if found is None else found
    for reference in references.values():
        read_shape(
            reference.folder, reference.adapter
        )  # later, under xdist, it would be an internal error
    if (json_path := path_option(config, "mechanism_json")) is not None:
        wrong = "is a folder" if json_path.is_dir() else "no such folder"
        if json_path.is_dir() or not json_path.parent.is_dir():
            raise MechanismError(f"--mechanism-json: {json_path} cannot be written: {wrong}")
    return Session(
        config,
        references,
        json_path,
        switch(config, "mechanism_require_accepted"),
        switch(config, "mechanism_no_skips"),
    )


def resolved(config: pytest.Config, model: str | None = None) -> dict[str, Reference]:
    """Role -> checkpoint, from options and ini keys; see `seen_from` for relative folders.

    Raises:
        MechanismError: one of them names nothing.
    """
    from pytest_mechanism.checkpoints.reference import further, parse_pair, parse_reference

    aliases, trusted = read_aliases(config), trust(config)
    found: dict[str, Reference] = {}
    if model is not None:
        root = config.invocation_params.dir
        found = {"base": parse_reference(model, aliases, root, trusted)}
    elif (pair := option(config, "model_pair")) is not None:
        base, ft = parse_pair(pair, aliases, seen_from(config, "model_pair"), trusted)
        found = {"base": base, "ft": ft}
    flags = further(config.getoption("mechanism_model"))
    lines = further(config.getini("mechanism_model"))
    root = seen_from(config, "mechanism_model")
    below = root if not flags else ini_folder(config)
    for given, near in ((flags, root), (lines, below)):
        for role, text in given.items():
            if role not in found:
                found[role] = parse_reference(text, aliases, near, trusted)
    return found


WORKERINPUT = "mechanism"


def hand_over(session: Session) -> dict[str, Any]:
    """What a worker of xdist takes over instead of resolving it once more: it may see other folders."""
    return {
        "references": {
            role: [each.label, each.text, str(each.folder), str(each.adapter or "")]
            for role, each in session.references.items()
        },
        "store": str(session.store_folder or "") if session.paired else None,
    }


def handed_over(config: pytest.Config) -> dict[str, Reference] | None:
    """Role -> checkpoint, as the controller of xdist resolved them; None elsewhere."""
    from pytest_mechanism.checkpoints.reference import Reference

    given = getattr(config, "workerinput", {}).get(WORKERINPUT)
    if given is None:
        return None
    return {
        role: Reference(label, text, Path(folder), Path(adapter) if adapter else None)
        for role, (label, text, folder, adapter) in given["references"].items()
    }


def no_device(problem: NoDevice) -> str:
    """The line for a device that is not there, with its option."""
    return f"--mechanism-device: {problem.message}"


def read_aliases(config: pytest.Config) -> Aliases:
    """The ini key ``mechanism_models``: one ``name = reference`` a line."""
    from pytest_mechanism.checkpoints.reference import Aliases

    found: dict[str, str] = {}
    for line in config.getini("mechanism_models"):
        name, equals, reference = line.partition("=")
        if not equals or not name.strip() or not reference.strip():
            raise MechanismError(f"ini mechanism_models: {line!r} is not NAME = REFERENCE")
        found[name.strip()] = reference.strip()
    return Aliases(found, seen_from(config, "mechanism_models"))
