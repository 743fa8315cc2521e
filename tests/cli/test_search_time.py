"""``doctor`` says how long the stages of a search take, before any head is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluators import open_evaluator

from pytest_mechanism.commands.search_time import search_lines
from pytest_mechanism.commands.trial import Trial
from pytest_mechanism.spec.load import load

SPEC = """mechanism: 1
circuit: planted
task: {family: entity_tracking, boxes: 2, rows: 60, seed: 0}
groups:
  reader: {heads: discovered, at: last, find: FIND}
  sender: {heads: discovered, at: last, into: {group: reader, via: q}, find: FIND}
claims:
"""
HEARD = "  heard: {kind: path, on: ft, group: reader, drops_at_least: 0.2}\n"
SHARED = "  shared: {kind: overlap, from: base, to: ft, jaccard_at_least: 0.3, searches: 5}\n"

TRIAL = Trial(
    speed=1.0, branching=20.0, weights=0, loaded=0, loading=0, work=0, kept=0, learning=0, layers=4,
    bound=0, fragmentation=1,
)  # fmt: skip
"""A row a second, and 20 in branches."""


def lines(folder: Path, claims: str, find: str = "{}") -> list[str]:
    """What ``doctor`` says of the searches of a spec on two models of 32 heads."""
    (folder / "spec.yaml").write_text(SPEC.replace("FIND", find) + claims)
    models = "base=zoo:planted_base,ft=zoo:planted_ft"
    evaluator = open_evaluator("--model-pair", models, "--store", folder / "store")
    return list(search_lines(evaluator, load(folder / "spec.yaml"), {"base": TRIAL, "ft": TRIAL}))


@pytest.mark.parametrize(
    ("find", "first", "every"),
    [
        # 32 heads patched alone: 64 pairs at least and 210 at most run once (128 and 420 s); a head takes a
        # branch of each pair (64 * 33 / 20 = 106 s and 346 s), and two branches into the readers
        ("{}", "4 min to 13 min", "7 min to 24 min"),
        # 8 heads alone, after gradients of all on 32 pairs (352 s, and 640 s into readers) and the others in
        # three sets of layers on 64 pairs
        ("{screen: {keep: 8}}", "9 min to 15 min", "21 min to 29 min"),
    ],
)
def test_the_stages_are_announced_from_few_rows_to_all(
    tmp_path: Path, find: str, first: str, every: str
) -> None:
    """On the model that is searched alone, with a sentence about what cannot be known."""
    (line,) = lines(tmp_path, HEARD, find)
    assert line == (
        f"the search on ft: path patching reader takes about {first}, all 2 groups about {every}; growing the "
        "circuit and minimality come on top"
    )


def test_a_claim_that_searches_itself_announces_each_of_its_searches(tmp_path: Path) -> None:
    """Five searches on each model; the first one of ft is that of heads: discovered."""
    base, ft = lines(tmp_path, SHARED + HEARD)
    assert base.startswith("each of 5 searches on base: path patching reader takes about 4 min")
    assert ft.startswith("each of 5 searches on ft: path patching reader takes about 4 min")


def test_a_spec_that_names_its_heads_announces_no_search(tmp_path: Path) -> None:
    named = SPEC.replace("heads: discovered, at", "heads: {1: [0]}, at", 1).replace(
        ", find: FIND", ""
    )
    named = named.replace("heads: discovered, at", "heads: {0: [0]}, at")
    (tmp_path / "named.yaml").write_text(named + HEARD)
    evaluator = open_evaluator("--model", "base=zoo:planted_base", "--store", tmp_path / "store")
    assert list(search_lines(evaluator, load(tmp_path / "named.yaml"), {"base": TRIAL})) == []
