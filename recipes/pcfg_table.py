"""The paper's table of counting: what each fine-tuned model answers, over several seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pytest_mechanism.statistics.estimates import Sampling, proportion
from recipes.pcfg_rates import ASKED


@dataclass(frozen=True)
class Cell:
    """One accuracy of the models of a name.

    Attributes:
        seeds: accuracy of the model of each seed.
        rows: questions that each of them was asked.
    """

    seeds: Mapping[int, float]
    rows: int

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean(self.seeds.values())

    @property
    def interval(self) -> tuple[float, float]:
        """From the lowest lower bound to the highest upper bound of the seeds' 95 % intervals, so that
        it holds for every seed and not only for their mean."""
        bounds = [wilson(share, self.rows) for share in self.seeds.values()]
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent questions."""
    right = round(share * rows)
    asked = [str(i) for i in range(rows)]
    values = [1.0] * right + [0.0] * (rows - right)
    return proportion(values, Sampling(asked, 0.95, 0)).interval


Table = Mapping[str, Mapping[str, Cell]]
"""Name of a model -> column -> cell."""


def table(folders: Mapping[tuple[str, int], Path]) -> Table:
    """The table, from the records of the models of each name and seed."""
    records = {
        key: json.loads((folder / "recipe.json").read_text()) for key, folder in folders.items()
    }
    names = dict.fromkeys(name for name, _ in folders)
    return {
        name: {
            column: Cell(
                {seed: r["accuracy"][column] for (n, seed), r in records.items() if n == name},
                next(r["accuracy"]["rows"] for (n, _), r in records.items() if n == name),
            )
            for column in ASKED
        }
        for name in names
    }


def as_data(of: Table) -> str:
    """The table as JSON, with every seed."""
    data = {
        name: {
            column: {
                "mean": round(cell.value, 4),
                "interval": [round(bound, 4) for bound in cell.interval],
                "seeds": {str(seed): share for seed, share in cell.seeds.items()},
                "rows": cell.rows,
            }
            for column, cell in row.items()
        }
        for name, row in of.items()
    }
    return json.dumps(data, indent=1) + "\n"


def markdown(of: Table) -> str:
    """The table as Markdown."""
    lines: Sequence[str] = [
        f"| model | {' | '.join(ASKED)} |",
        f"|---|{'---|' * len(ASKED)}",
        *(f"| `{name}` | {' | '.join(map(str, row.values()))} |" for name, row in of.items()),
    ]
    return "\n".join(lines)
