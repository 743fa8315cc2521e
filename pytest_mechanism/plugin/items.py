"""YAML specs as pytest collectors, claims as collectors below them, roles as items.

Node ids are ``circuits/x.yaml::claim::role``: brackets in an item's name would break ``--lf``, and
syrupy would take one role's accepted scores for another's leftovers. Items are `pytest.Function`s:
syrupy ignores anything else when it decides which scores are unused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_mechanism.causes import Cause, meaning
from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import (
    TRACEBACK,
    MechanismError,
    NoDevice,
    SpecError,
    one_line,
    visible,
)
from pytest_mechanism.plugin.outcomes import settled, skipped_although
from pytest_mechanism.plugin.snapshot import (
    ScoreExtension,
    accepted_now,
    keep_bounds,
    read_scores,
    score_file,
    score_keeper,
)
from pytest_mechanism.report.failure import failure_text
from pytest_mechanism.report.result import accepted_data, claim_result, overruled
from pytest_mechanism.session import Session
from pytest_mechanism.settings.table import DEVICE
from pytest_mechanism.spec.find import read_spec
from pytest_mechanism.spec.load import SpecErrors
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.statistics.drift import Drift, Tolerance, compare
from pytest_mechanism.types import Verdict

SESSION = pytest.StashKey[Session]()
RESULT = pytest.StashKey[dict[str, Any]]()

NO_PAIR = (
    "no checkpoints to test: add --model-pair BASE,FT (two folders, aliases or zoo:NAME), or set "
    "model_pair in the ini file"
)


NOT_JUDGED = "was not judged: a hook of the project took the place of its test"


def not_accepted(drift: Drift) -> str:
    """Why a claim that holds is red all the same."""
    return f"{drift.reason} (--mechanism-require-accepted)"


class ClaimFailed(Exception):
    """A red verdict; its text is what the failure shows."""


class SpecFile(pytest.Module):
    """A spec. A module for fixtures that look at ``request.module``, and for those of its scope: one
    that holds nothing, and is named as the spec.

    Attributes:
        spec: what it says, once collected.
        wrong: why it cannot be one where it is, or nothing.
    """

    spec: Spec
    wrong: str = ""

    @classmethod
    def at(cls, parent: pytest.Collector, path: Path, wrong: str = "") -> SpecFile:
        """A spec's file, wherever it is."""
        try:
            written = path.relative_to(parent.config.rootpath).as_posix()
        except ValueError:
            written = path.as_posix()
        if written.isprintable():
            found = cls.from_parent(parent, path=path)
        else:  # node ids show characters that a terminal would act on as codes
            name = visible(path.name)
            found = cls.from_parent(parent, path=path, name=name, nodeid=visible(written))
        found.wrong = wrong
        return found

    def _getobj(self) -> ModuleType:
        module = ModuleType(self.path.stem, f"The spec {self.nodeid}.")
        module.__file__ = str(self.path)
        return module

    def collect(self) -> Iterator[pytest.Collector]:
        shown = self.path
        with contextlib.suppress(ValueError):
            shown = self.path.relative_to(Path.cwd())
        try:
            if self.wrong:
                raise SpecError(self.wrong, f"{shown}:1")
            self.spec = read_spec(self.path, shown, self.config.rootpath)
        except SpecErrors as problems:
            raise self.CollectError("\n".join(map(str, problems.problems))) from None
        except SpecError as problem:
            raise self.CollectError(str(problem)) from None
        ScoreExtension.claims[score_file(self.path, ScoreExtension.pair)] = {
            f"{name}.{role}" for name, claim in self.spec.claims.items() for role in claim.roles()
        }
        for name, claim in self.spec.claims.items():
            yield ClaimNode.from_parent(self, name=name, claim=claim)


