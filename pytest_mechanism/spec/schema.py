"""A JSON Schema of spec files, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.applies_to import AppliesTo
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.fields.thresholds import LEAST_CONFIDENCE, Atol, Drift
from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.load import IDENTIFIER

NAME = f"^{IDENTIFIER.pattern}$"


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 with every installed claim kind and task family."""
    definitions: dict[str, Any] = {}

    def of(kind: Any) -> dict[str, Any]:
        found = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        definitions.update(found.pop("$defs", {}))
        return found

    claims = [of(kind) for _, kind in sorted(claim_kinds().items())]
    tasks = [of(family.parameters) for _, family in sorted(task_families().items())]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-mechanism spec",
        "type": "object",
        "additionalProperties": False,
        "required": ["mechanism", "circuit", "claims"],
        "properties": {
            "mechanism": {"const": 1, "description": "version of the format; the first key"},
            "circuit": {"type": "string", "pattern": NAME},
            "extends": {"type": "string", "description": "a spec beside this one"},
            "applies_to": of(AppliesTo),
            "task": {"oneOf": tasks},
            "groups": {
                "type": "object",
                "propertyNames": {"pattern": NAME},
                "additionalProperties": of(AnyGroup),
            },
            "found_on": {"type": "string"},
            "ablation": of(Ablation),
            "confidence": {"type": "number", "minimum": LEAST_CONFIDENCE, "exclusiveMaximum": 1},
            "atol": of(Atol),
            "drift": of(Drift),
            "claims": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": NAME},
                "additionalProperties": {"oneOf": claims},
            },
        },
        "$defs": definitions,
    }
