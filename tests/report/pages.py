"""Reports of runs to make pages of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from pytest_mechanism.causes import Cause
from pytest_mechanism.report.page.html_page import rendered
from pytest_mechanism.report.run_report import CheckpointEntry, ClaimResult, Note, Row, RunReport
from pytest_mechanism.types import Control, Located, Score

MADE = "2026-01-02 03:04 UTC"
HOSTILE = "<script>alert(1)</script>\\u202e'\"><img src=x onerror=alert(1)>&amp;</style>{{ 7 * 7 }}"
"""Markup, a mark of writing direction as `visible` spells it, and a template's expression."""


def claim(
    name: str = "solves", verdict: Any = "fail", text: str = "text", **more: Any
) -> ClaimResult:
    """A claim with one judged score."""
    control = Control("2 random heads", 0.1, (0.05, 0.15))
    score = Score("score", 0.4, (0.35, 0.45), 0.95, 100, 20, 0.02, "share", "higher", None, control)
    cause = Cause.REFUTED if verdict == "fail" else None
    fields: dict[str, Any] = {
        "id": f"circuits/x.yaml::{name}::ft", "circuit": text, "claim": name, "kind": "accuracy",
        "role": "ft", "models": ("ft",), "verdict": verdict, "cause": cause, "meaning": text,
        "reason": text, "score": 0.4, "interval": (0.35, 0.45), "n": 100, "threshold": "at least 0.5",
        "control": control, "baseline": 0.45, "drift": -0.05, "drift_state": "worse",
        "accepted_now": False, "seconds": 1.25, "line": 7, "yaml": (f"  {name}: {{x: 1}}",),
        "rows": (Row(verdict, cause, "score", 0.4, (0.35, 0.45), 100, "at least 0.5",
                     compared=True, low=0.5),),
        "scores": (score,), "notes": (Note(text, text),),
        "located": Located((text, "head 2.2 fell silent"), (), 1.0),
    }  # fmt: skip
    return ClaimResult(**fields | more)


def report_of(*claims: ClaimResult, label: str = "candidate", **more: Any) -> RunReport:
    """The report of a run."""
    entries = {
        role: CheckpointEntry(name, f"./{name}", f"/models/{name}", None, "f" * 64)
        for role, name in (("base", "released"), ("ft", label))
    }
    counts = {"measurements": {"done": 3, "from_store": 1}, "exit_code": 1}
    return RunReport(entries, claims, **counts | more)


def html_of(*claims: ClaimResult, **more: Any) -> str:
    """The page of a run."""
    return rendered(report_of(*claims, **more), {"torch": "2.0"}, made=MADE)


def write(path: Path, *claims: ClaimResult, **more: Any) -> str:
    """Write the page of a run, and return its address."""
    path.write_text(html_of(*claims, **more), "utf-8")
    return path.as_uri()


class StubClaim(SimpleNamespace):
    """As much of a claim as its result needs."""

    model_fields: ClassVar[dict[str, Any]] = {}


def stub_claim(kind: str, if_red: str) -> Any:
    """A claim without fields."""
    return StubClaim(
        kind=kind, refuted=lambda _: if_red, models=lambda role: (role,), severity="block", needs_groups=False,
        references=lambda: (), thresholds=(), added_later=(), model_dump=lambda **_: {},
    )  # fmt: skip


def stub_spec(circuit: str, document: Any) -> Any:
    """A spec with a text and no definitions."""
    task = SimpleNamespace(edition=0)
    return SimpleNamespace(circuit=circuit, document=document, definition=dict, task=task)
