"""A run as an OpenMetrics text file, which GitLab shows beside a merge request and Prometheus can read.

Format: OpenMetrics 1.0, "Text format". A family of metrics has its type and its help, then a line for each value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from pytest_mechanism.report.run_report import Conclusion, RunReport
from pytest_mechanism.types import Status

MARK = "# TYPE mechanism_"
"""Begins the file."""


def metrics(report: RunReport, conclusion: Conclusion) -> str:
    """The file's text."""
    return "\n".join([*lines(report, conclusion), "# EOF"]) + "\n"


def lines(report: RunReport, conclusion: Conclusion) -> Iterator[str]:
    """Without the last line, which ends the file."""
    complete = report.exit_code in (0, 1) and not report.not_run
    green = complete and report.exit_code == 0 and conclusion.state == "holds"
    yield from family("run_complete", "1 if every selected claim has a result", [({}, complete)])
    yield from family("run_green", "1 if the run ended well and its claims hold", [({}, green)])
    yield from family(
        "claims", "number of claims with a verdict",
        [({"verdict": verdict}, sum(result.verdict == verdict for result in report.claims))
         for verdict in get_args(Status)],
    )  # fmt: skip
    scores = [
        ({"claim": result.id, "score": row.name or ""}, row.score, row.interval)
        for result in report.claims
        for row in result.rows
        if row.score is not None
    ]
    values = [(labels, value) for labels, value, _ in scores]
    yield from family("score", "score that a claim is judged by", values)
    for end, place in (("low", 0), ("high", 1)):
        bounds = [(labels, ends[place]) for labels, _, ends in scores if ends is not None]
        yield from family(f"score_{end}", f"{end} end of the score's confidence interval", bounds)


def family(
    name: str, meaning: str, values: Sequence[tuple[Mapping[str, str], float]]
) -> Iterator[str]:
    """The lines of a family of metrics; the first one of values with equal labels, which may not repeat."""
    name = f"mechanism_{name}"
    yield f"# TYPE {name} gauge"
    yield f"# HELP {name} {meaning}"
    unique: dict[str, float] = {}
    for labels, value in values:
        listed = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
        unique.setdefault(f"{{{listed}}}" if listed else "", float(value))
    for labelled, value in unique.items():
        yield f"{name}{labelled} {value:g}" if value.is_integer() else f"{name}{labelled} {value!r}"


def escaped(text: str) -> str:
    """A label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
