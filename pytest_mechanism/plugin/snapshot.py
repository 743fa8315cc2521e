"""Accepted scores as snapshots of syrupy.

The only module that imports syrupy, since its `SnapshotSession` and `PyTestLocation` are no promised
interface. The folder is not ``__snapshots__``: if the project has one ordinary snapshot test beside the
specs, syrupy would delete the files of other pairs there as unused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.data import Snapshot, SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.location import PyTestLocation

from pytest_mechanism.errors import MechanismError, visible
from pytest_mechanism.files import check_folder
from pytest_mechanism.plugin.score_file import (
    FOLDER,
    possible_specs,
    read_scores,
    score_file,
    write_scores,
)
from pytest_mechanism.statistics.drift import Tolerance, compare


class ScoreExtension(AbstractSyrupyExtension):
    """One JSON file for a spec and a pair of labels. syrupy instantiates the class itself, so what it
    has to know about the run stands on the class.

    Attributes:
        pair: ``<label>+<label>`` of this run.
        accepting: whether this run accepts scores that have no baseline yet.
        updating: whether this run replaces baselines too (``--snapshot-update``).
        claims: score file -> ``claim.role`` of every item of its spec, whether it runs or not.
        not_written: what went wrong with writing. Raised, it would be an internal error of pytest.
    """

    file_extension = "json"
    snapshot_dirname = FOLDER
    pair: ClassVar[str] = "base+ft"
    accepting: ClassVar[bool] = False
    updating: ClassVar[bool] = False
    claims: ClassVar[dict[Path, set[str]]] = {}
    not_written: ClassVar[list[str]] = []

    @classmethod
    def configure(cls, config: pytest.Config, pair: str | None) -> None:
        """Prepare for a run."""
        if pair is not None:
            cls.pair = pair
        cls.updating = bool(getattr(config.option, "update_snapshots", False))
        accepts_new = bool(getattr(config.option, "update_new_snapshots_only", False))
        cls.accepting = cls.updating or accepts_new
        cls.not_written.clear()

    @classmethod
    def check_folders(cls, specs: Iterable[Path]) -> None:
        """Check that a run that accepts scores can write them, before anything is measured.

        Raises:
            MechanismError: it cannot.
        """
        if not cls.accepting:
            return
        for folder in {score_file(spec, cls.pair).parent: None for spec in specs}:
            try:
                check_folder(folder)
            except MechanismError as problem:
                raise MechanismError(f"accepted scores: {problem.message}") from None

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        return str(Path(test_location.filepath).parent / FOLDER / cls.pair)

    def serialize(self, data: Any, **_: Any) -> str:
        return json.dumps(data, sort_keys=True, allow_nan=False)

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        """Whether a score is within tolerance. A match leaves the file as it is, so repeated updates
        cannot move a baseline step by step."""
        received, accepted = json.loads(serialized_data), json.loads(snapshot_data)
        tolerance = Tolerance(**received.get("tolerance", {"atol": 0.0, "drift": 0.0}))
        drift = compare(received, accepted, tolerance)
        replaceable = drift.state in ("better", "new") and type(self).updating
        return not drift.red and not replaceable

    def diff_lines(self, serialized_data: Any, snapshot_data: Any) -> Iterator[str]:
        if not snapshot_data:
            return
        received, accepted = json.loads(serialized_data), json.loads(snapshot_data)
        drift = compare(received, accepted, Tolerance(**received["tolerance"]))
        yield f"{'score':<44} {'baseline':>10} {'received':>10} {'change':>9} {'allowed':>9}"
        yield (
            f"{visible(received['name'])[:44]:<44} {accepted['value']:>10.4f} {received['value']:>10.4f} "
            f"{drift.amount:>+9.4f} {drift.allowed:>9g}"
        )

    def read_snapshot_data_from_location(
        self, *, snapshot_location: str, snapshot_name: str, session_id: str
    ) -> str | None:
        entry = read_scores(Path(snapshot_location)).get(snapshot_name)
        return None if entry is None else json.dumps(entry, sort_keys=True)

    def discover_snapshots(
        self, *, test_location: Any, ignore_extensions: list[str] | None = None
    ) -> SnapshotCollections:
        """Scores of the pair whose claims no longer exist. An update deletes what is listed here and not
        used, so this list leaves out scores of claims that did not run, and damaged files."""
        discovered = SnapshotCollections()
        for path in sorted(Path(self.dirname(test_location=test_location)).glob("*.json")):
            claims = type(self).claims.get(path)
            if claims is None and any(spec.exists() for spec in possible_specs(path)):
                continue  # belongs to a spec that this run did not collect
            with contextlib.suppress(MechanismError):
                unused = SnapshotCollection(location=str(path))
                for snapshot in self.read_snapshot_collection(snapshot_location=str(path)):
                    if snapshot.name not in (claims or ()):
                        unused.add(snapshot)
                discovered.add(unused)
        return discovered

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        collection = SnapshotCollection(location=snapshot_location)
        for name in read_scores(Path(snapshot_location)):
            collection.add(Snapshot(name=name))
        return collection

    @classmethod
    def write_snapshot(cls, **arguments: Any) -> None:
        with cls.collect_errors(arguments["snapshot_location"]):
            super().write_snapshot(**arguments)

    @classmethod
    @contextlib.contextmanager
    def collect_errors(cls, location: str) -> Iterator[None]:
        """Keep what goes wrong with a file until the end of the run."""
        try:
            yield
        except OSError as problem:
            what = problem.strerror or type(problem).__name__
            cls.not_written.append(f"accepted scores {location} cannot be written: {what}")
        except MechanismError as problem:  # somebody damaged the file after it was read
            cls.not_written.append(str(problem))

    @classmethod
    def write_snapshot_collection(
        cls, *, snapshot_collection: SnapshotCollection, name_order: dict[str, int] | None = None
    ) -> None:
        entries = {}
        for snapshot in snapshot_collection:
            entry = json.loads(str(snapshot.data))
            entry.pop("tolerance", None)
            entries[snapshot.name] = entry
        write_scores(Path(snapshot_collection.location), entries)

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        with self.collect_errors(snapshot_location):
            write_scores(Path(snapshot_location), dict.fromkeys(snapshot_names))


def snapshot_assertion(item: pytest.Function) -> SnapshotAssertion:
    """syrupy's comparison of an item's score with its baseline, which also accepts a new baseline.

    Not taken from the fixture ``snapshot``, since a project may define its own fixture of that name.

    Raises:
        MechanismError: syrupy is switched off.
    """
    session = getattr(item.config, "_syrupy", None)
    if session is None:
        raise MechanismError(
            "the plugin syrupy keeps the accepted scores, and it is switched off; remove '-p no:syrupy'"
        )
    option = item.config.option
    return SnapshotAssertion(
        session=session,
        extension_class=ScoreExtension,
        test_location=PyTestLocation(item),
        update_snapshots=option.update_snapshots,
        update_new_snapshots_only=option.update_new_snapshots_only,
    )


def is_accepted_now(assertion: SnapshotAssertion) -> bool:
    """Whether the end of the run makes the score that was compared last the baseline."""
    last = assertion.executions[assertion.num_executions - 1]
    return bool(last.created or last.updated)


def update_thresholds(path: Path, name: str, received: Mapping[str, Any]) -> None:
    """Bring the thresholds in an accepted score up to date with the spec, since `lint --power` plans by
    them. What was measured stays. Does nothing if the spec has more or fewer thresholds now: such a score
    has to be accepted again.
    """
    accepted = read_scores(path).get(name)
    if accepted is None or accepted.get("asked") == received["asked"]:
        return
    current = {entry["name"]: entry for entry in received["judged"]}
    judged = accepted.get("judged", [])
    if [entry.get("name") for entry in judged] != list(current):
        return
    updated = [
        entry | {key: current[entry["name"]][key] for key in ("low", "high")} for entry in judged
    ]
    with ScoreExtension.collect_errors(str(path)):
        write_scores(path, {name: accepted | {"judged": updated, "asked": received["asked"]}})
