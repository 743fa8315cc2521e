"""The task and the groups of a comparison: those of a spec, or of a task family."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pytest_mechanism.commands.new import ablation, parse_groups, task_settings
from pytest_mechanism.commands.searched import with_seed
from pytest_mechanism.errors import MechanismError, SpecError, choices
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.write import flow

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec

TRIAL_CLAIM = "  solves: {kind: accuracy, at_least: 0.01}"
"""A spec needs a claim."""


def spec_of(arguments: argparse.Namespace) -> Spec:
    """The spec that was named, or that of a task family with its groups; none of its members is known then.

    Raises:
        MechanismError: there is no such family, a setting is wrong, or the spec has no groups.
    """
    from pytest_mechanism.spec.load import load

    if arguments.spec is not None:
        spec = load(arguments.spec)
        if not spec.groups:
            raise MechanismError(
                f"{arguments.spec} has no groups, so nothing says whose work to compare; --task "
                f"{spec.task.family} compares with the groups of the task family"
            )
    else:
        spec = of_family(arguments.task, arguments.set)
    return with_seed(spec, arguments.seed)


def of_family(family: str, settings: list[str]) -> Spec:
    """A spec of a task family: its settings, and its groups without members."""
    if family not in task_families():
        raise MechanismError(
            f"--task: no family {family!r}; {choices(family, tuple(task_families()))}"
        )
    kind = task_families()[family]
    head = [
        "mechanism: 1",
        f"circuit: {family}",
        "task:",
        f"  family: {family}",
        *(f"  {key}: {flow(value)}" for key, value in task_settings(kind, settings, False).items()),
    ]
    task = loaded(family, [*head, "claims:", TRIAL_CLAIM]).task
    groups = [
        f"  {name}: {flow({'heads': 'discovered', 'find': {'members': ['heads', 'mlps']}, **fields})}"
        for name, fields in parse_groups(kind, []).items()
    ]
    rest = ["groups:", *groups, f"ablation: {flow(ablation(task))}", "claims:", TRIAL_CLAIM]
    return loaded(family, [*head, *rest])


def loaded(family: str, lines: list[str]) -> Spec:
    """The spec with these lines. The working folder, in which a task looks for its files, may be read-only.

    Raises:
        MechanismError: it is not valid; no line is named, since the user has no such file.
    """
    from pytest_mechanism.spec.load import load

    with TemporaryDirectory(prefix="mechanism-") as folder:
        path = Path(folder) / f"{family}_compared.yaml"
        path.write_text("\n".join(lines), encoding="utf-8")
        try:
            return load(path, Path(path.name), beside=Path())
        except SpecError as problem:
            raise MechanismError(f"--task {family}: {problem.message}") from None
