"""Whatever a model, a spec, a name or a library says: it is text on every way out."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_mechanism.commands.output import Parser, say
from pytest_mechanism.errors import MechanismError, one_line, visible
from pytest_mechanism.plugin.score_file import read_scores, write_scores
from pytest_mechanism.plugin.snapshot import ScoreExtension
from pytest_mechanism.report.failure import failure_text
from pytest_mechanism.report.json_file import claim_data
from pytest_mechanism.report.markdown import escaped, markdown
from pytest_mechanism.report.paragraphs import fitted
from pytest_mechanism.report.result import claim_result
from pytest_mechanism.report.run_report import ClaimResult, Note
from pytest_mechanism.report.table import HEADINGS
from pytest_mechanism.report.terminal import notes, table
from pytest_mechanism.types import Control, Score, Setting, Verdict
from tests.report.pages import stub_claim, stub_spec

NASTY = st.one_of(
    st.text(st.characters(), max_size=20),  # surrogates too
    st.lists(
        st.sampled_from(
            [
                "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\n", "\x08", "\x00", "\u202e", "\u2066",
                "\u200b", "\u2028", "\ufeff", "\ud800", "\U000e0041", "\xa0", "\t",
                "|", "`", "``", "<b>", "<script>alert(1)</script>", "&lt;", "<!--", "-->", "]]>",
                "[x](https://evil.example)", "![x](//evil)", "[x]", "]: //evil", "https://evil.example",
                "www.evil.example", "@all", "#1", "##[error]", "::error::", ":+1:", "*b*", "_i_", "__b__", "~~s~~",
                "$x$", "\\", "'", '"', ": ", " #", "{", "}", "- ", "%", "a", "entity_tracking", " ", "é", "👩‍🔬",
            ]
        ),
        max_size=6,
    ).map("".join),
)  # fmt: skip
MANY = settings(max_examples=300, deadline=None)

ENTRY = {
    "name": "n", "value": 0.5, "standard_error": 0.1, "fingerprints": {}, "definition": "x",
    "interval": [0.4, 0.6], "better": "higher", "judged": [], "metric": "m", "n": 3,
}  # fmt: skip


def result(text: str) -> ClaimResult:
    """A result with a hostile text in every text field."""
    document = SimpleNamespace(line=lambda _: 1, quoted=lambda _: [(1, text), (2, text)])
    spec, claim = stub_spec(text, document), stub_claim(text, text)
    return claim_result(text, spec, text, claim, text, verdict(text), notes=[Note(text, text)])


def verdict(text: str) -> Verdict:
    control = Control(text, 0.1, (0.0, 0.2))
    setting = Setting(0, "float32", "cpu", "branch", versions={text: text})
    score = Score(text, 0.5, (0.4, 0.6), 0.95, 10, 5, 0.1, text, "higher", setting, control)
    return Verdict("fail", text, text, (score,))


def begins_command(text: str) -> bool:
    """Whether a line of a wrapped text could be a command of GitHub."""
    return any(word.startswith("::") for word in text.split(" "))


@MANY
@given(NASTY)
def test_visible_text_is_printable_and_says_what_it_hides(text: str) -> None:
    """Nothing is left to act on a terminal; what could be printed is unchanged."""
    shown = visible(text)
    assert shown.isprintable()
    assert (shown == text) is (
        text.isprintable() and "##[" not in text and not begins_command(text)
    )
    assert {c for c in text if c.isprintable()} - {"["} <= {*shown}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb", r"a\nb"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("\x9b", r"\x9b"),
        ("é 👩", "é 👩"),
    ],
)
def test_codes_are_those_of_python_and_yaml(text: str, code: str) -> None:
    assert visible(text) == code


@MANY
@given(NASTY)
def test_errors_are_one_printable_line(text: str) -> None:
    """Message and place, however often they are wrapped."""
    problem = MechanismError(f"x: {text}", text)
    again = MechanismError(str(problem)).at("file:1")
    assert all(str(message).isprintable() for message in (problem, again, one_line(text)))


@MANY
@given(NASTY)
def test_a_table_has_one_printable_line_a_result(text: str) -> None:
    """So have the sentences below it."""
    lines = [a + b for a, b in table([result(text)] * 2)]
    assert len(lines) == 3
    assert all(line.isprintable() for line in [*lines, *notes([result(text)])])


@MANY
@given(NASTY)
def test_a_failure_has_the_lines_that_it_has_always(text: str) -> None:
    """A spec's excerpt, a reason, a score's name add no line and no colour."""
    document = SimpleNamespace(line=lambda _: 1, quoted=lambda _: [(1, text), (2, text)], path=text)
    spec: Any = SimpleNamespace(document=document, claims={"c": SimpleNamespace(kind="accuracy")})
    lines = failure_text(spec, "c", "base", verdict(text), None, text).split("\n")
    plain = failure_text(spec, "c", "base", verdict("x"), None, "x").split("\n")
    assert len(lines) == len(plain) if text else len(lines) == len(plain) - 2
    assert all(line.isprintable() for line in lines)


@MANY
@given(NASTY)
def test_results_are_json_that_reads_back(text: str) -> None:
    """The result file is ASCII, and holds what the table shows."""
    content = json.dumps(claim_data(result(text)), allow_nan=False)
    assert content.isascii()
    assert content.isprintable()
    assert json.loads(content)["reason"] == visible(text)


# -- the job's summary


def rendered(text: str) -> str:
    """What a page shows of Markdown with GitHub's extensions, as HTML."""
    markdown_it = pytest.importorskip("markdown_it")
    return str(markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(text))


