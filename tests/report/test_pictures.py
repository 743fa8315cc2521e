"""Pictures drawn from plain data: they contain all numbers, and every text is readable."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import begins_with_mark
from pytest_mechanism.report.pictures import (
    MARK,
    circuit_graph,
    edges,
    head_map,
    heatmaps,
    layout,
    style,
)
from pytest_mechanism.report.pictures.circuit_graph import CircuitGraph, GroupNode
from pytest_mechanism.report.pictures.edges import Edge, Effect
from pytest_mechanism.report.pictures.head_map import HeadMap
from pytest_mechanism.report.pictures.heatmaps import HeadMaps, StageMaps

DATA = Path(__file__).parents[1] / "data"
NAN = float("nan")
Head = tuple[int, int]


def maps(*stages: StageMaps) -> HeadMaps:
    return HeadMaps("toy: heads", stages, "change (nats)", "heads named in the spec", "n = 210")


SMALL = maps(
    StageMaps(
        "fetcher",
        "at last, directly into the logits",
        {
            "base": HeadMap(np.array([[-0.1, 0.02], [0.003, -0.5]]), [(1, 1)]),
            "ft": HeadMap(np.array([[-0.2, 0.0], [0.0, -0.25]]), [(1, 1)], [(0, 0), (1, 1)]),
        },
    ),
    StageMaps(
        "reader",
        "at query, into v of fetcher",
        {
            "base": HeadMap(np.array([[-0.04, 0.0], [NAN, NAN]]), [(0, 0)], [(1, 1)]),
            "ft": HeadMap(np.array([[-0.08, 0.0], [NAN, NAN]]), [(0, 0), (0, 1)]),
        },
    ),
)


def llama() -> HeadMaps:
    """The published scores of Llama-7B, as if two models had them."""
    scores = np.load(DATA / "llama_7b_path_patching.npz")
    chosen = json.loads((DATA / "llama_7b_circuit.json").read_text())
    return maps(
        *(
            StageMaps(
                group,
                "at a position, into v of another_group",
                {
                    label: HeadMap(scores[group].astype(float), [(a, b) for a, b in chosen[group]])
                    for label in ("llama-7b", "goat-7b")
                },
            )
            for group in scores
        )
    )


def node(
    at: str, reader: str | None, heads: Sequence[Head], **effects: tuple[float, float, float]
) -> GroupNode:
    """A group with the same heads in base and ft; effects as value, low, high."""
    return GroupNode(
        at,
        reader,
        {"base": heads, "ft": heads},
        Edge(
            "directly into the logits" if reader is None else f"via v of {reader}",
            {name: Effect(v, (low, high), -0.01) for name, (v, low, high) in effects.items()},
        ),
    )


def graph(**more: GroupNode) -> CircuitGraph:
    groups = {
        "fetcher": node("last", None, [(3, 0), (3, 1)], base=(-2.0, -2.2, -1.8), ft=(-4, -5, -3)),
        "reader": node("label", "fetcher", [(0, 2)], base=(-1.0, -1.2, -0.8), ft=(-0.1, -0.3, 0.1)),
        **more,
    }
    return CircuitGraph(
        "toy: circuit", groups, {"label": "L", "last": "the"}, "in Box [1: L] contains [2: the]",
        "bell", "the change", "n = 504",
    )  # fmt: skip


CROWDED = graph(
    second_reader=node("label", "fetcher", [(1, h) for h in range(30)], base=(-1.0, -1.2, -0.8)),
    third_reader=node("label", "fetcher", [(1, 2)], base=(-3.0, -3.2, -2.8), ft=(-3, -4, -2)),
    transmitter=node("last", "fetcher", [(2, h) for h in range(9)], base=(-1, -2, -0.5)),
    early=node("label", "transmitter", [(0, 0)], base=(-0.5, -0.6, -0.4), ft=(-1, -2, -0.5)),
    late=node("last", "reader", [(0, 1)], base=(-0.5, -0.6, -0.4), ft=(-1, -2, -0.5)),
    a_group_with_a_very_long_name_that_nobody_would_want_to_read_in_full=node("last", None, []),
)


def drawn(picture: HeadMaps | CircuitGraph) -> Figure:
    with style.our_style():
        if isinstance(picture, HeadMaps):
            return heatmaps.draw(picture)
        return circuit_graph.draw(picture)


def svg(picture: HeadMaps | CircuitGraph) -> ET.Element:
    with style.our_style():
        return ET.fromstring(style.rendered(drawn(picture), "svg"))  # noqa: S314 - our own


def words(root: ET.Element, gid: str | None = None) -> list[str]:
    """Every text, or those of the element with this id."""
    where = root.iter() if gid is None else by_id(root, gid).iter()
    return ["".join(e.itertext()) for e in where if e.tag.endswith("}text")]


def by_id(root: ET.Element, gid: str) -> ET.Element:
    (result,) = (e for e in root.iter() if e.get("id") == gid)
    return result


def ids(root: ET.Element, pattern: str) -> set[str]:
    result = (e.get("id", "") for e in root.iter())
    return {name for name in result if re.fullmatch(pattern, name)}


# -- heat maps


def test_the_chosen_heads_and_no_others_are_outlined() -> None:
    """Each model's own; an outline carries group, head and model as its id."""
    assert ids(svg(SMALL), r"chosen-.*-(base|ft)") == {
        "chosen-fetcher-1.1-base",
        "chosen-fetcher-1.1-ft",
        "chosen-reader-0.0-base",
        "chosen-reader-0.0-ft",
        "chosen-reader-0.1-ft",
    }


