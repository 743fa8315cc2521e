"""Which planned measurements can be made next, and on which checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Cost

Planned = tuple[str, Measurement]
"""A measurement with its key."""


@dataclass
class Schedule:
    """Measurements that are planned and not made yet.

    Attributes:
        key_of: gives the key of a measurement.
        pending: key -> measurement, in the order in which claims ask for them.
    """

    key_of: Callable[[Measurement], str]
    pending: dict[str, Measurement] = field(default_factory=dict)

    def next_role(self, measurement: Measurement) -> str:
        """Role of the checkpoint that a measurement waits for: of an input, or its own."""
        waiting = (given.on for given in measurement.inputs if self.is_pending(given))
        return next(waiting, measurement.on)

    def is_pending(self, measurement: Measurement) -> bool:
        return self.key_of(measurement) in self.pending

    def donors(self, role: str) -> set[str]:
        """Roles whose activations the work on ``role`` still waits for."""
        return {
            given.on
            for measurement in self.pending.values()
            if measurement.on == role
            for given in measurement.inputs
            if given.on != role and self.is_pending(given)
        }

    def ready(self, role: str) -> list[Planned]:
        """Keys and measurements on ``role`` whose inputs have all been made."""
        return [
            (key, measurement)
            for key, measurement in self.pending.items()
            if measurement.on == role and not any(map(self.is_pending, measurement.inputs))
        ]

    def awaited_inputs(self) -> set[str]:
        """Keys of the inputs of everything that is pending."""
        return {self.key_of(given) for m in self.pending.values() for given in m.inputs}


def by_prompts(
    measurements: Sequence[Planned], cost: Callable[[Measurement], Cost]
) -> list[Planned]:
    """Measurements on the same prompts one after the other, else in their order.

    They branch from the same runs, which the engine forgets when other prompts need the room.
    """
    first: dict[tuple[str, str], int] = {}
    places = []
    for number, (key, measurement) in enumerate(measurements):
        prompts = cost(measurement).prompts
        name = (measurement.task, prompts) if prompts else (key, "")
        places.append(first.setdefault(name, number))
    return [item for _, item in sorted(zip(places, measurements, strict=True), key=lambda x: x[0])]
