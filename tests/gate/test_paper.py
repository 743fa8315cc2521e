"""The three conclusions of Prakash et al. 2024, on pairs where they are true and where one of them is false."""

from __future__ import annotations

import re
import resource
import sys
from typing import Any

import pytest

SPEC = "entity_tracking_paper"
SAME_CIRCUIT = {"circuit_suffices", "same_circuit"}
SAME_FUNCTION = {
    "structure_holds_position",
    "detector_holds_position",
    "transmitter_holds_position",
    "transmitter_holds_no_label",
    "transmitter_holds_no_object",
    "fetchers_hold_object",
}
ENHANCED = {"circuit_enhanced", "fetchers_enhanced", "transmitter_enhanced"}

MOST_CPU_SECONDS = 300
"""Of the whole spec on the embedded pair."""

Gate = Any
"""conftest's."""


FEW = """
from functools import partial
from pytest_mechanism.runner import evaluator
evaluator.Effort = partial(evaluator.Effort, rank_rows=70, select_rows=42, threshold_rows=105)
"""
"""A plugin: a third of the rows for each step of a search."""


def fewer_rows(gate: Gate, pair: str) -> tuple[list[str], str]:
    """Options, and the name of a copy of the spec, with 210 rows in place of 504. On planted models, whose effects are
    ten nats, 105 and a third of those of the search."""
    folder, planted = gate.folder / "circuits", "planted" in pair
    shipped = (folder / f"{SPEC}.yaml").read_text()
    rows = re.sub(r"rows: \d+", f"rows: {105 if planted else 210}", shipped)
    fewer = re.sub(r"prompts: \d+", "prompts: 250", rows)
    assert fewer != shipped
    (folder / "fewer.yaml").write_text(fewer)
    (gate.folder / "few.py").write_text(FEW)
    return ["-p", "few"] if planted else [], "fewer"


def verdicts(content: dict[str, Any]) -> dict[str, str]:
    return {f"{c['claim']}::{c['role']}": c["verdict"] for c in content["claims"]}


@pytest.mark.slow
def test_the_three_conclusions_hold_of_the_trained_pair(gate: Gate) -> None:
    """Every claim passes; no interval of what must be there has 0 or the control's value in it; and the
    run takes at most five minutes of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, content, output = gate.run("zoo:base,zoo:ft", spec=SPEC, python=[sys.executable])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0, output
    assert {c["claim"] for c in content["claims"]} == SAME_CIRCUIT | SAME_FUNCTION | ENHANCED
    assert set(verdicts(content).values()) == {"pass"}
    assert {c["drift_state"] for c in content["claims"]} == {"same"}
    for claim in content["claims"]:
        if "_no_" not in claim["claim"]:
            assert claim["interval"][0] > max(0, claim["control"]["value"]), claim["id"]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < MOST_CPU_SECONDS


@pytest.mark.slow
def test_the_three_conclusions_hold_of_the_planted_pair(gate: Gate) -> None:
    """Every claim passes on the models whose answer is known."""
    pair = "zoo:planted_base,zoo:planted_ft"
    options, spec = fewer_rows(gate, pair)
    code, content, output = gate.run(pair, *options, spec=spec)
    assert code == 0, output
    assert set(verdicts(content).values()) == {"pass"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "conclusion", "refuted"),
    [
        ("base,ft_rerouted", {"same_circuit"}, {"same_circuit::pair"}),
        ("planted_base,planted_rerouted", {"same_circuit"}, {"same_circuit::pair"}),
        (
            "planted_base,planted_object",
            {"transmitter_holds_position", "detector_holds_position", "structure_holds_position"},
            {"transmitter_holds_position::ft", "detector_holds_position::ft"},
        ),
        ("ft_mute,ft", ENHANCED, {f"{name}::pair" for name in ENHANCED}),
        ("planted_mute,planted_ft", ENHANCED, {f"{name}::pair" for name in ENHANCED}),
    ],
)
def test_a_conclusion_fails_on_the_pair_that_makes_it_false(
    gate: Gate, pair: str, conclusion: set[str], refuted: set[str]
) -> None:
    """These claims of the conclusion fail, by their intervals, and not for want of rows."""
    pair = ",".join(f"zoo:{name}" for name in pair.split(","))
    options, spec = fewer_rows(gate, pair)
    names = " or ".join(sorted(conclusion))
    code, content, output = gate.run(pair, "-k", names, *options, spec=spec)
    assert code == 1, output
    failed = {name for name, verdict in verdicts(content).items() if verdict == "fail"}
    assert refuted <= failed, output
