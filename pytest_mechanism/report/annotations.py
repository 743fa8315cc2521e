"""Annotations of a GitHub Actions job: each red claim shows at its line of the spec, in the diff of the pull request.

A workflow command is a line of the job's log (GitHub, "Workflow commands for GitHub Actions"). GitHub shows the first
ten errors and the first ten warnings of a step, so those that explain others come first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_mechanism.report.conclusion import explaining_first
from pytest_mechanism.report.run_report import ClaimResult, RunReport

SHOWN = 10
"""Annotations of a level that GitHub shows for a step."""


def in_github_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a GitHub Actions job."""
    return environment.get("GITHUB_ACTIONS") == "true"


def workflow_commands(
    report: RunReport, root: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """The commands, a line each.

    Args:
        report: of the run.
        root: the folder that the claims' ids begin in.
        environment: of the job; its workspace is the folder that GitHub's paths begin in.
    """
    workspace = Path(environment.get("GITHUB_WORKSPACE") or root)
    shown = [r for r in report.claims if level(r)]
    for wanted in ("error", "warning"):
        results = [result for result in explaining_first(shown) if level(result) == wanted]
        for result in results[:SHOWN]:
            file = inside(root / result.spec, workspace)
            title = f"{result.circuit}.{result.claim} on {result.role}: {result.verdict}"
            place = {"file": file, "line": str(result.line)} if file and result.line else {}
            yield command(wanted, result.reason or result.verdict, {**place, "title": title})
        if (more := len(results) - SHOWN) > 0:
            yield command("notice", f"{more} more; the job's summary has them", {"title": wanted})
    texts = [*report.reasons, *report.errors]
    if report.not_run:
        texts.append(f"{len(report.not_run)} selected claims never ran")
    for text in texts[:SHOWN]:
        yield command("error", text, {"title": "pytest-mechanism"})


def level(result: ClaimResult) -> str | None:
    """``error`` for a red claim, ``warning`` for a claim that does not hold and does not block, else None."""
    if result.red:
        return "error"
    return "warning" if result.verdict not in ("pass", "skipped") else None


def inside(path: Path, workspace: Path) -> str | None:
    """A path as GitHub writes it, or None outside the workspace."""
    try:
        return path.resolve().relative_to(workspace.resolve()).as_posix()
    except (ValueError, OSError):
        return None


def command(name: str, message: str, properties: Mapping[str, str]) -> str:
    """A workflow command, with everything escaped that would end it or begin another."""
    listed = ",".join(f"{key}={escape_property(value)}" for key, value in properties.items())
    return f"::{name}{' ' if listed else ''}{listed}::{escape_data(message)}"


def escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")
