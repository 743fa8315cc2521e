"""The page of a run: one file, nothing but text in it, and every number that the run has."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import HOSTILE, claim, html_of, report_of

from pytest_mechanism.causes import Cause
from pytest_mechanism.cli import main
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.badge import AMBER, RED, judgement
from pytest_mechanism.report.conclusion import conclude
from pytest_mechanism.report.history.folder import HistoryFolder
from pytest_mechanism.report.json_file import JsonFile
from pytest_mechanism.report.page.files import check_path, remove_page
from pytest_mechanism.report.page.html_page import rendered
from pytest_mechanism.report.page.intervals import MARGIN, WIDTH, drawing
from pytest_mechanism.report.page.prose import blocks, kind_page
from pytest_mechanism.report.page.sparks import MOST, sparks
from pytest_mechanism.report.page.view import how_sure, outcome_of
from pytest_mechanism.types import Evidence, Example


class Elements(HTMLParser):
    """Every element with its attributes, and every text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        key = self.inside if self.inside in ("style", "script") else "text"
        self.texts[key] = self.texts.get(key, "") + data


def test_hostile_text_adds_no_element() -> None:
    """A page about hostile names has the elements of a page about harmless ones, and shows the names."""
    plain = Elements(html_of(claim(text="text"), label="candidate"))
    nasty = Elements(html_of(claim(text=HOSTILE), label=HOSTILE, reasons=(HOSTILE,)))
    names = [tag for tag, _ in plain.elements]
    assert [t for t, _ in nasty.elements if t not in ("wbr", "li", "ul")] == [
        t for t in names if t not in ("wbr", "li", "ul")
    ]
    assert nasty.texts["text"].count(HOSTILE) >= 5


def test_nothing_is_fetched_and_only_our_own_style_and_script_run() -> None:
    """The policy names the hashes of the page's style and script; no address leads out of the file."""
    html = html_of(claim())
    page = Elements(html)
    (policy,) = (a["content"] or "" for t, a in page.elements if "http-equiv" in a)
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()
        for tag in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{hashes[0]}'; script-src '{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html)
    assert not [a for _, a in page.elements if any(k.startswith("on") or k == "style" for k in a)]


def test_the_page_says_what_the_run_found() -> None:
    """Outcome, counts, reason, meaning, YAML with its line, score with interval, control and baseline."""
    text = " ".join(Elements(html_of(claim(), claim("holds", "pass"))).texts["text"].split())
    for part in (
        "Red candidate against released", "1 failed", "1 passed", "circuits/x.yaml::solves::ft, line 7",
        "solves: {x: 1}", "0.400 [0.350, 0.450]; claimed: at least 0.5",
        "control: 2 random heads 0.100 [0.050, 0.150]", "baseline: 0.450 (-0.050 worse)",
        "3 made, 1 from the store", "torch 2.0", "head 2.2 fell silent",
    ):  # fmt: skip
        assert part in text


def test_a_green_run_is_green_and_a_red_one_never() -> None:
    """Red claims, reasons, errors and the exit code each make the page red."""
    good = claim("holds", "pass")

    def outcome(**more: object) -> str:
        (title,) = re.findall("<title>(.*?):", html_of(good, **more))
        return str(title)

    assert outcome(exit_code=0) == "Green"
    assert outcome(exit_code=0, reasons=("x",)) == "Red"
    assert outcome(exit_code=0, errors=("x",)) == "Red"
    assert outcome(exit_code=2) == "Red"


def test_a_run_that_only_lacks_accepted_scores_says_how_sure_that_is() -> None:
    """It is counted apart from refuted claims, and the page and the badge do not call it red, unless more is wrong."""
    new = claim(cause=Cause.NOT_ACCEPTED)
    assert how_sure([new, claim()])[1:] == (
        "1 claim is red only because of the accepted scores: behind them, moved away from them, or without one.",
    )
    runs = [report_of(new), report_of(new, claim("other")), report_of(new, not_run=("x",))]
    assert [outcome_of(run, run.claims)[0] for run in runs] == ["Not accepted yet", "Red", "Red"]
    words = [judgement(run, conclude(run)) for run in runs[:2]]
    assert words == [("not accepted yet", AMBER), ("2 of 2 claims red", RED)]


def test_a_claim_that_is_red_and_not_refuted_says_why() -> None:
    """In the words of its cause."""
    (sentence,) = how_sure([claim(cause=Cause.REFERENCE_FAILS)])
    assert sentence == (
        "1 claim is red because this spec does not hold on your base model: no conclusion about the candidate."
    )


def test_prompts_that_a_claim_above_has_shown_are_not_repeated() -> None:
    """Two claims about the same circuit have the same worst prompts; other numbers are shown."""
    row = Example("r", "Box F contains the", "knife", {"ft": "pot"}, {"ft": -8.2})
    first = Evidence("the worst", "log-probability", (row,))
    other = replace(first, examples=(replace(row, numbers={"ft": -9.5}),))
    text = html_of(
        claim("a", evidence=first), claim("b", evidence=first), claim("c", evidence=other)
    )
    assert text.count("Box F contains the") == 2
    assert (
        text.count(
            'The same prompts and answers as for <a href="#claim-1"><bdi>text.a on ft</bdi></a>'
        )
        == 1
    )


