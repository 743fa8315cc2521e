"""The report of a sweep: many candidates against one base, a table with the worst first.

``pytest-mechanism sweep`` runs a gate for each candidate; this module reads what the gates wrote
(`report.json_file`) and says which candidate is red and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_mechanism.report.markdown import escaped
from pytest_mechanism.report.rows import UNACCEPTED
from pytest_mechanism.report.run_report import JUDGED, RED
from pytest_mechanism.types import Status

FORMAT = 1

Outcome = Literal["red", "error", "inconclusive", "not run", "green"]
"""Of a candidate, the worst first. ``red``: a claim failed. ``error``: it could not be judged.
``inconclusive``: some claim could not be decided and none failed. Only ``green`` may be released."""

OUTCOMES: tuple[Outcome, ...] = ("red", "error", "inconclusive", "not run", "green")

REDS: tuple[Status, ...] = ("fail", "error", "inconclusive")
"""Red verdicts, the worst first."""

MARKS: Mapping[str, str] = {
    "pass": ".",
    "fail": "F",
    "inconclusive": "?",
    "error": "E",
    "skipped": "s",
    "warn": "w",
}
"""A verdict in the table; ``-`` where the gate did not come to the claim."""

HEADING = "# Candidates against"
"""How the Markdown table begins."""

MOST_COLUMNS = 30
"""Claims that fit beside each other on a terminal."""


@dataclass(frozen=True)
class Claimed:
    """A claim on a candidate.

    Attributes:
        verdict: as in the result file.
        score: the score that is compared with the baseline, or None.
        reason: one sentence.
    """

    verdict: Status
    score: float | None
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A candidate and what its gate said.

    Attributes:
        label: its name in reports.
        reference: as typed, without the label.
        fingerprint: of its files; None where they cannot be read.
        outcome: see `Outcome`.
        reason: why it is not green, in one sentence; empty where it is.
        exit_code: of its gate; None where none ran.
        result: file name of the gate's result file, or None.
        same_as: label of an earlier candidate with equal files, or None.
        measured: measurements that its gate made; the others came from the store.
        claims: id of a claim -> its verdict, score and reason.
    """

    label: str
    reference: str
    fingerprint: str | None
    outcome: Outcome
    reason: str
    exit_code: int | None = None
    result: str | None = None
    same_as: str | None = None
    measured: int = 0
    claims: Mapping[str, Claimed] = field(default_factory=dict)

    @property
    def red(self) -> list[str]:
        """Ids of its red claims."""
        return [id_ for id_, claim in self.claims.items() if claim.verdict in RED]


def outcome_of(exit_code: int | None, content: Mapping[str, Any]) -> tuple[Outcome, str]:
    """What a gate says about its candidate, and why it is not green.

    Args:
        exit_code: of the gate's process; None where a signal ended it.
        content: of its result file; empty where it wrote none.
    """
    claims = content.get("claims", [])
    several = len({claim["id"].partition("::")[0] for claim in claims}) > 1
    red = [claim for claim in claims if claim["verdict"] in RED]
    red.sort(key=lambda claim: REDS.index(claim["verdict"]))
    if red:
        outcome: Outcome = "red" if red[0]["verdict"] == "fail" else red[0]["verdict"]
        # what accepting scores would not cure is told first
        first = next((claim for claim in red if claim.get("cause") not in UNACCEPTED), red[0])
        more = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
        base_fails = first.get("cause") == "reference_fails"
        meaning = f"; {first['meaning']}" if base_fails else ""
        circuit = f"{first['circuit']}." if several else ""
        name = f"{circuit}{first['claim']} on {first['role']}"
        return outcome, f"{name}: {first['reason']}{meaning}{more}"
    if not content or exit_code is None or exit_code != content["exit_code"]:
        return "error", f"its gate ended without a result (exit code {exit_code})"
    if content["reasons"]:
        return "error", str(content["reasons"][0])
    if exit_code != 0 or content["not_run"]:
        return "error", f"its gate ended with exit code {exit_code}"
    return without_reds([c["verdict"] for c in claims if "ft" in c["models"]])


def without_reds(verdicts: Sequence[str]) -> tuple[Outcome, str]:
    """What a gate without a red claim says, from the verdicts on its candidate."""
    if not any(verdict in JUDGED for verdict in verdicts):
        return "error", "no claim judged it"
    if "pass" not in verdicts:
        return "inconclusive", "no claim about it holds (severity: warn)"
    return "green", ""


