"""The item of a claim on one role: measured, compared with its baseline, judged."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.causes import Cause, meaning
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import TRACEBACK, MechanismError, NoDevice, one_line, visible
from pytest_mechanism.plugin.baseline import Baseline, Comparison, with_comparison
from pytest_mechanism.plugin.overruling import consistent
from pytest_mechanism.plugin.stash import RESULT, SESSION
from pytest_mechanism.report import junit
from pytest_mechanism.report.failure import Failure, block, failure_text, message
from pytest_mechanism.report.result import claim_result, printable
from pytest_mechanism.report.run_report import ClaimResult, Note
from pytest_mechanism.session import Session
from pytest_mechanism.settings.table import DEVICE
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.rounding_error import advice, moves_score
from pytest_mechanism.types import Located, Verdict

NO_PAIR = (
    "no checkpoints to test: add --model-pair BASE,FT (two folders, aliases or zoo:NAME), or set "
    "model_pair in the ini file"
)
NOT_JUDGED = "was not judged: a hook of the project ran in place of its test"


class ClaimFailed(Exception):
    """A red verdict, in one line.

    Attributes:
        lines: that pytest shows for it.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines) or (message,)


def run_claim(request: pytest.FixtureRequest) -> None:
    """The test function of every item."""
    request.node.run()


