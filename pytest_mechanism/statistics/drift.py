"""Compares a score with its baseline, the accepted score.

Unchanged checkpoints: any change beyond ``atol`` fails, since only an option, the tool or the machine can have
caused it. New checkpoints: a score that is significantly worse than the baseline by more than
``drift`` fails; a better score is reported. Without a baseline, the verdict alone decides. A profile (kind
``same_profile``) keeps the change of every head and MLP, and each is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_mechanism.causes import Cause
from pytest_mechanism.statistics.multiple import holm

SHOWN_MEMBERS = 4
"""Members of a profile that a sentence names."""

State = Literal["new", "same", "changed", "worse", "better", "moved"]


@dataclass(frozen=True)
class Tolerance:
    """What the spec allows. Never read from the stored file.

    Attributes:
        atol: the largest change on unchanged checkpoints.
        drift: the largest loss on new checkpoints.
    """

    atol: float
    drift: float


@dataclass(frozen=True)
class Drift:
    """How a score compares with its baseline.

    Attributes:
        state: ``new`` (no baseline yet), ``same``, ``changed`` (within tolerance), ``better``, ``worse``
            (red), ``moved`` (red: unchanged checkpoints, another score).
        amount: score minus baseline, or None without a baseline.
        allowed: the tolerance that applied.
        finding: the comparison in words.
        accepted_now: whether this run accepts the score as the baseline.
        redefined: whether the state is ``new`` although a baseline exists, because the baseline measures
            another quantity or has another definition.
    """

    state: State
    amount: float | None
    allowed: float
    finding: str
    accepted_now: bool = False
    redefined: bool = False

    @property
    def reason(self) -> str:
        """The comparison in one line, with the next step if there is no baseline."""
        if self.state != "new":
            return self.finding
        step = (
            "this score is now accepted"
            if self.accepted_now
            else "--snapshot-update accepts this score"
        )
        return f"{self.finding}; {step}"

    @property
    def red(self) -> bool:
        return self.state in ("worse", "moved")

    @property
    def cause(self) -> Cause:
        """Why this comparison makes a claim red whose thresholds hold."""
        return {"worse": Cause.FELL_BEHIND, "moved": Cause.MOVED}.get(
            self.state, Cause.REDEFINED if self.redefined else Cause.NOT_ACCEPTED
        )


def compare(  # noqa: PLR0911 - a table of cases, one return each
    received: Mapping[str, Any], accepted: Mapping[str, Any] | None, tolerance: Tolerance
) -> Drift:
    """Compare two serialised scores.

    Args:
        received: ``value``, ``interval``, ``better``, ``fingerprints``, ``definition`` of this run.
        accepted: the same fields of the baseline, or None.
        tolerance: of the spec.
    """
    if accepted is None:
        return Drift("new", None, tolerance.drift, "no baseline yet")
    name, accepted_name = received.get("name"), accepted.get("name", received.get("name"))
    if name != accepted_name:
        finding = f"the baseline measures {accepted_name!r}, not {name!r}"
        return Drift("new", None, tolerance.drift, finding, redefined=True)
    if accepted.get("definition") != received["definition"]:
        finding = "the baseline has another definition and cannot be compared"
        return Drift("new", None, tolerance.drift, finding, redefined=True)
    new, old = _number(received["value"]), _number(accepted["value"])
    amount = new - old
    if accepted.get("fingerprints") == received["fingerprints"]:
        what, then, today = farthest_member(received, accepted) or ("the score", old, new)
        if abs(today - then) <= tolerance.atol:
            return Drift("same", amount, tolerance.atol, f"matches the baseline {old:.3f}")
        return Drift(
            "moved",
            amount,
            tolerance.atol,
            f"{what} moved from {then:.4f} to {today:.4f} (allowed {tolerance.atol:g}) on unchanged "
            f"checkpoints: {what_changed(received, accepted)}",
        )
    if (elsewhere := members_beyond(received, accepted, tolerance.drift)) is not None:
        return Drift("worse", amount, tolerance.drift, elsewhere)
    low, high = (_number(x) for x in received["interval"])
    better = received["better"]
    loss, least_loss = _loss(better, old, new, low, high)
    if least_loss > tolerance.drift:
        finding = f"{_difference(better, old, new)} (allowed {tolerance.drift:g}, significant)"
        return Drift("worse", amount, tolerance.drift, finding)
    state: State = "better" if loss < -tolerance.drift else "changed"
    return Drift(state, amount, tolerance.drift, _difference(better, old, new))


def what_changed(received: Mapping[str, Any], accepted: Mapping[str, Any]) -> str:
    """What may have moved the score of an unchanged checkpoint, with all settings in which the run of the score differs
    from that of its baseline."""

    def listed(entry: Mapping[str, Any]) -> dict[str, Any]:
        setting = entry.get("setting") or {}
        named = {name: setting.get(name) for name in ("dtype", "device", "engine")}
        return named | {**(setting.get("versions") or {})}

    now, before = listed(received), listed(accepted)
    differing = [
        f"{name} {now[name]} (baseline: {before[name]})"
        for name in now
        if None not in (now[name], before.get(name)) and now[name] != before[name]
    ]
    if not differing:
        return "the tool or the machine changed"
    return f"the tool, the machine or one of these changed: {', '.join(differing)}"


def farthest_member(
    received: Mapping[str, Any], accepted: Mapping[str, Any]
) -> tuple[str, float, float] | None:
    """The member of a profile that differs most from the accepted profile, with both values; None for other
    scores. The score of a profile is that of one member, which may be another member each time."""
    new, old = received.get("members") or {}, accepted.get("members") or {}
    both = [(name, _number(old[name][0]), _number(new[name][0])) for name in new if name in old]
    return max(both, key=lambda member: abs(member[2] - member[1]), default=None)


def members_beyond(
    received: Mapping[str, Any], accepted: Mapping[str, Any], drift: float
) -> str | None:
    """Which members of a profile differ from the accepted profile by more than ``drift``; None if none does.

    Both were measured on the same rows, so the spread of a member's change over rows is more than that
    of the difference. The one-sided p-values are corrected for the number of members (Holm).
    """
    from pytest_mechanism.statistics.estimates import p_above_zero

    new, old = received.get("members") or {}, accepted.get("members") or {}
    names = [name for name in new if name in old]
    clusters = int(received.get("clusters", 2))
    p = []
    for name in names:
        excess = abs(_number(new[name][0]) - _number(old[name][0])) - drift
        error = max(_number(new[name][1]), _number(old[name][1]), 1e-9)
        p.append(p_above_zero(excess, error, clusters))
    alpha = 1 - float(received.get("confidence", 0.95))
    beyond = [name for name, value in zip(names, holm(p), strict=True) if value < alpha]
    if not beyond:
        return None
    beyond.sort(key=lambda name: -abs(new[name][0] - old[name][0]))
    shown = [
        f"{name} {new[name][0] - old[name][0]:+.2f} (now {new[name][0]:+.2f}, accepted {old[name][0]:+.2f})"
        for name in beyond[:SHOWN_MEMBERS]
    ]
    more = f" and {len(beyond) - SHOWN_MEMBERS} more" if len(beyond) > SHOWN_MEMBERS else ""
    return (
        f"{len(beyond)} of {len(names)} heads and MLPs {'differs' if len(beyond) == 1 else 'differ'} from the "
        f"accepted profile by more than {drift:g} (corrected for {len(names)} comparisons): {'; '.join(shown)}{more}"
    )


def _difference(better: str | float, old: float, new: float) -> str:
    """The distance between score and baseline in words, as far as three decimals show it."""
    if round(abs(new - old), 3) == 0:
        return f"equal to the baseline {old:.3f}"
    moved = f"{abs(new - old):.3f} {'below' if new < old else 'above'} the baseline {old:.3f}"
    if better in ("higher", "lower"):
        return moved
    target = float(better)
    change = abs(new - target) - abs(old - target)
    if round(abs(change), 3) == 0:
        return f"{moved}, equally far from {target:g}"
    return f"{moved}, {abs(change):.3f} {'farther from' if change > 0 else 'nearer to'} {target:g}"


def _loss(
    better: str | float, old: float, new: float, low: float, high: float
) -> tuple[float, float]:
    """How much worse the new value is, and how much worse the best end of its interval is."""
    if better == "higher":
        return old - new, old - high
    if better == "lower":
        return new - old, low - old
    target = float(better)
    nearest = 0.0 if low <= target <= high else min(abs(low - target), abs(high - target))
    return abs(new - target) - abs(old - target), nearest - abs(old - target)


def _number(value: Any) -> float:
    """A finite number: an infinite baseline would match any score.

    Raises:
        ValueError: the value is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
