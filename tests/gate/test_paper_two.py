"""The specs of the second paper's three worlds: each pair has its accepted scores, and its gate is green."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.plugin.score_file import read_scores
from pytest_mechanism.spec.load import load
from recipes.compiled_revival import judged

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "circuits" / "paper_two"
MODELS = SPECS / "models"

COUNTER = f"counter={MODELS / 'counter'},counter_high={MODELS / 'counter_high'}"
OF_COUNTER = (f"control={MODELS / 'counter_none'}", f"pretrained={MODELS / 'counter'}")
GRAMMAR, OF_GRAMMAR = "zoo:pcfg_base,zoo:pcfg_ft_100", ("control=zoo:pcfg_none",)
OF_STORIES = ("control=zoo:stories_none",)


def stories(deletion: str) -> str:
    return f"zoo:stories_base,zoo:stories_{deletion}"


PAIRS: list[tuple[str, str, tuple[str, ...]]] = [
    ("compiled", COUNTER, ()),
    ("counter_removed", COUNTER, OF_COUNTER),
    ("pcfg", GRAMMAR, OF_GRAMMAR),
    ("pcfg_correlated", GRAMMAR, OF_GRAMMAR),
    *(
        ("stories", stories(deletion), OF_STORIES)
        for deletion in ("filtered", "kept", "renamed", "refused")
    ),
    ("stories_probe", stories("kept"), OF_STORIES),
    ("real_removal", "zoo:wrapper_base,zoo:wrapper_safe", ()),
]
"""Spec, pair, further models."""

MINUTES = {"counter_removed", "pcfg", "pcfg_correlated", "stories", "stories_probe", "real_removal"}
"""Specs that train or probe for a quarter of a minute or more."""

NOT_RUN = {stories(deletion) for deletion in ("filtered", "renamed", "refused")}
"""Pairs whose gate takes six minutes and would train the same control once more as that of `stories_kept`, of which
one training in three runs."""

Gate = Any
"""conftest's."""


def labels(pair: str) -> str:
    """The folder of the pair's accepted scores."""
    return "+".join(side.partition("=")[0].removeprefix("zoo:") for side in pair.split(","))


def test_every_spec_has_a_pair() -> None:
    assert {spec for spec, *_ in PAIRS} == {path.stem for path in SPECS.glob("*.yaml")}


@pytest.mark.parametrize(("spec", "pair", "others"), PAIRS)
def test_every_claim_has_an_accepted_score_for_every_role(
    spec: str, pair: str, others: tuple[str, ...]
) -> None:
    """And one claim at least judges the candidate, without which a run is red."""
    scores = read_scores(SPECS / "__scores__" / labels(pair) / f"{spec}.json")
    claims = load(SPECS / f"{spec}.yaml").claims
    assert {*scores} == {
        f"{name}.{role}" for name, claim in claims.items() for role in claim.roles()
    }
    assert any(name.endswith((".ft", ".pair")) for name in scores)


@pytest.mark.parametrize(
    ("spec", "pair", "others"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case[0] in MINUTES else [], id=" ".join(
            (case[0], labels(case[1]))
        ))
        for case in PAIRS
        if case[1] not in NOT_RUN and case[0] not in ("stories", "counter_removed")
    ],
)  # fmt: skip
def test_its_gate_is_green_with_the_accepted_scores(
    gate: Gate, spec: str, pair: str, others: tuple[str, ...]
) -> None:
    green_with_the_accepted_scores(gate, spec, pair, others)


def green_with_the_accepted_scores(
    gate: Gate, spec: str, pair: str, others: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The claims of the run."""
    code, content, output = gate.run(pair, *further(others), spec=f"paper_two/{spec}")
    assert code == 0, output
    assert {claim["verdict"] for claim in content["claims"]} == {"pass"}
    assert {claim["drift_state"] for claim in content["claims"]} == {"same"}
    claims: list[dict[str, Any]] = content["claims"]
    return claims


@pytest.mark.slow
def test_the_counter_at_the_highest_rate_is_judged_removed_by_gate_and_recipe(gate: Gate) -> None:
    """The paper's counterexample, by all four kinds of evidence. The recipe takes what the gate has measured."""
    (claim,) = green_with_the_accepted_scores(gate, "counter_removed", COUNTER, OF_COUNTER)
    names = ("counter_high", "counter_none", "counter")
    verdict = judged(*(MODELS / name for name in names), gate.shared / "store")
    assert (verdict.status, verdict.reason) == (claim["verdict"], claim["reason"])
    assert verdict.reason.startswith("the capability is removed: behaviour gone")


@pytest.mark.slow
def test_a_deleted_twist_comes_back_in_the_first_of_three_trainings(gate: Gate) -> None:
    """Three trainings of both models take six minutes of a processor. A control that is not there at the last step
    counts with this step, so that the accepted score of 80 steps holds for 50 in proportion."""
    folder = gate.folder / "circuits" / "paper_two"
    first = (folder / "stories.yaml").read_text()
    for shipped, shorter in (("seeds: [0, 1, 2]", "seeds: [0]"), ("steps: 80", "steps: 50")):
        assert shipped in first
        first = first.replace(shipped, shorter)
    (folder / "first.yaml").write_text(first)
    code, content, output = gate.run(stories("kept"), *further(OF_STORIES), spec="paper_two/first")
    assert code == 0, output
    found = {claim["claim"]: claim for claim in content["claims"]}
    assert {claim["verdict"] for claim in found.values()} == {"pass"}
    accepted = read_scores(SPECS / "__scores__" / labels(stories("kept")) / "stories.json")
    low, high = accepted["comes_back.ft"]["interval"]
    assert low * 50 / 80 <= found["comes_back"]["score"] <= high


def further(others: tuple[str, ...]) -> list[str]:
    return [word for other in others for word in ("--mechanism-model", other)]
