"""From plain data back to the report of a run: what a worker sends, and what a result file holds.

A result file lacks the name of the circuit in its notes, and everything that `json_file` does not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pytest_mechanism import registry
from pytest_mechanism.causes import Cause
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.result import order_of_kind, printable
from pytest_mechanism.report.run_report import (
    CheckpointEntry,
    ClaimResult,
    Conclusion,
    ConclusionState,
    Note,
    Row,
    RunReport,
)
from pytest_mechanism.types import (
    Control,
    Evidence,
    Example,
    Located,
    MemberChange,
    Score,
    Setting,
)

MOST_BYTES = 200_000_000


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
    if not isinstance(data, dict) or data.get("mechanism_json") != FORMAT:
        raise MechanismError(
            f"{path} is no result file of --mechanism-json (its first key is 'mechanism_json': {FORMAT})"
        )
    try:
        return report_from(data), {str(k): str(v) for k, v in data["versions"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise MechanismError(
            f"{path} is a damaged result file ({type(problem).__name__}: {problem}); run the gate again"
        ) from None


def report_from(data: Mapping[str, Any]) -> RunReport:
    """The report of a run from the content of its result file."""
    report: RunReport = printable(
        RunReport(
            checkpoints={role: CheckpointEntry(**entry) for role, entry in data["pair"].items()},
            claims=tuple(result_from(claim) for claim in data["claims"]),
            not_run=tuple(data["not_run"]),
            deselected=tuple(data["deselected"]),
            reasons=tuple(data["reasons"]),
            checkpoints_loaded=int(data["checkpoints_loaded"]),
            measurements=dict(data["measurements"]),
            ran_on=tuple(data.get("ran_on", ())),
            exit_code=int(data["exit_code"]),
            conclusion=_conclusion(data.get("conclusion")),
            finished=str(data.get("finished", "")),
        )
    )
    return concluded(report)


def result_from(data: Mapping[str, Any]) -> ClaimResult:
    """A result from its plain data."""
    return ClaimResult(
        **{
            **data,
            "models": tuple(data["models"]),
            "cause": _cause(data),
            "interval": _interval(data),
            "control": _control(data),
            "rows": tuple(
                Row(**row | {"cause": _cause(row), "interval": _interval(row)})
                for row in data["rows"]
            ),
            "scores": tuple(
                Score(
                    **score
                    | {
                        "interval": _interval(score),
                        "setting": score["setting"] and Setting(**score["setting"]),
                        "control": _control(score),
                    }
                )
                for score in data["scores"]
            ),
            "notes": tuple(
                Note(note) if isinstance(note, str) else Note(**note) for note in data["notes"]
            ),
            "located": _located(data.get("located")),
            "yaml": tuple(data.get("yaml", ())),
            "groups": tuple(data.get("groups", ())),
            "order": data["order"] if "order" in data else _order(data["kind"]),
            "evidence": _evidence(data.get("evidence")),
        }
    )


def _cause(data: Mapping[str, Any]) -> Cause | None:
    return None if data["cause"] is None else Cause(data["cause"])


def _interval(data: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if data["interval"] is None else (data["interval"][0], data["interval"][1])


def _located(data: Mapping[str, Any] | None) -> Located | None:
    if data is None:
        return None
    members = [MemberChange(**m | {"interval": tuple(m["interval"])}) for m in data["members"]]
    named = (tuple(data.get(key, ())) for key in ("edited", "restored"))
    return Located(tuple(data["lines"]), tuple(members), data["seconds"], *named)


def _evidence(data: Mapping[str, Any] | None) -> Evidence | None:
    if data is None:
        return None
    examples = tuple(Example(**example) for example in data["examples"])
    return Evidence(data["what"], data["measured"], examples)


def _order(kind: str) -> int:
    """Of a claim in a result file of an earlier version, which does not say what groups the claim is about."""
    known = registry.claim_kinds().get(kind)
    return order_of_kind(kind, known is None or known.needs_groups)


def _conclusion(data: Mapping[str, Any] | None) -> Conclusion | None:
    """None, so that it is made again, in a result file of an earlier version, and where a later version knows
    another state."""
    if data is None or data["state"] not in get_args(ConclusionState):
        return None
    texts = {name: tuple(data[name]) for name in ("sentences", "next_steps", "reds", "warnings")}
    return Conclusion(data["state"], **texts)


def _control(data: Mapping[str, Any]) -> Control | None:
    control = data["control"]
    return None if control is None else Control(**control | {"interval": _interval(control)})