def test_lines_about_members_are_shown_once() -> None:
    """The sweep of a spec explains all its red claims; only the first shows its lines."""
    text = Elements(html_of(claim("a"), claim("b"))).texts["text"]
    assert text.count("head 2.2 fell silent") == 1
    assert text.count("those named in a claim above") == 1


def test_an_interval_is_drawn_to_scale() -> None:
    """The allowed range begins at the threshold and goes to the edge; control, interval and baseline are in
    the order of their numbers."""
    result = claim()
    found = drawing(result, result.rows[0])
    assert found is not None
    assert found.allowed is not None
    assert found.control is not None
    assert found.baseline == found.interval[1]
    assert found.allowed[1] == WIDTH - MARGIN
    assert found.control < found.interval[0] < found.value < found.interval[1] < found.allowed[0]
    middle = (found.interval[0] + found.interval[1]) / 2
    assert found.value == pytest.approx(middle, abs=0.1)
    assert found.words == (
        "score 0.400, interval 0.350 to 0.450; allowed from 0.500; control 0.100; baseline 0.450"
    )


def test_how_a_kind_is_measured_comes_from_its_docstring() -> None:
    """Formulas keep their lines, names are code, and an unknown kind says that it is not installed."""
    page = kind_page("path")
    assert page.blocks[0].parts[0] == ("code", "path")
    assert blocks("``a`` and `b`\nmore\n\n    x = 1\n")[1].kept
    assert kind_page("nobody's").blocks == ()


@pytest.mark.parametrize("name", ["notes.txt", "folder", "gone/page.html", "link"])
def test_a_page_replaces_no_other_file(tmp_path: Path, name: str) -> None:
    """A file that is no page, a folder, a missing folder and a link are refused and stay as they are."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(MechanismError):
        check_path(tmp_path / name)
    remove_page(tmp_path / name)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "notes.txt"]


def test_a_page_replaces_an_older_page(tmp_path: Path) -> None:
    """A run may write its page where the page of an earlier run is, which it removes at its start."""
    path = tmp_path / "page.html"
    path.write_text(html_of(claim()))
    check_path(path)
    remove_page(path)
    assert not path.exists()


def test_a_pipe_is_no_page(tmp_path: Path) -> None:
    """Nothing waits for a writer."""
    os.mkfifo(tmp_path / "pipe")
    remove_page(tmp_path / "pipe")
    with pytest.raises(MechanismError, match="so it is not replaced"):
        check_path(tmp_path / "pipe")


def test_each_verdict_of_the_filter_has_a_line() -> None:
    """A claim that only warns has lines that warn; skipped claims have none."""
    page = html_of(claim("a", "warn", rows=claim().rows), claim("b"), claim("c", "skipped"))
    (choice,) = re.findall(r'<select id="verdict">.*?</select>', page)
    assert re.findall(r"<option>(.*?)</option>", choice) == ["warn", "fail"]
    assert re.findall(r'<tr data-verdict="(\w+)"', page) == ["warn", "fail"]


def test_the_page_of_a_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``report`` writes the page of a result file, and says which parts a result file cannot give."""
    JsonFile(tmp_path / "r.json").write(report_of(claim(text="reads well")))
    assert main(["report", str(tmp_path / "r.json"), "--html", str(tmp_path / "p.html")]) == 0
    html = (tmp_path / "p.html").read_text("utf-8")
    assert "reads well" in html
    assert "holds no heat maps, no graph and no curves" in html
    assert capsys.readouterr().out == f"wrote {tmp_path / 'p.html'}\n"


def test_no_page_of_a_file_that_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and no page."""
    (tmp_path / "r.json").write_text("{}")
    assert main(["report", str(tmp_path / "r.json"), "--html", str(tmp_path / "p.html")]) == 2
    assert "is no result file" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_the_last_runs_of_a_history_are_beside_each_score(tmp_path: Path) -> None:
    """Earlier runs of the folder and this run; a folder without runs, as before the first, shows nothing."""
    empty, folder = tmp_path / "empty", tmp_path / "runs"
    empty.mkdir()
    for _ in range(2):
        HistoryFolder(folder).write(report_of(claim(), finished="2026-01-01T00:00:00+00:00"))
    page = rendered(report_of(claim()), {}, history=folder)
    (picture,) = re.findall(r'<svg class="spark".*?</svg>', page, re.DOTALL)
    assert picture.count("<circle") == 3
    assert 'class="spark"' not in rendered(report_of(claim()), {}, history=empty)


def test_a_page_reads_no_more_of_a_history_than_it_shows(tmp_path: Path) -> None:
    """The oldest of 20 files is damaged, and nobody looks at it."""
    for i in range(MOST):
        JsonFile(tmp_path / f"{i:02}.json").write(report_of(claim()))
    (tmp_path / "00.json").write_text("{")
    pictures, notes = sparks(report_of(claim()), tmp_path)
    assert notes == []
    assert [len(picture["points"]) for picture in pictures.values()] == [MOST]
