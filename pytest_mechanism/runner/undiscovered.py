"""Claims about groups whose heads were searched and not found: which those are, and their verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_mechanism.claims.base import REFERENCE, Claim
from pytest_mechanism.discovery.discover import Discovery
from pytest_mechanism.fields.groups import AnyGroup
from pytest_mechanism.statistics import verdicts
from pytest_mechanism.types import Verdict


def missing_groups(claim: Claim, groups: Mapping[str, AnyGroup], discovery: Discovery) -> list[str]:
    """The groups that a claim is about and the search did not find.

    A claim that names groups needs these and their readers, up to the answer; any other claim is about the
    whole circuit.
    """
    named = [reference.name for reference in claim.references() if reference.kind == "group"]
    return [name for name in with_readers(named or groups, groups) if name not in discovery.groups]


def with_readers(names: Iterable[str], groups: Mapping[str, AnyGroup]) -> dict[str, None]:
    """The groups and all that read them, without repetitions."""
    found: dict[str, None] = {}
    for name in names:
        reader: str | None = name
        while reader is not None and reader not in found:
            found[reader] = None
            into = groups[reader].into
            reader = into.group if into else None
    return found


def verdict_without_heads(discovery: Discovery, missing: Iterable[str], on: str) -> Verdict:
    """The verdict on a claim that lacks heads.

    Args:
        discovery: the search.
        missing: groups that the claim is about and the search did not find.
        on: role of the model that was searched.
    """
    if discovery.at_chance:
        verdict = verdicts.at_chance(discovery.reason or "", "")
    else:
        wanted = {*missing}  # the search lists readers before the groups that they read
        why = [reason for name, reason in discovery.missing.items() if name in wanted]
        verdict = verdicts.no_heads("; ".join(why), "")
    return verdicts.of_reference(verdict) if on == REFERENCE else verdict
