"""The results of a run: tables for people, JSON for programs, a bar chart for the README."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clock import Measure, Timing

AGREE = 1e-3
"""Standard deviations of the reference's effects by which numbers may differ."""

ROUNDING = 1e-5
"""What float32 leaves uncertain in a log-probability of about -10, after a dozen layers: effects
so small that their deviations are below it may differ by this."""

TARGETS: dict[str, tuple[str, float]] = {
    "sweep-last": ("transformer-lens", 45),
    "sweep-all": ("transformer-lens", 2.5),
    "path-logits": ("reference engine", 40),
    "path-q-last": ("reference engine", 40),
    "path-v-query": ("reference engine", 15),
    "path-v-previous": ("reference engine", 4),
    "dcm-step": ("reference engine", 15),
    "minimality": ("reference engine", 20),
}
"""Measure -> whom the branch engine should beat, branches alone, by how much: at full size, where
the arithmetic and not Python takes the time."""

MOST_MEMORY = 1.5
"""Peak of the branch engine's sweeps over that of one plain forward of the same batch, at most."""

FULL_SIZE = ("gpt2-small", "llama-gqa")


@dataclass(frozen=True)
class Found:
    """The results of one measure on one shape."""

    shape: str
    measure: Measure
    timings: Sequence[Timing]

    def ratio(self, timing: Timing) -> float:
        """CPU time over the branch engine's, branches alone."""
        return timing.alone / self.timings[0].alone

    def of(self, name: str) -> Timing | None:
        return next((t for t in self.timings if t.contender == name), None)

    def agrees(self) -> bool:
        floor = 0.0 if self.measure.unpatched is None else ROUNDING
        return all(t.gap <= AGREE or t.difference <= floor for t in self.timings)

    def target(self) -> str | None:
        """Whether the target is met, in one line; None if the measure has no target on this shape."""
        wanted = TARGETS.get(self.measure.name)
        if wanted is None or self.shape not in FULL_SIZE:
            return None
        against, factor = wanted
        timing = self.of(against)
        if timing is None:
            return None
        verdict = "met" if self.ratio(timing) >= factor else "MISSED"
        return f"target {factor:g}x against {against}: {self.ratio(timing):.1f}x, {verdict}"

    def limit(self) -> str | None:
        """How much of what the operation count allows is reached, or None if it was not counted."""
        timing = self.of("plain hooks")
        if self.measure.bound is None or timing is None:
            return None
        share = self.ratio(timing) / self.measure.bound
        return (
            f"by operation count at most {self.measure.bound:.1f}x against a forward a "
            f"{self.measure.unit}; reached against plain hooks: {share:.0%}"
        )

    def table(self) -> str:
        m = self.measure
        lines = [
            f"{self.shape}: {m.title} ({m.variants} {m.unit}s)",
            f"  {'':26} {'timed':>10} | {'alone s':>9} {'ratio':>7} | "
            f"{'with runs':>9} {'ratio':>7} | {'spread':>6} {'gap std':>8} {'absolute':>8}",
        ]
        whole = self.timings[0].everything
        lines.extend(
            f"  {t.contender:26} {f'{t.timed} of {t.variants}':>10} | {t.alone:9.3f} "
            f"{self.ratio(t):6.1f}x | {t.everything:9.3f} {t.everything / whole:6.1f}x | "
            f"{t.spread:6.2f} {t.gap:8.1e} {t.difference:8.1e}"
            for t in self.timings
        )
        lines += [f"  {line}" for line in (self.limit(), self.target()) if line]
        if not self.agrees():
            lines.append(f"  NUMBERS DIFFER from the {m.reference} by more than {AGREE:g} std")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "measure": self.measure.name,
            "title": self.measure.title,
            "unit": self.measure.unit,
            "variants": self.measure.variants,
            "bound": self.measure.bound,
            "agrees": self.agrees(),
            "contenders": [
                {
                    **asdict(t),
                    "seconds_alone": t.alone,
                    "seconds_everything": t.everything,
                    "ratio_alone": self.ratio(t),
                    "ratio_everything": t.everything / self.timings[0].everything,
                }
                for t in self.timings
            ],
        }


def memory_lines(shape: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The results of `memory.table` as a table."""
    lines = [f"{shape}: peak memory above the loaded model"]
    for each in found:
        if each["shape"] == shape:
            size = f"{each['bytes'] / 2**20:8.0f} MiB"
            lines.append(f"  {each['work']:32} {size} {each['ratio']:6.2f}x")
            if each["work"].startswith("branch") and shape in FULL_SIZE:
                verdict = "met" if each["ratio"] <= MOST_MEMORY else "MISSED"
                lines[-1] += f"  target at most {MOST_MEMORY:g}x, {verdict}"
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The machine, the library versions and the date."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "transformer-lens")},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure with one panel, made without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.add_subplot()


def draw_ratios(path: Path, found: Sequence[Found], title: str) -> None:
    """A bar for each contender of each measure: how many times the branch engine's CPU time."""
    bars = [
        (f"{each.shape}: {each.measure.title}" if i == 0 else "", timing, each)
        for each in found
        for i, timing in enumerate(each.timings[1:])
    ]
    names = list(dict.fromkeys(timing.contender for _, timing, _ in bars))
    made, axes = figure(11, 1 + 0.24 * len(bars))
    places: list[float] = []
    last = None
    for _, _, each in bars:  # a gap between measures
        places.append((places[-1] + (1 if each is last else 1.6)) if places else 0.0)
        last = each
    for place, (_, timing, each) in zip(places, bars, strict=True):
        ratio = each.ratio(timing)
        axes.barh(place, ratio, color=f"C{names.index(timing.contender)}")
        axes.text(ratio * 1.05, place, f"{ratio:.1f}x  {timing.contender}", va="center", size=8)
    labelled = [(p, text) for p, (text, _, _) in zip(places, bars, strict=True) if text]
    axes.set_yticks([p for p, _ in labelled], [text for _, text in labelled], size=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("CPU time of the same variants / that of the branch engine (1 = equal)")
    axes.set_title(title, size=9)
    made.savefig(path)
