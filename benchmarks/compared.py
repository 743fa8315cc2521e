"""How often does ``pytest-mechanism compare`` report a change where there is none?

    python -m benchmarks.compared [--draws 50] [--rows 30] [--pair NAME] [--json FILE]

The task has three boxes, so that prompts are short and ten contexts, the least that an interval needs, are 30 rows.
Each pair is measured once on ``draws`` x ``rows`` pairs of prompts. The contexts are then dealt into as many draws, and
each draw is compared as the command compares its rows. *Unchanged* is a member none of whose quantities differs by
more than the margin on all rows together. The false-discovery rate is the mean over draws of the share of unchanged
members among those with a star; a draw without a star counts as 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults import benign, gate
from benchmarks.faults.rules import rate
from benchmarks.faults.suites import ROOT, SUITES
from pytest_mechanism.commands.compare_work import Work
from pytest_mechanism.comparison.conclusion import may_have_changed
from pytest_mechanism.comparison.members import MARGIN, Comparison, compare_members
from pytest_mechanism.spec.load import load
from pytest_mechanism.types import Observations

SPEC = ROOT / "circuits" / "entity_tracking.yaml"

BOXES = 3
"""In place of the seven of the spec."""

ITSELF = "itself"

TWINS = (
    "heads of all layers permuted",
    "folded norms (all)",
    "saved as torch.bfloat16",
    "fit again with seed 41",
)
"""Benign changes of ``ft``: the first two compute the same function, the last is the fine-tune with other rows."""

CHANGED = "ft_rerouted"
"""An embedded model in which some members changed and others did not."""

PAIRS = (ITSELF, *TWINS, CHANGED)
"""What ``ft`` is compared with."""


@dataclass(frozen=True)
class Rates:
    """What the draws of a pair report.

    Attributes:
        draws: how many.
        rows: pairs of prompts in each.
        members: compared.
        unchanged: of them, by all rows together.
        largest: change of any quantity of a member, by all rows together.
        reported: draws that report some change.
        wrong: draws that report a member that is unchanged.
        stars: members that are reported, over all draws.
        false_discovery_rate: see above.
        sure: draws that say "no change found".
        seconds: of CPU.
    """

    draws: int
    rows: int
    members: int
    unchanged: int
    largest: float
    reported: int
    wrong: int
    stars: int
    false_discovery_rate: float
    sure: int
    seconds: float


def of_clusters(result: Observations, chosen: Iterable[str]) -> Observations:
    """The rows of some contexts; a result without contexts, as it is."""
    wanted = {*chosen}
    kept = [i for i, cluster in enumerate(result.clusters) if cluster in wanted]
    if not kept:
        return result
    return replace(
        result,
        example_ids=[result.example_ids[i] for i in kept],
        clusters=[result.clusters[i] for i in kept],
        values={name: np.asarray(column)[kept] for name, column in result.values.items()},
        texts={name: [column[i] for i in kept] for name, column in result.texts.items()},
    )


def dealt(clusters: Sequence[str], draws: int) -> list[list[str]]:
    """The contexts in as many equal hands as there are draws; a rest is left out."""
    each = [*dict.fromkeys(clusters)]
    size = len(each) // draws
    return [each[i * size : (i + 1) * size] for i in range(draws)]


def comparisons(work: Work, draws: int) -> tuple[Comparison, list[Comparison]]:
    """The comparison on all rows, and on those of each draw."""
    work.groups = dict(work.spec.groups)
    work.plan()
    made: list[Any] = []

    def measure(measurement: Any) -> Any:
        made.append(work.measure(measurement))
        return made[-1]

    context = work.context()
    whole = compare_members(context, measure, MARGIN)
    paired = next(r for r in made if len(r.example_ids) == whole.rows and "total" in r.values)
    found = []
    for hand in dealt(paired.clusters, draws):
        # the same measurements in the same order, on fewer rows
        replayed = iter([of_clusters(r, hand) if "total" in r.values else r for r in made])
        found.append(compare_members(context, lambda _, r=replayed: next(r), MARGIN))
    return whole, found


def rates(whole: Comparison, draws: Sequence[Comparison], seconds: float) -> Rates:
    """What the draws report, where the truth is the comparison on all rows."""
    unchanged = {member.name for member in whole.members if member.size <= whole.margin}
    stars = [{member.name for member in draw.changed} for draw in draws]
    return Rates(
        draws=len(draws),
        rows=draws[0].rows,
        members=len(whole.members),
        unchanged=len(unchanged),
        largest=float(f"{max(member.size for member in whole.members):.3g}"),
        reported=sum(bool(found) for found in stars),
        wrong=sum(bool(found & unchanged) for found in stars),
        stars=sum(map(len, stars)),
        false_discovery_rate=round(
            float(np.mean([len(found & unchanged) / max(1, len(found)) for found in stars])), 4
        ),
        sure=sum(not any(may_have_changed(m, d.margin) for m in d.members) for d in draws),
        seconds=round(seconds, 1),
    )


def of_pair(reference: str, candidate: str, draws: int, rows: int, store: Path) -> Rates:
    """The rates of a pair of checkpoints."""
    started = time.process_time()
    spec = store.parent / SPEC.name
    spec.write_text(SPEC.read_text("utf-8").replace("boxes: 7", f"boxes: {BOXES}"), "utf-8")
    evaluator = gate.evaluator({"base": reference, "ft": candidate}, store)
    whole, found = comparisons(Work(evaluator, load(spec), None, draws * rows), draws)
    evaluator.runner.checkpoint.release()
    return rates(whole, found, time.process_time() - started)


def line(name: str, found: Rates) -> str:
    """A row of the table in Markdown."""
    return (
        f"| {name} | {found.largest:.2g} | {rate_of(found.reported, found)} | {found.wrong} | {found.sure} | "
        f"{found.false_discovery_rate:.3f} ({found.stars}) |"
    )


def rate_of(hits: int, found: Rates) -> str:
    return str(rate([True] * hits + [False] * (found.draws - hits)))


HEADING = (
    "| pair | largest change | draws that report a change | that report an unchanged member | "
    'that say "no change found" | false-discovery rate (stars) |\n|---|---|---|---|---|---|'
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How often compare reports a change that is none.")
    parser.add_argument("--draws", type=int, default=50, help="sets of rows")
    parser.add_argument("--rows", type=int, default=30, help="pairs of prompts in each")
    parser.add_argument(
        "--pair", action="append", choices=PAIRS, help="one pair alone; several times"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    typed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shop, results = SUITES["release"].shop, dict[str, Rates]()
    made = {change.name: change for change in benign.changes()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(HEADING)
        for name in typed.pair or PAIRS:
            candidate = shop.release if name == ITSELF else shop.models / name
            if name in TWINS:
                candidate = folder / str(len(results))
                candidate.mkdir()
                made[name].make(shop, candidate)
            pair = f"a={shop.release}", f"b={candidate}"
            results[name] = of_pair(*pair, typed.draws, typed.rows, folder / "store")
            print(line(name, results[name]), flush=True)
    if typed.json is not None:
        content = {name: asdict(found) for name, found in results.items()}
        typed.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