class ClaimItem(pytest.Function):
    """A claim on one role, which is the item's name. A `pytest.Function`, because syrupy ignores other
    items when it decides which scores are unused.

    Attributes:
        spec: the spec.
        claim_name: the claim's name in the spec.
        claim: the claim.
        for_others: for how many other claims this one reports that the run has no checkpoints, in words.
    """

    for_others: str = ""

    def __init__(self, *, spec: Spec, claim_name: str, claim: Claim, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec, self.claim_name, self.claim = spec, claim_name, claim
        self.add_marker(pytest.mark.mechanism)
        self.add_marker(pytest.mark.role(name=self.name))
        self.add_marker(pytest.mark.kind(name=claim.kind))

    @property
    def run_session(self) -> Session:
        return self.config.stash[SESSION]

    @property
    def title(self) -> str:
        return f"{self.claim_name} on {self.name}"

    @property
    def baseline(self) -> Baseline:
        return Baseline(self, self.spec, self.claim, f"{self.claim_name}.{self.name}")

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.spec.line(self.claim_name) - 1, f"{self.claim_name}[{self.name}]"

    def run(self) -> None:
        """Measure, compare and judge. The comparison comes before the failure, so that an update keeps
        the score of a red claim."""
        run = self.run_session
        if not run.paired:
            text = f"{NO_PAIR}{self.for_others}"
            self.keep_result(Verdict("error", text, ""))
            raise ClaimFailed(text)
        started = time.perf_counter()
        try:
            verdict = run.evaluator.judge(self.spec, self.claim, self.name)
        except NoDevice as problem:
            run.no_device = str(DEVICE.error(problem))
            verdict = Verdict("error", run.no_device, "")
        except MechanismError as problem:
            verdict = Verdict("error", str(problem), "")
        except Exception as problem:  # a bug: it keeps its traceback, and the claim its line
            reason = one_line(f"{type(problem).__name__}: {problem}")
            self.settle(Verdict("error", reason, ""), time.perf_counter() - started)
            raise
        seconds = time.perf_counter() - started
        if verdict.status == "skipped":
            self.keep_result(verdict, seconds=seconds)
            pytest.skip(visible(verdict.reason))
        verdict, comparison = self.settle(verdict, seconds)
        self.show_prompts(verdict)
        if self.only_warns(verdict, comparison):
            self.pass_with_warning(verdict)
        if verdict.cause is Cause.NOT_ACCEPTED:
            raise ClaimFailed(visible(f"{self.title}: {verdict.reason}"))
        if verdict.red:
            located = self.locate(verdict)
            raise self.failure(verdict, comparison, located, run.evaluator.trace)

    def only_warns(self, verdict: Verdict, comparison: Comparison) -> bool:
        """Whether a red verdict is shown and makes nothing red. A claim that could not be judged stays red, and
        so does one without the accepted score that the run requires: nobody has looked at either."""
        looked = verdict.status in ("fail", "inconclusive")
        drift = comparison.drift
        accepted = (
            comparison.value is not None
            if drift is None
            else drift.accepted_now or drift.state != "new"
        )
        if self.run_session.requires_accepted and not accepted:
            return False
        unlooked = (Cause.NOT_ACCEPTED, Cause.REDEFINED, Cause.MODEL_MISSING)
        return self.claim.severity == "warn" and looked and verdict.cause not in unlooked

    def pass_with_warning(self, verdict: Verdict) -> None:
        """Report a claim of severity ``warn`` that does not hold: pytest shows it among expected failures.

        With ``--runxfail``, which makes expected failures red, it returns, and the claim is red.
        """
        self.locate(verdict)
        if (result := self.result) is None or self.config.getoption("runxfail", False):
            return
        self.result = replace(result, verdict="warn")
        pytest.xfail(visible(f"severity: warn; {message(result)}"))

    def failure(
        self, verdict: Verdict, comparison: Comparison, located: Located | None, trace: str
    ) -> ClaimFailed:
        """A red verdict for pytest: a few lines, or with ``-v`` everything."""
        result = self.result
        assert result is not None  # noqa: S101 - `settle` kept it
        if self.config.get_verbosity() < 1:
            return ClaimFailed(message(result), [*block(result), *self.traceback_lines(trace)])
        text = failure_text(
            self.spec,
            self.claim_name,
            self.name,
            verdict,
            comparison.drift,
            meaning(verdict.cause, self.claim.refuted(verdict)),
            located,
            result.evidence,
        )
        return ClaimFailed(message(result), [*text.split("\n"), *self.traceback_lines(trace)])

    def show_prompts(self, verdict: Verdict) -> None:
        """The prompts behind a red verdict, kept in the result. Shown only if nothing had to be measured."""
        if not verdict.red or (result := self.result) is None:
            return
        found = self.run_session.evaluator.evidence(self.spec, self.claim, self.name, verdict.cause)
        self.result = replace(result, evidence=printable(found))

    def locate(self, verdict: Verdict) -> Located | None:
        """The heads and MLPs behind a red verdict, kept in the result too."""
        run = self.run_session
        if not run.locates or (result := self.result) is None:
            return None
        found = None
        with contextlib.suppress(NoDevice):
            found = run.evaluator.locate(self.spec, self.claim, self.name, verdict.cause)
            self.result = replace(result, located=printable(found))
        return found

    def settle(self, verdict: Verdict, seconds: float) -> tuple[Verdict, Comparison]:
        """Compare with the baseline, which may turn the verdict red, and keep the result."""
        comparison = self.baseline.compare(verdict)
        required = self.run_session.requires_accepted
        verdict = with_comparison(verdict, comparison, requires_accepted=required)
        self.keep_result(verdict, comparison, seconds)
        return verdict, comparison

    def keep_result(
        self, verdict: Verdict, comparison: Comparison | None = None, seconds: float = 0.0
    ) -> ClaimResult:
        """Keep the result for the reports."""
        comparison = comparison or Comparison()
        result = claim_result(
            self.nodeid,
            self.spec,
            self.claim_name,
            self.claim,
            self.name,
            verdict,
            comparison.drift,
            comparison.value,
            seconds,
            [*self.notes(), *self.rounding_notes(verdict)],
        )
        self.result = result
        return result

    @property
    def result(self) -> ClaimResult | None:
        """What the item found; None before it ran."""
        return self.stash.get(RESULT, None)

    @result.setter
    def result(self, result: ClaimResult) -> None:
        self.stash[RESULT] = result
        others = [p for p in self.user_properties if not p[0].startswith(junit.PREFIX)]
        self.user_properties[:] = [*others, *junit.properties(result)]

    @result.deleter
    def result(self) -> None:
        if RESULT in self.stash:
            del self.stash[RESULT]

    def notes(self) -> list[Note]:
        """What readers have to know about the scores of this claim."""
        run = self.run_session
        if not run.paired or not run.counts["loaded"] + run.counts["from_store"]:
            return []
        about_models = run.runner.notes
        notes = [
            Note(about_models[role])
            for role in self.claim.models(self.name)
            if role in about_models
        ]
        about_circuit = (
            run.evaluator.dropped_words(self.spec),
            run.evaluator.discovered_heads(self.spec, self.claim, self.name),
        )
        return notes + [Note(text, self.spec.circuit) for text in about_circuit if text]

    def rounding_notes(self, verdict: Verdict) -> list[Note]:
        """In half precision: how far the numbers hold, and whether the claim's ``atol`` is too small for that."""
        run = self.run_session
        if not run.paired or not run.options.half or not verdict.scores:
            return []
        known, score = run.runner.rounding, verdict.scores[0]
        rows = [known[role] for role in self.claim.models(self.name) if role in known]
        if not rows:
            return []
        moves = moves_score(max(rows), score.n)
        notes = [
            Note(
                f"{run.references[role].label} in {run.options.dtype}: batch size and engine move a row's "
                f"log-probability by {known[role]:.2g} (root mean square, self-check)"
            )
            for role in self.claim.models(self.name)
            if role in known
        ]
        if self.claim.atol < moves:
            notes.append(
                Note(
                    f"atol {self.claim.atol:g} is less than rounding can move a score of {score.n} rows in "
                    f"{run.options.dtype} ({moves:.2g}), so an accepted score may not be met again: "
                    f"{advice(moves)}",
                    self.spec.circuit,
                )
            )
        return notes

    def traceback_lines(self, trace: str) -> list[str]:
        """The traceback behind an error, for developers who ask for it."""
        wanted = self.config.getoption("fulltrace", False) or os.environ.get(TRACEBACK)
        return [visible(line) for line in trace.split("\n")] if trace and wanted else []

    # -- after the test

    def conclude(self, report: pytest.TestReport, call: pytest.CallInfo[None]) -> ClaimResult:
        """The final result, which agrees with pytest's report. Turns the report red if the claim was not
        judged, or if it is skipped and must not be."""
        result = self.result
        warned = result is not None and result.verdict == "warn"
        skipped = (
            report.skipped and not warned
        )  # a warning is judged, and compared with its baseline
        if self.run_session.paired and (result is None or skipped):
            self.baseline.keep()
        if result is None:
            exception = None if call.excinfo is None else call.excinfo.value
            result = self.keep_result(unjudged(exception, skipped=report.skipped))
            if report.passed:  # a hook ran in place of the test
                report.outcome = "failed"
                report.longrepr = f"{self.title}: {NOT_JUDGED}"
        elif skipped and report.when == "call" and isinstance(report.longrepr, tuple):
            line = self.spec.document.line(("applies_to",))
            report.longrepr = (str(self.path), line, report.longrepr[2])
        result = consistent(result, report)
        if skipped and (problem := self.skip_problem(result.reason)) is not None:
            report.outcome = "failed"
            report.longrepr = f"{self.title} {problem}"
            if hasattr(report, "wasxfail"):
                del report.wasxfail
            result = result.overruled("error", problem)
        self.result = result
        return result

    def skip_problem(self, reason: str) -> str | None:
        """Why this claim must not be skipped, or None."""
        run = self.run_session
        if not run.paired:
            return None
        if run.no_skips:
            return f"is skipped, which --mechanism-no-skips forbids: {reason}"
        if not run.requires_accepted:
            return None
        try:
            accepted = self.baseline.read()
        except MechanismError as problem:
            return str(problem)
        if accepted is None:
            return None
        return f"is skipped and has an accepted score (--mechanism-require-accepted): {reason}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ClaimFailed):
            return Failure(str(excinfo.value), excinfo.value.lines)
        # a traceback quotes whatever a library says in its error
        heading = one_line(f"{self.title}: {excinfo.exconly()}")
        lines = str(super().repr_failure(excinfo)).split("\n")
        return Failure(heading, (heading, "", *map(visible, lines)))


def unjudged(problem: BaseException | None, *, skipped: bool) -> Verdict:
    """The verdict of a claim that a mark, a fixture or a hook of the project kept from running."""
    if problem is None:
        return Verdict("error", NOT_JUDGED, "")
    message = one_line(str(problem))
    if skipped:
        return Verdict("skipped", message, "")
    return Verdict("error", f"{type(problem).__name__}: {message}", "")