@MANY
@given(NASTY)
@example("a|b\\|c")
@example("\\")
@example("[a][b]")
@example("www.x.yz")
def test_markdown_cells_show_text_and_nothing_else(text: str) -> None:
    """As many cells as headings, in each the text itself, as in the reason above: no tag, no link, no picture."""
    page = rendered(markdown([result(text)], "base+ft"))
    above, _, body = page.partition("<tbody>")
    (reason,) = re.findall(r"<li>(.*?)</li>", above, re.DOTALL)
    assert set(re.findall(r"<[^>]*>", reason)) == {"<strong>", "</strong>"}
    cells = re.findall(r"<td[^>]*>(.*?)</td>", body, re.DOTALL)
    assert len(cells) == len(HEADINGS)
    assert set(re.findall(r"<[^>]*>", body)) <= {
        "<tr>", "</tr>", "<td>", "</td>", "</tbody>", "</table>", '<td style="text-align:left">',
    }  # fmt: skip
    assert html.unescape(cells[2]) == visible(text).strip()
    assert len(markdown([result(text)], "base+ft").splitlines()) == 8


@pytest.mark.parametrize(
    "text", ["https://x.yz", "see http://x", "www.x.yz", "WWW.x", "mailto:a@b.cd", "a@b.cd", "#12"]
)
def test_what_github_links_by_itself_is_broken_up(text: str) -> None:
    """A backslash precedes addresses, mentions and issue numbers."""
    assert re.search(r"\w:|www\.|(?<!\\)[@#]", escaped(text), re.IGNORECASE) is None


def test_names_and_intervals_stay_readable() -> None:
    for text in ("entity_tracking.solves_task", "[0.438, 0.562]", "-0.125", "at least 0.75"):
        assert escaped(text) == text


# -- commands


@MANY
@given(text=NASTY)
def test_a_command_says_one_line(text: str) -> None:
    """On both streams."""
    import contextlib
    import io

    for err, redirect in ((False, contextlib.redirect_stdout), (True, contextlib.redirect_stderr)):
        stream = io.StringIO()
        with redirect(stream):
            say(text, err=err)
        assert stream.getvalue() == visible(text) + "\n"


def test_a_terminal_without_unicode_shows_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    say("é\x1b")
    assert raw.getvalue() == b"\\xe9\\x1b\n"


def test_wrong_use_is_repeated_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's message quotes the argument without control characters."""
    with pytest.raises(SystemExit):
        Parser(prog="p").parse_args(["--\x1b[31m\nred"])
    assert r"unrecognized arguments: --\x1b[31m\nred" in capsys.readouterr().err


# -- accepted scores


@pytest.mark.parametrize("name", ["\x1b[31m.base", "a.b\n", "../a.b", "a", "", "a.b.c"])
def test_a_score_file_names_claims_and_roles(tmp_path: Any, name: str) -> None:
    """syrupy lists the names of those that are not used."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"mechanism_scores": 1, "scores": {name: ENTRY}}))
    with pytest.raises(MechanismError, match="is not CLAIM") as caught:
        read_scores(path)
    assert str(caught.value).isprintable()


@settings(max_examples=50, deadline=None)
@given(text=NASTY)
def test_a_score_file_is_ascii(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """For any text in a score, and the text can be read back unchanged."""
    path = tmp_path_factory.mktemp("scores") / "x.json"
    entry = {**ENTRY, "name": text, "metric": text}
    write_scores(path, {"claim.base": entry})
    content = path.read_text("utf-8")
    assert all(line.isascii() and line.isprintable() for line in content.split("\n"))
    assert read_scores(path)["claim.base"] == entry
    received = {**entry, "value": 0.1, "tolerance": {"atol": 0.0, "drift": 0.0}}
    extension = object.__new__(ScoreExtension)
    for line in extension.diff_lines(json.dumps(received), json.dumps(entry)):
        assert line.isprintable()


# -- pictures


@settings(max_examples=30, deadline=None)
@given(NASTY)
@example("<text>]]>-->&amp;\x00\x1b\u202e\ud800$\\frac{$")
def test_pictures_are_xml_with_the_text_as_text(text: str) -> None:
    """A title, a label, a name on an axis: no element and no control character comes of it."""
    from pytest_mechanism.report.pictures import FORMATS, style

    with style.our_style():
        figure = style.new_figure(4, 2)
        page = style.canvas(figure)
        style.write(page, style.paragraph(f"x {text}", 3) or [], 0.1, 1.5)
        page.text(0.1, 0.5, f"{text}y")
        svg, png = (style.rendered(figure, kind) for kind in FORMATS)
    tree = ET.fromstring(svg)  # noqa: S314 - our own
    allowed = {"svg", "metadata", "RDF", "Work", "type", "format", "Agent", "creator", "title",
               "defs", "style", "g", "path", "text", "tspan", "use", "clipPath", "rect"}  # fmt: skip
    assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= allowed
    texts = [
        "".join(element.itertext()) for element in tree.iter("{http://www.w3.org/2000/svg}text")
    ]
    joined = "\n".join(texts)
    assert all(line.isprintable() for line in joined.split("\n"))
    assert visible(f"{text}y").split("\n")[0].strip() in " ".join(texts) or "\n" in text
    assert png.startswith(b"\x89PNG")


def test_text_is_no_command_in_the_log_of_a_job() -> None:
    """GitHub and Azure obey the first mark anywhere in a line, such as a model's reply, and the second at the
    beginning of a line, where a long text is wrapped. Node ids stay as they are."""
    assert visible("he said ##[add-mask]fail") == "he said ##\\x5badd-mask]fail"
    said = f"{'a' * 39} ::stop-commands::x in spec.yaml::solves::ft"
    wrapped = fitted([visible(said)], 40)
    assert wrapped[1].strip() == "\\x3a:stop-commands::x in"
    assert wrapped[2].strip() == "spec.yaml::solves::ft"
