"""The run of this pytest process: its checkpoints, the store, the runner and the evaluator.

Stands between the packages: it builds a runner from settings, so neither of the two can hold it, and
both the plugin and the commands open one, so neither of these can either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.checkpoints.fitting import AUTO
from pytest_mechanism.errors import CheckpointChanged, MechanismError, visible
from pytest_mechanism.registry import resolve
from pytest_mechanism.settings import table
from pytest_mechanism.settings.pytest_options import (
    base_folder,
    check_settings,
    ini_folder,
    ini_value,
    model_options,
    read,
    read_path,
    read_trust,
)

if TYPE_CHECKING:
    from pytest_mechanism.checkpoints.fingerprint import Fingerprint
    from pytest_mechanism.checkpoints.reference import Aliases, Reference
    from pytest_mechanism.progress import Progress
    from pytest_mechanism.report.page.view import SpecView
    from pytest_mechanism.report.run_report import RunReport
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.runner.runner import Runner
    from pytest_mechanism.settings.model_options import ModelOptions

CHECKPOINTS = "mechanism"
"""Key of the input of xdist's workers: the folders of the controller's checkpoints and store."""

FINGERPRINTS = "mechanism_fingerprints"
"""Key of the input of xdist's workers: role -> fingerprint."""


@dataclass
class Session:
    """The run of this pytest process.

    Attributes:
        config: pytest's configuration.
        references: role -> checkpoint; empty without a pair.
        json_path: where the result file goes, or None.
        report_path: where the page goes, or None.
        history_folder: to which the run's result is added, or None.
        tracker: the experiment tracker that the run is sent to, or None.
        requires_accepted: whether a claim without an accepted score is red.
        no_skips: whether a skipped claim is red.
        locates: whether a red claim names the heads and MLPs behind it.
        progress: shows how far the run is.
        no_device: the error line about a missing device, once an item has run into it.
    """

    config: pytest.Config
    references: Mapping[str, Reference]
    json_path: Path | None
    requires_accepted: bool = False
    no_skips: bool = False
    locates: bool = True
    progress: Progress | None = None
    no_device: str | None = None
    report_path: Path | None = None
    history_folder: Path | None = None
    tracker: str | None = None

    def checkpoint_lines(self) -> list[str]:
        """A line for each checkpoint: role, the reference as typed, label, fingerprint and folder."""
        lines = []
        first = next(iter(self.references), None)
        for role, reference in self.references.items():
            label = "" if reference.label == reference.text else f" (label {reference.label})"
            place = "" if reference.place == reference.text else f", from {reference.place}"
            if (other := reference.other_base) is not None:
                place += f"; the adapter names another base: {other}"
            mark = self.fingerprints[role]
            fingerprint = (
                f"fingerprint {mark.short}" if mark.known else f"read while {first} is measured"
            )
            lines.append(
                visible(f"mechanism: {role} = {reference.text}{label}, {fingerprint}{place}")
            )
        if self.paired and self.all_read and self.pair_is_one_checkpoint:
            lines.append("mechanism: base and ft are the same checkpoint, so nothing is compared")
        return lines

    @property
    def all_read(self) -> bool:
        """Whether the weights of all checkpoints have been read for their fingerprints."""
        return all(mark.known for mark in self.fingerprints.values())

    @property
    def pair_is_one_checkpoint(self) -> bool:
        """Whether base and ft have the same files."""
        base, ft = self.fingerprints["base"], self.fingerprints["ft"]
        return (base.model, base.tokenizer) == (ft.model, ft.tokenizer)

    def device_line(self) -> str | None:
        """Where the run measures, and what else follows from that; None on a CPU, with nothing left to say."""
        o, taken = self.options, []
        if o.device == "cpu":
            return None
        if read(self.config, table.DEVICE) == AUTO:
            taken.append(f"{table.DEVICE.flag} cpu measures on the CPU")
        if read(self.config, table.DTYPE) == AUTO and o.half:
            taken.append(f"float32 does not fit, so the weights stay in {o.dtype}")
        why = f" ({'; '.join(taken)})" if taken else ""
        return (
            f"mechanism: on {o.device} in {o.numbers}, {o.batch_size} rows in a forward pass{why}"
        )

    @cached_property
    def options(self) -> ModelOptions:
        """How models run on this machine."""
        return model_options(self.config, [ref.folder for ref in self.references.values()])

    @property
    def paired(self) -> bool:
        """Whether the run has base and ft; further checkpoints alone make no pair."""
        return "base" in self.references and "ft" in self.references

    @property
    def pair(self) -> str:
        """``<label>+<label>``, the folder name of the accepted scores."""
        return f"{self.references['base'].label}+{self.references['ft'].label}"

    @cached_property
    def store_folder(self) -> Path | None:
        """The folder in which measurements are kept, or None if none are.

        Raises:
            MechanismError: pytest's cache cannot be written.
        """
        if read(self.config, table.NO_STORE):
            return None
        controller = getattr(self.config, "workerinput", {}).get(CHECKPOINTS)
        if controller is not None and controller["store"] is not None:
            return Path(controller["store"]) if controller["store"] else None
        if (folder := read_path(self.config, table.STORE)) is not None:
            return folder
        cache = getattr(self.config, "cache", None)
        if cache is None:
            return None
        try:
            return Path(cache.mkdir("mechanism"))
        except OSError as problem:
            raise MechanismError(
                "pytest's cache, in which measurements are kept, cannot be written: "
                f"{problem.strerror}; choose another folder with {table.STORE.flag}, or "
                f"{table.NO_STORE.flag}"
            ) from None

    @cached_property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """Role -> fingerprint. The first checkpoint's weights are read at once, those of the others at once only
        where other processes must know their fingerprint (pytest-xdist, Ray)."""
        from pytest_mechanism.checkpoints.fingerprint import of_reference
        from pytest_mechanism.checkpoints.read_ahead import fingerprint_of

        folder = self.store_folder
        memory = None if folder is None else folder / "fingerprints.json"
        found: dict[str, Fingerprint] = {}
        for role, reference in self.references.items():
            now = not found or self.ray is not None or uses_xdist(self.config)
            found[role] = (of_reference if now else fingerprint_of)(reference, memory)
        return found

    def tell_worker(self, workerinput: dict[str, Any]) -> None:
        """Hand the checkpoints to a worker of xdist, which may see other folders."""
        workerinput[CHECKPOINTS] = {
            "references": {
                role: [ref.label, ref.text, str(ref.folder), str(ref.adapter or "")]
                for role, ref in self.references.items()
            },
            "store": str(self.store_folder or "") if self.paired else None,
        }
        workerinput[FINGERPRINTS] = {role: mark.model for role, mark in self.fingerprints.items()}

    def check_worker(self) -> None:
        """Check that this worker of xdist sees the checkpoints that the controller reports.

        Raises:
            CheckpointChanged: one of them has another content here.
        """
        reported = getattr(self.config, "workerinput", {}).get(FINGERPRINTS, {})
        for role, fingerprint in reported.items():
            if fingerprint != self.fingerprints[role].model:
                raise CheckpointChanged(
                    f"{role} ({self.references[role].label}): {self.references[role].folder} was "
                    "changed or replaced while the run began; a checkpoint must stay as it is during a "
                    "run: run again"
                )

    @cached_property
    def runner(self) -> Runner:
        from pytest_mechanism.progress import Silent
        from pytest_mechanism.runner.runner import Runner
        from pytest_mechanism.runner.store import Store

        self.check_worker()
        store = None if self.store_folder is None else Store(self.store_folder)
        options, progress = self.options, self.progress or Silent()
        if self.ray is not None:
            from pytest_mechanism.runner.cluster import ClusterRunner

            return ClusterRunner(
                self.references, self.fingerprints, options, store, progress, address=self.ray
            )
        return Runner(
            self.references,
            self.fingerprints,
            options,
            store,
            progress,
            shared=hasattr(self.config, "workerinput"),
        )

    @property
    def ray(self) -> str | None:
        """The address of the Ray cluster that makes the measurements, or None."""
        return read(self.config, table.RAY)

    @property
    def ran_on(self) -> tuple[Mapping[str, Any], ...]:
        """Where each measurement ran, on a cluster."""
        return tuple(getattr(self.__dict__.get("runner"), "places", ()))

    @cached_property
    def evaluator(self) -> ClaimEvaluator:
        from pytest_mechanism.runner.evaluator import ClaimEvaluator

        return ClaimEvaluator.over(self.runner, read(self.config, table.CONFIDENCE))

    @property
    def counts(self) -> dict[str, int]:
        """How many checkpoints were loaded and measurements made; zeros before there is a runner."""
        if "runner" not in self.__dict__:
            return {"loaded": 0, "done": 0, "from_store": 0}
        runner = self.runner
        return {
            "loaded": runner.loaded,
            "done": runner.done,
            "from_store": runner.from_store,
        }

    def pictures(self, report: RunReport) -> Sequence[SpecView]:
        """Pictures of what the run measured; measures nothing. A run whose checkpoints have changed has none."""
        pictures_of = resolve(
            "pytest_mechanism.report.page.pictures:pictures_of"
        )  # draws: matplotlib
        try:
            views: Sequence[SpecView] = pictures_of(report, self.evaluator, self.config.rootpath)
        except MechanismError:
            return []
        return views

    def release(self) -> None:
        if "runner" in self.__dict__:
            self.runner.close()


