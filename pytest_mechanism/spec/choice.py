"""Building blocks of the spec model: values with an error of their own, mappings from names to parts, and
parts whose model one of their keys names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pytest_mechanism.errors import choices
from pytest_mechanism.spec.explain import CHOICE, COMPLAINT, short
from pytest_mechanism.tasks.base import Task
from pytest_mechanism.tasks.files import FOLDER

NAME = "^[A-Za-z_][A-Za-z0-9_]{0,99}$"
"""A valid name of a circuit, group or claim."""


def is_name(text: str) -> bool:
    """Whether a text is a valid name."""
    return re.fullmatch(NAME, text) is not None


Name = Annotated[str, StringConstraints(strict=True, pattern=NAME)]

MOST = 500
"""Groups, and claims, of a spec."""

TASK_FOLDER = "task folder"
"""Validation context: the folder that the task's files are relative to."""


@dataclass(frozen=True)
class Complaint:
    """The error message for any invalid value.

    Attributes:
        text: the message; ``{value}`` is replaced by the value.
    """

    text: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self.check, handler(source))

    def check(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(COMPLAINT, self.text, {"value": short(value)}) from None


@dataclass(frozen=True)
class Entries:
    """A mapping from names to parts.

    Attributes:
        what: key of the spec.
        text: the message for a value that is no such mapping.
        least: the smallest number of entries.
    """

    what: str
    text: str
    least: int = 0

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        (part,) = handler(schema)["patternProperties"].values()
        return {
            "type": "object",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": part,
            "minProperties": self.least,
            "maxProperties": MOST,
        }

    def check(self, value: Any) -> Any:
        if not isinstance(value, dict) or len(value) < self.least:
            raise PydanticCustomError(COMPLAINT, self.text)
        if len(value) > MOST:
            raise PydanticCustomError(
                COMPLAINT,
                "{what}: {count} {what}, a spec has at most {most}",
                {"what": self.what, "count": f"{len(value):,}", "most": MOST},
            )
        return value


@dataclass(frozen=True)
class ByKey:
    """A part whose model one of its keys names, such as the ``kind`` of a claim.

    Attributes:
        key: the key.
        models: name -> model, called when needed because installed packages add theirs.
    """

    key: str
    models: Callable[[], Mapping[str, Any]]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        parts = [
            handler(self.model(m).__pydantic_core_schema__)
            for _, m in sorted(self.models().items())
        ]
        return {"oneOf": [handler.resolve_ref_schema(part) for part in parts]}

    def model(self, choice: Any) -> type[BaseModel]:
        """The pydantic model of an entry."""
        model: type[BaseModel] = choice
        return model

    def chosen(self, value: Any) -> Any:
        """The entry of ``models`` that a part names.

        Raises:
            PydanticCustomError: it names no entry.
        """
        models = self.models()
        name = value.get(self.key) if isinstance(value, dict) else None
        if isinstance(name, str) and name in models:
            return models[name]
        wrong = f"unknown {self.key} {name!r}" if name is not None else f"needs a {self.key}"
        message = f"{wrong}; {choices(str(name), models)}"
        raise PydanticCustomError(CHOICE, "{message}", {"message": message, "key": self.key})

    def check(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, BaseModel):
            return value
        return self.chosen(value).model_validate(value, context=info.context)


class TaskByFamily(ByKey):
    """A task, whose ``family`` names its parameters."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.check,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda task: task.settings.model_dump(mode="json")
            ),
        )

    def model(self, choice: Any) -> type[BaseModel]:
        parameters: type[BaseModel] = choice.parameters
        return parameters

    def check(self, value: Any, info: ValidationInfo) -> Task:
        if isinstance(value, Task):
            return value
        family: type[Task] = self.chosen(value)
        context = info.context or {}
        context = {**context, FOLDER: context.get(TASK_FOLDER)}
        return family(family.parameters.model_validate(value, context=context))
