"""The numbers of reports and accepted scores, rounded so that files do not differ in noise."""

from __future__ import annotations

from dataclasses import replace

from pytest_mechanism.types import Score

DIGITS = 6
"""Decimal places."""


def rounded(score: Score) -> Score:
    """A score with its numbers rounded."""
    control = score.control
    if control is not None:
        interval = None if control.interval is None else _round_pair(control.interval)
        control = replace(control, value=round(control.value, DIGITS), interval=interval)
    return replace(
        score,
        value=round(score.value, DIGITS),
        interval=_round_pair(score.interval),
        standard_error=round(score.standard_error, DIGITS),
        control=control,
    )


def _round_pair(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    return round(low, DIGITS), round(high, DIGITS)
