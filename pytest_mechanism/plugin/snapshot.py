"""Accepted scores, kept by syrupy in ``__scores__/<label>+<label>/<spec>.json``.

The only module that imports syrupy: what it stands on (`SnapshotSession`, `PyTestLocation`) is no
promised interface. The folder is not ``__snapshots__``, since one ordinary snapshot test beside
ours would make syrupy take other pairs' files for leftovers and delete them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from filelock import FileLock
from syrupy.assertion import SnapshotAssertion
from syrupy.data import Snapshot, SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.location import PyTestLocation

from pytest_mechanism.errors import MechanismError, visible
from pytest_mechanism.files import BadFile, read_text, write_json
from pytest_mechanism.statistics.drift import Tolerance, compare

FORMAT = 1
MOST_BYTES = 64 << 20
"""Of a score file."""
FOLDER = "__scores__"
SUFFIXES = (".yaml", ".yml", ".YAML", ".YML")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
"""``claim.role``; syrupy lists the names of those that nobody uses."""


class ScoreExtension(AbstractSyrupyExtension):
    """One JSON file for a spec and a pair of labels.

    Attributes:
        pair: ``<label>+<label>`` of this run; set when pytest is configured.
        accepting: whether this run accepts scores that have no accepted one yet.
        updating: whether it replaces accepted ones too (``--snapshot-update``).
        claims: score file -> ``claim.role`` of every item that its spec has, run or not.
        not_written: what went wrong with writing; raised, it would be an internal error of pytest's.
    """

    file_extension = "json"
    snapshot_dirname = FOLDER
    pair: ClassVar[str] = "base+ft"
    accepting: ClassVar[bool] = False
    updating: ClassVar[bool] = False
    claims: ClassVar[dict[Path, set[str]]] = {}
    not_written: ClassVar[list[str]] = []

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        return str(Path(test_location.filepath).parent / FOLDER / cls.pair)

    def serialize(self, data: Any, **_: Any) -> str:
        return json.dumps(data, sort_keys=True, allow_nan=False)

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        """Within tolerance. A match leaves the file as it is, so a baseline cannot creep."""
        received, accepted = json.loads(serialized_data), json.loads(snapshot_data)
        tolerance = Tolerance(**received.get("tolerance", {"atol": 0.0, "drift": 0.0}))
        drift = compare(received, accepted, tolerance)
        # a better score passes, and so does one of another definition; when asked to, they are
        # taken as the new baseline
        return not drift.red and not (drift.state in ("better", "new") and type(self).updating)

    def diff_lines(self, serialized_data: Any, snapshot_data: Any) -> Iterator[str]:
        if not snapshot_data:
            return
        received, accepted = json.loads(serialized_data), json.loads(snapshot_data)
        drift = compare(received, accepted, Tolerance(**received["tolerance"]))
        yield f"{'score':<44} {'accepted':>10} {'received':>10} {'change':>9} {'allowed':>9}"
        yield (
            f"{visible(received['name'])[:44]:<44} {accepted['value']:>10.4f} {received['value']:>10.4f} "
            f"{drift.amount:>+9.4f} {drift.allowed:>9g}"
        )

    def read_snapshot_data_from_location(
        self, *, snapshot_location: str, snapshot_name: str, session_id: str
    ) -> str | None:
        found = read_scores(Path(snapshot_location)).get(snapshot_name)
        return None if found is None else json.dumps(found, sort_keys=True)

    def discover_snapshots(
        self, *, test_location: Any, ignore_extensions: list[str] | None = None
    ) -> SnapshotCollections:
        """Scores of the pair that no claim has any more. What is discovered and not used, an update
        deletes: the score of a claim that is not run to its end, a damaged file and whatever else
        somebody put here stay out of it."""
        discovered = SnapshotCollections()
        for path in sorted(Path(self.dirname(test_location=test_location)).glob("*.json")):
            claims = type(self).claims.get(path)
            if claims is None and any(spec.exists() for spec in specs_of(path)):
                continue  # of a spec that this run is not about
            with contextlib.suppress(MechanismError):
                left = SnapshotCollection(location=str(path))
                for each in self.read_snapshot_collection(snapshot_location=str(path)):
                    if each.name not in (claims or ()):
                        left.add(each)
                discovered.add(left)
        return discovered

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        collection = SnapshotCollection(location=snapshot_location)
        for name in read_scores(Path(snapshot_location)):
            collection.add(Snapshot(name=name))
        return collection

    @classmethod
    def write_snapshot(cls, **given: Any) -> None:
        with cls.noted(given["snapshot_location"]):
            super().write_snapshot(**given)

    @classmethod
    @contextlib.contextmanager
    def noted(cls, location: str) -> Iterator[None]:
        """Keep what goes wrong with a file for the end of the run."""
        try:
            yield
        except OSError as problem:
            what = problem.strerror or type(problem).__name__
            cls.not_written.append(f"accepted scores {location} cannot be written: {what}")
        except MechanismError as problem:  # damaged by somebody since it was read
            cls.not_written.append(str(problem))

    @classmethod
    def write_snapshot_collection(
        cls, *, snapshot_collection: SnapshotCollection, name_order: dict[str, int] | None = None
    ) -> None:
        new = {}
        for snapshot in snapshot_collection:
            entry = json.loads(str(snapshot.data))
            entry.pop("tolerance", None)
            new[snapshot.name] = entry
        merge(Path(snapshot_collection.location), new)

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        with self.noted(snapshot_location):
            merge(Path(snapshot_location), dict.fromkeys(snapshot_names))


def score_keeper(item: pytest.Function) -> SnapshotAssertion:
    """What compares an item's score with the accepted one, and accepts it when asked to.

    Made here and not taken from the fixture ``snapshot``, of which a project may have its own.

    Raises:
        MechanismError: syrupy does not take part in this run.
    """
    session = getattr(item.config, "_syrupy", None)
    if session is None:
        raise MechanismError(
            "accepted scores are kept by the plugin syrupy, which is switched off; take "
            "'-p no:syrupy' away"
        )
    option = item.config.option
    return SnapshotAssertion(
        session=session,
        extension_class=ScoreExtension,
        test_location=PyTestLocation(item),
        update_snapshots=option.update_snapshots,
        update_new_snapshots_only=option.update_new_snapshots_only,
    )


def keep_bounds(path: Path, name: str, received: Mapping[str, Any]) -> None:
    """Bring the bounds that an accepted score was judged by up to those of the spec as it is now;
    what was measured stays. `lint --power` plans by them.

    Does nothing where a bound was added or taken away: that score has to be accepted anew.
    """
    accepted = read_scores(path).get(name)
    if accepted is None or accepted.get("asked") == received["asked"]:
        return
    now = {each["name"]: each for each in received["judged"]}
    judged = accepted.get("judged", [])
    if [each.get("name") for each in judged] != list(now):
        return
    bounds = [each | {k: now[each["name"]][k] for k in ("low", "high")} for each in judged]
    with ScoreExtension.noted(str(path)):
        merge(path, {name: accepted | {"judged": bounds, "asked": received["asked"]}})


def accepted_now(keeper: SnapshotAssertion) -> bool:
    """Whether the score that was compared last is to be the accepted one when the run ends."""
    last = keeper.executions[keeper.num_executions - 1]
    return bool(last.created or last.updated)


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Accepted scores by ``claim.role``; none where there is no file.

    Raises:
        MechanismError: the file is there and is no score file.
    """
    try:
        data = json.loads(
            read_text(path, MOST_BYTES),
            object_pairs_hook=_each_once,
            parse_constant=_refused,
            parse_float=_finite,
        )
        if data["mechanism_scores"] != FORMAT:
            raise ValueError(f"version {data['mechanism_scores']}")
        scores = data["scores"]
        for name, entry in scores.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not CLAIM.ROLE")
            _check_entry(name, entry)
    except FileNotFoundError:
        return {}
    except BadFile as problem:
        what = problem.message.removeprefix(visible(f"{path} "))
        raise _no_scores(path, what) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        what = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise _no_scores(path, what) from None
    found: dict[str, dict[str, Any]] = scores
    return found


