"""The pytest plugin: a thin shell around spec, runner and report. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.errors import MechanismError, NoDevice, one_line, visible
from pytest_mechanism.plugin.collecting import Collecting
from pytest_mechanism.plugin.outcomes import Outcomes, dry
from pytest_mechanism.session import make_session
from pytest_mechanism.settings import pytest_options
from pytest_mechanism.settings.table import DEVICE, JSON

if TYPE_CHECKING:
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.session import Session


def pytest_addoption(parser: pytest.Parser) -> None:
    pytest_options.pytest_addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "mechanism: a claim of a spec, made by pytest-mechanism",
        "role(name): the model that a claim is about: base, ft, pair, or one of your own",
        "kind(name): the kind of a claim, such as faithfulness",
    ):
        config.addinivalue_line("markers", marker)
    forget_result(config)
    try:
        session = make_session(config)
    except MechanismError as problem:
        raise pytest.UsageError(str(problem)) from None
    plugin = MechanismPlugin(session)
    config.pluginmanager.register(plugin, "mechanism-session")
    config.pluginmanager.register(Collecting(session), "mechanism-collecting")


def forget_result(config: pytest.Config) -> None:
    """Take away an earlier run's result file, so that a run which writes none leaves none behind."""
    path = pytest_options.read_path(config, JSON)
    if path is None or dry(config) or hasattr(config, "workerinput"):
        return
    with contextlib.suppress(OSError):  # make_session says what is wrong with the path
        path.unlink(missing_ok=True)


