"""A group whose heads are searched and not found makes the claims that need it red, with a sentence."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.causes import Cause
from pytest_mechanism.discovery.discover import Discovery, Effort
from pytest_mechanism.fields.groups import AnyGroup, Group
from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.runner import evaluator
from pytest_mechanism.runner.undiscovered import missing_groups
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Verdict

HEAD = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 60, seed: 0}
groups:
  value_fetcher: {heads: discovered, at: last, find: {drops_at_least: LEAST}}
  pos_transmitter: {heads: discovered, at: last, into: {group: value_fetcher, via: q}}
claims:
"""
CLAIMS = {
    "attends": "group: pos_transmitter, to: query_label, at_least: 0.5",
    "cmap": "group: pos_transmitter, donor: ft, recipient: base, recovers_at_least: 0.3",
    "completeness": "at_most: 0.5",
    "encodes": "group: pos_transmitter, variable: position, at_least: 0.5",
    "faithfulness": "between: [0.9, 1.1]",
    "independence": "at_most: 0.3",
    "minimality": "groups: [pos_transmitter], costs_at_least: 0.05",
    "path": "group: pos_transmitter, drops_at_least: 0.2",
    "same_profile": "from: base, to: ft, margin: 0.25",
    "sufficiency": "",
    "transfer": "from: base, to: ft, faithfulness_at_least: 0.8",
}
"""A claim of each kind that is about the circuit or about its second group."""

ON_BASE = ("cmap", "same_profile", "transfer")
"""Kinds that compare a pair, whose heads are searched on the release here."""

READER = "reader: {kind: path, group: value_fetcher, drops_at_least: 0.2}"
WHY = "no head of ft passes the threshold of group pos_transmitter"


def verdicts(
    folder: Path, claims: list[str], *, least: float = 0.1, pair: str = "planted"
) -> dict[str, Verdict]:
    """``claim.role`` -> verdict, through the gate's own judgement."""
    spec = folder / "spec.yaml"
    spec.write_text(HEAD.replace("LEAST", str(least)) + "".join(f"  {claim}\n" for claim in claims))
    models = f"base=zoo:{pair}_base,ft=zoo:{pair}_ft"
    gate = open_evaluator("--model-pair", models, "--store", folder / "store")
    loaded = load(spec)
    items = [(n, c, role) for n, c in loaded.claims.items() for role in c.roles()]
    gate.plan([(loaded, claim, role) for _, claim, role in items])
    found = {f"{n}.{role}": gate.judge(loaded, claim, role) for n, claim, role in items}
    gate.runner.checkpoint.release()
    return found


def finds(*names: str, at_chance: bool = False) -> object:
    """A search that finds the same head for these groups, and none for the others."""

    def discover(context: object, on: str, *_: object) -> Discovery:
        found = {name: Group(heads={3: [1]}, at="last") for name in names}
        missing = {
            name: f"no head of {on} passes the threshold of group {name}"
            for name in ("value_fetcher", "pos_transmitter")
            if name not in names
        }
        reason = f"{on} answers no better than chance" if at_chance else "no heads found"
        return Discovery(found, (), None, reason, at_chance=at_chance, missing=missing)

    return discover


def test_every_kind_about_groups_has_a_claim_here() -> None:
    """overlap searches itself, and says what its searches found."""
    about_groups = {name for name, kind in claim_kinds().items() if kind.needs_groups}
    assert {*CLAIMS} == about_groups - {"overlap"}


def test_a_claim_that_lacks_heads_is_inconclusive_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error and no traceback: the model has no such heads, whatever the kind of claim."""
    monkeypatch.setattr(evaluator, "discover", finds("value_fetcher"))
    claims = []
    for kind, fields in CLAIMS.items():
        on = "" if kind in ON_BASE else "on: ft"
        claims.append(f"{kind}: {{{', '.join(filter(None, [f'kind: {kind}', fields, on]))}}}")
    found = verdicts(tmp_path, claims)
    assert {name: (v.status, v.reason, v.cause) for name, v in found.items()} == {
        f"{kind}.{'pair' if kind in ON_BASE else 'ft'}": (
            "inconclusive",
            WHY.replace("ft", "base") if kind in ON_BASE else WHY,
            Cause.REFERENCE_FAILS if kind in ON_BASE else Cause.NO_HEADS,
        )
        for kind in CLAIMS
    }


def test_a_group_that_was_found_is_judged_although_another_was_not() -> None:
    """A claim needs the group that it names and this group's readers; a claim without a group needs all."""
    groups: dict[str, AnyGroup] = {
        "a": Group(heads={3: [1]}, at="last"),
        "b": Group(heads={2: [1]}, at="last", into={"group": "a", "via": "q"}),
    }
    kinds = claim_kinds()
    about_a, about_b = (
        kinds["path"].model_validate({"kind": "path", "group": name, "drops_at_least": 1})
        for name in groups
    )
    whole = kinds["faithfulness"].model_validate({"kind": "faithfulness", "between": [0.9, 1.1]})
    found_a, found_b = (Discovery({name: groups[name]}, (), None) for name in groups)
    assert [missing_groups(c, groups, found_a) for c in (about_a, about_b, whole)] == [
        [],
        ["b"],
        ["b"],
    ]
    assert [missing_groups(c, groups, found_b) for c in (about_a, about_b, whole)] == [
        ["a"],
        ["a"],
        ["a"],
    ]


def test_a_model_that_guesses_is_at_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was searched, and the sentence says so instead of naming a threshold."""
    monkeypatch.setattr(evaluator, "discover", finds(at_chance=True))
    (base, ft) = verdicts(tmp_path, [READER]).values()
    assert (ft.status, ft.reason, ft.cause) == (
        "inconclusive",
        "ft answers no better than chance",
        Cause.AT_CHANCE,
    )
    assert base.cause is Cause.REFERENCE_FAILS


def test_a_search_on_a_model_names_the_strongest_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted head has an effect of some seven nats; a threshold of a hundred is out of its reach. The group
    that it would read cannot be searched, and says why."""
    few = partial(Effort, rank_rows=30, select_rows=42, threshold_rows=105)
    monkeypatch.setattr(evaluator, "Effort", few)
    sender = "sender: {kind: path, group: pos_transmitter, drops_at_least: 0.2, on: ft}"
    found = verdicts(tmp_path, [READER.replace("}", ", on: ft}"), sender], least=100)
    reader, sent = found["reader.ft"], found["sender.ft"]
    assert (reader.status, reader.cause) == ("inconclusive", Cause.NO_HEADS)
    assert reader.reason.startswith(
        "no head of ft passes the threshold of group value_fetcher: the largest effect is -"
    )
    assert reader.reason.endswith(", and the spec requires -100")
    assert sent.reason == (
        f"{reader.reason}; no head of ft can be in group pos_transmitter, since none was found for its "
        "readers, value_fetcher"
    )
