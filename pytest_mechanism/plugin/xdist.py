"""Runs on several processes (pytest-xdist): workers run the claims, the controller reports them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from pytest_mechanism.errors import MechanismError, one_line
from pytest_mechanism.plugin.outcomes import Outcomes
from pytest_mechanism.plugin.overruling import message
from pytest_mechanism.plugin.stash import ATTRIBUTE, ItemReport, attached
from pytest_mechanism.report.run_report import ClaimResult
from pytest_mechanism.session import Session
from pytest_mechanism.types import Verdict

CRASHED = "???"
"""xdist's phase of a test whose worker died."""

NOT_WRITTEN = "mechanism_not_written"
DESELECTED = "mechanism_deselected"
"""What workers tell the controller when they end."""


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of xdist."""
    return hasattr(config, "workerinput")


def node_name(node: object) -> str:
    """The name of a worker of xdist."""
    return str(getattr(getattr(node, "gateway", None), "id", "a worker"))


def worker_name(report: object) -> str | None:
    """The worker that ran a test, in the controller of xdist; else None."""
    node = getattr(report, "node", None)
    return None if node is None else node_name(node)


def send(config: pytest.Config, not_written: list[str], deselected: Mapping[str, bool]) -> None:
    """Tell the controller at the end of a worker.

    Args:
        config: of the worker.
        not_written: what went wrong with accepted scores.
        deselected: see `Outcomes`.
    """
    output: dict[str, Any] = vars(config)["workeroutput"]
    output |= {NOT_WRITTEN: not_written, DESELECTED: dict(deselected)}


class Controller:
    """Hooks that bring results and troubles of workers to the controller.

    Attributes:
        session: the run.
        outcomes: of the run.
        errors: of the run, see `RunReport`.
    """

    def __init__(self, session: Session, outcomes: Outcomes, errors: list[str]) -> None:
        self.session, self.outcomes, self.errors = session, outcomes, errors
        self._is_spec: dict[str, bool] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Make a worker test the checkpoints that the controller resolved and reports."""
        try:
            self.session.tell_worker(node.workerinput)
        except MechanismError as problem:
            raise pytest.UsageError(str(problem)) from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """The controller collects nothing itself."""
        claims = [nodeid for nodeid in ids if self.is_claim(nodeid)]
        self.outcomes.selected |= dict.fromkeys(claims)
        if self.session.paired and claims:
            self.check_folders(claims)

    def check_folders(self, claims: Sequence[str]) -> None:
        """End a run that cannot write the scores that it accepts, before its workers begin. An exception would end it
        before they report to syrupy, which warns of that."""
        from pytest_mechanism.plugin.snapshot import ScoreExtension

        config = self.session.config
        ScoreExtension.configure(config, self.session.pair)
        files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in claims)
        try:
            ScoreExtension.check_folders(config.rootpath / file for file in files)
        except MechanismError as problem:
            self.errors.append(str(problem))
            workers: Any = config.pluginmanager.getplugin("dsession")
            workers.triggershutdown()  # they end in peace, with nothing to do

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A claim whose worker died is an error."""
        if report.nodeid in self.outcomes.by_id or report.when != CRASHED:
            return
        if self.is_claim(report.nodeid):
            with contextlib.suppress(MechanismError, KeyError):  # the spec changed meanwhile
                self.outcomes.by_id[report.nodeid] = self.crashed(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Take over what a worker says at its end; one that died lost its scores."""
        output = getattr(node, "workeroutput", None) or {}
        self.errors += output.get(NOT_WRITTEN, [])
        self.outcomes.deselected |= output.get(DESELECTED, {})
        if error and NOT_WRITTEN not in output and self.session.paired:
            cause = one_line(str(error).strip().splitlines()[-1])
            self.outcomes.reasons.append(
                f"worker {node_name(node)} ended early ({cause}): its unfinished work is lost, accepted scores included"
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(
        self, report: object
    ) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        """Turn results into plain data, which alone crosses from process to process."""
        data = yield
        if data is not None and (item_report := attached(report)) is not None:
            data[ATTRIBUTE] = json.loads(json.dumps(asdict(item_report)))
        return data

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(self) -> Generator[None, object, object]:
        report: Any = yield
        if isinstance(data := getattr(report, ATTRIBUTE, None), dict):
            # only where a claim ran: these modules read specs
            from pytest_mechanism.report.failure import read_back
            from pytest_mechanism.report.from_json import result_from

            result = result_from(data["result"])
            setattr(report, ATTRIBUTE, ItemReport(result, data["counts"], data["no_device"]))
            if result.red and isinstance(text := getattr(report, "longrepr", None), str):
                report.longrepr = read_back(text, result)
        return report

    def is_claim(self, nodeid: str) -> bool:
        """Whether a test that a worker collected is a claim."""
        from pytest_mechanism.spec.find import is_spec

        file = nodeid.partition("::")[0]
        if file not in self._is_spec:
            self._is_spec[file] = is_spec(self.session.config.rootpath / file)
        return self._is_spec[file]

    def crashed(self, report: pytest.TestReport) -> ClaimResult:
        """The result of a claim whose worker died.

        Raises:
            MechanismError: the spec cannot be read any more.
            KeyError: the spec has no such claim any more.
        """
        from pytest_mechanism.report.result import claim_result
        from pytest_mechanism.spec.load import load

        file, _, rest = report.nodeid.partition("::")
        name, _, role = rest.partition("::")
        spec = load(self.session.config.rootpath / file)
        verdict = Verdict("error", message(report), "")
        return claim_result(report.nodeid, spec, name, spec.claims[name], role, verdict)
