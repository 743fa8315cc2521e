"""Finds specs among the files of a project and makes collectors of them; `spec.find` decides which files
are specs."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.session import Session

if TYPE_CHECKING:
    from pytest_mechanism.plugin.collectors import SpecFile


class SpecSearch:
    """Hooks that find specs.

    Attributes:
        session: the run.
        spec_folders: folders that hold specs, and the folders below them.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.spec_folders: set[Path] = set()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> SpecFile | None:
        from pytest_mechanism.spec.find import is_spec

        return self.collector(file_path, parent) if is_spec(file_path) else None

    def collector(self, path: Path, parent: pytest.Collector, wrong: str = "") -> SpecFile:
        """The collector of a spec, or of a file that is an error because pytest would silently miss it."""
        from pytest_mechanism.plugin.collectors import SpecFile
        from pytest_mechanism.plugin.snapshot import ScoreExtension

        pair = self.session.pair if self.session.paired else None
        ScoreExtension.configure(parent.config, pair)
        return SpecFile.at(parent, path, wrong)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add to a folder's collectors the files that pytest would silently miss."""
        report = yield
        if isinstance(collector, pytest.Directory) and report.passed:
            report.result = [*report.result, *self.missed(collector, report.result)]
        return report

    def missed(self, folder: pytest.Directory, collectors: Sequence[Any]) -> Iterator[SpecFile]:
        """Collectors of the files in a folder that pytest does not reach, and nobody excluded."""
        from pytest_mechanism.spec.find import unreachable_specs

        path, session = folder.path, folder.session
        if not any(session.isinitpath(above) for above in (path, *path.parents)):
            return  # above the folders that the user named
        # imported only if a spec was collected
        module: Any = sys.modules.get("pytest_mechanism.plugin.collectors")
        holds_specs = module and any(isinstance(each, module.SpecFile) for each in collectors)
        if holds_specs or path.parent in self.spec_folders:
            self.spec_folders.add(path)

        def skipped(below: Path) -> bool:
            return (
                not session.isinitpath(below, with_parents=True)
                and bool(
                    folder.ihook.pytest_ignore_collect(collection_path=below, config=folder.config)
                )
                and not ignored_by_option(folder.config)(below)
            )

        for spec in unreachable_specs(path, path in self.spec_folders, skipped):
            yield self.collector(spec.path, folder, spec.problem)


def ignored_by_option(config: pytest.Config) -> Callable[[Path], bool]:
    """A function that says whether ``--ignore`` or ``--ignore-glob`` excludes a path."""
    folder = config.invocation_params.dir
    patterns = [*(config.getoption("ignore") or ()), *(config.getoption("ignore_glob") or ())]
    globs = [str(folder / pattern).rstrip("/") for pattern in patterns]
    return lambda path: any(fnmatch.fnmatch(str(path), glob) for glob in globs)
