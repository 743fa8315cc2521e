"""What all pictures share: look, measures of text, and files that are the same in every run.

Lengths are inches, font sizes points. This package knows plain data and matplotlib: no model, no
spec and no runner.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import TextToPath

from pytest_mechanism.errors import MechanismError, visible
from pytest_mechanism.files import write_bytes

FORMATS = ("svg", "png")
DPI = 150
MOST_PIXELS = 40_000_000
"""A larger PNG is drawn coarser: 1,000 layers must not fill the memory."""

INK = "#222222"
FAINT = "#666666"
LINE = "#b8b8b8"
MODEL_COLOURS = ("#0072b2", "#d55e00")
"""Blue and vermilion of Okabe and Ito, which colour-blind readers tell apart."""

TITLE, HEADING, TEXT, SMALL = 13.0, 10.5, 8.5, 7.5
"""Font sizes."""

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": False,  # a minus as on the terminal, so that a number can be searched for
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a label with '$' is a label
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pytest-mechanism",
}


@contextmanager
def our_style() -> Iterator[None]:
    """matplotlib's own defaults and ours, whatever matplotlibrc says; undone afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        # a label in a script that the font lacks is drawn as boxes; the SVG has it as text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; pyplot, which remembers every figure, is not involved."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def canvas(figure: Figure, origin: tuple[float, float] = (0, 0)) -> Axes:
    """Axes over the whole figure whose coordinates are inches from ``origin``, which is itself so
    far from the lower left corner."""
    width, height = figure.get_size_inches()
    x, y = origin
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-x, width - x), ylim=(-y, height - y))
    axes.axis("off")
    return axes


def save(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """Draw in our style and write ``stem.svg`` and ``stem.png``; a reader sees the old file or
    the new one.

    Raises:
        MechanismError: a file cannot be written.
    """
    written = []
    with our_style():
        figure = draw()
        for kind in FORMATS:
            path = stem.with_name(f"{stem.name}.{kind}")
            try:
                write_bytes(path, rendered(figure, kind))
            except OSError as problem:
                raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
            written.append(path)
    return written


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a file, the same in every run: no date, no version."""
    width, height = figure.get_size_inches()
    for text in figure.findobj(Text):
        # XML has no control characters, and what turns the direction of writing turns a page
        text.set_text("\n".join(visible(line) for line in text.get_text().split("\n")))
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=kind,
        dpi=min(DPI, math.sqrt(MOST_PIXELS / (width * height))),
        facecolor="white",
        metadata={"Date": None, "Creator": None} if kind == "svg" else {"Software": None},
    )
    return buffer.getvalue()


# -- text


def text_width(text: str, size: float = TEXT, bold: bool = False) -> float:
    """Inches that a line takes; a little more than the outlines say, for hinting and for readers
    of the SVG whose font is another."""
    text = visible(text)  # as it will stand there
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, False)
    return 1.03 * float(width) / 72


def line_height(size: float = TEXT) -> float:
    """Inches from one line to the next."""
    return 1.35 * size / 72


def wrapped(text: str, width: float, size: float = TEXT, bold: bool = False) -> list[str]:
    """Lines of at most so many inches, broken at spaces; a longer word has a line to itself."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@dataclass(frozen=True)
class Line:
    """A line of text with its look."""

    text: str
    size: float = TEXT
    bold: bool = False
    colour: str = INK


def paragraph(
    text: str, width: float, size: float = TEXT, bold: bool = False, colour: str = INK
) -> list[Line]:
    """Text as lines of at most so many inches."""
    return [Line(line, size, bold, colour) for line in wrapped(text, width, size, bold)]


def height_of(lines: Sequence[Line]) -> float:
    """Inches from the top of the first line to the bottom of the last."""
    return sum(line_height(line.size) for line in lines)


def write(page: Axes, lines: Sequence[Line], x: float, y: float, zorder: float = 6) -> float:
    """Lines downwards from y; returns the y below them."""
    for line in lines:
        page.text(
            x, y, line.text, size=line.size, weight="bold" if line.bold else "normal",
            color=line.colour, va="top", zorder=zorder,
        )  # fmt: skip
        y -= line_height(line.size)
    return y


def shorten(text: str, letters: int = 32) -> str:
    """A name that is too long for a picture, without its middle."""
    if len(text) <= letters:
        return text
    half = (letters - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def decimals(scale: float) -> int:
    """Digits after the point for numbers whose largest is ``scale``: two for 0.3 to 10."""
    if not math.isfinite(scale) or scale <= 0:
        return 2
    if scale >= 0.3:
        return 2 if scale < 10 else max(0, 2 - math.floor(math.log10(scale)))
    return min(6, math.ceil(1.5 - math.log10(scale)))


def number(value: float, digits: int) -> str:
    """Fixed point with a sign; never a negative nothing."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown


def heads_text(heads: Sequence[tuple[int, int]], few: int = 6) -> list[str]:
    """``heads 3.0 3.1`` where there are few, else how many and one line a layer."""
    if not heads:
        return ["no heads found"]
    if len(heads) <= few:
        named = " ".join(f"{layer}.{head}" for layer, head in sorted(heads))
        return [f"head {named}" if len(heads) == 1 else f"heads {named}"]
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        layers.setdefault(layer, []).append(head)
    lines = [f"layer {layer}: {' '.join(map(str, members))}" for layer, members in layers.items()]
    return [f"{len(heads)} heads", *lines]


def example_of(heads: Iterable[tuple[int, int]]) -> str:
    """How a head's name is read, on one of those that a picture shows; nothing where it shows none.
    One whose two numbers differ, where there is one."""
    found = min(heads, key=lambda head: (head[0] == head[1], head), default=None)
    return "" if found is None else f"{found[0]}.{found[1]}: head {found[1]} of layer {found[0]}"
