"""From plain data back to the report of a run: what a worker sends, and what a result file holds.

A result file lacks the name of the circuit in its notes, and everything that `json_file` does not write. One of another
release may have fields that this one does not know, which are left out, or lack fields that were added later.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from pytest_mechanism import registry
from pytest_mechanism.causes import Cause
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.result import order_of_kind, printable
from pytest_mechanism.report.run_report import ClaimResult, ConclusionState, RunReport
from pytest_mechanism.types import DEFAULT_CAUSE

MOST_BYTES = 200_000_000

FIELDS = (
    *("pair", "claims", "not_run", "deselected", "reasons"),
    *("checkpoints_loaded", "measurements", "exit_code"),
)
"""Of a result file, which every release writes; ``versions`` is read apart."""

ADDED_LATER = ("ran_on", "finished", "conclusion")


def read_report(path: Path) -> tuple[RunReport, dict[str, str]]:
    """The report that a result file (``--mechanism-json``) holds, and the run's library versions.

    Raises:
        MechanismError: there is no such file, or it is no result file.
    """
    from pytest_mechanism.report.json_file import FORMAT

    try:
        data = read_json(path, MOST_BYTES)
    except FileNotFoundError:
        raise MechanismError(f"{path}: no such file") from None
    version = data.get("mechanism_json") if isinstance(data, dict) else None
    if type(version) is int and version > FORMAT:
        raise MechanismError(
            f"{path} is a result file of version {version}, and this release of pytest-mechanism reads version "
            f"{FORMAT}: install the release that wrote it"
        )
    if version != FORMAT:
        raise MechanismError(
            f"{path} is no result file of --mechanism-json (its first key is 'mechanism_json': {FORMAT})"
        )
    try:
        versions = {str(name): str(version) for name, version in data["versions"].items()}
        return report_from(data), printable(versions)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = f"{place}: {first['msg']}"
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        said = f"{type(problem).__name__}: {problem}"
    raise MechanismError(f"{path} is a damaged result file ({said}); run the gate again")


def report_from(data: Mapping[str, Any]) -> RunReport:
    """The report of a run from the content of its result file.

    Raises:
        KeyError, TypeError, AttributeError, ValidationError: it is damaged.
    """
    known = {name: data[name] for name in FIELDS} | {k: data[k] for k in ADDED_LATER if k in data}
    report: RunReport = adapter(RunReport).validate_python(
        known
        | {
            "checkpoints": known.pop("pair"),
            "claims": [of_any_release(claim) for claim in known["claims"]],
            "conclusion": _conclusion(data.get("conclusion")),
        }
    )
    return concluded(printable(report))


def result_from(data: Mapping[str, Any]) -> ClaimResult:
    """A result from its plain data."""
    result: ClaimResult = adapter(ClaimResult).validate_python(of_any_release(data))
    return result


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """Reads a class of the report from plain data; building one compiles a schema."""
    return TypeAdapter(kind)


def of_any_release(data: Mapping[str, Any]) -> dict[str, Any]:
    """A claim's plain data as this release writes it."""
    return {
        **data,
        "cause": _cause(data),
        "rows": [{**row, "cause": _cause(row)} for row in data["rows"]],
        "notes": [{"text": note} if isinstance(note, str) else note for note in data["notes"]],
        "order": data["order"] if "order" in data else _order(data["kind"]),
    }


def _cause(data: Mapping[str, Any]) -> str | None:
    """The cause of a red verdict; the most general one in place of a cause that a later release added."""
    cause = data["cause"]
    return (
        DEFAULT_CAUSE.get(data["verdict"], Cause.UNDECIDED)
        if isinstance(cause, str) and cause not in [*Cause]
        else cause
    )


def _order(kind: str) -> int:
    """Of a claim in a result file of an earlier version, which does not say what groups the claim is about."""
    known = registry.claim_kinds().get(kind)
    return order_of_kind(kind, known is None or known.needs_groups)


def _conclusion(data: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """None, so that it is made again, in a result file of an earlier version, and where a later version knows
    another state."""
    return None if data is None or data["state"] not in get_args(ConclusionState) else data
