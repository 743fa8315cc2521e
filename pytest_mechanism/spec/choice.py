"""Building blocks of the spec model: values with their own error messages, mappings from names to parts,
and parts whose model one of their keys names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pytest_mechanism.errors import choices
from pytest_mechanism.spec.explain import CHOICE, COMPLAINT, short
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import FOLDER

NAME = "^[A-Za-z_][A-Za-z0-9_]{0,99}$"
"""A valid name of a circuit, group or claim."""

Name = Annotated[str, StringConstraints(strict=True, pattern=NAME)]

MOST = 500
"""Groups, and claims, of a spec."""

TASK_FOLDER = "task folder"
"""Validation context: the folder that the task's files are relative to."""


def complaint(text: str) -> WrapValidator:
    """One message for any invalid value; ``{value}`` in it is replaced by the value."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError(COMPLAINT, text, {"value": short(value)}) from None

    return WrapValidator(check)


def entries(key: str, text: str, least: int) -> BeforeValidator:
    """Messages for a key of a spec that is no mapping of ``least`` to `MOST` entries."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict) or len(value) < least:
            as_list = " (not a list: no '-' before them)" if isinstance(value, list) else ""
            raise PydanticCustomError(COMPLAINT, "{text}", {"text": f"{text}{as_list}"})
        if len(value) > MOST:
            too_many = f"{key}: {len(value):,} {key}, a spec has at most {MOST}"
            raise PydanticCustomError(COMPLAINT, "{text}", {"text": too_many})
        return value

    return BeforeValidator(check)


@dataclass(frozen=True)
class ByKey:
    """A part whose model one of its keys names: the ``kind`` of a claim, the ``family`` of a task.

    Attributes:
        key: the key.
        choices: name -> claim kind or task family, called when needed because installed packages add theirs.
    """

    key: str
    choices: Callable[[], Mapping[str, Any]]

    def model(self, part: Any) -> type[BaseModel] | None:
        """The model of a part, or None if it names none that exists."""
        choice = self._choice(part)
        return None if choice is None else _model(choice)

    def _choice(self, part: Any) -> Any:
        name = part.get(self.key) if isinstance(part, dict) else None
        return self.choices().get(name) if isinstance(name, str) else None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        models = [_model(choice) for _, choice in sorted(self.choices().items())]
        parts = [handler(model.__pydantic_core_schema__) for model in models]
        return {"oneOf": [handler.resolve_ref_schema(part) for part in parts]}

    def check(self, part: Any, info: ValidationInfo) -> Any:
        choice = self._choice(part)
        if choice is None:
            name = part.get(self.key) if isinstance(part, dict) else None
            problem = f"needs a {self.key}" if name is None else f"unknown {self.key} {name!r}"
            message = f"{problem}; {choices(str(name), self.choices())}"
            raise PydanticCustomError(CHOICE, "{message}", {"message": message, "key": self.key})
        context = info.context or {}
        if not issubclass(choice, Task):
            return choice.model_validate(part, context=context)
        context = {**context, FOLDER: context.get(TASK_FOLDER)}
        return choice(choice.parameters.model_validate(part, context=context))


def _model(choice: Any) -> type[BaseModel]:
    """The model of a claim kind, which it is itself, or of the settings of a task family."""
    model: type[BaseModel] = choice.parameters if issubclass(choice, Task) else choice
    return model
