"""Which claim kinds and task families there are: ours, and those of installed packages."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pytest_mechanism.errors import MechanismError

CLAIMS = {
    "accuracy": "pytest_mechanism.claims.accuracy:Accuracy",
    "faithfulness": "pytest_mechanism.claims.faithfulness:Faithfulness",
    "encodes": "pytest_mechanism.claims.encodes:Encodes",
    "cmap": "pytest_mechanism.claims.cmap:Cmap",
    "minimality": "pytest_mechanism.claims.minimality:Minimality",
    "path": "pytest_mechanism.claims.path:Path",
    "suppression_holds": "pytest_mechanism.claims.suppression_holds:SuppressionHolds",
    "refuses_after_prefill": "pytest_mechanism.claims.refuses_after_prefill:RefusesAfterPrefill",
    "direction": "pytest_mechanism.claims.direction:Direction",
    "suppression_holds_after": "pytest_mechanism.claims.suppression_holds_after:SuppressionHoldsAfter",
    "capability_hidden": "pytest_mechanism.claims.capability_hidden:CapabilityHidden",
    "resists_jailbreak": "pytest_mechanism.claims.resists_jailbreak:ResistsJailbreak",
    "resists_revival": "pytest_mechanism.claims.resists_revival:ResistsRevival",
    "decodable": "pytest_mechanism.claims.decodable:Decodable",
    "localised": "pytest_mechanism.claims.localised:Localised",
    "spares_safety_weights": "pytest_mechanism.claims.spares_safety_weights:SparesSafetyWeights",
    "transfer": "pytest_mechanism.claims.transfer:Transfer",
}

TASKS = {
    "entity_tracking": "pytest_mechanism.tasks.families.entity_tracking:EntityTracking",
    "counting": "pytest_mechanism.tasks.families.counting:Counting",
    "refusal": "pytest_mechanism.tasks.families.refusal:Refusal",
    "jsonl": "pytest_mechanism.tasks.families.jsonl:Jsonl",
    "ioi": "pytest_mechanism.tasks.families.ioi:Ioi",
    "greater_than": "pytest_mechanism.tasks.families.greater_than:GreaterThan",
    "induction": "pytest_mechanism.tasks.families.induction:Induction",
    "template": "pytest_mechanism.tasks.families.template:Template",
}


def resolve(dotted: str) -> Any:
    """Import ``package.module:name``."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


@cache
def claim_kinds() -> dict[str, Any]:
    """Kind -> subclass of `Claim`."""
    return _all(CLAIMS, "pytest_mechanism.claims")


@cache
def task_families() -> dict[str, Any]:
    """Family -> subclass of `Task`."""
    return _all(TASKS, "pytest_mechanism.tasks")


def _all(ours: dict[str, str], group: str) -> dict[str, Any]:
    found = {name: resolve(dotted) for name, dotted in ours.items()}
    for point in entry_points(group=group):
        if point.name in found:
            raise MechanismError(
                f"{point.value} registers {point.name!r} in {group}, which exists already"
            )
        try:
            found[point.name] = point.load()
        except Exception as problem:
            raise MechanismError(
                f"the entry point {point.name} = {point.value} of {group} cannot be loaded: {problem}"
            ) from problem
    return found