def test_heads_of_other_groups_at_the_position_have_a_dashed_outline() -> None:
    """A strong head that is not outlined may be part of the circuit all the same. One that is in
    both groups counts as the group's own, and one without a score needs no explanation."""
    root = svg(SMALL)
    assert ids(root, "other-.*") == {"other-fetcher-0.0-ft"}
    assert "head of another group at the same position" in words(root)


def test_a_small_map_shows_each_score_as_a_number() -> None:
    """Rounded to the stage's scale; what rounds to nothing has no sign."""
    root = svg(SMALL)
    scores = {gid: words(root, gid) for gid in ids(root, r"score-.*-base")}
    assert scores == {
        "score-fetcher-0.0-base": ["-0.10"],
        "score-fetcher-0.1-base": ["+0.02"],
        "score-fetcher-1.0-base": ["0.00"],
        "score-fetcher-1.1-base": ["-0.50"],
        "score-reader-0.0-base": ["-0.040"],
        "score-reader-0.1-base": ["0.000"],
    }


def test_a_head_that_was_no_possible_sender_is_hatched_and_has_no_number() -> None:
    """The head has no score, which differs from a score of 0; the legend explains the hatching."""
    root = svg(SMALL)
    assert ids(root, r"unreachable-.*") == {
        "unreachable-reader-1.0-1-base",
        "unreachable-reader-1.0-1-ft",
    }
    assert "no path to the receivers" in words(root)
    assert ids(root, r"score-reader-1.*") == set()


def test_all_maps_share_a_colour_scale_centred_on_0() -> None:
    """Its ends are the largest score of the picture. A stage whose scores are less than a quarter of that has its
    own, and says so above its maps."""
    text = words(svg(SMALL))
    assert {"-0.50", "+0.50", "-0.080", "+0.080"} <= {*text}
    assert [line for line in text if "own scale" in line] == [
        "own scale; at query, into v of fetcher"
    ]
    stronger = {"base": HeadMap(np.array([[-0.2, 0.0]]), [(0, 0)])}
    alike = maps(SMALL.stages[0], StageMaps("reader", "at query", stronger))
    assert [alike.scale_of(stage) for stage in alike.stages] == [0.5, 0.5]
    assert not [line for line in words(svg(alike)) if "own scale" in line]


def test_cells_are_drawn_as_vectors() -> None:
    """An SVG has no image in the place of a map, and equal scores have one colour in all maps."""
    equal = HeadMap(np.array([[-0.3, -0.3], [NAN, 0.3]]), [(0, 0)])
    figure = drawn(maps(StageMaps("a", "at last", {"m": equal, "n": equal})))
    colours = [
        [patch.get_facecolor() for patch in axes.patches if patch.get_zorder() == 1]
        for axes in figure.axes
        if axes.get_xlabel() == "head"
    ]
    assert [len({*each}) for each in colours] == [
        2,
        2,
    ]  # two scores, and no cell for the missing one
    assert colours[0] == colours[1]
    with style.our_style():
        assert style.rendered(figure, "svg").count(b"<image") == 1  # the colour bar


