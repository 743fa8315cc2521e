"""Pydantic's findings as sentences that name the valid choices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from pytest_mechanism.errors import Misplaced, choices
from pytest_mechanism.spec.yaml import Path_


def explained(error: dict[str, Any], model: type[BaseModel], where: Path_) -> tuple[str, Path_]:
    """Pydantic's finding as a sentence, and where it applies."""
    loc = tuple(error["loc"])
    if loc[1:] and loc[-1] == "[key]":  # pydantic's mark behind a key that is itself at fault
        loc = loc[:-1]
    at, named = where + loc, ".".join(map(str, (*where[1:], *loc))) or str(where[-1])
    kind, context = error["type"], error.get("ctx", {})
    # branches of a union name their type after the field; the field itself has the line
    here = ".".join(map(str, (*where, *loc[:-1])))
    if kind == "extra_forbidden":
        valid = field_names(model, loc[:-1])
        return f"{here}: unknown key {loc[-1]!r}; {choices(str(loc[-1]), valid)}", at
    if kind == "missing":
        if isinstance(loc[-1], int):
            return f"{here}: needs {loc[-1] + 1} values", where + loc[:-1]
        return f"{here}: key {loc[-1]!r} is missing", where + loc[:-1]
    if kind == "value_error":
        problem = context.get("error", error["msg"])
        at += problem.at if isinstance(problem, Misplaced) else ()
        return f"{'.'.join(map(str, at))}: {problem}", at
    if kind == "literal_error":
        given = str(error["input"])
        return (
            f"{named}: {given!r} is not valid; {choices(given, literals(str(context['expected'])))}",
            at,
        )
    message = str(error["msg"]).replace("Input should be", "must be")
    message = message.replace("a valid tuple", "a list")
    message = re.sub(
        r"a valid dictionary( or instance of \w+)?", "a mapping of keys and values", message
    )
    return f"{named}: {message}, got {short(error['input'])}", at


def literals(expected: str) -> list[str]:
    """Pydantic's ``'a', 'b' or 'c'`` as a list."""
    return re.findall(r"'([^']*)'", expected)


def field_names(model: type[BaseModel], inside: tuple[Any, ...] = ()) -> list[str]:
    """Keys that a part takes, aliases as they are written."""
    for step in inside:
        field = next((f for n, f in model.model_fields.items() if step in (n, f.alias)), None)
        if field is not None:
            model = next(parts(field.annotation), model)
    return [f.alias or name for name, f in model.model_fields.items()]


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inside in get_args(annotation):
        yield from parts(inside)


def short(value: Any) -> str:
    """A value as it may stand in an error line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
