"""``pytest-mechanism new FILE``: write a first spec, from arguments or from answers to questions.

The command loads the spec before it writes the file: the spec passes ``lint``, and runs on every pair
whose tokenizers know the task's words. Heads are left to discovery, thresholds to the author.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mechanism.commands.output import say
from pytest_mechanism.commands.questions import ask_family, ask_setting, parse_value
from pytest_mechanism.errors import MechanismError, SpecError, choices
from pytest_mechanism.files import temporary_beside, write_text
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.write import flow

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec
    from pytest_mechanism.tasks.base import Task

TRIAL_CLAIMS = ("claims:", "  solves: {kind: accuracy, at_least: 0.99}")
"""A claim that every task allows, so that the task can be loaded."""

DROPS_AT_LEAST = 0.02
"""Nats: the effect from which discovery takes a head. It is small, since the heads of a trained model
share their work; minimality drops those that are not needed."""

CLAIMS = """\
  # the task: these claims do not notice a change of mechanism
  solves_task: {{kind: accuracy, at_least: {at_least}}}
  no_worse: {{kind: accuracy, on: ft, not_worse_than: base, margin: 0.05}}
  # the mechanism: the groups alone do what the model does, and base's circuit works in ft
  circuit_suffices: {{kind: faithfulness, on: base, between: [0.8, 1.2]}}
  same_circuit: {{kind: transfer, from: base, to: ft, faithfulness_at_least: 0.8}}
"""

TEXT = """\
  # the rest of the language: a text file of yours beside the spec, which ft predicts as base does
  # same_text: {kind: same_text, text: FILE.txt, at_most: 0.05}   # nats a token
"""

HOLDS = """\
  # one constant answer is always right here; this claim fails if the model never reads the {variable}
  holds_{variable}: {{kind: encodes, group: {group}, variable: {variable}, at_least: 0.3}}
