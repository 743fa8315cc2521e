"""A comparison as JSON data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mechanism.comparison.members import ComparedMember, Comparison

VERSION = 1


def as_json(
    result: Comparison, lines: Sequence[str], models: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Every number of a comparison.

    Args:
        result: the comparison.
        lines: the conclusion.
        models: role -> label, reference and fingerprint.
    """
    return {
        "mechanism_compare": VERSION,
        "pair": models,
        "conclusion": list(lines),
        "margin": result.margin,
        "false_discovery_rate": round(result.alpha, 6),
        "rows": result.rows,
        "reordered_heads": [
            {"layer": layer, "base": head, "ft": other}
            for (layer, head), (_, other) in sorted(result.places.moved.items())
        ],
        "members": [of_member(member, result.alpha) for member in result.members],
        "other_weights": {name: rounded(change) for name, change in result.weights.items()},
        "weights_note": result.weights_note or None,
    }


def of_member(member: ComparedMember, alpha: float) -> dict[str, Any]:
    """The numbers of one member."""
    return {
        "member": member.name,
        "changed": member.q < alpha,
        "q": rounded(member.q),
        "weights": None if member.weights is None else rounded(member.weights),
        "work": [
            {
                "readers": change.readers,
                "at": change.at,
                "group": change.group,
                "base": rounded(change.before),
                "ft": rounded(change.now),
                "change": rounded(change.change),
                "interval": [rounded(bound) for bound in change.interval],
                "p": rounded(change.p),
            }
            for change in member.shares
        ],
        "exchange": {
            exchange.into: {
                "change": rounded(exchange.value),
                "interval": [rounded(bound) for bound in exchange.interval],
                "p": rounded(exchange.p),
            }
            for exchange in member.exchanges
        },
    }


def rounded(number: float) -> float:
    """Six digits after the point, never -0."""
    return round(number, 6) + 0.0