class MechanismPlugin:
    """Hooks of one pytest run."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outcomes = Outcomes(session.config)
        self.counts: dict[str, dict[str, int]] = {}
        self.header_shown = False
        self.problems: list[str] = []  # of the whole run: it ends as wrong use does
        self.foreseen: list[str] = []  # what cannot be measured, or cannot pass

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        try:
            lines = self.session.checkpoint_lines()
        except MechanismError as problem:
            raise pytest.UsageError(str(problem)) from None
        self.header_shown = True
        if self.session.paired and len({self.session.fingerprints[r] for r in ("base", "ft")}) == 1:
            lines.append("mechanism: base and ft are the same checkpoint, so nothing is compared")
        return lines

    @pytest.hookimpl(tryfirst=True)  # before the terminal asks what there is to say of it
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan what the selected items need, so that each checkpoint is loaded once."""
        items = claim_items(session)
        self.outcomes.selected |= dict.fromkeys(item.nodeid for item in items)
        if dry(session.config) or not self.session.paired:
            return
        if not items:
            return
        from pytest_mechanism.report.progress import terminal_progress

        self.session.progress = terminal_progress(session.config)
        try:
            evaluator = self.session.evaluator
            evaluator.plan([(item.spec, item.claim, item.name) for item in items])
            if not hasattr(session.config, "workerinput"):  # workers have no terminal
                self.foreseen = list(foreseen(evaluator, items))
            if self.session.runner.planned:
                self.session.runner.check_device()
        except NoDevice as problem:
            if not hasattr(session.config, "workerinput"):  # there the first item says it
                raise pytest.UsageError(str(DEVICE.error(problem))) from None
        except MechanismError as problem:
            if hasattr(session.config, "workerinput"):
                return  # raised here, it would be an internal error of xdist; every item says it
            raise pytest.UsageError(str(problem)) from None

    def pytest_report_collectionfinish(self) -> list[str]:
        """Before a checkpoint is loaded: which claims cannot be measured or cannot pass."""
        return [visible(f"mechanism: {line}") for line in self.foreseen]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A claim that runs again has no result yet."""
        if item.get_closest_marker("mechanism") is not None:
            from pytest_mechanism.plugin.items import ClaimItem

            if isinstance(item, ClaimItem):
                item.forget()

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: what marks make of it is known
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if item.get_closest_marker("mechanism") is None:
            return report
        from pytest_mechanism.plugin.items import ClaimItem

        if isinstance(item, ClaimItem) and (
            report.when == "call" or (report.when == "setup" and not report.passed)
        ):
            # attributes of a report cross to the controller under xdist
            report.mechanism = item.concluded(report, call)  # type: ignore[attr-defined]
            report.mechanism_counts = self.session.counts  # type: ignore[attr-defined]
            report.mechanism_no_device = self.session.no_device  # type: ignore[attr-defined]
        # what libraries printed while a claim ran
        report.sections = [
            (heading, "\n".join(map(visible, said.split("\n"))))
            for heading, said in report.sections
        ]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        wrong = getattr(report, "mechanism_no_device", None)
        if wrong is not None and not hasattr(self.session.config, "workerinput"):
            if not hasattr(report, "node"):
                raise pytest.UsageError(wrong)  # once for all items
            self.problems.append(wrong)  # xdist's workers are to end in peace
        self.outcomes.add(report)
        if hasattr(report, "mechanism"):
            worker = getattr(getattr(report, "node", None), "gateway", None)
            name = str(getattr(worker, "id", "here"))
            self.counts[name] = report.mechanism_counts

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        from pytest_mechanism.plugin.items import ClaimItem

        found = (item.nodeid for item in items if isinstance(item, ClaimItem))
        self.outcomes.deselected |= dict.fromkeys(found)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Workers of xdist collect; here it is known what they were to run."""
        found = (each for each in ids if self.outcomes.is_claim(each))
        self.outcomes.selected |= dict.fromkeys(found)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.session.release()
        if hasattr(session.config, "workerinput"):
            output: Any = getattr(session.config, "workeroutput")  # noqa: B009 - xdist's own
            output["mechanism_not_written"] = scores_not_written()
            output["mechanism_deselected"] = list(self.outcomes.deselected)
            return
        self.problems += scores_not_written()
        if self.session.paired:
            session.exitstatus = self.outcomes.finish(int(session.exitstatus))
        if self.problems:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        path = self.session.json_path
        if path is None or not self.session.paired or dry(session.config):
            return
        from pytest_mechanism.files import write_json
        from pytest_mechanism.report.json_file import result_file

        total = {
            k: sum(c[k] for c in self.counts.values()) for k in ("loaded", "done", "from_store")
        }
        content = result_file(
            self.session.references,
            self.session.fingerprints,
            self.outcomes,
            total,
            int(session.exitstatus),
        )
        try:
            write_json(path, content)
        except OSError as problem:  # raised here, it would keep the summary from the user
            self.problems.append(f"--mechanism-json: {path} cannot be written: {problem.strerror}")
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Workers of xdist test the checkpoints that were resolved here, and that the report names."""
        try:
            self.session.tell_worker(node.workerinput)
        except MechanismError as problem:
            raise pytest.UsageError(str(problem)) from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """What a worker of xdist could not write, and one that died: what it was to write is lost."""
        output = getattr(node, "workeroutput", None) or {}
        self.problems += output.get("mechanism_not_written", [])
        self.outcomes.deselected |= dict.fromkeys(output.get("mechanism_deselected", []))
        if error and "mechanism_not_written" not in output and self.session.paired:
            name = getattr(getattr(node, "gateway", None), "id", "a worker")
            self.outcomes.reasons.append(
                f"worker {name} ended before it was done ({one_line(str(error).strip().splitlines()[-1])}): what it did is lost, "
                "accepted scores among it"
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if hasattr(terminalreporter.config, "workerinput"):
            return  # the controller has everybody's results
        for problem in dict.fromkeys(self.problems):
            terminalreporter.write_line(visible(f"ERROR: {problem}"), red=True)
        results = self.outcomes.results
        if results and self.session.paired:
            self.summary(terminalreporter, results)
        for reason in dict.fromkeys(self.outcomes.reasons):
            terminalreporter.write_line(visible(reason), red=True)

    def summary(
        self, terminalreporter: pytest.TerminalReporter, results: list[dict[str, Any]]
    ) -> None:
        """The table of claims, and what there is to say of them."""
        from pytest_mechanism.report.terminal import COLOURS, markdown, notes, table

        terminalreporter.section(f"mechanism: {self.session.pair}")
        if not self.header_shown:  # -q, --no-header
            for line in self.session.checkpoint_lines():
                terminalreporter.write_line(line)
        (heading, headings), *lines = table(results)
        if lines:
            terminalreporter.write_line(heading + headings, bold=True)
        for verdict, rest in lines:
            terminalreporter.write(verdict, **{COLOURS.get(verdict.strip(), "red"): True})
            terminalreporter.write_line(rest)
        for note in notes(results, skips=not terminalreporter.hasopt("skipped")):
            terminalreporter.write_line(note)
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with Path(path).open("a", encoding="utf-8") as file:
                    file.write(markdown(results, self.session.pair))
            except OSError as problem:
                terminalreporter.write_line(
                    visible(f"GITHUB_STEP_SUMMARY cannot be written: {problem}")
                )


def foreseen(evaluator: ClaimEvaluator, items: list[Any]) -> Generator[str]:
    """A line for each item that cannot be measured, or that cannot pass whatever is measured."""
    for item in items:
        name = f"{item.claim_name} on {item.name}"
        try:
            refused = evaluator.refusal(item.spec, item.claim, item.name)
            lacking = None if refused else evaluator.lacks(item.spec, item.claim, item.name)
        except Exception:  # noqa: S112 - its own item runs into it and reports it
            continue
        if refused is not None:
            yield f"{name} cannot be measured: {refused}"
        elif lacking is not None:
            yield f"{name}: {lacking}"


def scores_not_written() -> list[str]:
    """What went wrong with accepted scores in this process, where there was anything to accept."""
    module = sys.modules.get("pytest_mechanism.plugin.snapshot")
    return [] if module is None else list(module.ScoreExtension.not_written)


def claim_items(session: pytest.Session) -> list[Any]:
    """The selected items that are ours."""
    from pytest_mechanism.plugin.items import ClaimItem

    return [item for item in session.items if isinstance(item, ClaimItem)]
