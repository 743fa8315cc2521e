"""The questions that ``new`` asks on a terminal: each explains itself, offers choices, and is asked again after an
answer that cannot be right."""

from __future__ import annotations

import contextlib
import re
import sys
from inspect import getdoc
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pytest_mechanism.commands.output import say
from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.registry import task_families

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pytest_mechanism.tasks.base import Task

EXAMPLES = {
    "words": "{animal: [ant, bee, cat]}",
    "file": "prompts.jsonl",
    "harmful": "harmful.jsonl",
    "harmless": "harmless.jsonl",
}
"""Values of required settings, as examples."""


def ask(question: str) -> str:
    """The user's answer.

    Raises:
        MechanismError: the user ended the command instead (Ctrl-C, Ctrl-D).
    """
    try:
        return input(question).strip()
    except (EOFError, KeyboardInterrupt):
        raise MechanismError("no answer, so nothing was written") from None


def ask_family() -> str:
    """A task family, by its name or its number in the list."""
    families = sorted(task_families())
    say("What can your models do? A task writes prompts whose answers are known:")
    for number, name in enumerate(families, 1):
        say(f"  {number:2}  {name:16} {summary(task_families()[name])}")
    while True:
        answer = ask(f"task (a name or 1 to {len(families)}): ")
        if answer.isdecimal() and 1 <= int(answer) <= len(families):
            return families[int(answer) - 1]
        if answer in families:
            return answer
        say(f"there is no task {answer!r}; {choices(answer, families)}")


def ask_setting(kind: type[Task], name: str, field: FieldInfo) -> Any:
    """The value of a required setting."""
    say(f"{name}: {described(kind, name)}")
    example = f" (such as {EXAMPLES[name]})" if name in EXAMPLES else ""
    while True:
        value = parse_value(field, ask(f"{name}{example}: "))
        if value in (None, ""):
            say(f"{name} needs a value")
            continue
        if isinstance(value, str | int | float | bool) and (problem := wrong(field, value)):
            say(f"{name}: {problem}")
            continue
        return value


def wrong(field: FieldInfo, value: Any) -> str | None:
    """Why a plain value cannot be a setting's, or None; files are looked for when the spec is loaded."""
    try:
        TypeAdapter(field.rebuild_annotation()).validate_python(value)
    except ValidationError as problem:
        messages = {error["type"]: error["msg"] for error in problem.errors()}
        return next((text for kind, text in messages.items() if kind.endswith("_type")), None)
    except Exception:
        return None
    return None


def parse_value(field: FieldInfo, text: str) -> Any:
    """The text itself if the field accepts text, otherwise its value as YAML."""
    with contextlib.suppress(ValidationError, MechanismError, ValueError):
        TypeAdapter(field.rebuild_annotation()).validate_python(text, strict=True)
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text


def summary(kind: type[Task]) -> str:
    """What a task family asks, in a line: the first line of its module's docstring."""
    module = sys.modules[kind.__module__].__doc__ or getdoc(kind) or ""
    line = module.strip().partition("\n")[0]
    return re.sub(r" \(`.*?\)", "", line)


def described(kind: type[Task], name: str) -> str:
    """What a setting is, from the docstring of the settings."""
    lines = (getdoc(kind.parameters) or "").splitlines()
    described = [line.strip() for line in lines]
    for i, line in enumerate(described):
        if line.startswith(f"{name}: "):
            text = [line.partition(": ")[2]]
            for further in range(i + 1, len(lines)):
                if not lines[further].startswith(" " * 8):
                    break
                text.append(described[further])
            return " ".join(text)
    return f"a setting of the task {kind.family}"
