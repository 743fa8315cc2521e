"""Columns of numbers, collected batch by batch: what a method returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pytest_mechanism.errors import MeasurementError
from pytest_mechanism.methods.readout import correct, log_probability, logit_difference
from pytest_mechanism.tasks.base import Row
from pytest_mechanism.types import Observations

R = TypeVar("R", bound=Observations)

LONGEST = 600
"""Characters that are kept of what a model said on a row."""


@dataclass
class Columns:
    """Collects a result's columns batch by batch, on the model's device: to copy each value as it
    comes would leave a GPU idle until it gets the next branches."""

    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def add_texts(self, name: str, texts: Iterable[str]) -> None:
        """What the model said on some rows (`Observations.texts`): the beginning of each."""
        self.texts.setdefault(name, []).extend(text[:LONGEST] for text in texts)

    def add(self, name: str, values: Shaped[Tensor, " rows"]) -> None:
        # a copy, so that the tensor it is a view of can be freed
        self.parts.setdefault(name, []).append(values.detach().clone())

    def add_all(self, names: Iterable[str], values: Shaped[Tensor, "columns rows"]) -> None:
        """A column for each name."""
        for name, column in zip(names, values.detach().unbind(), strict=True):
            self.parts.setdefault(name, []).append(column)

    def add_answers(
        self,
        prefix: str,
        logits: Float[Tensor, "rows words"],
        answers: Int[Tensor, "rows answers"],
        others: Int[Tensor, "rows others"] | None = None,
    ) -> None:
        """Columns ``{prefix}correct`` and ``{prefix}log_probability`` of right answers, and
        ``{prefix}logit_difference`` from the prompt's ``others``."""
        self.add(f"{prefix}correct", correct(logits, answers))
        self.add(f"{prefix}log_probability", log_probability(logits, answers))
        if others is not None:
            self.add(f"{prefix}logit_difference", logit_difference(logits, answers, others))

    def observations(self, rows: Sequence[Row]) -> Observations:
        """The columns of these rows."""
        return self.result(Observations, rows)

    def result(self, kind: type[R], rows: Sequence[Row], **fields: Any) -> R:
        """The columns of these rows, and the other fields of a subclass of `Observations`."""
        values = self.on_host()
        for name, column in values.items():
            if not (fine := np.isfinite(column)).all():
                row = rows[int(np.argmin(fine))]
                raise MeasurementError(
                    f"{name} is not a finite number on {int((~fine).sum())} of {len(fine)} rows, "
                    f"first {row.id}: {row.base.text[:100]!r}"
                )
        ids, clusters = tuple(r.id for r in rows), tuple(r.cluster for r in rows)
        return kind(ids, clusters, values, texts=self.texts, **fields)

    def on_host(self) -> dict[str, Any]:
        """Every column as an array. Columns of one dtype are copied from their device together, since the
        program waits for each copy."""
        kinds: dict[Any, list[str]] = {}
        for name, parts in self.parts.items():
            kinds.setdefault((parts[0].dtype, parts[0].device), []).append(name)
        arrays: dict[str, Any] = {}
        for names in kinds.values():
            ends = np.cumsum([sum(map(len, self.parts[name])) for name in names])
            whole = torch.cat([part for name in names for part in self.parts[name]])
            columns = np.split(whole.cpu().double().numpy(), ends[:-1])
            arrays.update(zip(names, columns, strict=True))
        return {name: arrays[name] for name in self.parts}