def claims_of(content: Mapping[str, Any]) -> dict[str, Claimed]:
    """Id -> claim, from a result file."""
    return {
        claim["id"]: Claimed(claim["verdict"], claim["score"], claim["reason"])
        for claim in content.get("claims", [])
    }


def worst_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By outcome, then by the number of red claims; equals stay in their order."""
    return sorted(candidates, key=lambda c: (OUTCOMES.index(c.outcome), -len(c.red)))


def claim_ids(candidates: Sequence[Candidate]) -> list[str]:
    """Every claim, in the order of the specs."""
    return list(dict.fromkeys(id_ for candidate in candidates for id_ in candidate.claims))


def mark(candidate: Candidate, id_: str) -> str:
    """The letter of a claim's verdict."""
    claim = candidate.claims.get(id_)
    return "-" if claim is None else MARKS.get(claim.verdict, "?")


def columns(candidates: Sequence[Candidate]) -> list[str]:
    """The claims that the terminal's table shows: those that not every candidate passes, the claims that
    most candidates fail first where there are too many."""
    reds = {
        id_: sum(id_ in candidate.red for candidate in candidates) for id_ in claim_ids(candidates)
    }
    shown = [
        id_
        for id_ in reds
        if {mark(candidate, id_) for candidate in candidates if candidate.claims} != {"."}
    ]
    if len(shown) > MOST_COLUMNS:
        kept = sorted(shown, key=lambda id_: -reds[id_])[:MOST_COLUMNS]
        return [id_ for id_ in shown if id_ in kept]
    return shown


def table_lines(candidates: Sequence[Candidate]) -> Iterator[str]:
    """The table of the terminal: a line for each candidate, the worst first."""
    rows, every = worst_first(candidates), claim_ids(candidates)
    shown = columns(candidates)
    if shown:
        yield "claims, with the number of their column:"
        for number, id_ in enumerate(shown, 1):
            yield f"  {number:>2}  {id_}"
        yield (
            "".join(f"  {letter} {verdict} " for verdict, letter in MARKS.items())
            + "  - not judged"
        )
        yield ""
    width = max(len("candidate"), *(len(row.label) for row in rows))
    numbers = " ".join(f"{number:>2}" for number in range(1, len(shown) + 1))
    yield f"{'candidate':<{width}}  {'outcome':<12}  {'red':>3}  {numbers}".rstrip()
    for row in rows:
        marks = " ".join(f"{mark(row, id_):>2}" for id_ in shown)
        same = "" if row.same_as is None else f"  same files as {row.same_as}"
        line = f"{row.label:<{width}}  {row.outcome:<12}  {len(row.red):>3}  {marks}"
        yield f"{line.rstrip()}{same}"
    if left := len(every) - len(shown):
        which = ", which every judged candidate passes" if len(shown) < MOST_COLUMNS else ""
        verb = "claim is" if left == 1 else "claims are"
        yield f"{left} {verb} not shown here{which}; sweep.md has all"
    for row in rows:
        if row.reason:
            yield f"{row.label}: {row.outcome}: {row.reason}"


def markdown(base: str, candidates: Sequence[Candidate]) -> str:
    """The whole table, with every claim and its score, as Markdown."""
    ids = claim_ids(candidates)
    head = ["candidate", "outcome", "files", *ids]
    lines = [
        f"{HEADING} {escaped(base)}",
        "",
        *table_row(head),
        "|" + "---|" * len(head),
    ]
    for row in worst_first(candidates):
        files = f"same as {row.same_as}" if row.same_as else (row.fingerprint or "")[:12]
        found = [claim_cell(row.claims.get(id_)) for id_ in ids]
        lines += table_row([row.label, row.outcome, files, *found])
    lines += ["", *(f"- {escaped(c.label)}: {escaped(c.reason)}" for c in candidates if c.reason)]
    return "\n".join(lines).rstrip() + "\n"


def table_row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(map(escaped, cells))} |"]


def claim_cell(claim: Claimed | None) -> str:
    """Verdict and score."""
    if claim is None:
        return "not judged"
    return claim.verdict if claim.score is None else f"{claim.verdict} {claim.score:.3f}"


def content(
    base: Mapping[str, str], candidates: Sequence[Candidate], exit_code: int
) -> dict[str, Any]:
    """Shape ``mechanism_sweep: 1`` of sweep.json; docs/result-file.md describes it."""
    return {
        "mechanism_sweep": FORMAT,
        "base": dict(base),
        "candidates": [asdict(candidate) for candidate in worst_first(candidates)],
        "exit_code": exit_code,
    }
