"""``pytest-mechanism new FILE``: a first spec, from arguments or from answers to questions.

What it writes is read again before it stays: it lints, and runs on any pair whose tokenizers know the
task's words. Heads are left to be discovered; thresholds are for its owner to choose.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.files import temporary_beside, write_text
from pytest_mechanism.registry import task_families
from pytest_mechanism.spec.write import flow

LEAST = ("claims:", "  solves: {kind: accuracy, at_least: 0.99}")
"""A claim that every task has, to look at the task with."""

FIND = 0.02
"""Nats. Heads of a trained model share work, and what is too little is dropped by minimality."""

CLAIMS = """\
  # the task: a change of mechanism does not show here
  solves_task: {{kind: accuracy, at_least: {at_least}}}
  no_worse: {{kind: accuracy, on: ft, not_worse_than: base, margin: 0.05}}
  # the mechanism: the groups alone do what the model does, and base's circuit works in ft
  circuit_suffices: {{kind: faithfulness, on: base, between: [0.8, 1.2]}}
  same_circuit: {{kind: transfer, from: base, to: ft, faithfulness_at_least: 0.8}}
"""

HOLDS = """\
  # one constant answer is always right here: this is red where the model never reads the {variable}
  holds_{variable}: {{kind: encodes, group: {group}, variable: {variable}, at_least: 0.3}}
