"""The JSON Schema that editors use."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pytest_mechanism.registry import claim_kinds, task_families
from pytest_mechanism.spec.schema import schema
from pytest_mechanism.tasks.writing.word_lists import BUILT_IN


def nodes(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from nodes(child)


def test_every_top_level_key_is_described() -> None:
    """An editor completes exactly the keys that a spec may have."""
    keys = "ablation applies_to atol circuit claims confidence drift extends found_on groups mechanism task"
    assert sorted(schema()["properties"]) == keys.split()


def test_no_other_key_is_valid() -> None:
    """An editor marks an unknown key, at the top and in every part."""
    closed = [
        node["additionalProperties"]
        for node in nodes(schema())
        if node.get("type") == "object" and "properties" in node
    ]
    assert (True, [False] * len(closed)) == (len(closed) >= len(claim_kinds()), closed)


def test_every_claim_kind_and_task_family_is_a_choice() -> None:
    """The schema lists the kinds and families of the registry as constants."""
    result = schema()["properties"]
    kinds = [
        choice["properties"]["kind"]["const"]
        for choice in result["claims"]["additionalProperties"]["oneOf"]
    ]
    families = [choice["properties"]["family"]["const"] for choice in result["task"]["oneOf"]]
    assert (sorted(claim_kinds()), sorted(task_families())) == (kinds, families)


def test_fields_are_called_as_in_yaml() -> None:
    """A field with another name in YAML (``from``) is described under that name."""
    (transfer,) = (
        choice
        for choice in schema()["properties"]["claims"]["additionalProperties"]["oneOf"]
        if choice["properties"]["kind"]["const"] == "transfer"
    )
    assert ("from" in transfer["properties"], "source" in transfer["properties"]) == (True, False)


def test_every_reference_leads_somewhere() -> None:
    """Each $ref names a definition within the schema."""
    result = schema()
    wanted = {node["$ref"] for node in nodes(result) if "$ref" in node}
    assert wanted == {f"#/$defs/{name}" for name in result["$defs"]}


@pytest.mark.parametrize("key", ["groups", "claims"])
def test_names_are_identifiers(key: str) -> None:
    """Names of groups and claims are held to the same pattern as by the loader."""
    assert schema()["properties"][key]["propertyNames"] == {
        "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,99}$"
    }


def test_the_schema_is_json() -> None:
    """What is printed can be read back."""
    assert json.loads(json.dumps(schema())) == schema()


def test_a_template_s_words_and_texts_may_be_said_in_each_of_their_ways() -> None:
    """As the loader takes them: words written out, by name, from a file or in a table; texts alone,
    with an answer, or in several orders."""
    result = schema()
    ways = result["$defs"]["WordList"]["anyOf"]
    assert [way["type"] for way in ways] == ["array", "string", "object", "object"]
    assert ways[1]["enum"] == sorted(BUILT_IN)
    (template,) = (
        choice
        for choice in result["properties"]["task"]["oneOf"]
        if choice["properties"]["family"]["const"] == "template"
    )
    either = [{"type": "string"}, {"$ref": "#/$defs/Wording"}]
    texts = template["properties"]["texts"]["items"]["anyOf"]
    assert texts == [*either, {"items": {"anyOf": either}, "type": "array"}]
    assert result["$defs"]["Source"]["properties"]["text"]["anyOf"][0]["const"] == "other"
