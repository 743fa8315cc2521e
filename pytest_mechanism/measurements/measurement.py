"""A measurement: a request on one checkpoint and one task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Generic

from pytest_mechanism.errors import crash
from pytest_mechanism.measurements.request import Cost, Request
from pytest_mechanism.types import Result_co


@dataclass(frozen=True)
class Measurement(Generic[Result_co]):
    """A pure function call whose result can be stored: what a method is asked to do, on which model.

    Attributes:
        request: what is measured.
        on: role of the model that must be loaded.
        task: canonical JSON of the task's settings.
        inputs: measurements on other models whose results this one takes in (CMAP's donor).
    """

    request: Request[Result_co]
    on: str
    task: str
    inputs: tuple[Measurement, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of every model involved, the loaded one first."""
        roles = [self.on, *(role for given in self.inputs for role in given.roles)]
        return tuple(dict.fromkeys(roles))

    @property
    def cost(self) -> Cost:
        """See `Request.cost`.

        Raises:
            Crashed: the request's own code failed.
        """
        try:
            return self.request.cost(json.loads(self.task))
        except Exception as problem:
            raise crash(
                f"the cost of {self.request.implementation} is unknown", problem
            ) from problem