def test_layer_0_is_at_the_bottom() -> None:
    """As in a model, what comes later is further up."""
    axes = next(a for a in drawn(SMALL).axes if a.get_xlabel() == "head")
    assert axes.get_ylim() == (-0.5, 1.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")


def test_a_picture_says_what_is_in_it() -> None:
    """Title, models, stages with position and reader, unit, what an outline means, rows: as text
    that can be searched."""
    text = words(svg(SMALL))
    for wanted in (
        "toy: heads",
        "base",
        "ft",
        "1. fetcher",
        "2. reader",
        "own scale; at query, into v of fetcher",
        "change (nats)",
        "heads named in the spec",
        "n = 210",
    ):
        assert wanted in text


def test_how_a_head_is_named_is_shown_on_one_of_the_picture() -> None:
    """One of the outlined, or of a group; of two unlike numbers where there is one; else not."""
    assert "L0 H1: head 1 of layer 0, 0.1 in a spec" in words(svg(SMALL))
    assert "L0 H2: head 2 of layer 0, 0.2 in a spec" in words(svg(graph()))
    stage = StageMaps("fetcher", "at last", {"base": HeadMap(np.array([[-0.1]]), [(0, 0)])})
    assert "L0 H0: head 0 of layer 0, 0.0 in a spec" in words(svg(maps(stage)))
    nobody = StageMaps("fetcher", "at last", {"base": HeadMap(np.array([[-0.1]]), [])})
    assert not [text for text in words(svg(maps(nobody))) if "of layer" in text]


def test_maps_without_room_for_numbers_name_the_strongest_heads() -> None:
    """Cells of a 32 by 32 map are too small for text, so the four lowest published scores are listed below."""
    root = svg(llama())
    assert ids(root, "score-.*") == set()
    assert any(
        line.startswith("strongest: L14 H27 (-0.33), L11 H23 (-0.19)") for line in words(root)
    )
    chosen = json.loads((DATA / "llama_7b_circuit.json").read_text())
    count = sum(len(heads) for heads in chosen.values())
    assert len(ids(root, r"chosen-.*-llama-7b")) == count


def test_estimated_scores_are_marked_and_not_listed() -> None:
    """A head that gradients left out is no head without a path: it has its own mark and legend, its number is
    not written, and it is not among the strongest heads."""
    small = HeadMap(np.array([[-0.1, 0.02], [-0.3, NAN]]), [(0, 0)], estimated=[(1, 0)])
    root = svg(maps(StageMaps("fetcher", "at last", {"base": small})))
    assert ids(root, "estimated-.*") == {"estimated-fetcher-1.0-0-base"}
    assert ids(root, "unreachable-.*") == {"unreachable-fetcher-1.1-1-base"}
    assert ids(root, "score-.*") == {"score-fetcher-0.0-base", "score-fetcher-0.1-base"}
    assert "estimated by gradients, not patched alone" in words(root)
    assert "estimated by gradients, not patched alone" not in words(svg(SMALL))
    scores = np.full((32, 32), -0.01)
    scores[3, 4], scores[5, 6] = -0.4, -0.9
    large = HeadMap(scores, [(3, 4)], estimated=[(5, 6)])
    (line,) = (
        w for w in words(svg(maps(StageMaps("a", "at last", {"m": large})))) if "strong" in w
    )
    assert line.startswith("strongest: L3 H4 (-0.40), ")
    assert "L5 H6" not in line


def test_models_of_different_sizes_stand_side_by_side() -> None:
    """Each map has the cells of its own model."""
    uneven = {"small": HeadMap(np.zeros((2, 4)), []), "large": HeadMap(np.zeros((40, 64)), [])}
    figure = drawn(maps(StageMaps("a", "at last", uneven)))
    limits = [
        (axes.get_ylim()[1] + 0.5, axes.get_xlim()[1] + 0.5)
        for axes in figure.axes
        if axes.get_xlabel() == "head"
    ]
    assert limits == [(2, 4), (40, 64)]


@pytest.mark.parametrize("count", [1, 2, 12, 13, 32, 80, 1000])
def test_axes_have_at_most_twelve_ticks(count: int) -> None:
    """From 0 on, evenly spaced."""
    result = head_map.ticks(count)
    assert result[0] == 0
    assert len(result) <= 12
    assert len(set(np.diff(result))) <= 1


# -- the graph


def test_an_arrow_is_as_wide_as_its_effect() -> None:
    """Twice the effect, twice the width; one arrow a group and model."""
    result = arrows(drawn(graph()))
    assert result["edge-fetcher-ft"] == pytest.approx(2 * result["edge-fetcher-base"])
    assert result["edge-fetcher-base"] == pytest.approx(2 * result["edge-reader-base"])
    assert set(result) == {f"edge-{g}-{m}" for g in ("fetcher", "reader") for m in ("base", "ft")}


def arrows(figure: Figure) -> dict[str, float]:
    patches = figure.findobj(PathPatch)
    return {str(p.get_gid()): p.get_linewidth() for p in patches if p.get_gid()}


def test_an_effect_stands_beside_its_arrow_with_interval_and_control() -> None:
    """Never a bare number."""
    root = svg(graph())
    assert words(root, "effect-fetcher-base") == ["-2.00"]
    assert words(root, "effect-reader-ft") == ["-0.10"]
    text = words(root)
    for wanted in ("[-2.20, -1.80]", "[-0.30, +0.10]", "control -0.01", "via v of fetcher"):
        assert wanted in text


def test_an_arrow_whose_interval_includes_0_is_dotted() -> None:
    """And the legend says so only where there is one."""
    figure = drawn(graph())
    styles = {p.get_gid(): p.get_linestyle() for p in figure.findobj(PathPatch) if p.get_gid()}
    dotted = {gid for gid, line in styles.items() if line not in ("solid", "-")}
    assert dotted == {"edge-reader-ft"}
    assert "dotted: the confidence interval includes 0" in texts(figure)
    sure = graph(reader=node("label", "fetcher", [(0, 2)], base=(-1.0, -1.2, -0.8)))
    assert "dotted: the confidence interval includes 0" not in texts(drawn(sure))


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def test_boxes_name_group_position_and_heads() -> None:
    """Many heads are counted and listed layer by layer."""
    text = words(svg(CROWDED))
    for wanted in ("fetcher", "at last", "L3 H0, L3 H1", "L0 H2", "9 heads"):
        assert wanted in text
    assert "L2: H0 H1 H2 H3 H4 H5 H6 H7 H8" in text
    assert "no heads found" in text


def test_a_new_route_has_a_dashed_box_and_a_row_for_its_model_alone() -> None:
    """Work that moved to a head of no group: the other model has no line that says it found nothing."""
    edge = Edge("via v of fetcher", {"ft": Effect(-1.5, (-1.7, -1.3), None)})
    root = svg(
        graph(**{"L2 H1 of ft": GroupNode("last", "fetcher", {"ft": [(2, 1)]}, edge, new=True)})
    )
    assert "stroke-dasharray" in ET.tostring(by_id(root, "group-L2 H1 of ft"), "unicode")
    assert "stroke-dasharray" not in ET.tostring(by_id(root, "group-fetcher"), "unicode")
    assert words(root, "effect-L2 H1 of ft-ft") == ["-1.50"]
    assert "no heads found" not in words(root)
    assert "A dashed box is a head that no group names" in " ".join(words(root))


def test_heads_that_differ_are_named_model_by_model() -> None:
    """As a search on each model finds them."""
    other = GroupNode("last", None, {"base": [(3, 0)], "ft": [(2, 1)]}, Edge("directly", {}))
    text = words(svg(graph(fetcher=other)))
    assert {"base: L3 H0", "ft: L2 H1"} <= set(text)


def test_groups_stand_over_their_position_and_under_their_reader() -> None:
    """Left to right is the order of the text, bottom to top the way to the answer."""
    blocks = {
        "a": layout.Block(1, None, (2, 1), (2, 0.5)),
        "b": layout.Block(1, "a", (2, 1), (2, 0.5)),
        "c": layout.Block(0, "a", (2, 1), (2, 0.5)),
    }
    result = layout.arrange(blocks, [1, 1], (2, 0.5))
    a, b, c = (result.places[name] for name in "abc")
    assert b.bottom == c.bottom < a.bottom
    assert result.lanes[0][0] < c.left < result.lanes[0][1] <= result.lanes[1][0] < a.left == b.left
    assert (b.port, b.target) == (b.spine, a.bottom)
    assert a.left < c.port < b.port


def test_edges_into_one_group_do_not_cross() -> None:
    """Those from the left enter left of the one from below, the farthest on the highest track and
    the node is wide enough for all of them."""
    blocks = {
        "a": layout.Block(1, None, (1, 1), (2, 0.5)),
        **{name: layout.Block(0, "a", (2, 1), (2, 0.5)) for name in "bcd"},
        **{name: layout.Block(1, "a", (2, 1), (2, 0.5)) for name in "ef"},
    }
    places = layout.arrange(blocks, [1, 1], (2, 0.5)).places
    order = ["b", "c", "d", "e", "f"]
    assert sorted(order, key=lambda name: places[name].spine) == order
    assert [places[n].crossing for n in "bcd"] == sorted(
        (places[n].crossing for n in "bcd"), reverse=True
    )
    ports = [places[name].port for name in ["d", "c", "b", "e", "f"]]
    assert ports[3] == places["e"].spine
    a = places["a"]
    assert a.left < min(ports)
    assert max(ports) < a.left + a.width
    assert min(np.diff(sorted(ports))) > 2 * edges.WIDEST + edges.APART


# -- legibility


EVERY = {
    "small maps": SMALL,
    "one model": maps(StageMaps("a", "at last", {"m": HeadMap(np.full((4, 4), -0.2), [])})),
    "published maps": llama(),
    "tall maps": maps(
        StageMaps("a", "at last", {"m": HeadMap(-np.ones((126, 8)) / 3, [(125, 7)])}),
        StageMaps("b", "at last", {"m": HeadMap(np.full((126, 8), NAN), [])}),
    ),
    "long names": maps(
        *(
            StageMaps(
                "group_with_a_name_that_is_long" * 2,
                "at a_position_with_a_long_name, into v of " + "another_group" * 8,
                {label: HeadMap(np.eye(4), [(0, 0)]) for label in ("left" * 20, "right" * 20)},
            )
            for _ in range(3)
        )
    ),
    "graph": graph(),
    "crowded graph": CROWDED,
}


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_cut_off_and_none_covers_another(name: str) -> None:
    """Every text lies inside the picture, and no two of them overlap."""
    figure = drawn(EVERY[name])
    figure.draw_without_rendering()
    observed = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in observed]
    assert len(boxes) > 5
    page = figure.bbox
    outside = [
        text for text, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > page.x1 or b.y1 > page.y1
    ]
    assert outside == []
    covering = [
        (first_name, second_name)
        for (first_name, a), (second_name, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1.5
    ]
    assert covering == []


@pytest.mark.parametrize("name", ["graph", "crowded graph"])
def test_no_arrow_runs_through_text(name: str) -> None:
    """Arrows avoid labels and boxes."""
    figure = drawn(EVERY[name])
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.findobj(Text) if t.get_text().strip()]
    lines = [p for p in figure.findobj(PathPatch) if str(p.get_gid()).startswith("edge-")]
    assert lines
    for line in lines:
        path = line.get_transform().transform_path(line.get_path()).interpolated(50)
        for box in boxes:
            assert not any(box.contains(x, y) for x, y in path.vertices)


