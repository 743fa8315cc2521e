"""Writes docs/error-rates.md: ``python -m recipes.simulation``; with names of kinds, simulates these alone.

Results are kept in results.json beside this file, a setting each, so that a change of one kind needs
no simulation of the others.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from pytest_mechanism.statistics import dependence
from recipes.simulation.circuits import CIRCUITS
from recipes.simulation.setting import Simulated
from recipes.simulation.wrappers import WRAPPERS

SETTINGS = (*CIRCUITS, *WRAPPERS)
DRAWS = 1000
RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "error-rates.md"

MOST_FALSE, LEAST_PASSED = 0.05, 0.9
"""Shares of draws: at most this many pass at the threshold, at least this many of an unchanged model."""


def name_of(setting: Simulated) -> str:
    """The claim as YAML."""
    fields = ", ".join(
        f"{k}: {'...' if len(str(v)) > 60 else str(v).replace(chr(39), '')}"  # a whole text
        for k, v in setting.fields.items()
    )
    return f"{{kind: {setting.kind}{', ' if fields else ''}{fields}}}"


def sampling_error(share: float, draws: int) -> float:
    """Two standard errors of a share of draws."""
    return 2 * math.sqrt(share * (1 - share) / draws)


def few_resamples() -> None:
    """The tests of dependence, which take long, resample less than those of a run. Other bootstraps do not: the ends of
    one of 299 resamples are off by a tenth of a standard error, in the same direction in every run, because a claim
    resamples with the spec's seed."""
    dependence.RESAMPLES, dependence.PERMUTATIONS = 299, 9


def rates(setting: Simulated, draws: int, seed: int = 0) -> dict[str, Any]:
    """How often the claim passes, at its threshold and on an unchanged model."""
    rng = np.random.default_rng(seed)
    # a plan for each draw: few plans would share their luck among all draws
    plans = [0 if setting.fixed else setting.recommended(rng) for _ in range(draws)]
    rows = int(median_low(plans))
    false = [setting.judge(rng, setting.at_threshold, rows).status for _ in range(draws)]
    passed = [setting.judge(rng, setting.unchanged, plan).status for plan in plans]
    return {
        "rows": rows,
        "draws": draws,
        "false": false.count("pass") / draws,
        "passed": passed.count("pass") / draws,
    }


def table(results: dict[str, Any]) -> list[str]:
    """A line for each setting, in order."""
    lines = [
        "| claim | true score at the threshold | of the unchanged model | n "
        "| passes at the threshold | unchanged model passes |",
        "|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        of = results.get(name_of(setting))
        if of is None:
            continue
        rows = f"{of['rows']}{' heads' if setting.more else ''}" if of["rows"] else setting.fixed
        false, passed = f"{of['false']:.3f}", f"{of['passed']:.3f}"
        if of["false"] > MOST_FALSE + sampling_error(MOST_FALSE, of["draws"]):
            false = f"**{false}**"
        if not setting.fixed and of["passed"] < LEAST_PASSED - sampling_error(
            LEAST_PASSED, of["draws"]
        ):
            passed = f"**{passed}**"
        lines.append(
            f"| `{name_of(setting)}` | {setting.at_threshold:g} | {setting.unchanged:g} | {rows} | "
            f"{false} | {passed} |"
        )
    return lines


def main() -> None:
    """Simulates, keeps the results and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="only these kinds")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    few_resamples()
    for setting in SETTINGS:
        if arguments.kinds and setting.kind not in arguments.kinds:
            continue
        result = rates(setting, arguments.draws)
        print(name_of(setting), result, flush=True)
        # read again: another process may simulate other kinds
        known = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        known[name_of(setting)] = result
        arguments.results.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    known = json.loads(arguments.results.read_text())
    intro, _, _ = arguments.page.read_text().partition("\n| claim ")
    arguments.page.write_text("\n".join([intro.rstrip(), "", *table(known), ""]))


if __name__ == "__main__":
    main()
