"""Curves as a picture: every number is in it, and controls are recognisable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_mechanism.report.pictures import line_chart, style
from pytest_mechanism.types import Chart, Line

POINTS = ((0.0, 0.1, (0.05, 0.2)), (10.0, 0.6, (0.5, 0.7)), (20.0, 0.9, (0.85, 0.95)))


def line(model: str, panel: str = "", control: bool = False, name: str = "") -> Line:
    return Line(model, name, POINTS, panel, control)


def chart(*lines: Line, **more: object) -> Chart:
    return Chart("How fast?", "steps", "accuracy", lines, (0.5, "capability is back"), **more)  # type: ignore[arg-type]


def drawn(tmp_path: Path, content: Chart) -> str:
    labels = {"base": "release", "ft": "candidate", "control": "never had it"}
    files = style.save(lambda: line_chart.draw(content, labels, "500 rows"), tmp_path / "curve")
    assert [path.suffix for path in files] == [".svg", ".png"]
    assert files[1].stat().st_size > 5_000
    return files[0].read_text()


def test_every_word_is_text_and_every_line_is_there(tmp_path: Path) -> None:
    """Titles, axes, legend, threshold and footnote; one path per line and panel."""
    svg = drawn(
        tmp_path,
        chart(
            line("base", "rate 1e-4"), line("base", "rate 1e-3"),
            line("control", "rate 1e-4", control=True), line("control", "rate 1e-3", control=True),
        ),
    )  # fmt: skip
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    for word in ("How fast?", "steps", "accuracy", "release", "never had it", "rate 1e-4",
                 "rate 1e-3", "capability is back", "500 rows"):  # fmt: skip
        assert word in texts
    assert texts.count("release") == 1
    assert len(re.findall(r'id="line-release-', svg)) == 2
    assert len(re.findall(r'id="line-never had it-', svg)) == 2
    assert len(re.findall(r'id="panel-rate', svg)) == 2


def test_the_threshold_is_named_below_the_panels_where_no_curve_can_cross_its_label(
    tmp_path: Path,
) -> None:
    """The curve ends at the threshold, where the label used to be."""
    flat = Line("base", "", tuple((x, 0.5, (0.4, 0.6)) for x in (0.0, 10.0, 20.0)))
    svg = drawn(tmp_path, chart(flat))
    (label,) = re.findall(
        r'<text[^>]*y="([\d.]+)"[^>]*>capability is back</text>', svg
    ) or re.findall(r"translate\([\d.]+ ([\d.]+)\)[^>]*>capability is back</text>", svg)
    inside = svg[svg.index('id="line-release-"') :]
    (curve,) = re.findall(r' d="M [\d.]+ ([\d.]+)', inside)[:1]
    bottom = re.search(r"translate\([\d.]+ ([\d.]+)\)[^>]*>steps</text>", svg)
    bottom = bottom or re.search(r'<text[^>]*y="([\d.]+)"[^>]*>steps</text>', svg)
    assert bottom is not None
    assert float(curve) < float(bottom[1]) < float(label)


def test_points_stand_where_their_numbers_say(tmp_path: Path) -> None:
    """Equal steps of x are equal distances, and the higher value is drawn higher."""
    svg = drawn(tmp_path, chart(line("base")))
    inside = svg[svg.index('id="line-release-"') :]
    path = re.search(r' d="([^"]+)"', inside)
    assert path is not None
    xy = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])]
    assert len(xy) == 3
    (x0, y0), (x1, y1), (x2, y2) = xy
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.01)
    assert (y0 - y1) / (y1 - y2) == pytest.approx((0.6 - 0.1) / (0.9 - 0.6), rel=0.01)


def test_named_ticks_and_an_empty_chart(tmp_path: Path) -> None:
    """Counts that are no even scale get their names; nothing to draw is still a picture."""
    svg = drawn(tmp_path, chart(line("base"), ticks={0.0: "none", 10.0: "two", 20.0: "fifty"}))
    assert {"none", "two", "fifty"} <= {*re.findall(r"<text[^>]*>([^<]*)</text>", svg)}
    drawn(tmp_path, chart())


def test_one_model_s_control_is_grey_and_dashed() -> None:
    """Beside other models a control keeps its model's colour, dashed."""
    own, other = line("base"), line("base", control=True, name="random")
    alone = chart(own, other)
    assert line_chart.line_style(alone, own) == (style.MODEL_COLOURS[0], "-")
    assert line_chart.line_style(alone, other) == (style.FAINT, "--")
    both = chart(own, line("control", control=True))
    assert line_chart.line_style(both, both.lines[1]) == (style.MODEL_COLOURS[1], "--")
