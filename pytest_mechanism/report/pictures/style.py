"""Shared by all pictures: colours and fonts, measures of text, and reproducible files.

Lengths are inches, font sizes are points. This package imports matplotlib and knows plain data: no model,
no spec and no runner.
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
from pytest_mechanism.nodes import by_layer
from pytest_mechanism.report.pictures import FORMATS, MARK

DPI = 150
MOST_PIXELS = 40_000_000
"""The most pixels of a PNG: a picture of 1,000 layers gets a lower resolution, not all of the memory."""

INK = "#222222"
FAINT = "#666666"
LINE = "#b8b8b8"
MODEL_COLOURS = ("#0072b2", "#d55e00")
"""Blue and vermilion of Okabe and Ito, which colour-blind readers can tell apart."""

TITLE, HEADING, TEXT, SMALL = 13.0, 10.5, 8.5, 7.5
"""Font sizes."""

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": False,  # the minus of the terminal, so that a search finds the number
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # '$' in a label is no formula
    "svg.fonttype": "none",  # text stays searchable
    "svg.hashsalt": "pytest-mechanism",
}


@contextmanager
def our_style() -> Iterator[None]:
    """matplotlib's defaults with our settings, whatever matplotlibrc says; restored afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        # letters that the font lacks become boxes; the SVG keeps them as text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, made without pyplot, which would keep every figure in memory."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def canvas(figure: Figure, origin: tuple[float, float] = (0, 0)) -> Axes:
    """Axes over the whole figure, in inches. ``origin`` is the position of (0, 0), measured from the lower
    left corner of the figure."""
    width, height = figure.get_size_inches()
    x, y = origin
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-x, width - x), ylim=(-y, height - y))
    axes.axis("off")
    return axes


def save(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """Draw in our style and write ``stem.svg`` and ``stem.png`` atomically.

    Raises:
        MechanismError: a file cannot be written.
    """
    written = []
    with our_style():
        figure = draw()
        for kind in FORMATS:
            path = stem.with_name(f"{stem.name}.{kind}")
            try:
                write_bytes(path, rendered(figure, kind), durable=False)
            except OSError as problem:
                raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None
            written.append(path)
    return written


def rendered(figure: Figure, kind: str) -> bytes:
    """The content of a figure's file, the same in every run: without date and version."""
    width, height = figure.get_size_inches()
    for text in figure.findobj(Text):
        # XML forbids control characters, and marks of writing direction could reverse a page
        text.set_text("\n".join(visible(line) for line in text.get_text().split("\n")))
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=kind,
        dpi=min(DPI, math.sqrt(MOST_PIXELS / (width * height))),
        facecolor="white",
        metadata={"Date": None, "Creator": MARK} if kind == "svg" else {"Software": MARK},
    )
    return buffer.getvalue()


# -- text


def text_width(text: str, size: float = TEXT, bold: bool = False) -> float:
    """The width of a line in inches, with a little extra for hinting, and for the other font of whoever
    opens the SVG."""
    text = visible(text)  # as `rendered` shows it
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, False)
    return 1.03 * float(width) / 72


def line_height(size: float = TEXT) -> float:
    """The distance between lines in inches."""
    return 1.35 * size / 72


def wrapped(text: str, width: float, size: float = TEXT, bold: bool = False) -> list[str]:
    """Lines of at most ``width`` inches, broken at spaces; a longer word has a line to itself."""
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
    """A line of text with its font and colour."""

    text: str
    size: float = TEXT
    bold: bool = False
    colour: str = INK


def paragraph(
    text: str, width: float, size: float = TEXT, bold: bool = False, colour: str = INK
) -> list[Line]:
    """Text as lines of at most ``width`` inches."""
    return [Line(line, size, bold, colour) for line in wrapped(text, width, size, bold)]


def height_of(lines: Sequence[Line]) -> float:
    """The height of lines in inches."""
    return sum(line_height(line.size) for line in lines)


def write(page: Axes, lines: Sequence[Line], x: float, y: float, zorder: float = 6) -> float:
    """Write lines downwards from y, and return the y below them."""
    for line in lines:
        page.text(
            x, y, line.text, size=line.size, weight="bold" if line.bold else "normal",
            color=line.colour, va="top", zorder=zorder,
        )  # fmt: skip
        y -= line_height(line.size)
    return y


def shorten(text: str, letters: int = 32) -> str:
    """A name, without its middle if it is too long for a picture."""
    if len(text) <= letters:
        return text
    half = (letters - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def decimals(scale: float) -> int:
    """Digits after the point for numbers of up to ``scale``: two for 0.3 to 10."""
    if not math.isfinite(scale) or scale <= 0:
        return 2
    if scale >= 0.3:
        return 2 if scale < 10 else max(0, 2 - math.floor(math.log10(scale)))
    return min(6, math.ceil(1.5 - math.log10(scale)))


def number(value: float, digits: int) -> str:
    """A number in fixed point with its sign; 0 has none."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown


def head_name(head: tuple[int, int]) -> str:
    """``L2 H1``: a head as pictures name it."""
    layer, number = head
    return f"L{layer} H{number}"


def heads_text(heads: Sequence[tuple[int, int]], few: int = 4) -> list[str]:
    """``L3 H0, L3 H1`` for up to ``few`` heads; else their number, and a line for each layer."""
    if not heads:
        return ["no heads found"]
    if len(heads) <= few:
        return [", ".join(map(head_name, sorted(heads)))]
    layers = by_layer(heads).items()
    lines = [f"L{layer}: {' '.join(f'H{head}' for head in members)}" for layer, members in layers]
    return [f"{len(heads)} heads", *lines]


def example_of(heads: Iterable[tuple[int, int]]) -> str:
    """The name of one of a picture's heads, explained; nothing if the picture shows no head. Prefers a head
    whose two numbers differ."""
    example = min(heads, key=lambda head: (head[0] == head[1], head), default=None)
    if example is None:
        return ""
    layer, head = example
    return f"L{layer} H{head}: head {head} of layer {layer}, {layer}.{head} in a spec"