def make_session(config: pytest.Config, model: str | None = None) -> Session:
    """The run that the settings describe.

    Args:
        config: pytest's configuration.
        model: the only checkpoint of a run without a pair.

    Raises:
        MechanismError: a setting makes no sense, or a checkpoint cannot be read.
    """
    from pytest_mechanism.checkpoints.quantisers import already_quantised
    from pytest_mechanism.checkpoints.shape import read_shape

    check_settings(config)
    if read(config, table.RAY) and uses_xdist(config):
        raise MechanismError(
            f"{table.RAY.flag} and -n exclude each other: Ray has workers of its own"
        )
    references = references_of_controller(config)
    if references is None:
        references = resolve_references(config, model)
    for reference in references.values():
        # a worker of xdist would turn this error into an internal one
        read_shape(reference.folder, reference.adapter)
        quantises = read(config, table.QUANTIZE) is not None
        if quantises and (twice := already_quantised(reference.folder)) is not None:
            raise table.QUANTIZE.error(MechanismError(f"{reference.text}: {twice}"))
    from pytest_mechanism.report.outputs import read_outputs

    outputs = read_outputs(config)
    return Session(
        config,
        references,
        outputs.json_path,
        read(config, table.REQUIRE_ACCEPTED),
        read(config, table.NO_SKIPS),
        not read(config, table.NO_LOCATE),
        report_path=outputs.report_path,
        history_folder=outputs.history_folder,
        tracker=outputs.tracker,
    )


