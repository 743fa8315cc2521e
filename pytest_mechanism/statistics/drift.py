"""Is a score still the one that was accepted?

Same fingerprints as stored: any drift beyond ``atol`` fails, since the tool or the machine
changed. New fingerprints: a score that is worse than the accepted one by more than ``drift``, with
confidence, fails; better is reported. No accepted score: the verdict alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mechanism.causes import Cause

State = Literal["new", "same", "changed", "worse", "better", "moved"]


@dataclass(frozen=True)
class Tolerance:
    """From the spec as it is now, never from the stored file.

    Attributes:
        atol: for unchanged checkpoints.
        drift: for new ones.
    """

    atol: float
    drift: float


@dataclass(frozen=True)
class Drift:
    """How a score stands to the accepted one.

    Attributes:
        state: ``new`` (nothing accepted yet), ``same``, ``changed`` (within tolerance), ``better``,
            ``worse`` (red), ``moved`` (red: unchanged checkpoints, other score).
        amount: received minus accepted, or None where nothing was accepted.
        allowed: what tolerance applied.
        reason: one line.
        accepted_now: whether this run makes the score the accepted one.
        redefined: whether it is ``new`` although a score was accepted: that one is of another
            quantity or definition.
    """

    state: State
    amount: float | None
    allowed: float
    reason: str
    accepted_now: bool = False
    redefined: bool = False

    @property
    def red(self) -> bool:
        return self.state in ("worse", "moved")

    @property
    def cause(self) -> Cause:
        """Why a claim that holds is red all the same."""
        return {"worse": Cause.FELL_BEHIND, "moved": Cause.MOVED}.get(
            self.state, Cause.REDEFINED if self.redefined else Cause.NOT_ACCEPTED
        )


def compare(
    received: Mapping[str, Any], accepted: Mapping[str, Any] | None, tolerance: Tolerance
) -> Drift:
    """Compare two serialised scores.

    Args:
        received: ``value``, ``interval``, ``better``, ``fingerprints``, ``definition`` of now.
        accepted: the same as stored, or None.
        tolerance: of the spec.
    """
    if accepted is None:
        return Drift(
            "new",
            None,
            tolerance.drift,
            "no accepted score yet; --snapshot-update accepts this one",
        )
    name, now = accepted.get("name", received.get("name")), received.get("name")
    if name != now or accepted.get("definition") != received["definition"]:
        what = f"is '{name}', this one '{now}'" if name != now else "is of another definition"
        return Drift(
            "new",
            None,
            tolerance.drift,
            f"the accepted score {what}: nothing to compare with; --snapshot-update accepts this one",
            redefined=True,
        )
    new, old = _number(received["value"]), _number(accepted["value"])
    amount = new - old
    if accepted.get("fingerprints") == received["fingerprints"]:
        if abs(amount) <= tolerance.atol:
            return Drift("same", amount, tolerance.atol, "as accepted")
        return Drift(
            "moved",
            amount,
            tolerance.atol,
            f"the checkpoints are unchanged, the score went from {old:.4f} to {new:.4f} "
            f"(allowed {tolerance.atol:g}): the tool or the machine changed",
        )
    low, high = (_number(x) for x in received["interval"])
    loss, surely = _loss(received["better"], old, new, low, high)
    if surely > tolerance.drift:
        return Drift(
            "worse",
            amount,
            tolerance.drift,
            f"worse than the accepted {old:.3f} by {loss:.3f}, with confidence by more than the "
            f"allowed {tolerance.drift:g}",
        )
    if loss < -tolerance.drift:
        return Drift(
            "better", amount, tolerance.drift, f"better than the accepted {old:.3f} by {-loss:.3f}"
        )
    return Drift(
        "changed", amount, tolerance.drift, f"{amount:+.3f} against the accepted {old:.3f}"
    )


def _loss(
    better: str | float, old: float, new: float, low: float, high: float
) -> tuple[float, float]:
    """How much worse the new value is, and how much at the interval's kindest end."""
    if better == "higher":
        return old - new, old - high
    if better == "lower":
        return new - old, low - old
    target = float(better)
    kindest = 0.0 if low <= target <= high else min(abs(low - target), abs(high - target))
    return abs(new - target) - abs(old - target), kindest - abs(old - target)


def _number(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: an infinite accepted score would match anything.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
