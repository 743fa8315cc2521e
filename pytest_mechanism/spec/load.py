"""From a YAML file to a validated `Spec`.

Pydantic validates the parts; this module turns its findings into lines with file, line, what is wrong
and the valid choices, and checks what crosses parts (a claim's group exists, a group's position is one
of the task's).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pytest_mechanism.errors import SpecError, choices
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.across import contradictions, infeasible
from pytest_mechanism.spec.choice import TASK_FOLDER
from pytest_mechanism.spec.explain import COMPLAINT, explain, models_in, one_branch
from pytest_mechanism.spec.extends import extended
from pytest_mechanism.spec.spec import BY_FAMILY, BY_KIND, DOCUMENT, PATH, Spec, ValidParts
from pytest_mechanism.spec.yaml import Document, Place, read
from pytest_mechanism.tasks.files import FOLDER

MOST_PROBLEMS = 100
"""Problems of one file that are reported."""


class SpecErrors(SpecError):
    """Everything that is wrong with a file; its text is the first problem."""

    def __init__(self, problems: list[SpecError]) -> None:
        self.problems = sorted(problems, key=_line_of)
        super().__init__(self.problems[0].message, self.problems[0].where)


def load(path: Path, shown: Path | None = None, beside: Path | None = None) -> Spec:
    """Read and validate a spec.

    Args:
        path: of the spec.
        shown: how errors name the file.
        beside: the folder of the files that its task names; its own by default.

    Raises:
        SpecErrors: with every problem.
        SpecError: the file is not readable YAML.
    """
    own = read(path, shown)
    document = extended(own, path)
    folder = path.parent if beside is None else beside
    if isinstance(own.value, dict) and "task" not in own.value and "extends" in own.value:
        folder = (folder / own.value["extends"]).parent  # a task's files lie beside its own spec
    context = {DOCUMENT: document, PATH: path, FOLDER: beside or path.parent, TASK_FOLDER: folder}
    return _Loader(document, context).spec()


class _Loader:
    def __init__(self, document: Document, context: dict[str, Any]) -> None:
        self.document = document
        self.context = context
        self.errors: list[SpecError] = []

    def problem(self, message: str, where: Place = ()) -> None:
        self.errors.append(self.document.error(message, where))
        if len(self.errors) == MOST_PROBLEMS:  # nobody reads more
            raise SpecErrors(self.errors)

    def problems(self, several: Iterable[tuple[str, Place]]) -> None:
        for message, where in several:
            self.problem(message, where)

    def spec(self) -> Spec:
        spec = self.valid_parts(self.known_keys())
        self.problems(contradictions(spec, self.document.value))
        if not self.errors:
            self.problems(infeasible(spec))
        if self.errors:
            raise SpecErrors(self.errors)
        return spec

    def known_keys(self) -> dict[str, Any]:
        """The top level of the file without unknown keys; required keys that are missing are None."""
        top = self.document.value
        keys = Spec.model_fields
        if not isinstance(top, dict):
            self.problem("a spec is a mapping; its first key is 'mechanism: 1'")
            raise SpecErrors(self.errors)
        if next(iter(top), None) != "mechanism":
            self.problem("the first key of a spec is 'mechanism: 1'", tuple(list(top)[:1]))
        unknown = [key for key in top if key not in keys]
        for key in unknown:
            self.problem(f"unknown key {key!r}; {choices(str(key), keys)}", (key,))
        missing = [key for key in keys if key not in top]
        if any(difflib.get_close_matches(str(key), missing) for key in unknown):
            # a misspelt key: errors about the missing key would only hide it
            raise SpecErrors(self.errors)
        needed = [key for key, field in keys.items() if field.is_required()]
        return dict.fromkeys(needed) | {key: top[key] for key in top if key in keys}

    def valid_parts(self, value: dict[str, Any]) -> Spec:
        """The spec; if it is invalid, its valid parts, after noting what is wrong with the others."""
        try:
            return Spec.model_validate(value, context=self.context)
        except ValidationError as problem:
            errors = [dict[str, Any](error) for error in problem.errors()]
        misnamed = {e["loc"][:2] for e in errors if e["type"] == COMPLAINT and len(e["loc"]) > 1}
        errors = [e for e in errors if e["type"] == COMPLAINT or e["loc"][:2] not in misnamed]
        for error in one_branch(errors, value):
            where, model = part_at(error["loc"], value)
            self.problem(*explain({**error, "loc": error["loc"][len(where) :]}, model, where))
        wrong = {part_at(error["loc"], value)[0] for error in errors}
        for key in ("groups", "claims"):
            if isinstance(part := value.get(key), dict):
                valid = {name: entry for name, entry in part.items() if (key, name) not in wrong}
                value = value | {key: valid} if valid else {k: value[k] for k in value if k != key}
        value = {key: part for key, part in value.items() if (key,) not in wrong}
        try:
            return ValidParts.model_validate(value, context=self.context)
        except ValidationError:  # a lone surrogate in a name, which pydantic replaces
            raise SpecErrors(self.errors) from None


def part_at(loc: Place, value: dict[str, Any]) -> tuple[Place, type[BaseModel]]:
    """The path and the model of the part of a spec that an error is in."""
    key = loc[0]
    if key == "task":
        return loc[:1], BY_FAMILY.model(value[key]) or Spec
    if key == "groups" and len(loc) > 1:
        return loc[:2], Group
    if key == "claims" and len(loc) > 1:
        return loc[:2], BY_KIND.model(value[key].get(loc[1])) or Spec
    return loc[:1], next(models_in(Spec.model_fields[str(key)].annotation), Spec)


def _line_of(problem: SpecError) -> int:
    return int((problem.where or ":1").rsplit(":", 1)[1])
