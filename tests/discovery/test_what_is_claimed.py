"""What ``discover`` writes and says about a circuit that does not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mechanism.checkpoints.reference import ZOO
from pytest_mechanism.commands.discover import Search
from pytest_mechanism.discovery import claims as drafting
from pytest_mechanism.discovery.claims import DraftClaim, carried_share
from pytest_mechanism.discovery.discover import Discovery, Effort
from pytest_mechanism.discovery.stages import Stage
from pytest_mechanism.discovery.write import spec_text
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Verdict

FOUND = Discovery(
    {"movers": Group(heads={1: [0]}, at="last")},
    (Stage("movers", "last", None, None, {}, {}, (), ()),),
    None,
)


def draft(name: str, status: Any, kind: str = "accuracy") -> DraftClaim:
    limit = {"between": [0.9, 1.1]} if kind == "faithfulness" else {"at_least": 0.5}
    return DraftClaim(name, {"kind": kind, **limit}, {"base": Verdict(status, "why", "limit")})


def search_with(claims: Sequence[DraftClaim]) -> Search:
    reference = SimpleNamespace(label="m")
    evaluator: Any = SimpleNamespace(runner=SimpleNamespace(references={"base": reference}))
    spec: Any = None
    return Search(evaluator, spec, Effort(), results={"base": FOUND}, claims=[*claims])


def test_without_a_claim_that_holds_the_spec_has_one_and_says_that_it_is_red(
    tmp_path: Path,
) -> None:
    """A spec needs a claim; nothing is written as if it held, and the line names no others."""
    claims = [draft("solves_task", "fail"), draft("circuit_suffices", "fail", "faithfulness")]
    spec = load(ZOO.parents[1] / "circuits" / "entity_tracking.yaml")
    (tmp_path / "found.yaml").write_text(spec_text(spec, FOUND, claims, "m", "1234", "base"))
    assert list(load(tmp_path / "found.yaml").claims) == ["solves_task"]
    assert [*search_with(claims).about_file(Path("found.yaml"))] == [
        "wrote found.yaml; none of its claims holds on m, and a spec needs a claim: it has solves_task, which is red"
    ]


def test_a_circuit_that_does_not_suffice_is_said_with_the_exit_code() -> None:
    """Whatever else holds; a circuit that suffices has no shortcoming."""
    holds = draft("solves_task", "pass")
    lacking = search_with([holds, draft("circuit_suffices", "inconclusive", "faithfulness")])
    assert [*lacking.shortcomings()] == [
        "circuit_suffices does not hold on m, so the exit code is 1"
    ]
    enough = search_with([holds, draft("circuit_suffices", "pass", "faithfulness")])
    assert [*enough.shortcomings()] == []


@pytest.mark.parametrize(
    ("low", "high", "share"),
    [(0.45, 0.62, [0.35, 1.1]), (0.95, 1.15, [0.85, 1.25]), (0.15, 0.3, None)],
)
def test_the_share_to_claim_is_outside_the_interval(
    monkeypatch: pytest.MonkeyPatch, low: float, high: float, share: list[float] | None
) -> None:
    """By a tenth on each side, up to a circuit that does more than the model; next to nothing is not claimed."""
    carried = Estimate((low + high) / 2, (low, high), 0.05, 315, 315)
    monkeypatch.setattr(drafting, "faithfulness", lambda *_: carried)
    context: Any = SimpleNamespace(groups=FOUND.groups, group=lambda name, _: FOUND.groups[name])
    measure: Any = None
    assert carried_share(context, "base", measure, Effort()) == share
