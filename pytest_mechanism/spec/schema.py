"""The JSON Schema of spec files, for editors."""

from __future__ import annotations

from typing import Any

from pytest_mechanism.spec.spec import Spec


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 with every installed claim kind and task family."""
    fields = Spec.model_json_schema()
    for key in ("groups", "claims"):  # a pattern of keys alone lets other keys pass
        mapping = fields["properties"][key]
        ((pattern, part),) = mapping.pop("patternProperties").items()
        mapping |= {"propertyNames": {"pattern": pattern}, "additionalProperties": part}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **fields,
        "title": "pytest-mechanism spec",
        "description": "a circuit and what is claimed of it",
        "required": [
            key for key in fields["required"] if key in Spec.OWN
        ],  # others may be extended
    }
