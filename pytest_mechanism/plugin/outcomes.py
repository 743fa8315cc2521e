"""The results of a run, and what makes it red although no claim is: a candidate that no claim judged,
claims that never ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pytest_mechanism.plugin.overruling import consistent, message
from pytest_mechanism.plugin.stash import attached
from pytest_mechanism.report.run_report import JUDGED, ClaimResult
from pytest_mechanism.settings.pytest_options import is_typed
from pytest_mechanism.settings.table import MODEL_PAIR


@dataclass
class Outcomes:
    """The results of a run, in the process that reports it.

    Attributes:
        config: pytest's.
        by_id: node id -> the last result of a claim.
        selected: node ids of the claims that were to run.
        deselected: node id of each claim that was left out -> whether a hook of the project did it without a word,
            and no option such as ``-k``.
        reasons: sentences that make the run red although no claim is.
    """

    config: pytest.Config
    by_id: dict[str, ClaimResult] = field(default_factory=dict)
    selected: dict[str, None] = field(default_factory=dict)
    deselected: dict[str, bool] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[ClaimResult]:
        return list(self.by_id.values())

    @property
    def not_run(self) -> list[str]:
        """Selected claims without a result."""
        return [nodeid for nodeid in self.selected if nodeid not in self.by_id]

    @property
    def left_out_by(self) -> tuple[str, ...]:
        """What left claims out: the options in effect that can, and a hook where there is none, or where one did."""
        told, silent = False in self.deselected.values(), True in self.deselected.values()
        options = [
            flag for flag, name in LEAVING_OUT.items() if getattr(self.config.option, name, None)
        ]
        named = options if told else []
        hook = silent or (told and not options)
        return (*named, *((HOOK,) if hook else ()))

    def add(self, report: pytest.TestReport) -> None:
        """Take in the report of one phase of a test."""
        if (item_report := attached(report)) is not None:
            self.by_id[report.nodeid] = consistent(item_report.result, report)
            return
        result = self.by_id.get(report.nodeid)
        if report.failed and result is not None and not result.red:
            reason = f"{report.when}: {message(report)}"
            self.by_id[report.nodeid] = result.overruled("error", reason)

    def finish(self, status: int) -> int:
        """The exit code of the run; `reasons` explain a changed one."""
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or is_dry(self.config):
            return status
        results = self.results
        if results and all(result.verdict == "skipped" for result in results):
            self.reasons.append(
                "every claim was skipped, so nothing was judged: this run is red. See applies_to in "
                "the specs"
            )
        elif results and not is_judged("ft", results) and not picks_claims(self.config):
            self.reasons.append(
                "no claim judged the role ft, the candidate for release: this run is red. Select claims "
                "about ft, or say -m 'role(name=\"base\")' for base alone"
            )
        elif not results and is_typed(self.config, MODEL_PAIR) and not picks_claims(self.config):
            self.reasons.append(
                "the command names a pair and no claim ran, so nothing was judged: this run is red. "
                "'pytest --collect-only' shows which claims pytest finds"
            )
        if missing := self.not_run:
            claims = "1 claim" if len(missing) == 1 else f"{len(missing)} claims"
            self.reasons.append(f"{claims} never ran, such as {missing[0]}")
        red = [result.id for result in results if result.red]
        if red and status == pytest.ExitCode.OK:
            self.reasons.append(
                f"{red[0]} is red, but something in this project let its test pass: this run is red"
            )
        if self.reasons and status == pytest.ExitCode.OK:
            return pytest.ExitCode.TESTS_FAILED
        return status


LEAVING_OUT = {
    "-k": "keyword", "-m": "markexpr", "--deselect": "deselect", "--lf": "lf", "--sw": "stepwise",
}  # fmt: skip
"""Options of pytest that leave tests out -> their names in its configuration."""

HOOK = "a hook of this project"


def is_judged(role: str, results: Sequence[ClaimResult]) -> bool:
    """Whether a verdict says something about a role's model."""
    return any(result.verdict in JUDGED and role in result.models for result in results)


DRY = (
    "collectonly", "setuponly", "setupplan", "help", "version", "markers", "showfixtures", "show_fixtures_per_test",
    "cacheshow",
)  # fmt: skip
"""Options of pytest with which no test runs."""


def is_dry(config: pytest.Config) -> bool:
    """Whether pytest was asked to run nothing."""
    return any(getattr(config.option, name, False) for name in DRY)


def picks_claims(config: pytest.Config) -> bool:
    """Whether the user picked single claims or a role by name, so that a run without ft is meant.

    That is: node ids of claims, ``-m`` with ``role(...)`` or ``mechanism``, ``--deselect`` with node ids
    of claims, and the continuation of an earlier run (``--lf``, ``--sw``). Files, folders and ``-k`` pick
    no role.
    """
    option = config.option
    if any("::" in str(argument) for argument in (*config.args, *(option.deselect or ()))):
        return True
    marks = str(getattr(option, "markexpr", "") or "")
    if "role(" in marks or "mechanism" in marks:
        return True
    return any(getattr(option, name, False) for name in ("lf", "stepwise"))