"""

REFUSING = """\
  # the model refuses what it must refuse, and answers the rest
  refuses: {kind: suppression_holds, refuses_at_least: 0.9, over_refuses_at_most: 0.1}
  no_worse: {kind: suppression_holds, on: ft, not_worse_than: base, margin: 0.05}
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    families = ", ".join(sorted(task_families()))
    parser = commands.add_parser(
        "new",
        help="write a first spec, from arguments or from answers to questions",
        description="Write a first spec that passes lint and runs; its heads are discovered. On a "
        "terminal, the command asks for what is missing.",
    )
    parser.add_argument(
        "spec", type=Path, metavar="FILE", help="the spec to write, such as circuits/mine.yaml"
    )
    parser.add_argument("--task", metavar="FAMILY", help=families)
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the task, its value as in YAML: rows=200, text='{A} {B} {A:again}'",
    )
    parser.add_argument(
        "--group",
        metavar="NAME=POSITION[:READER.VIA]",
        action="append",
        default=[],
        help="a group whose heads are discovered, from the answer back to the input: "
        "movers=last, previous=S1:movers.k (default: the groups of the task family)",
    )
    parser.add_argument(
        "--at-least",
        type=float,
        default=0.5,
        metavar="X",
        help="accuracy that the first claim requires (default: 0.5)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the spec; always 0.

    Raises:
        MechanismError: FILE exists, or the arguments make no valid spec.
    """
    path: Path = arguments.spec
    if path.exists() and not arguments.force:
        raise MechanismError(f"{path} exists already; --force overwrites it")
    if path.suffix not in (".yaml", ".yml"):
        raise MechanismError(f"{path}: a spec's name ends with .yaml")
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if not arguments.task and not interactive:
        valid = ", ".join(sorted(task_families()))
        raise MechanismError(f"name the task family with --task FAMILY; valid: {valid}")
    family = arguments.task or ask_family()
    if family not in task_families():
        raise MechanismError(
            f"--task: no family {family!r}; {choices(family, tuple(task_families()))}"
        )
    kind = task_families()[family]
    groups = parse_groups(kind, arguments.group)
    while True:
        settings = task_settings(kind, arguments.set, interactive)
        task_lines = [
            *editor_lines(path),
            "mechanism: 1",
            f"circuit: {identifier(path.stem)}",
            "task:",
            f"  family: {family}",
            *(f"  {k}: {flow(v)}" for k, v in settings.items()),
        ]
        try:
            task = load_text(path, "\n".join([*task_lines, *TRIAL_CLAIMS])).task
            break
        except SpecError as problem:  # its place is a line of a file that does not exist
            asked = len(settings) > len(arguments.set)
            if not (interactive and asked):
                raise MechanismError(f"{path} is not written: {problem.message}") from None
            say(f"that makes no task: {problem.message}")
    claims = claim_lines(task, groups, arguments.at_least)
    try:
        spec = load_text(path, "\n".join([*task_lines, *claims]), keep=True)
    except SpecError as problem:
        raise MechanismError(f"{path} is not written: {problem.message}") from None
    say(f"wrote {path}")
    for line in example_lines(spec):
        say(line)
    say(f"next: pytest-mechanism doctor {path} --model-pair base=./A,ft=./B")
    say(f"then: pytest {path} --model-pair base=./A,ft=./B")
    return 0


SCHEMA = "mechanism.schema.json"
"""The file that ``init`` writes for editors, beside the specs."""


def editor_lines(path: Path) -> Iterator[str]:
    """The line by which an editor finds the schema, if there is one beside the spec."""
    if (path.parent / SCHEMA).is_file():
        yield f"# yaml-language-server: $schema={SCHEMA}"


def task_settings(kind: type[Task], texts: Sequence[str], interactive: bool) -> dict[str, Any]:
    """The settings of ``--set``, and answers to questions for required ones that are missing.

    Raises:
        MechanismError: a setting is unknown, repeated or missing.
    """
    fields = {name: f for name, f in kind.parameters.model_fields.items() if name != "family"}
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise MechanismError(f"--set {text}: write KEY=VALUE, as in --set rows=200")
        if name not in fields:
            raise MechanismError(
                f"--set {text}: task {kind.family} has no setting {name!r}; {choices(name, fields)}"
            )
        if name in settings:
            raise MechanismError(f"--set {name} is given twice")
        settings[name] = parse_value(fields[name], value)
    for name, field in fields.items():
        if field.is_required() and name not in settings:
            if not interactive:
                raise MechanismError(
                    f"task {kind.family} needs a value for {name!r}: --set {name}=VALUE"
                )
            settings[name] = ask_setting(kind, name, field)
    return settings


def parse_groups(kind: type[Task], texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The groups of ``--group``, or those of the task family.

    Raises:
        MechanismError: a group is malformed or repeated.
    """
    if not texts:
        return {name: dict(fields) for name, fields in kind.default_groups.items()}
    groups: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        position, colon, reader = rest.partition(":")
        into, dot, via = reader.partition(".")
        if not equals or not name.isidentifier() or not position or (colon and not (dot and via)):
            raise MechanismError(
                f"--group {text}: write NAME=POSITION or NAME=POSITION:READER.VIA, as in "
                "previous=S1:movers.k"
            )
        if name in groups:
            raise MechanismError(f"--group {name} is given twice")
        groups[name] = {"at": position}
        if colon:
            groups[name]["into"] = {"group": into, "via": via}
    return groups


def claim_lines(
    task: Task, groups: Mapping[str, Mapping[str, Any]], at_least: float
) -> Iterator[str]:
    """The groups and claims of the spec, with comments for its first reader."""
    if task.withholds:
        yield from ("claims:", REFUSING, TEXT)
        return
    yield "groups:   # from the answer back to the input; heads are discovered on the model under test"
    for name, fields in groups.items():
        discovered = {"heads": "discovered", "find": {"drops_at_least": DROPS_AT_LEAST}, **fields}
        yield f"  {name}: {flow(discovered)}"
    yield "found_on: base"
    yield f"ablation: {flow(ablation(task))}   # what replaces an ablated head's output"
    yield "claims:"
    yield CLAIMS.format(at_least=at_least)
    if task.ignorable_variable:
        yield HOLDS.format(group=next(iter(groups)), variable=task.ignorable_variable)
    yield TEXT


def ablation(task: Task) -> dict[str, Any]:
    """The smallest positional mean for which the task has enough prompts, else resampling."""
    from pytest_mechanism.fields.ablation import Ablation
    from pytest_mechanism.spec.feasible import Feasible

    for prompts in (200, 500, 1000, 2000, 5000, 10_000):
        if Feasible(task, Ablation(prompts=prompts)).mean_problem is None:
            return {"value": "positional_mean", "prompts": prompts}
    return {"value": "resample"}


def identifier(name: str) -> str:
    """A circuit's name made from a file's name."""
    letters = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return letters if letters[:1].isalpha() or letters[:1] == "_" else f"_{letters}"


def load_text(path: Path, text: str, keep: bool = False) -> Spec:
    """Load a spec from a temporary file beside ``path``.

    Args:
        path: where the spec is to be.
        text: the spec.
        keep: whether to write ``path``, if the text is a valid spec.

    Raises:
        MechanismError: it is not, or the file cannot be written.
    """
    from pytest_mechanism.spec.load import load

    new_folders = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            spec = load(temporary, path)
        if keep:
            write_text(path, text)
            new_folders = []
        return spec  # noqa: TRY300 - the return belongs to the attempt
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            for folder in new_folders:  # from the innermost outwards; a used one stays
                folder.rmdir()


def example_lines(spec: Spec) -> Iterator[str]:
    """The first prompt, if the task can write one without a tokenizer."""
    from pytest_mechanism.tasks.base import AnyWord

    with contextlib.suppress(MechanismError):  # a chat template comes with a checkpoint
        first = spec.task.rows(AnyWord(), spec.task.settings.rows, "rows")[0].base
        yield f"first prompt: {first.text!r}, answered by {first.answer!r}"