def _no_scores(path: Path, what: str) -> MechanismError:
    return MechanismError(
        f"is no file of accepted scores ({what}); restore it from version control, or delete it and "
        "accept the scores again with --snapshot-update",
        f"{path}:1",
    )


def _check_entry(name: str, entry: Any) -> None:
    """What `statistics.drift` reads of an accepted score.

    Raises:
        ValueError: there is no score.
        TypeError: something beside it is something else.
    """
    if not isinstance(entry, dict) or not _is_score(entry.get("value")):
        raise ValueError(f"{name} has no finite value")
    for key, kind in (("fingerprints", dict), ("definition", str), ("name", str)):
        if not isinstance(entry.get(key), (kind, type(None))):
            raise TypeError(f"{name}: {key} is {json.dumps(entry[key])[:60]}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object: of two values under one key, the second would win without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice[:60]!r} stands twice")
    return found


def _refused(word: str) -> Any:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _is_score(value: Any) -> bool:
    """A number within reach of a float: an infinite score would match anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -1e300 < value < 1e300


def merge(path: Path, entries: Mapping[str, dict[str, Any] | None]) -> None:
    """Put entries into a score file, or take out those that are None; all others stay.

    Locked against other workers, and atomic: no reader sees half a file, none is lost.
    """
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f"pytest-mechanism-{name}.lock"):
        scores: dict[str, Any] = dict(read_scores(path))
        for key, entry in entries.items():
            if entry is None:
                scores.pop(key, None)
            else:
                scores[key] = entry
        if not scores:
            path.unlink(missing_ok=True)
            return
        write_json(path, {"mechanism_scores": FORMAT, "scores": scores}, sort_keys=True)


def score_file(spec: Path, pair: str) -> Path:
    """Where the accepted scores of a spec and a pair are."""
    return spec.parent / FOLDER / pair / f"{spec.stem}.json"


def specs_of(scores: Path) -> list[Path]:
    """The specs that a score file may be of."""
    folder = scores.parent.parent.parent
    return [folder / f"{scores.stem}{suffix}" for suffix in SUFFIXES]
