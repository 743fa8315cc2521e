"""Pydantic's errors as messages that name the valid choices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from pytest_mechanism.errors import FieldError, choices
from pytest_mechanism.spec.yaml import Place

COMPLAINT = "complaint"
"""Type of an error whose text is the whole message."""

CHOICE = "choice"
"""Type of an error in the key that names a part's model."""


def one_branch(errors: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    """Pydantic's errors, with those of a single branch for each union, at their places in the data.

    Pydantic tries every branch of a union and reports the errors of all of them, with the name of the branch
    in the place: for ``depth: 0`` that 0 is too small a number, and that it is no list. The branch that was
    meant is the one that takes this kind of value.
    """
    branches: dict[tuple[Any, ...], dict[Any, list[dict[str, Any]]]] = {}
    in_order: list[dict[str, Any]] = []
    for error in errors:
        place, branch = locate(tuple(error["loc"]), value, error["type"])
        if branch is None:
            in_order.append(error)
            continue
        union = place[: tuple(error["loc"]).index(branch)]
        in_branch = branches.setdefault(union, {}).setdefault(branch, [])
        in_branch.append({**error, "loc": place})
        if len(branches[union]) == 1 and len(in_branch) == 1:
            in_order.append({"loc": union, "type": "union", "msg": "", "input": None})
    kept: list[dict[str, Any]] = []
    for error in in_order:
        if error["type"] != "union":
            kept.append(error)
            continue
        union = error["loc"]
        all_branches = list(branches[union].values())
        fitting = [b for b in all_branches if not any(is_wrong_kind(e, union) for e in b)]
        if fitting:
            kept += fitting[0]
        else:
            messages = dict.fromkeys(message(branch[0]) for branch in all_branches)
            kept.append({**all_branches[0][0], "msg": " or ".join(messages)})
    inside = {tuple(error["loc"])[:-1] for error in kept}
    return [e for e in kept if e["type"] != "too_short" or tuple(e["loc"]) not in inside]


def locate(loc: tuple[Any, ...], value: Any, kind: str) -> tuple[tuple[Any, ...], Any | None]:
    """The place of an error in the data, and the first branch of a union that its location names."""
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


def is_wrong_kind(error: dict[str, Any], union: tuple[Any, ...]) -> bool:
    """Whether the value is of another kind than the branch takes, so that the branch was not meant."""
    kind = str(error["type"])
    return tuple(error["loc"]) == union and (kind.endswith("_type") or kind == "literal_error")


def message(error: dict[str, Any]) -> str:
    """Pydantic's message in our words."""
    text = str(error["msg"]).replace("Input should be", "must be")
    text = text.replace("a valid tuple", "a list").replace("a valid boolean", "true or false")
    return re.sub(
        r"(?:Tuple|List|Dictionary|Set|String|Value) should have (at \w+ \d+ \w+)(?: after validation)?"
        r"(?:, not \d+)?",
        r"must have \1",
        text,
    )


def explain(error: dict[str, Any], model: type[BaseModel], where: Place) -> tuple[str, Place]:  # noqa: PLR0911 - a table of cases, one return each
    """An error in a part of a spec as a message, and its place."""
    loc = tuple(error["loc"])
    if loc[1:] and loc[-1] == "[key]":  # pydantic's mark of an error in a key
        loc = loc[:-1]
    at, named = where + loc, ".".join(map(str, (*where[1:], *loc))) or str(where[-1])
    kind, context = error["type"], error.get("ctx", {})
    if kind == COMPLAINT:
        return str(error["msg"]), at
    if kind == CHOICE:
        part = " ".join(map(str, (str(where[0]).removesuffix("s"), *where[1:])))
        return f"{part}: {error['msg']}", (*at, context["key"])
    if kind == "model_type" and not loc:
        return (
            f"{named}: must be a mapping of keys and values; {choices('', field_names(model))}",
            at,
        )
    parent = ".".join(map(str, (*where, *loc[:-1])))
    if kind == "extra_forbidden":
        valid = field_names(model, loc[:-1])
        return f"{parent}: unknown key {loc[-1]!r}; {choices(str(loc[-1]), valid)}", at
    if kind == "missing":
        if isinstance(loc[-1], int):
            return f"{parent}: needs {loc[-1] + 1} values", where + loc[:-1]
        return f"{parent}: key {loc[-1]!r} is missing", where + loc[:-1]
    if kind == "value_error":
        problem = context.get("error", error["msg"])
        at += problem.at if isinstance(problem, FieldError) else ()
        return f"{'.'.join(map(str, at))}: {problem}", at
    if kind == "literal_error":
        value = str(error["input"])
        valid = literals(str(context["expected"]))
        return f"{named}: {value!r} is not valid; {choices(value, valid)}", at
    text = re.sub(
        r"a valid dictionary( or instance of \w+)?", "a mapping of keys and values", message(error)
    )
    return f"{named}: {text}, got {short(error['input'])}{meant(error['input'], text)}", at


SHARE = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*(%?)\s*")


YES_AND_NO = {
    **dict.fromkeys(("true", "yes", "on", "1"), "true"),
    **dict.fromkeys(("false", "no", "off", "0"), "false"),
}
"""Other spellings of truth values, those of YAML 1.1 among them."""


def meant(value: Any, text: str) -> str:
    """What a number that is written as a percentage, with a comma or in quotes should be; empty where that is not
    known."""
    if "true or false" in text and (truth := YES_AND_NO.get(str(value).lower())):
        return f"; write {truth}"
    if "a valid number" not in text and "must lie between" not in text:
        return ""
    if isinstance(value, str) and (match := SHARE.fullmatch(value)):
        number = float(match[1].replace(",", "."))
        return f"; write {number / 100:g}" if match[2] else f"; write {number:g}, without quotes"
    if isinstance(value, (int, float)) and 1 < value <= 100 and " and 1 " in text:
        return f"; {value:g} % is {value / 100:g}"
    return ""


def literals(expected: str) -> list[str]:
    """Pydantic's ``'a', 'b' or 'c'`` as a list."""
    return re.findall(r"'([^']*)'", expected)


def field_names(model: type[BaseModel], inside: tuple[Any, ...] = ()) -> list[str]:
    """Keys of a part as they are written in YAML."""
    for step in inside:
        field = next((f for n, f in model.model_fields.items() if step in (n, f.alias)), None)
        if field is not None:
            model = next(models_in(field.annotation), model)
    return [f.alias or name for name, f in model.model_fields.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inside in get_args(annotation):
        yield from models_in(inside)


def short(value: Any) -> str:
    """A value, shortened for an error line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
