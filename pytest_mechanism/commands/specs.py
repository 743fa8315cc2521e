"""The specs that a command is about: those that a gate on the same paths would collect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_mechanism.errors import MechanismError, SpecError

if TYPE_CHECKING:
    from pytest_mechanism.spec.find import UnreachableSpec
    from pytest_mechanism.spec.spec import Spec


def spec_files(paths: Sequence[Path], config: pytest.Config) -> Iterator[Path | UnreachableSpec]:
    """The spec files among paths and folders, and the files in folders that pytest would not reach.

    Args:
        paths: files, each of which counts, and folders.
        config: pytest's configuration, which says what is ignored.

    Raises:
        MechanismError: a path does not exist, or a folder holds no spec.
    """
    from pytest_mechanism.plugin.spec_search import ignored_by_option
    from pytest_mechanism.spec.find import specs_below

    def ignored(path: Path) -> bool:
        full = path.absolute()
        return bool(config.hook.pytest_ignore_collect(collection_path=full, config=config))

    excluded = ignored_by_option(config)
    for path in paths:
        if path.is_dir():
            specs = list(specs_below(path, ignored, lambda below: excluded(below.absolute())))
            if not specs:
                raise MechanismError(f"{path} has no spec; its first key would be 'mechanism: 1'")
            yield from specs
        elif path.exists() or path.is_symlink():
            yield path
        else:
            raise MechanismError(f"{path} does not exist")


def read_spec_file(path: Path | UnreachableSpec, config: pytest.Config) -> Spec:
    """The spec in a file of `spec_files`.

    Raises:
        SpecError: pytest would not reach the file, or it holds no valid spec.
    """
    from pytest_mechanism.spec.find import UnreachableSpec, read_spec

    if isinstance(path, UnreachableSpec):
        raise SpecError(path.problem, f"{path.path}:1")
    return read_spec(path, root=config.rootpath)


def read_specs(paths: Sequence[Path], config: pytest.Config) -> list[Spec]:
    """The specs of a gate on these paths.

    Raises:
        MechanismError: a path or a spec is wrong; the first error that ``lint`` would print.
    """
    return [read_spec_file(path, config) for path in spec_files(paths, config)]
