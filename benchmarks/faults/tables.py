"""The results as tables, as JSON, and as a picture: the kill rate over the size of a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.faults import rules
from benchmarks.faults.change import Change
from benchmarks.faults.rules import Outcome
from benchmarks.faults.sizes import Size
from pytest_mechanism.report.pictures import style

RELEASE = ""
"""Key of the unharmed release among sizes."""


def text(
    name: str,
    outcomes: Sequence[Outcome],
    sizes: Mapping[str, Size],
    changes: Iterable[Change],
    on: rules.Measure = "rows",
) -> str:
    """The tables of a suite, whose last is over the KL ``on`` rows or text."""
    changes = list(changes)
    most = rules.limit(sizes, changes)
    release = sizes[RELEASE].accuracy if RELEASE in sizes else 0.0
    faults = sum(change.fault for change in changes)
    seen = {(o.change.name, o.change.fault) for o in outcomes}
    lines = [
        f"{name}: {sum(fault for _, fault in seen)} of {faults} faults and "
        f"{sum(not fault for _, fault in seen)} of {len(changes) - faults} benign changes judged"
    ]
    if most is not None:
        lines.append(
            f"equivalent to none: KL at most {most.rows:.4f} on rows and {most.text:.4f} on text; accuracy of "
            f"the release {release:.3f}"
        )
    lines += [
        f"  {what:48} {rate}" for what, rate in rules.figures(outcomes, most, release).items()
    ]
    lines.append(f"  {'kind':28} {'red':>10} {'accuracy':>10} {'equivalent':>10}")
    for kind, (red, alone, same) in rules.by_kind(outcomes, most).items():
        lines.append(
            f"  {kind:28} {red.hits:4} of {red.of:<3} {alone.hits:4} of {alone.of:<3} {same.hits:4} of {same.of:<3}"
        )
    lines.append(f"  {'claim':36} {'faults':>10} {'benign':>10}")
    for claim, (fault, benign) in rules.by_claim(outcomes).items():
        lines.append(
            f"  {claim:36} {fault.hits:4} of {fault.of:<3} {benign.hits:4} of {benign.of:<3}"
        )
    for size, red, alone in rules.curve(outcomes, on):
        lines.append(f"  KL on {on} {size:8.4f}: seen {red}; by accuracy alone {alone}")
    return "\n".join(line.rstrip() for line in lines)


def write(runs: Mapping[str, Any], json_path: Path | None, plot_path: Path | None) -> None:
    """The files of ``--json`` and ``--plot``."""
    data = {
        name: {
            "changes": len(run.changes),
            "sizes": {
                change.name: {
                    "kl_rows": float(f"{size.rows:.4g}"),
                    "kl_text": float(f"{size.text:.4g}"),
                    "accuracy": round(size.accuracy, 4),
                }
                for change in run.changes
                if (size := run.all_sizes.get(change.name)) is not None
            },
            "outcomes": [rules.as_data(outcome) for outcome in run.outcomes()],
        }
        for name, run in runs.items()
    }
    if json_path is not None:
        content = {"machine": report.machine(), "suites": data}
        json_path.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
    if plot_path is not None:
        for run in runs.values():
            draw(plot_path, run.outcomes(), rules.limit(run.all_sizes, run.changes))


@style.our_style()
def draw(path: Path, outcomes: Sequence[Outcome], most: Size | None) -> None:
    """Each fault at its size, seen or not; the share that is seen, by the gate, by its claims about the size of changes
    if it has others, and by accuracy alone."""
    figure, panel = report.figure(7.2, 3.6)
    groups = rules.by_size(outcomes)
    x = [size for size, _ in groups]
    lines: list[tuple[Sequence[str] | None, str, str]] = [(None, "#b2182b", "the gate")]
    if kinds := rules.kinds_of_size(outcomes):
        lines.append((kinds, "#ef8a62", f"the gate without {rules.PLACE}"))
    lines.append((rules.ACCURACY, "#4d4d4d", "claims about accuracy alone"))
    for seen_by, colour, label in lines:
        rates = [rules.rate(o.seen(seen_by) for o in group) for _, group in groups]
        y = [r.hits / r.of for r in rates]
        low = [max(0.0, v - r.interval[0]) for v, r in zip(y, rates, strict=True)]
        high = [max(0.0, r.interval[1] - v) for v, r in zip(y, rates, strict=True)]
        panel.errorbar(x, y, [low, high], marker="o", color=colour, label=label, capsize=3, lw=1.2)
    faults = [o for o in outcomes if o.change.fault and o.seed == 0]
    for seen, place, mark in ((True, 1.08, "|"), (False, -0.08, "|")):
        x = [o.size.rows for o in faults if o.seen() is seen]
        panel.plot(x, [place] * len(x), mark, color="#b2182b", ms=7, alpha=0.6)
    if most is not None:
        panel.axvline(most.rows, color="#2166ac", ls="--", lw=1)
        panel.annotate(
            " release fitted again", (most.rows, 0.5), color="#2166ac", fontsize=8, rotation=90,
            ha="right", va="center",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.set_ylim(-0.15, 1.15)
    panel.set_xlabel("size of the fault: KL from the release at the task's answers (nats)")
    panel.set_ylabel("share of faults that is seen")
    panel.legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=8, frameon=False)
    path.write_bytes(style.rendered(figure, "svg"))