def uses_xdist(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist, or has workers."""
    return hasattr(config, "workerinput") or bool(getattr(config.option, "tx", None))


def resolve_references(config: pytest.Config, model: str | None = None) -> dict[str, Reference]:
    """Role -> checkpoint, from options and ini keys; see `base_folder` for relative paths.

    Raises:
        MechanismError: a reference names nothing.
    """
    from pytest_mechanism.checkpoints.reference import further_roles, parse_pair, parse_reference

    aliases, trust = read_aliases(config), read_trust(config)
    references: dict[str, Reference] = {}
    if model is not None:
        folder = config.invocation_params.dir
        references = {"base": parse_reference(model, aliases, folder, trust)}
    elif (pair := read(config, table.MODEL_PAIR)) is not None:
        folder = base_folder(config, table.MODEL_PAIR)
        base, ft = parse_pair(pair, aliases, folder, trust)
        references = {"base": base, "ft": ft}
    typed = further_roles(config.getoption(table.MODELS.name))
    lines = further_roles(ini_value(config, table.MODELS))
    folder = base_folder(config, table.MODELS)
    for texts, root in ((typed, folder), (lines, ini_folder(config) if typed else folder)):
        for role, text in texts.items():
            if role not in references:
                references[role] = parse_reference(text, aliases, root, trust)
    return references


def references_of_controller(config: pytest.Config) -> dict[str, Reference] | None:
    """Role -> checkpoint, as the controller of xdist resolved them; None outside of workers."""
    from pytest_mechanism.checkpoints.reference import Reference

    controller = getattr(config, "workerinput", {}).get(CHECKPOINTS)
    if controller is None:
        return None
    return {
        role: Reference(label, text, Path(folder), Path(adapter) if adapter else None)
        for role, (label, text, folder, adapter) in controller["references"].items()
    }


def read_aliases(config: pytest.Config) -> Aliases:
    """The aliases of the ini key ``mechanism_models``.

    Raises:
        MechanismError: a line is not ``NAME = REFERENCE``.
    """
    from pytest_mechanism.checkpoints.reference import Aliases

    aliases: dict[str, str] = {}
    for line in ini_value(config, table.ALIASES):
        name, equals, reference = line.partition("=")
        if not equals or not name.strip() or not reference.strip():
            raise MechanismError(f"ini {table.ALIASES.name}: {line!r} is not NAME = REFERENCE")
        aliases[name.strip()] = reference.strip()
    return Aliases(aliases, base_folder(config, table.ALIASES))
