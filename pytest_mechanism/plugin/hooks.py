"""The hooks of the pytest plugin: they plan what the claims need, collect results and call the reporters.

Imports nothing heavy, since pytest loads this module in every project.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.checkpoints.fitting import AUTO
from pytest_mechanism.checkpoints.gpus import gpu_memory
from pytest_mechanism.errors import MechanismError, NoDevice, visible
from pytest_mechanism.plugin.last_lines import LastLines
from pytest_mechanism.plugin.outcomes import Outcomes, is_dry
from pytest_mechanism.plugin.spec_search import SpecSearch
from pytest_mechanism.plugin.stash import SESSION, ItemReport, attach, attached
from pytest_mechanism.plugin.xdist import Controller, is_worker, send, worker_name
from pytest_mechanism.session import make_session
from pytest_mechanism.settings import pytest_options
from pytest_mechanism.settings.table import DEVICE, JSON, MODEL_PAIR, REPORT

if TYPE_CHECKING:
    from pytest_mechanism.plugin.items import ClaimItem
    from pytest_mechanism.report.run_report import RunReport
    from pytest_mechanism.runner.evaluator import ClaimEvaluator
    from pytest_mechanism.session import Session

MARKERS = (
    "mechanism: a claim of a spec, made by pytest-mechanism",
    "role(name): the model that a claim is about: base, ft, pair, or one of your own",
    "kind(name): the kind of a claim, such as faithfulness",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    pytest_options.pytest_addoption(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """A run that ends here, because a conftest fails or an option is unknown, leaves no result of an earlier run
    either."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    defaults = early_config.option
    early_config.option = early_config.known_args_namespace
    try:
        with contextlib.suppress(MechanismError):  # `pytest_configure` reports it
            remove_old_results(early_config)
    finally:
        early_config.option = defaults


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        remove_old_results(config)  # again: a conftest may be what loads this plugin
        session = make_session(config)
    except MechanismError as problem:
        raise pytest.UsageError(str(problem)) from None
    config.stash[SESSION] = session
    plugin = MechanismPlugin(session)
    register = config.pluginmanager.register
    register(plugin, "mechanism-session")
    register(LastLines(plugin), "mechanism-last-lines")
    register(SpecSearch(session), "mechanism-spec-search")
    register(Controller(session, plugin.outcomes, plugin.errors), "mechanism-xdist")


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """``-n auto`` starts a worker for each GPU, unless ``--mechanism-device`` names another device; `pick_device`
    chooses its GPU."""
    try:
        device = pytest_options.read(config, DEVICE)
        wanted = device == "cuda" or (device == AUTO and bool(gpu_memory()))
        paired = bool(pytest_options.read(config, MODEL_PAIR))
    except MechanismError:  # pytest_configure reports it
        return None
    if not (wanted and paired) or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from pytest_mechanism.registry import resolve

    gpus: int = resolve("pytest_mechanism.checkpoints.loading.model:count_gpus")()
    return gpus or None


def remove_old_results(config: pytest.Config) -> None:
    """Remove the result file and the page of an earlier run: a run that writes none must not leave those
    behind."""
    if is_dry(config) or is_worker(config):
        return
    for setting, module in ((JSON, "json_file"), (REPORT, "page.files")):
        if (path := pytest_options.read_path(config, setting)) is not None:
            from pytest_mechanism.files import remove_output
            from pytest_mechanism.registry import resolve

            remove_output(path, resolve(f"pytest_mechanism.report.{module}:MARK"))


