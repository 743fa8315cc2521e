"""Counts the operations that a GPU would launch."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NOTHING_TO_LAUNCH = {
    "_unsafe_view",
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
}
"""Operations besides views that compute nothing."""


class Launches(TorchDispatchMode):
    """Context in which torch's operations are counted, views and allocations left out.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.count += not func.is_view and name not in NOTHING_TO_LAUNCH
        return func(*args, **(kwargs or {}))