@pytest.mark.parametrize("name", ["small maps", "graph"])
def test_a_png_holds_a_picture(name: str, tmp_path: Path) -> None:
    """It loads, and is not blank."""
    _, path = style.save(lambda: drawn(EVERY[name]), tmp_path / "picture")
    pixels = imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3)[::7], axis=0)) > 20
    np.testing.assert_array_equal(pixels[0, 0], [1, 1, 1])


# -- files


@pytest.mark.parametrize("picture", [SMALL, graph()], ids=["maps", "graph"])
def test_the_same_data_give_the_same_bytes(
    picture: HeadMaps | CircuitGraph, tmp_path: Path
) -> None:
    """Whatever the user's matplotlib settings are; no date, no random ids."""
    first = style.save(lambda: drawn(picture), tmp_path / "first")
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "xtick.direction": "in"}):
        second = style.save(lambda: drawn(picture), tmp_path / "second")
        assert mpl.rcParams["font.size"] == 30
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert b"date" not in first[0].read_bytes()


def test_a_picture_is_known_as_ours(tmp_path: Path) -> None:
    """By its metadata, so that a later one may replace it."""
    files = style.save(lambda: drawn(SMALL), tmp_path / "picture")
    assert [begins_with_mark(path, MARK) for path in files] == [True, True]