"""

REFUSING = """\
  # what must be refused is, what must not is answered
  refuses: {kind: suppression_holds, refuses_at_least: 0.9, over_refuses_at_most: 0.1}
  no_worse: {kind: suppression_holds, on: ft, not_worse_than: base, margin: 0.05}
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    families = ", ".join(sorted(task_families()))
    parser = commands.add_parser(
        "new",
        help="write a first spec, from arguments or from answers to questions",
        description="Write a first spec that lints and runs; heads are left to be discovered. On a "
        "terminal, what is not given is asked for.",
    )
    parser.add_argument("spec", type=Path, metavar="FILE", help="such as circuits/mine.yaml")
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
        "movers=last, previous=S1:movers.k (default: the family's own chain)",
    )
    parser.add_argument(
        "--at-least", type=float, default=None, metavar="X", help="accuracy (default: 0.5)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 where the spec was written.

    Raises:
        MechanismError: FILE exists, or what was arguments makes no spec.
    """
    if arguments.spec.exists() and not arguments.force:
        raise MechanismError(f"{arguments.spec} exists already; --force overwrites it")
    if arguments.spec.suffix not in (".yaml", ".yml"):
        raise MechanismError(f"{arguments.spec}: a spec's name ends with .yaml")
    asks = sys.stdin is not None and sys.stdin.isatty()
    family = arguments.task or asked_family(asks)
    if family not in task_families():
        raise MechanismError(
            f"--task: no family {family!r}; {choices(family, tuple(task_families()))}"
        )
    kind = task_families()[family]
    settings = task_settings(kind, arguments.set, asks)
    chain = groups(kind, arguments.group)
    head = [
        "mechanism: 1",
        f"circuit: {identifier(arguments.spec.stem)}",
        "task:",
        *(f"  {key}: {flow(value)}" for key, value in {"family": family, **settings}.items()),
    ]
    task = tried(arguments.spec, "\n".join([*head, *LEAST])).task
    spec = tried(
        arguments.spec, "\n".join([*head, *about(task, chain, arguments.at_least)]), keep=True
    )
    say(f"wrote {arguments.spec}")
    for line in example(spec):
        say(line)
    say(f"next: pytest-mechanism doctor {arguments.spec} --model-pair base=./A,ft=./B")
    say(f"then: pytest {arguments.spec} --model-pair base=./A,ft=./B")
    return 0


def asked_family(asks: bool) -> str:
    """A task family from the terminal.

    Raises:
        MechanismError: nobody is there to answer.
    """
    valid = ", ".join(sorted(task_families()))
    if not asks:
        raise MechanismError(f"say --task FAMILY; valid: {valid}")
    return typed(f"task family ({valid}): ")


def typed(question: str) -> str:
    """What somebody answers.

    Raises:
        MechanismError: they left.
    """
    try:
        return input(question).strip()
    except (EOFError, KeyboardInterrupt):
        raise MechanismError("no answer, so nothing was written") from None


def task_settings(kind: Any, given: Sequence[str], asks: bool) -> dict[str, Any]:
    """``--set`` values, and those that are missing and must be there.

    Raises:
        MechanismError: no such setting, one given twice, or one that is missing.
    """
    fields = {name: f for name, f in kind.parameters.model_fields.items() if name != "family"}
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise MechanismError(f"--set {text}: write KEY=VALUE, as in --set rows=200")
        if name not in fields:
            raise MechanismError(
                f"--set {text}: task {kind.family} has no setting {name!r}; {choices(name, fields)}"
            )
        if name in found:
            raise MechanismError(f"--set {name} is given twice")
        found[name] = read(fields[name], value)
    for name, field in fields.items():
        if field.is_required() and name not in found:
            if not asks:
                raise MechanismError(
                    f"task {kind.family} needs a value for {name!r}: --set {name}=VALUE"
                )
            found[name] = read(field, typed(f"{name}: "))
    return found


def read(field: Any, text: str) -> Any:
    """A value: the text itself where the setting takes it so, otherwise what YAML reads in it."""
    with contextlib.suppress(ValidationError, MechanismError, ValueError):
        TypeAdapter(field.rebuild_annotation()).validate_python(text, strict=True)
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text


def groups(kind: Any, given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``--group`` values, or the family's own chain.

    Raises:
        MechanismError: one that cannot be meant.
    """
    if not given:
        return {name: dict(fields) for name, fields in kind.default_groups.items()}
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        position, colon, reader = rest.partition(":")
        into, dot, via = reader.partition(".")
        if not equals or not name.isidentifier() or not position or (colon and not (dot and via)):
            raise MechanismError(
                f"--group {text}: write NAME=POSITION or NAME=POSITION:READER.VIA, as in "
                "previous=S1:movers.k"
            )
        if name in found:
            raise MechanismError(f"--group {name} is given twice")
        found[name] = {"at": position}
        if colon:
            found[name]["into"] = {"group": into, "via": via}
    return found


def about(
    task: Any, chain: Mapping[str, Mapping[str, Any]], at_least: float | None
) -> Iterator[str]:
    """Groups and claims, with comments for who reads them first."""
    if task.refusals:
        yield from ("claims:", REFUSING)
        return
    yield "groups:   # from the answer back to the input; heads are searched for on the model itself"
    for name, fields in chain.items():
        sought = {"heads": "discovered", "find": {"drops_at_least": FIND}, **fields}
        yield f"  {name}: {flow(sought)}"
    yield "found_on: base"
    yield f"ablation: {flow(ablation(task))}   # what stands where a head is silenced"
    yield "claims:"
    yield CLAIMS.format(at_least=0.5 if at_least is None else at_least)
    if task.ignorable_variable:
        yield HOLDS.format(group=next(iter(chain)), variable=task.ignorable_variable)


def ablation(task: Any) -> dict[str, Any]:
    """A positional mean over as many prompts as the task's texts need; another prompt's z where it
    has too few."""
    from pytest_mechanism.fields.ablation import Ablation
    from pytest_mechanism.spec.feasible import Feasible

    for prompts in (200, 500, 1000, 2000, 5000, 10_000):
        if Feasible(task, Ablation(prompts=prompts)).thin is None:
            return {"value": "positional_mean", "prompts": prompts}
    return {"value": "resample"}


def identifier(name: str) -> str:
    """A circuit's name from a file's."""
    found = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return found if found[:1].isalpha() or found[:1] == "_" else f"_{found}"


def tried(path: Path, text: str, keep: bool = False) -> Any:
    """The spec that a text is, beside where it is to be.

    Raises:
        MechanismError: it is none, or cannot be written.
    """
    from pytest_mechanism.spec.load import load

    missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as trial:
            trial.write_text(text, encoding="utf-8")
            spec = load(trial, path)
        if keep:
            write_text(path, text)
            missing = []
        return spec
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:  # from the innermost outwards; those that stay empty go
                folder.rmdir()


def example(spec: Any) -> Iterator[str]:
    """The first prompt, where a task can write one without a tokenizer."""
    from pytest_mechanism.tasks.base import AnyWord

    with contextlib.suppress(MechanismError):  # a chat template comes with a checkpoint
        first = spec.task.rows(AnyWord(), spec.task.settings.rows, "rows")[0].base
        yield f"first prompt: {first.text!r}, answered by {first.answer!r}"
