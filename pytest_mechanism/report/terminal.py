"""The terminal section: one line a claim."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

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


def cells(result: Result, spec: str = "") -> tuple[str, ...]:
    """A result as table cells; ``spec`` tells its claim from one of the same name."""
    score, interval, drift = result["score"], result["interval"], result["drift"]
    state = result["drift_state"]
    accepted = {None: "", "new": "none yet", "same": "same"}.get(
        state, "" if drift is None else f"{drift:+.3f} {state}"
    )
    if result["accepted_now"]:
        accepted = "accepted now" if drift is None else f"{drift:+.3f} accepted now"
    return (
        result["verdict"],
        f"{result['circuit']}.{result['claim']}{spec}",
        result["role"],
        "" if score is None else f"{score:.3f}",
        "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]",
        result["threshold"],
        accepted,
    )


def judged(results: Sequence[Result]) -> Sequence[Result]:
    """Without what was skipped, which a sentence below counts."""
    return [r for r in results if r["verdict"] != "skipped"]


def table(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(verdict column, the rest) of the headings and of each result; columns aligned. The verdict
    comes first: a narrow terminal breaks lines at their end."""
    specs = which(results)
    rows = [HEADINGS, *(cells(r, specs[file_of(r)]) for r in judged(results))]
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
    new = sum(r["drift_state"] == "new" and r["verdict"] == "pass" for r in left)
    if new:
        found.append(
            f"{new} of {len(own)} scores pass and have no accepted baseline yet: "
            "--snapshot-update accepts them, and later runs are held against them"
        )
    skipped, specs = [r for r in results if r["verdict"] == "skipped"], which(results)
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
        row = [escaped(cell) for cell in cells(result, specs[file_of(result)])]
        row[0] = f"{sign.get(row[0], '❌')} {row[0]}"
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n\n"
