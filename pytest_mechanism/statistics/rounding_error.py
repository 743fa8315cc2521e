"""How much rounding in half precision moves a score, and the ``atol`` that allows it."""

from __future__ import annotations

import math

MOST_ATOL = 0.1
"""The largest ``atol`` that a spec may have (`fields.thresholds.Atol`)."""

SURE = 3
"""Standard deviations by which a mean may move."""


def moves_score(row: float, n: int) -> float:
    """How much a score of unchanged checkpoints may move with the batch size, the engine or the device.

    Args:
        row: root mean square of the change of a row's log-probability (`methods.rounding_error`). Changes of rows are
            taken as independent, so their mean moves by a standard deviation of ``row`` over the root of n.
        n: rows behind the score. Of a score that counts rows, at least one may flip.
    """
    return max(SURE * row / math.sqrt(n), 1 / n)


def advice(moves: float) -> str:
    """What to do about a score that may move so far: the smallest ``atol`` of one digit that allows it."""
    digit = 10.0 ** math.floor(math.log10(moves))
    allowing = float(f"{math.ceil(moves / digit - 1e-9) * digit:.1g}")
    if allowing > MOST_ATOL:
        return f"measure in float32, or on more rows (atol is at most {MOST_ATOL:g})"
    return f"write atol: {allowing:g}"
