"""From files and folders to collectors; which files are specs is said by `spec.find`."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mechanism.session import Session

if TYPE_CHECKING:
    from pytest_mechanism.plugin.collectors import SpecFile


class Collecting:
    """Hooks that find specs.

    Attributes:
        session: of the run.
        spec_folders: folders that hold specs, and those below them.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.spec_folders: set[Path] = set()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> SpecFile | None:
        from pytest_mechanism.spec.find import is_spec

        return self.collector(file_path, parent) if is_spec(file_path) else None

    def collector(self, path: Path, parent: pytest.Collector, wrong: str = "") -> SpecFile:
        """The node of a spec, or of a file that keeps the run from being one about all specs."""
        from pytest_mechanism.plugin.collectors import SpecFile
        from pytest_mechanism.plugin.snapshot import ScoreExtension

        pair = self.session.pair if self.session.paired else None
        ScoreExtension.configure(parent.config, pair)
        return SpecFile.at(parent, path, wrong)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Beside what a folder holds, what is lost in it."""
        report = yield
        if isinstance(collector, pytest.Directory) and report.passed:
            report.result = [*report.result, *self.lost(collector, report.result)]
        return report

    def lost(self, folder: pytest.Directory, found: Sequence[Any]) -> Iterator[SpecFile]:
        """Collectors of what pytest does not reach in a folder and may not be passed over."""
        from pytest_mechanism.plugin.collectors import SpecFile
        from pytest_mechanism.spec.find import unreachable_specs

        path, session = folder.path, folder.session
        if not any(session.isinitpath(above) for above in (path, *path.parents)):
            return  # a folder above the one to be searched
        here = any(isinstance(node, SpecFile) for node in found)
        if here or path.parent in self.spec_folders:
            self.spec_folders.add(path)

        def skipped(below: Path) -> bool:
            return (
                not session.isinitpath(below, with_parents=True)
                and bool(
                    folder.ihook.pytest_ignore_collect(collection_path=below, config=folder.config)
                )
                and not left_out(folder.config)(below)
            )

        for spec in unreachable_specs(path, path in self.spec_folders, skipped):
            yield self.collector(spec.path, folder, spec.problem)


def left_out(config: pytest.Config) -> Callable[[Path], bool]:
    """Whether somebody left a path out on purpose, with ``--ignore`` or ``--ignore-glob``."""
    here = config.invocation_params.dir
    paths = [str(here / each) for each in config.getoption("ignore") or ()]
    globs = [*paths, *(str(here / each) for each in config.getoption("ignore_glob") or ())]
    return lambda path: any(fnmatch.fnmatch(str(path), glob.rstrip("/")) for glob in globs)
