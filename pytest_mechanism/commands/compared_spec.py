"""The task and the groups of a comparison: those of a spec, or of a task family."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mechanism.commands.new import ablation, load_text, parse_groups, task_settings
from pytest_mechanism.commands.searched import with_seed
from pytest_mechanism.errors import MechanismError, choices
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
    path = Path(f"{family}_compared.yaml")
    task = load_text(path, "\n".join([*head, "claims:", TRIAL_CLAIM])).task
    groups = [
        f"  {name}: {flow({'heads': 'discovered', 'find': {'members': ['heads', 'mlps']}, **fields})}"
        for name, fields in parse_groups(kind, []).items()
    ]
    rest = ["groups:", *groups, f"ablation: {flow(ablation(task))}", "claims:", TRIAL_CLAIM]
    return load_text(path, "\n".join([*head, *rest]))
