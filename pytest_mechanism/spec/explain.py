"""Pydantic's findings as sentences that name the valid choices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from pytest_mechanism.errors import FieldError, choices
from pytest_mechanism.spec.yaml import Path_

COMPLAINT = "complaint"
"""Type of an error whose message is a whole sentence."""

CHOICE = "choice"
"""Type of an error in the key that names a part's model."""


def narrowed(errors: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """Pydantic's findings without those of the wrong branches of a union, each at where it stands.

    Pydantic tries every branch and complains about all of them, naming the branch after the field:
    for ``depth: 0`` that 0 is too small a number, and that it is no list. Meant was the branch
    whose kind of value was given.
    """
    branches: dict[tuple[Any, ...], dict[Any, list[dict[str, Any]]]] = {}
    found: list[dict[str, Any]] = []
    for error in errors:
        place, branch = located(tuple(error["loc"]), value, error["type"])
        if branch is None:
            found.append(error)
            continue
        at = place[: tuple(error["loc"]).index(branch)]
        several = branches.setdefault(at, {}).setdefault(branch, [])
        several.append({**error, "loc": place})
        if len(branches[at]) == 1 and len(several) == 1:
            found.append({"loc": at, "type": "union", "msg": "", "input": None})
    said: list[dict[str, Any]] = []
    for error in found:
        if error["type"] != "union":
            said.append(error)
            continue
        at = error["loc"]
        fitting = [own for own in branches[at].values() if not any(wrong_kind(e, at) for e in own)]
        all_of_them = list(branches[at].values())
        if fitting:
            said += fitting[0]
        else:
            first = all_of_them[0][0]
            said.append(
                {**first, "msg": " or ".join(dict.fromkeys(message(own[0]) for own in all_of_them))}
            )
    inside = {tuple(e["loc"])[:-1] for e in said}
    return [e for e in said if e["type"] != "too_short" or tuple(e["loc"]) not in inside]


def located(loc: tuple[Any, ...], value: Any, kind: str) -> tuple[tuple[Any, ...], Any | None]:
    """Where in the data a finding is, and the first branch of a union that it names, or None."""
    place: list[Any] = []
    branch = None
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            value = value[step]
        elif last and (kind == "missing" or step == "[key]"):
            pass
        elif isinstance(value, dict) and any(str(k) == str(step) for k in value):
            value = next(v for k, v in value.items() if str(k) == str(step))
        else:
            branch = step if branch is None else branch
            continue
        place.append(step)
    return tuple(place), branch


def wrong_kind(error: dict[str, Any], at: tuple[Any, ...]) -> bool:
    """Whether a branch is not the one that was meant: the value is of another kind altogether."""
    kind = str(error["type"])
    return tuple(error["loc"]) == at and (kind.endswith("_type") or kind == "literal_error")


def message(error: dict[str, Any]) -> str:
    """Pydantic's sentence in our words."""
    said = str(error["msg"]).replace("Input should be", "must be")
    said = said.replace("a valid tuple", "a list")
    return re.sub(
        r"(?:Tuple|List|Dictionary|Set|String|Value) should have (at \w+ \d+ \w+)(?: after validation)?"
        r"(?:, not \d+)?",
        r"must have \1",
        said,
    )


def explained(error: dict[str, Any], model: type[BaseModel], where: Path_) -> tuple[str, Path_]:
    """Pydantic's finding as a sentence, and where it applies."""
    loc = tuple(error["loc"])
    if loc[1:] and loc[-1] == "[key]":  # pydantic's mark behind a key that is itself at fault
        loc = loc[:-1]
    at, named = where + loc, ".".join(map(str, (*where[1:], *loc))) or str(where[-1])
    kind, context = error["type"], error.get("ctx", {})
    if kind == COMPLAINT:
        return str(error["msg"]), at
    if kind == CHOICE:
        who = " ".join(map(str, (str(where[0]).removesuffix("s"), *where[1:])))
        return f"{who}: {error['msg']}", (*at, context["key"])
    if kind == "model_type" and not loc:
        return f"{where[-1]} takes keys and values; {choices('', field_names(model))}", at
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
        at += problem.at if isinstance(problem, FieldError) else ()
        return f"{'.'.join(map(str, at))}: {problem}", at
    if kind == "literal_error":
        given = str(error["input"])
        return (
            f"{named}: {given!r} is not valid; {choices(given, literals(str(context['expected'])))}",
            at,
        )
    said = re.sub(
        r"a valid dictionary( or instance of \w+)?", "a mapping of keys and values", message(error)
    )
    return f"{named}: {said}, got {short(error['input'])}", at


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