class ClaimNode(pytest.Collector):
    """A claim of a spec."""

    def __init__(self, *, claim: Claim, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim = claim

    def collect(self) -> Iterator[pytest.Item]:
        for role in self.claim.roles():
            yield ClaimItem.from_parent(self, name=role, callobj=run_claim)


def run_claim(request: pytest.FixtureRequest) -> None:
    """The body of every item."""
    request.node.run()


class ClaimItem(pytest.Function):
    """A claim on one role: measured, compared with the accepted score, judged."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_marker(pytest.mark.mechanism)
        self.add_marker(pytest.mark.role(name=self.name))
        self.add_marker(pytest.mark.kind(name=self.claim.kind))

    @property
    def claim(self) -> Claim:
        node: Any = self.parent
        claim: Claim = node.claim
        return claim

    @property
    def claim_name(self) -> str:
        node: Any = self.parent
        return str(node.name)

    @property
    def spec(self) -> Spec:
        node: Any = self.getparent(SpecFile)
        spec: Spec = node.spec
        return spec

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.spec.line(self.claim_name) - 1, f"{self.claim_name}[{self.name}]"

    def run(self) -> None:
        """Measure, compare, judge; the accepted score is dealt with before the verdict is raised,
        so that an update never loses the score of a red claim."""
        session = self.config.stash[SESSION]
        if not session.paired:
            self.report(Verdict("error", NO_PAIR, ""), None, None, 0.0)
            raise ClaimFailed(NO_PAIR)
        started = time.perf_counter()
        try:
            verdict = session.evaluator.judge(self.spec, self.claim, self.name)
        except NoDevice as problem:
            session.no_device = str(DEVICE.error(problem))
            verdict = Verdict("error", session.no_device, "")
        except MechanismError as problem:
            verdict = Verdict("error", str(problem), "")
        except Exception as problem:  # a bug: it keeps its traceback, and the claim its line
            reason = one_line(f"{type(problem).__name__}: {problem}")
            self.settle(Verdict("error", reason, ""), time.perf_counter() - started)
            raise
        seconds = time.perf_counter() - started
        if verdict.status == "skipped":
            self.report(verdict, None, None, seconds)
            pytest.skip(visible(verdict.reason))
        verdict, drift = self.settle(verdict, seconds)
        if verdict.cause is Cause.NOT_ACCEPTED:
            raise ClaimFailed(f"{self.claim_name} on {self.name}: {verdict.reason}")
        if verdict.red:
            text = failure_text(
                self.spec,
                self.claim_name,
                self.name,
                verdict,
                drift,
                meaning(verdict.cause, self.claim.if_red),
            )
            raise ClaimFailed(text + self.traced(session.evaluator.trace))

    def traced(self, trace: str) -> str:
        """The traceback behind an error, for developers who ask for it."""
        wanted = self.config.getoption("fulltrace", False) or os.environ.get(TRACEBACK)
        return "\n" + "\n".join(map(visible, trace.split("\n"))) if trace and wanted else ""

    def forget(self) -> None:
        """What an earlier run of this item came to."""
        if RESULT in self.stash:
            del self.stash[RESULT]

    def concluded(self, report: pytest.TestReport, call: pytest.CallInfo[None]) -> dict[str, Any]:
        """The result of a claim that is through, which says what its report says; a skip that may
        not be turns the report red."""
        if RESULT not in self.stash or report.skipped:
            self.keep_accepted()
        if RESULT not in self.stash:
            problem = None if call.excinfo is None else call.excinfo.value
            self.not_run(problem, skipped=report.skipped)
            if report.passed:  # a hook that takes the place of the test
                report.outcome = "failed"
                report.longrepr = f"{self.claim_name} on {self.name}: {NOT_JUDGED}"
        elif report.skipped and report.when == "call":
            report.longrepr = self.skip_place(report.longrepr)
        result = self.stash[RESULT]
        if (found := settled(result["verdict"], result["reason"], report)) is not None:
            self.overrule(*found)
        if report.skipped and (red := skipped_although(self, self.stash[RESULT]["reason"])):
            report.outcome = "failed"
            report.longrepr = f"{self.claim_name} on {self.name} {red}"
            if hasattr(report, "wasxfail"):
                del report.wasxfail
            self.overrule("error", red)
        return self.stash[RESULT]

    def keep_accepted(self) -> None:
        """The claim is still there, and so is its accepted score after an update."""
        if not self.config.stash[SESSION].paired:
            return
        with contextlib.suppress(MechanismError, ValueError, KeyError, TypeError):
            scores = read_scores(score_file(self.path, ScoreExtension.pair))
            if (accepted := scores.get(f"{self.claim_name}.{self.name}")) is not None:
                score_keeper(self).assert_match(accepted)

    def overrule(self, verdict: str, reason: str) -> None:
        """Put another verdict in the result."""
        before: dict[str, Any] = self.stash[RESULT]
        result = overruled(before, verdict, reason)
        self.stash[RESULT] = result
        names = ("mechanism_verdict", "mechanism_cause")
        kept = [each for each in self.user_properties if each[0] not in names]
        new = [(f"mechanism_{key}", result[key]) for key in ("verdict", "cause")]
        self.user_properties[:] = [*(each for each in new if each[1] is not None), *kept]

    def skip_place(self, skipped: Any) -> Any:
        """A skip with the place in the spec that asks for it, and not where this module obeys."""
        if not isinstance(skipped, tuple):
            return skipped
        return (str(self.path), self.spec.document.line(("applies_to",)), skipped[2])

    def not_run(self, problem: BaseException | None, *, skipped: bool) -> None:
        """Report a claim that a mark, a fixture or a hook of the project kept from running."""
        said = one_line(str(problem))
        if problem is None:
            verdict = Verdict("error", NOT_JUDGED, "")
        elif skipped:
            verdict = Verdict("skipped", said, "")
        else:
            verdict = Verdict("error", f"{type(problem).__name__}: {said}", "")
        self.report(verdict, None, None, 0.0)

    def settle(self, verdict: Verdict, seconds: float) -> tuple[Verdict, Drift | None]:
        """Compare with the accepted score, which may turn the verdict red, and report."""
        drift, accepted, problem = self.compare(verdict)
        if problem is not None:
            verdict = replace(verdict, status="error", reason=problem, cause=Cause.NOT_JUDGED)
        elif drift is not None and drift.red and not verdict.red:
            verdict = replace(verdict, status="fail", reason=drift.reason, cause=drift.cause)
        elif drift is not None and not verdict.red and self.lacks_accepted(drift):
            reason = not_accepted(drift)
            verdict = replace(verdict, status="fail", reason=reason, cause=drift.cause)
        self.report(verdict, drift, accepted, seconds)
        return verdict, drift

    def lacks_accepted(self, drift: Drift) -> bool:
        """Whether there has to be an accepted score, and is none."""
        required = self.config.stash[SESSION].requires_accepted
        return required and drift.state == "new" and not drift.accepted_now

    def compare(self, verdict: Verdict) -> tuple[Drift | None, float | None, str | None]:
        """The accepted score and how this one stands to it; or what is wrong with the file."""
        location = score_file(self.path, ScoreExtension.pair)
        try:
            accepted = read_scores(location).get(f"{self.claim_name}.{self.name}")
            received = accepted_data(self.spec, self.claim, verdict)
            keeper = score_keeper(self)
            if received is None:
                if accepted is not None:
                    # nothing to compare, yet the claim is still there: keep its accepted score
                    keeper.assert_match(accepted)
                return None, None if accepted is None else float(accepted["value"]), None
            tolerance = Tolerance(self.claim.atol, self.claim.drift)
            drift = compare(received, accepted, tolerance)
        except (MechanismError, ValueError, KeyError, TypeError) as problem:
            return None, None, str(problem)
        if accepted is not None or ScoreExtension.accepting:
            received["tolerance"] = vars(tolerance)
            accepting = keeper == received
            drift = replace(drift, accepted_now=accepted_now(keeper))
            if accepted is not None and ScoreExtension.updating and not drift.accepted_now:
                keep_bounds(location, f"{self.claim_name}.{self.name}", received)
            if (
                accepted is not None and drift.red and accepting
            ):  # --snapshot-update: the new score is the accepted one now
                finding = f"this score replaces the baseline {float(accepted['value']):.3f}"
                drift = replace(drift, state="changed", finding=f"{finding} (--snapshot-update)")
        return drift, None if accepted is None else float(accepted["value"]), None

    def notes(self) -> list[str]:
        """What the scores of this claim's models have to be read with."""
        session = self.config.stash[SESSION]
        if not session.paired or not session.counts["loaded"] + session.counts["from_store"]:
            return []
        found = session.runner.notes
        said = [found[model] for model in self.claim.models(self.name) if model in found]
        said.append(session.evaluator.left_out(self.spec) or "")
        said.append(session.evaluator.heads(self.spec, self.claim, self.name) or "")
        return [each for each in said if each]

    def report(
        self, verdict: Verdict, drift: Drift | None, accepted: float | None, seconds: float
    ) -> None:
        """Keep the result for the summary, the JSON file and JUnit."""
        result = claim_result(
            self.nodeid,
            self.spec,
            self.claim_name,
            self.claim,
            self.name,
            verdict,
            drift,
            accepted,
            seconds,
            self.notes(),
        )
        self.stash[RESULT] = result
        ours = [each for each in self.user_properties if each[0].startswith("mechanism_")]
        for each in ours:  # of an earlier run of this item
            self.user_properties.remove(each)
        for key in ("verdict", "cause", "score", "n", "threshold", "baseline", "drift"):
            if result[key] is not None:
                self.user_properties.append((f"mechanism_{key}", result[key]))
        if result["interval"] is not None:
            self.user_properties.append(("mechanism_interval_low", result["interval"][0]))
            self.user_properties.append(("mechanism_interval_high", result["interval"][1]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ClaimFailed):
            return str(excinfo.value)
        # what a library says in its error, and with it the lines of a traceback
        said = one_line(f"{self.claim_name} on {self.name}: {excinfo.exconly()}")
        traced = str(super().repr_failure(excinfo)).split("\n")
        return "\n".join([said, "", *map(visible, traced)])
