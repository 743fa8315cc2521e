"""Simulated observations: rows in contexts, whose numbers depend on each other within a context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.types import Observations

Array = NDArray[np.float64]

SIZE = 7
"""Rows in a context."""

WITHIN = 0.2
"""Correlation of the latent normal numbers of two rows in one context."""

TIE = 0.8
"""Correlation of the latent normal numbers of two columns of one row."""


@dataclass
class World:
    """The rows of one simulated run.

    Attributes:
        rng: of the run.
        rows: how many.
    """

    rng: np.random.Generator
    rows: int
    _latent: dict[str, Array] = field(default_factory=dict)

    def normal(self, name: str) -> Array:
        """Standard normal numbers, correlated within each context; the same for one name."""
        if name not in self._latent:
            contexts = -(-self.rows // SIZE)
            shared = np.repeat(self.rng.normal(size=contexts), SIZE)[: self.rows]
            own = self.rng.normal(size=self.rows)
            self._latent[name] = np.sqrt(WITHIN) * shared + np.sqrt(1 - WITHIN) * own
        return self._latent[name]

    def tied(self, name: str) -> Array:
        """Standard normal numbers that are also correlated with those of every other name."""
        return np.asarray(
            np.sqrt(TIE) * self.normal("all columns") + np.sqrt(1 - TIE) * self.normal(name)
        )

    def ones(self, p: float, name: str = "") -> Array:
        """Ones with probability p. Of two probabilities of one name, the ones of the smaller are ones of the
        larger."""
        return np.asarray(self.tied(name) < norm.ppf(np.clip(p, 0.0, 1.0)), dtype=np.float64)

    def nats(self, mean: float, spread: float, name: str = "") -> Array:
        return np.asarray(mean + spread * self.tied(name))


Columns = Mapping[str, Any]
Answer = Callable[[Any, str], Columns]
"""The columns of a request on the model of a role; may be fewer rows than the run has."""

Answers = Mapping[str, Any]
"""Name of a request -> its `Columns`, or an `Answer`."""


ALONE = "alone"
"""A key beside the columns whose rows do not share contexts."""


def measured(
    answers: Answers, results: Mapping[str, type[Observations]]
) -> Callable[[Measurement], Observations]:
    """Answers each measurement with simulated columns.

    A column that is a field of the result's class is no column of rows.
    """

    def measure(measurement: Measurement) -> Observations:
        request = measurement.request
        name = type(request).__name__
        answer = answers[name]
        columns = answer(request, measurement.on) if callable(answer) else answer
        result = results.get(name, Observations)
        own = {f.name for f in fields(result)} & {*columns}
        values = {
            column: np.asarray(numbers)
            for column, numbers in columns.items()
            if column not in {*own, ALONE}
        }
        rows = len(next(iter(values.values())))
        asked = getattr(request, "rows", None)
        if isinstance(asked, int) and asked < rows:
            rows = asked
        values = {column: numbers[:rows] for column, numbers in values.items()}
        ids = [f"row-{i}" for i in range(rows)]
        contexts = ids if ALONE in columns else [f"context-{i // SIZE}" for i in range(rows)]
        return result(ids, contexts, values, **{name: columns[name] for name in own})

    return measure
