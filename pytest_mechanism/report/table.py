"""The table of a run, a line for each threshold of each claim: what terminal and summary page show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_mechanism.report.run_report import ClaimResult

HEADINGS = ("verdict", "claim", "role", "score", "interval", "claimed", "baseline")


def spec_suffixes(results: Sequence[ClaimResult]) -> dict[str, str]:
    """Spec -> its file name in brackets, for specs whose circuits share a name; else nothing."""
    specs_by_circuit: dict[str, dict[str, str]] = {}
    for result in results:
        names = specs_by_circuit.setdefault(result.circuit, {})
        names[result.spec] = result.spec.rpartition("/")[2]
    suffixes = {}
    for names in specs_by_circuit.values():
        ambiguous = len({*names.values()}) < len(names)
        for spec, name in names.items():
            suffixes[spec] = "" if len(names) == 1 else f" ({spec if ambiguous else name})"
    return suffixes


def with_circuits(results: Sequence[ClaimResult]) -> tuple[ClaimResult, ...]:
    """The results, each claim with the name of its circuit before its own where there are several specs."""
    suffixes = spec_suffixes(results)
    if len(suffixes) < 2:
        return tuple(results)
    return tuple(
        replace(result, claim=f"{result.circuit}.{result.claim}{suffixes[result.spec]}")
        for result in results
    )


def judged(results: Sequence[ClaimResult]) -> list[ClaimResult]:
    """Without skipped claims, which a note below the table counts."""
    return [result for result in results if result.verdict != "skipped"]


def cells(results: Sequence[ClaimResult]) -> list[tuple[str, ...]]:
    """The cells of every line."""
    suffixes = spec_suffixes(results)
    return [
        (
            row.verdict,
            f"{result.circuit}.{result.claim}{suffixes[result.spec]}",
            result.role,
            "" if row.score is None else f"{row.score:.3f}",
            "" if row.interval is None else f"[{row.interval[0]:.3f}, {row.interval[1]:.3f}]",
            row.threshold,
            comparison(result) if row.compared else "",
        )
        for result in judged(results)
        for row in result.rows
    ]


SHORT = (("at least ", ">= "), ("at most ", "<= "))
"""Words of a threshold, and what stands for them in a narrow table."""


def shortened(threshold: str) -> str:
    """A threshold for a narrow table."""
    if threshold.count(" and ") == 1 and threshold.startswith("between "):
        return threshold.removeprefix("between ").replace(" and ", " to ")
    for word, sign in SHORT:
        threshold = threshold.replace(word, sign)
    return threshold


def narrow_cells(results: Sequence[ClaimResult], width: int) -> list[tuple[str, str]]:
    """The table for a narrow terminal, as (verdict, rest of the line): the circuit as a heading where there are
    several, the threshold in signs, and on two lines what does not fit on one. A claim's further scores have their
    own names."""
    suffixes, shown = spec_suffixes(results), judged(results)
    several = len({result.spec for result in shown}) > 1
    first = max((len(row.verdict) for result in shown for row in result.rows), default=0)
    names = [len(f"{result.claim} {result.role}") for result in shown]
    column = min(max(names, default=0), width // 2 - 4)
    lines: list[tuple[str, str]] = []
    spec = ""
    for result in shown:
        if several and result.spec != spec:
            spec = result.spec
            lines.append(("", f"{result.circuit}{suffixes[spec]}"))
        for i, row in enumerate(result.rows):
            number = "" if row.score is None else f"{row.score:.3f}"
            low_high = (
                "" if row.interval is None else f"[{row.interval[0]:.3f}, {row.interval[1]:.3f}]"
            )
            last = comparison(result) if row.compared else ""
            last = "" if last in ("none yet", "same") else last
            rest = f"{number:>6} {low_high:<17} {shortened(row.threshold):<7} {last}".rstrip()
            name = f"{result.claim} {result.role}" if i == 0 else f"  {row.name or 'also'}"
            verdict = f"{row.verdict:<{first}}"
            if len(name) <= column and first + column + len(rest) + 4 <= width:
                lines.append((verdict, f"  {name:<{column}}  {rest}".rstrip()))
            else:
                lines += [(verdict, f"  {name}"), (" " * first, f"    {rest}".rstrip())]
    return lines


def comparison(result: ClaimResult) -> str:
    """How the compared score differs from its baseline."""
    drift, state = result.drift, result.drift_state
    if result.accepted_now:
        return "accepted now" if drift is None else f"{drift:+.3f} accepted now"
    if state == "new":
        return "none yet" if result.baseline is None else "redefined"
    if state is None or state == "same":
        return state or ""
    return "" if drift is None else f"{drift:+.3f} {state}"


def located_notes(results: Sequence[ClaimResult], suffixes: Mapping[str, str]) -> list[str]:
    """Which heads and MLPs are behind the red claims, each sentence once for each circuit."""
    return list(
        dict.fromkeys(
            f"{result.circuit}{suffixes[result.spec]}: {line}"
            for result in results
            if result.located is not None
            for line in result.located.lines
        )
    )
