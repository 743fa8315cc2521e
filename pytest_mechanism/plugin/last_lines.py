"""Writes the conclusion once more below everything that pytest writes: a log opens at its end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.plugin.xdist import is_worker

if TYPE_CHECKING:
    from pytest_mechanism.plugin.hooks import MechanismPlugin


class LastLines:
    """See the module.

    Attributes:
        plugin: of the run.
    """

    def __init__(self, plugin: MechanismPlugin) -> None:
        self.plugin = plugin

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: after pytest's own last line
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or is_worker(session.config) or not self.plugin.outcomes.results:
            return result
        from pytest_mechanism.report.terminal import write_last_lines

        report = self.plugin.run_report(int(session.exitstatus))
        write_last_lines(terminal, report, terminal._tw.fullwidth)  # noqa: SLF001 - as in `hooks`
        return result
