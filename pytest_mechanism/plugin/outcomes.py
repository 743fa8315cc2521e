"""What a run came to: the last result of each claim, as pytest saw it, and what makes the run as a whole
red although no claim is: a candidate that nothing judged, claims that never ran, a worker that died."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.settings.pytest_options import is_typed
from pytest_mechanism.settings.table import MODEL_PAIR

RED = ("fail", "inconclusive", "error")
JUDGED = ("pass", "fail", "inconclusive")
CRASHED = "???"
"""xdist's phase of a test whose worker died."""


@dataclass
class Outcomes:
    """Of a run, in the process that reports it.

    Attributes:
        config: pytest's.
        by_id: node id -> a claim's result, the last one where it ran several times.
        selected: node ids of the claims that were to run.
        deselected: those that options took out (``-k``, ``-m``, ``--deselect``).
        reasons: what makes the run as a whole red, one sentence each.
    """

    config: pytest.Config
    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    selected: dict[str, None] = field(default_factory=dict)
    deselected: dict[str, None] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[dict[str, Any]]:
        return list(self.by_id.values())

    @property
    def not_run(self) -> list[str]:
        """Claims that were to run and have no result."""
        return [each for each in self.selected if each not in self.by_id]

    def add(self, report: pytest.TestReport) -> None:
        """Take in what a phase of a test came to."""
        from pytest_mechanism.report.result import overruled

        result = getattr(report, "mechanism", None)
        if result is not None:
            found = settled(result["verdict"], result["reason"], report)
            if found is not None:
                result = overruled(result, *found)
            self.by_id[report.nodeid] = result
        elif report.failed and (before := self.by_id.get(report.nodeid)) is not None:
            said = f"{report.when}: {first_line_of(report)}"
            if before["verdict"] not in RED:
                self.by_id[report.nodeid] = overruled(before, "error", said)
        elif report.when == CRASHED and self.is_claim(report.nodeid):
            with contextlib.suppress(MechanismError, KeyError):  # the spec changed meanwhile
                self.by_id[report.nodeid] = crashed(report, self.config.rootpath)

    def is_claim(self, nodeid: str) -> bool:
        """Whether a test that another process collected is one of ours."""
        return self.spec_at.get(nodeid.partition("::")[0])

    @cached_property
    def spec_at(self) -> Specs:
        return Specs(self.config.rootpath)

    def finish(self, status: int) -> int:
        """The exit code of the run, all in all; `reasons` say why it is another one."""
        results = self.results
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or dry(self.config):
            return status
        if results and all(r["verdict"] == "skipped" for r in results):
            self.reasons.append(
                "every claim was skipped, so nothing was judged: this run is red. See applies_to in "
                "the specs"
            )
        elif results and not judges("ft", results) and not chosen(self.config):
            self.reasons.append(
                "no claim judged the role ft, the checkpoint that wants to be released: this run is "
                "red. Select claims about ft, or say -m 'role(name=\"base\")' for base alone"
            )
        elif not results and is_typed(self.config, MODEL_PAIR) and not chosen(self.config):
            self.reasons.append(
                "a pair was given and no claim was run, so nothing was judged: this run is red. See "
                "'pytest --collect-only' for what is found"
            )
        if lost := self.not_run:
            self.reasons.append(f"{some(len(lost), 'claim')} never ran, such as {lost[0]}")
        passed = [r["id"] for r in results if r["verdict"] in RED]
        if passed and status == pytest.ExitCode.OK:
            self.reasons.append(
                f"{passed[0]} is red, and something in this project let its test pass: this run is red"
            )
        if self.reasons and status == pytest.ExitCode.OK:
            return pytest.ExitCode.TESTS_FAILED
        return status


class Specs(dict[str, bool]):
    """Path from the rootdir -> whether a spec is there."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def get(self, path: str, default: Any = None) -> bool:
        if path not in self:
            from pytest_mechanism.spec.find import is_spec

            self[path] = is_spec(self.root / path)
        return self[path]


def some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def settled(verdict: str, reason: str, report: pytest.TestReport) -> tuple[str, str] | None:
    """Verdict and reason that say what pytest says of a claim, or None where they do already."""
    if report.skipped and verdict != "skipped":
        if (expected := getattr(report, "wasxfail", None)) is None:
            return "skipped", first_line_of(report)
        why = f" ({expected.removeprefix('reason: ')})" if expected else ""
        return "skipped", f"expected to fail by an xfail mark{why}; {verdict}: {reason}"
    if report.failed and verdict not in RED:
        return "error", first_line_of(report)
    return None


def first_line_of(report: pytest.TestReport) -> str:
    """What a report says first."""
    said = report.longrepr
    if isinstance(said, tuple):
        return one_line(str(said[2]).removeprefix("Skipped: "))
    crash = getattr(said, "reprcrash", None)
    text = str(getattr(crash, "message", None) or said or report.outcome).strip()
    return one_line(text.splitlines()[0] if text else report.outcome)


def crashed(report: pytest.TestReport, root: Path) -> dict[str, Any]:
    """The result of a claim whose process died."""
    from pytest_mechanism.report.result import claim_result
    from pytest_mechanism.spec.load import load
    from pytest_mechanism.types import Verdict

    file, _, rest = report.nodeid.partition("::")
    name, _, role = rest.partition("::")
    verdict = Verdict("error", first_line_of(report), "")
    spec = load(root / file)
    return claim_result(
        report.nodeid, spec, name, spec.claims[name], role, verdict, None, None, 0.0
    )


def judges(role: str, results: Iterable[Mapping[str, Any]]) -> bool:
    """Whether some verdict is about a role's model."""
    return any(r["verdict"] in JUDGED and role in r["models"] for r in results)


def dry(config: pytest.Config) -> bool:
    """Whether pytest was asked to run nothing."""
    names = ("collectonly", "setuponly", "setupplan")
    return any(getattr(config.option, name, False) for name in names)


def chosen(config: pytest.Config) -> bool:
    """Whether somebody picked single claims or a role by name: then the run is about those.

    Node ids down to a claim, ``-m`` with ``role(...)`` or ``mechanism``, ``--deselect`` of such node
    ids, and what goes on with an earlier run (``--lf``, ``--sw``). Files, folders and ``-k`` are
    no choice of a role.
    """
    option = config.option
    if any("::" in str(each) for each in (*config.args, *(option.deselect or ()))):
        return True
    marks = str(getattr(option, "markexpr", "") or "")
    if "role(" in marks or "mechanism" in marks:
        return True
    return any(getattr(option, name, False) for name in ("lf", "stepwise"))


def skipped_although(item: Any, reason: str) -> str | None:
    """Why a claim that is skipped is red, or None where it may be."""
    from pytest_mechanism.plugin.items import SESSION
    from pytest_mechanism.plugin.snapshot import ScoreExtension, read_scores, score_file

    session = item.config.stash[SESSION]
    if not session.paired:
        return None
    if session.no_skips:
        return f"is skipped, and --mechanism-no-skips allows none: {reason}"
    if not session.requires_accepted:
        return None
    try:
        accepted = read_scores(score_file(item.path, ScoreExtension.pair))
    except MechanismError as problem:
        return str(problem)
    if f"{item.claim_name}.{item.name}" not in accepted:
        return None
    return f"is skipped and has an accepted score (--mechanism-require-accepted): {reason}"