class MechanismPlugin:
    """Hooks of one pytest run.

    Attributes:
        session: the run.
        outcomes: the results.
        counts: worker -> how many checkpoints it loaded and measurements it made.
        header_shown: whether pytest's header named the checkpoints, with the fingerprints of all.
        errors: of the run, see `RunReport`.
        warnings: of the run, see `RunReport`.
        obstacles: claims that cannot be measured, or cannot pass.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outcomes = Outcomes(session.config)
        self.counts: dict[str | None, dict[str, int]] = {}
        self.header_shown = False
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.obstacles: list[str] = []

    # -- before the claims run

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        try:
            lines = self.session.checkpoint_lines()
        except MechanismError as problem:
            raise pytest.UsageError(str(problem)) from None
        # else the section of the run has the lines once more
        self.header_shown = self.session.all_read
        if self.session.paired and (line := self.session.device_line()) is not None:
            lines.append(line)
        if self.session.paired and (address := self.session.ray) is not None:
            lines.append(f"mechanism: measurements run on the workers of a Ray cluster: {address}")
        return lines

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """A claim that a hook of the project takes out without a word counts as left out."""
        collected = dict.fromkeys(item.nodeid for item in claim_items(items))
        result = yield
        self.speak_once(config, items)
        left = {item.nodeid for item in items}
        known = left | {*self.outcomes.deselected}
        self.outcomes.deselected |= {nodeid: True for nodeid in collected if nodeid not in known}
        return result

    def speak_once(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Without checkpoints, one claim says so for all: a sentence for the run, not one a test."""
        first, others = claim_items(items)[:1], claim_items(items)[1:]
        if self.session.paired or is_dry(config) or not others:
            return
        more = "1 other claim" if len(others) == 1 else f"{len(others)} other claims"
        first[0].for_others = f"; {more} did not run either"
        left_out = set(others)
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=others)

    @pytest.hookimpl(tryfirst=True)  # before pytest_report_collectionfinish, which shows obstacles
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan what the selected items need, so that each checkpoint is loaded once."""
        config, items = session.config, claim_items(session.items)
        self.outcomes.selected |= dict.fromkeys(item.nodeid for item in items)
        if is_dry(config) or not self.session.paired or not items:
            return
        from pytest_mechanism.report.progress import terminal_progress

        self.session.progress = terminal_progress(config)
        try:
            if not is_worker(config):
                from pytest_mechanism.plugin.snapshot import ScoreExtension

                ScoreExtension.check_folders(item.path for item in items)
            evaluator = self.session.evaluator
            evaluator.plan([(item.spec, item.claim, item.name) for item in items])
            if not is_worker(config):  # workers have no terminal
                self.obstacles = list(find_obstacles(evaluator, items))
            if self.session.runner.planned:
                self.session.runner.check_device()
        except MechanismError as problem:
            if is_worker(config):
                return  # raised here, it would be an internal error of xdist; every item reports it
            error = DEVICE.error(problem) if isinstance(problem, NoDevice) else problem
            raise pytest.UsageError(str(error)) from None

    def pytest_report_collectionfinish(self) -> list[str]:
        """Say before a checkpoint is loaded which claims cannot be measured or cannot pass."""
        return [visible(f"mechanism: {line}") for line in self.obstacles]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.outcomes.deselected |= {item.nodeid: False for item in claim_items(items)}

    # -- while the claims run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Forget the result of an earlier attempt."""
        for claim_item in claim_items([item]):
            del claim_item.result

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: sees what marks make of the report
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for claim_item in claim_items([item]):
            if report.when == "call" or (report.when == "setup" and not report.passed):
                result = claim_item.conclude(report, call)
                attach(report, ItemReport(result, self.session.counts, self.session.no_device))
        if item.get_closest_marker("mechanism") is not None:
            # libraries print whatever they like while a claim runs
            report.sections = [
                (heading, "\n".join(map(visible, text.split("\n"))))
                for heading, text in report.sections
            ]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker, item_report = worker_name(report), attached(report)
        if item_report is not None:
            self.counts[worker] = item_report.counts
            if item_report.no_device is not None and not is_worker(self.session.config):
                if worker is None:
                    raise pytest.UsageError(item_report.no_device)  # once for all items
                self.errors.append(item_report.no_device)  # the workers have to end in peace
        self.outcomes.add(report)

    # -- after the claims ran

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.session.release()
        if is_worker(session.config):
            send(session.config, scores_not_written(), self.outcomes.deselected)
            return
        self.errors += scores_not_written()
        if self.session.paired:
            session.exitstatus = self.outcomes.finish(int(session.exitstatus))
        if self.errors:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if self.names_checkpoints and not is_dry(session.config):
            self.write_files(int(session.exitstatus))
            if self.errors:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def write_files(self, exit_code: int) -> None:
        """Write every report but the terminal's. An exception here would keep the summary from the user."""
        from pytest_mechanism.report.reporters import file_reporters

        report = self.run_report(exit_code)
        for reporter in file_reporters(
            self.session.json_path,
            self.session.report_path,
            self.session.pictures,
            self.session.history_folder,
            self.session.tracker,
        ):
            try:
                reporter.write(report)
            except OSError as problem:
                message = f"{reporter.destination} cannot be written: {problem.strerror}"
                if not reporter.required:
                    self.warnings.append(message)
                    continue
                self.errors.append(message)  # the reports after this one say so
                report = self.run_report(int(pytest.ExitCode.USAGE_ERROR))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: above pytest's FAILURES
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> Generator[None, object, object]:
        """The section of the run comes first, because the conclusion belongs on the first screen."""
        report = self.write_section(terminalreporter, int(exitstatus))
        summary = yield
        if report is not None:
            from pytest_mechanism.report.annotations import in_github_job, workflow_commands

            if in_github_job():
                for line in workflow_commands(report, terminalreporter.config.rootpath):
                    terminalreporter.write_line(line)
        return summary

    def write_section(
        self, terminalreporter: pytest.TerminalReporter, exit_code: int
    ) -> RunReport | None:
        """The section of the run, and its report; None where there is nothing to say."""
        if is_worker(terminalreporter.config):
            return None  # the controller has the results of all workers
        if not (self.outcomes.results or self.outcomes.reasons or self.errors or self.warnings):
            return None
        from pytest_mechanism.report.terminal import TerminalSection

        shows_table = self.session.paired and bool(self.outcomes.results)
        shows_header = shows_table and not self.header_shown
        header = self.session.checkpoint_lines() if shows_header else ()
        report = self.run_report(exit_code)
        width = terminalreporter._tw.fullwidth  # noqa: SLF001 - pytest has no other name for it
        verbose = terminalreporter.verbosity > 0
        TerminalSection(terminalreporter, header, width, verbose).write(report)
        return report

    @property
    def names_checkpoints(self) -> bool:
        """Whether the run judged a claim or writes a file about all. Other runs compute no fingerprints, each
        of which reads a whole checkpoint."""
        files = (self.session.json_path, self.session.report_path, self.session.history_folder)
        return self.session.paired and bool(self.outcomes.results or any(files))

    def fingerprint(self, role: str) -> str:
        """The fingerprint of a checkpoint; empty, and an error of the run, if its weights could not be read."""
        try:
            return self.session.fingerprints[role].model
        except MechanismError as problem:
            if str(problem) not in self.errors:
                self.errors.append(str(problem))
            return ""

    def run_report(self, exit_code: int) -> RunReport:
        """The results so far."""
        from pytest_mechanism.report.conclusion import concluded
        from pytest_mechanism.report.result import printable
        from pytest_mechanism.report.run_report import CheckpointEntry, RunReport

        session, outcomes = self.session, self.outcomes
        checkpoints = {
            role: CheckpointEntry(
                reference.label,
                reference.text,
                str(reference.folder),
                None if reference.adapter is None else str(reference.adapter),
                self.fingerprint(role),
            )
            for role, reference in session.references.items()
            if self.names_checkpoints
        }
        totals = {
            name: sum(counts[name] for counts in self.counts.values())
            for name in ("loaded", "done", "from_store")
        }
        report: RunReport = printable(
            RunReport(
                checkpoints=checkpoints,
                claims=tuple(outcomes.results),
                not_run=tuple(outcomes.not_run),
                deselected=tuple(outcomes.deselected),
                left_out_by=outcomes.left_out_by,
                reasons=tuple(dict.fromkeys(outcomes.reasons)),
                errors=tuple(dict.fromkeys(self.errors)),
                warnings=tuple(self.warnings),
                checkpoints_loaded=totals.pop("loaded"),
                measurements=totals,
                ran_on=session.ran_on,
                exit_code=exit_code,
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
        return concluded(report)


def find_obstacles(evaluator: ClaimEvaluator, items: Sequence[ClaimItem]) -> Iterator[str]:
    """A line for each item that cannot be measured, or that cannot pass whatever the measurements say."""
    several = len({item.path for item in items}) > 1
    for item in items:
        title = f"{item.spec.circuit}.{item.title}" if several else item.title
        try:
            refused = evaluator.obstacle(item.spec, item.claim, item.name)
            lacking = (
                None if refused else evaluator.blocking_reason(item.spec, item.claim, item.name)
            )
        except Exception:  # noqa: S112 - the item itself runs into it and reports it
            continue
        if refused is not None:
            yield f"{title} cannot be measured: {refused}"
        elif lacking is not None:
            yield f"{title}: {lacking}"


def scores_not_written() -> list[str]:
    """What went wrong with accepted scores in this process. Imports no syrupy where no spec was."""
    module = sys.modules.get("pytest_mechanism.plugin.snapshot")
    return [] if module is None else list(module.ScoreExtension.not_written)


def claim_items(items: Sequence[pytest.Item]) -> list[ClaimItem]:
    """The items of claims. Imports their module only if a spec was collected."""
    module: Any = sys.modules.get("pytest_mechanism.plugin.items")
    return [] if module is None else [i for i in items if isinstance(i, module.ClaimItem)]