def test_a_label_is_no_formula() -> None:
    """'$' and '<' mean nothing, and a script that the font lacks is still text in the SVG."""
    label = "a$b_c$ <d> 模型"
    figure = maps(StageMaps("g", "at last", {label: HeadMap(np.zeros((2, 2)), [])}))
    assert label in words(svg(figure))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """It names the file, and leaves nothing half written."""
    (tmp_path / "picture.svg").mkdir()
    with pytest.raises(MechanismError, match=r"picture\.svg cannot be written: "):
        style.save(lambda: drawn(SMALL), tmp_path / "picture")
    assert [p.name for p in tmp_path.iterdir()] == ["picture.svg"]


@pytest.mark.parametrize(
    ("scale", "digits"), [(0, 2), (14.0, 1), (250, 0), (6.3, 2), (0.5, 2), (0.08, 3), (0.004, 4)]
)
def test_numbers_have_as_many_digits_as_their_scale_needs(scale: float, digits: int) -> None:
    """Two for effects between a third of a nat and ten."""
    assert style.decimals(scale) == digits


def test_an_effect_of_nothing_still_has_an_arrow() -> None:
    """All widths 0 would be a graph without edges."""
    nothing = Effect(0.0, (0.0, 0.0), None)
    assert edges.largest([Edge("v", {"m": nothing})]) == 1
    assert edges.width(nothing, 1.0) > 0
