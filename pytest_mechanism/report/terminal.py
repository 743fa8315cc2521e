"""The terminal section: one line a threshold of a claim."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mechanism.causes import Cause
from pytest_mechanism.claims.base import REFERENCE
from pytest_mechanism.errors import visible

Result = Mapping[str, Any]

HEADINGS = ("verdict", "claim", "role", "score", "interval", "claimed", "accepted")
RIGHT = {"score"}
COLOURS = {"pass": "green"}

NUMBERS = re.compile(r"[-+0-9.,\[\] ]*")
"""A score or an interval, whose brackets are no link."""


def file_of(result: Result) -> str:
    """The spec of a result, as in its node id."""
    return str(result["id"]).partition("::")[0]


def which(results: Sequence[Result]) -> dict[str, str]:
    """Spec -> what tells it from another one whose circuit has the same name: its file; nothing
    where no other has."""
    named: dict[str, dict[str, str]] = {}
    for result in results:
        file = file_of(result)
        named.setdefault(str(result["circuit"]), {})[file] = file.rpartition("/")[2]
    found = {}
    for files in named.values():
        alike = len({*files.values()}) < len(files)
        for file, short in files.items():
            found[file] = "" if len(files) == 1 else f" ({file if alike else short})"
    return found


def accepted(result: Result) -> str:
    """How the compared score stands to the accepted one."""
    drift, state = result["drift"], result["drift_state"]
    if result["accepted_now"]:
        return "accepted now" if drift is None else f"{drift:+.3f} accepted now"
    if state == "new":
        return "none yet" if result["baseline"] is None else "redefined"
    if state is None or state == "same":
        return state or ""
    return "" if drift is None else f"{drift:+.3f} {state}"


def cells(result: Result, spec: str = "") -> list[tuple[str, ...]]:
    """A result as rows of table cells, one a threshold; ``spec`` tells its claim from one of the
    same name."""
    found: list[tuple[str, ...]] = []
    for row in result["rows"]:
        score, interval = row["score"], row["interval"]
        found.append(
            (
                row["verdict"],
                f"{result['circuit']}.{result['claim']}{spec}",
                result["role"],
                "" if score is None else f"{score:.3f}",
                "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]",
                row["threshold"],
                accepted(result) if row["compared"] else "",
            )
        )
    return found


def judged(results: Sequence[Result]) -> Sequence[Result]:
    """Without what was skipped, which a sentence below counts."""
    return [r for r in results if r["verdict"] != "skipped"]


def table(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(verdict column, the rest) of the headings and of each threshold; columns aligned. The
    verdict comes first: a narrow terminal breaks lines at their end."""
    specs = which(results)
    rows = [HEADINGS, *(row for r in judged(results) for row in cells(r, specs[file_of(r)]))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = []
    for row in rows:
        padded = [
            f"{cell:>{width}}" if name in RIGHT else f"{cell:<{width}}"
            for name, cell, width in zip(HEADINGS, row, widths, strict=True)
        ]
        lines.append((padded[0], "  " + "  ".join(padded[1:]).rstrip()))
    return lines


def notes(results: Sequence[Result], skips: bool = True) -> list[str]:
    """Sentences below the table: what is missing, what to do, where this run did not just do it;
    with ``skips`` also what was skipped, where pytest does not list that (``-rs``)."""
    found = []
    own = judged(results)
    left = [r for r in own if not r["accepted_now"]]
    new = [r for r in left if r["drift_state"] == "new" and r["verdict"] == "pass"]
    if none := sum(r["baseline"] is None for r in new):
        found.append(
            f"{none} of {len(own)} scores pass and have no accepted baseline yet: "
            "--snapshot-update accepts them, and later runs are held against them"
        )
    if redefined := len(new) - none:
        found.append(
            f"{redefined} of {len(own)} scores pass and were accepted under another definition: "
            "nothing to compare with until --snapshot-update accepts them anew"
        )
    found += of_reference(own, specs := which(results))
    skipped = [r for r in results if r["verdict"] == "skipped"]
    for reason in dict.fromkeys(r["reason"] for r in skipped if skips):
        own = [r for r in skipped if r["reason"] == reason]
        circuits = ", ".join(dict.fromkeys(f"{r['circuit']}{specs[file_of(r)]}" for r in own))
        found.append(f"{len(own)} skipped ({circuits}): {reason}")
    found += dict.fromkeys(told(note, r, specs) for r in results for note in r["notes"])
    better = sum(r["drift_state"] == "better" for r in left)
    if better:
        found.append(
            f"{better} scores are better than accepted by more than their tolerance; "
            "--snapshot-update raises the baseline"
        )
    return found


def of_reference(results: Sequence[Result], specs: Mapping[str, str]) -> list[str]:
    """Which claims do not hold of the reference model: what is red on the candidate too is then no
    finding about it."""
    found: dict[str, list[str]] = {}
    for r in results:
        if r["cause"] == Cause.REFERENCE_FAILS and r["role"] == REFERENCE:
            found.setdefault(f"{r['circuit']}{specs[file_of(r)]}", []).append(r["claim"])
    return [
        f"{circuit}: {', '.join(claims)} {'do' if len(claims) > 1 else 'does'} not hold on your base "
        "model: what they say of other models is no conclusion about the candidate"
        for circuit, claims in found.items()
    ]


def told(note: str, result: Result, specs: Mapping[str, str]) -> str:
    """A note that begins with its circuit's name, told from one of another spec."""
    name = f"{result['circuit']}: "
    if not note.startswith(name):
        return note
    return f"{result['circuit']}{specs[file_of(result)]}: {note.removeprefix(name)}"


def escaped(text: str) -> str:
    """Text as it stands in a cell of GitHub's Markdown: no markup, HTML, link, mention or emoji."""
    if NUMBERS.fullmatch(text):
        return text
    safe = html.escape(visible(text), quote=False)
    safe = re.sub(
        r"[\\`*{}\[\]|~$@#!:]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda m: f"\\{m[0]}", safe
    )
    return re.sub(r"(?i)\bwww\.", lambda m: f"{m[0][:-1]}\\.", safe)


def markdown(results: Sequence[Result], pair: str) -> str:
    """The table for a CI job's summary page, where text is text: no markup, HTML or link of it."""
    sign, specs = {"pass": "✅"}, which(results)
    lines = [f"### pytest-mechanism: {pair}", "", "| " + " | ".join(HEADINGS) + " |"]
    lines.append("|" + "---|" * len(HEADINGS))
    for result in judged(results):
        for shown in cells(result, specs[file_of(result)]):
            row = [escaped(cell) for cell in shown]
            row[0] = f"{sign.get(row[0], '❌')} {row[0]}"
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n\n"
