"""``pytest-mechanism lint --power``: will an unchanged model pass on fresh rows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.statistics.power import WANTED, Power, of_spec, power

if TYPE_CHECKING:
    from pytest_mechanism.spec.spec import Spec


def power_lines(spec: Spec) -> Iterator[str]:
    """A line for each accepted score and for the whole spec, for every pair that has scores.

    Raises:
        MechanismError: a file of accepted scores is damaged.
    """
    from pytest_mechanism.plugin.score_file import FOLDER, read_scores

    files = sorted((spec.path.parent / FOLDER).glob(f"*/{spec.path.stem}.json"))
    if not files:
        yield (
            f"{spec.path}: no accepted scores to plan from; accept some with "
            "pytest ... --model-pair BASE,FT --snapshot-update"
        )
    for file in files:
        pair = file.parent.name
        yield f"{spec.path}, {pair}: chance that an unchanged model passes on fresh rows"
        powers = []
        for name, entry in sorted(read_scores(file).items()):
            line = not_counted(spec, name, entry)
            if line is None:
                try:
                    powers.append(power([*planned(entry)], spec.confidence))
                except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
                    raise MechanismError(
                        f"the accepted score {name} is damaged; accept it again", f"{file}:1"
                    ) from None
                claim = spec.claims.get(name.partition(".")[0])
                line = claim_line(powers[-1], claim.counted if claim else "rows")
            yield f"  {name:<40} {line}"
        yield from total_lines(powers)


def planned(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The bounds that a claim must meet. Earlier versions kept interval and contexts of the first score alone."""
    kept = {field: entry[field] for field in ("clusters", "interval") if field in entry}
    for one in entry["judged"]:
        yield {**(kept if one.get("name") == entry.get("name") else {}), **one}
    yield from entry.get("checks", ())


def total_lines(powers: Sequence[Power]) -> Iterator[str]:
    """The chance that the whole spec passes, if any score is counted."""
    if not powers:
        return
    whole = of_spec(powers)
    hint = "" if whole >= WANTED else "  <- some claim is red too often"
    yield (
        f"  {'the whole spec':<40} {whole:.3f} or more (chances of failing added: claims share their "
        f"rows){hint}"
    )
    false_pass = max(power.false_pass for power in powers)
    yield f"  a model exactly at a threshold passes at most {false_pass:.1%} of the time"


def not_counted(spec: Spec, name: str, entry: Mapping[str, Any]) -> str | None:
    """Why nothing can be planned from an accepted score, or None if something can."""
    from pytest_mechanism.plugin.score_entry import asked

    if not entry.get("judged"):
        return "no threshold was judged: not counted"
    claim = spec.claims.get(name.partition(".")[0])
    if claim is not None and entry.get("asked", asked(claim)) != asked(claim):
        return (
            "accepted under other thresholds than the spec has now: not counted; "
            "--snapshot-update updates them"
        )
    return None


def claim_line(power: Power, counted: str = "rows") -> str:
    """The chance that a claim passes, and how many rows (or what else its n counts) it would need."""
    rows = f"no number of {counted} gives {WANTED}"
    if power.rows is not None:
        rows = f"{power.rows:,} {counted} give {WANTED}"
    hint = "" if power.passes >= WANTED else "  <- too few rows, or a threshold too near the score"
    return f"{power.passes:.3f} with {power.now:,} {counted} ({rows}){hint}"
