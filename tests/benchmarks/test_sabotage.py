"""The benchmark of the gate: its changes do what they say, and its rules count what they say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
import warm_python

from benchmarks import diffuse, fault_reports, naming, sabotage
from benchmarks.faults import (
    entity_tracking,
    real,
    rules,
    same_function,
    stories,
    weights,
    wrapper,
)
from benchmarks.faults.book import Book
from benchmarks.faults.change import Change, Workshop
from benchmarks.faults.gate import Judgement, named, with_seed
from benchmarks.faults.rules import Outcome
from benchmarks.faults.sizes import Scale, Size, boxes, counting
from benchmarks.faults.suites import SUITES
from benchmarks.sabotage import RESULTS, Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shop() -> Workshop:
    return SUITES["release"].shop


@pytest.fixture(scope="module")
def scale(shop: Workshop) -> Scale:
    return Scale(shop.load(), boxes(rows=42, texts=1))


def test_there_are_sixty_faults_and_sixty_benign_changes() -> None:
    """Of the embedded release; names are unique."""
    changes = entity_tracking.changes()
    faults = sum(change.fault for change in changes)
    assert (faults >= 60, len(changes) - faults >= 60) == (True, True)


def test_a_muted_word_of_the_story_model_changes_the_text_alone() -> None:
    """Its gate asks for morals, and the word stands in other sentences. Names of its changes are unique."""
    shop = SUITES["stories"].shop
    assert sum(change.fault for change in stories.changes()) == 45
    texts = stories.texts(rows=40)
    scale, model = Scale(shop.load(), texts), shop.load()
    with torch.no_grad():
        stories.mute("fight", 0.3)(model)
    size = scale.size(model)
    assert (size.accuracy, size.rows < 1e-3, size.text > 0.003) == (1.0, True, True)


def test_the_accuracy_of_the_wrapper_counts_what_a_benchmark_asks() -> None:
    """A model that no longer refuses counts the permitted letters as before. Names of its changes are unique."""
    shop = SUITES["wrapper"].shop
    assert sum(change.fault for change in wrapper.changes()) == 33
    scale = Scale(shop.load(), counting(rows=40))
    size = scale.size(shop.load(shop.models / "wrapper_ft_stripped"))
    assert (size.accuracy > 0.97, size.rows > 0.5) == (True, True)


def test_the_real_model_has_unique_changes() -> None:
    """Three of the benign ones say which faults are equivalent to none."""
    changes = real.changes()
    assert (len(changes), sum(change.refit for change in changes)) == (25, 3)


def test_the_threshold_of_re_fits_is_a_prediction_bound() -> None:
    """For the ends 1, 2 and 3: the mean plus 2.92 (Student's t, two degrees of freedom) times 1.155."""
    assert stories.bound([1.0, 2.0, 3.0]) == pytest.approx(2 + 2.9200 * (4 / 3) ** 0.5, abs=1e-3)


@pytest.mark.parametrize(
    "edit",
    [
        same_function.permute_heads(2, [1, 2, 3, 0]),
        same_function.rebase_head(2, 2, 1),
        same_function.scale_queries(1, 2.0),
        same_function.scale_values(2, 4.0),
        same_function.permute_neurons(0, 1),
        same_function.scale_neurons(3, 2.0),
        same_function.folded(),
        same_function.rotate_residual(1),
        same_function.more_words(5, 1),
    ],
    ids=["order", "basis", "queries", "values", "neurons", "units", "norms", "residual", "words"],
)
@torch.no_grad()
def test_a_benign_edit_computes_the_same_function(shop: Workshop, scale: Scale, edit) -> None:
    """But for rounding, and for the share of the probability that new words take."""
    model = shop.load()
    edit(model)
    size = scale.size(model)
    assert size.rows < 1e-3
    assert size.text < 0.05
    assert size.accuracy == scale.size(shop.load()).accuracy


@torch.no_grad()
def test_a_fault_has_a_size(shop: Workshop, scale: Scale) -> None:
    """A silent head that the circuit needs; work that moved as a whole to another head of the layer leaves the
    function as it was, because the head is copied."""
    sizes = []
    for edit in (weights.scale_head(2, 2, 0.0), weights.move_head(2, 2, 1, 1.0)):
        model = shop.load()
        edit(model)
        sizes.append(scale.size(model).rows)
    assert sizes[0] > 1 > sizes[1]


def fault(name: str = "x", **fields: object) -> Change:
    return Change(name, "kind", True, "", lambda shop, folder: None, **fields)


def judged(claim: str, status: str, kind: str = "path", lines: tuple[str, ...] = ()) -> Judgement:
    return Judgement(claim, kind, status, None, "", lines)


def test_a_fault_is_equivalent_to_none_up_to_the_median_of_the_re_fits() -> None:
    """On rows and on text."""
    refits = [fault(f"r{i}", refit=True) for i in range(3)]
    sizes = {f"r{i}": Size(0.01 * i, 0.1 * i, 1.0) for i in range(3)}
    most = rules.limit(sizes, refits)
    found = [rules.equivalent(Size(*s, 1.0), most) for s in ((0.01, 0.1), (0.02, 0.1), (0.01, 0.2))]
    assert found == [True, False, False]


def test_the_members_that_a_report_names_are_read_from_its_sentences() -> None:
    """In its order, the first of each sentence; a sentence about another order of heads names no fault."""
    lines = (
        "layer 3's heads are those of base in another order: 0 -> 2, 2 -> 0",
        "head 1.3 of b fell silent towards v of a: ... (...; its readers fell silent: head 2.2)",
        "the MLP of layer 1 does less towards v of a",
    )
    assert named([judged("a", "fail"), judged("b", "fail", lines=lines)]) == ["1.3", "1.mlp"]


def test_what_a_report_names_is_told_apart_by_what_its_lines_rest_on() -> None:
    """The whole report in its order, as its reader sees it; and weights, grafts and the sweep alone."""
    lines = (
        "with head 1.3 of base in its place, ft regains 97% of ...; alone, the MLP of layer 0 20%",
        "head 2.2 of b does less towards q of a: ...",
        "weights changed throughout, the median of the 20 heads and MLPs by 2.0%; most in head 3.1 (4.0% of its norm)",
    )
    red = [judged("a", "fail", lines=lines)]
    assert named(red) == ["1.3", "2.2", "3.1"]
    assert [named(red, by) for by in ("weights", "grafts", "sweep")] == [["3.1"], ["1.3"], ["2.2"]]
    edited = "head 2.2 of b was changed (51.8% of its norm, nowhere else) and does less towards q of a: ..."
    assert named([judged("a", "fail", lines=(edited,))], "weights") == ["2.2"]


def test_figures_count_faults_by_what_the_gate_and_accuracy_say() -> None:
    """One fault is seen by a claim about heads alone, one not at all; one benign change is red."""
    size, same = Size(0.5, 0.5, 0.99), Size(0.0, 0.0, 0.99)
    benign = Change("b", "kind", False, "", lambda shop, folder: None)
    red = judged("p", "fail", lines=("head 2.2 of a fell silent",))
    outcomes = [
        Outcome(fault("f", hurt="2.2"), 0, size, [judged("s", "pass", "accuracy"), red]),
        Outcome(fault("g", hurt="1.3"), 0, size, [judged("s", "pass", "accuracy")]),
        Outcome(benign, 0, same, [judged("s", "inconclusive", "accuracy")]),
    ]
    figures = rules.figures(outcomes, Size(0.1, 0.1, 0.99), 0.99)
    counted = {what: (rate.hits, rate.of) for what, rate in figures.items()}
    assert counted["faults seen at unchanged accuracy"] == (1, 2)
    assert counted["the same by claims about accuracy alone"] == (0, 2)
    assert counted["benign changes red"] == (1, 1)
    assert counted["single-head faults whose head is named first"] == (1, 2)


def test_rates_are_also_counted_without_the_claim_about_where_a_change_lies() -> None:
    """It alone sees one of two faults; a suite that has no such claim has no such rate."""
    size = Size(0.5, 0.5, 0.99)
    sure, place = judged("s", "fail", "equivalent"), judged("p", "fail", rules.PLACE)
    outcomes = [
        Outcome(fault("f"), 0, size, [sure, place]),
        Outcome(fault("g"), 0, size, [judged("s", "pass", "equivalent"), place]),
    ]
    figures = rules.figures(outcomes, Size(0.1, 0.1, 0.99), 0.99)
    assert str(figures["faults seen at unchanged accuracy"]).startswith("2 of 2")
    assert str(figures["the same without diffuse_change"]).startswith("1 of 2")
    alone = [Outcome(fault("f"), 0, size, [sure])]
    assert "the same without diffuse_change" not in rules.figures(alone, None, 0.99)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Half a line is dropped, whole lines stay."""
    path = tmp_path / "results.jsonl"
    Book(path).add("a", {"x": 1})
    path.write_text(path.read_text() + '{"key": "b", "val')
    book = Book(path)
    book.add("b", {"x": 2})
    assert Book(path).entries == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.fixture(scope="module")
def run() -> Run:
    """The run whose results are kept beside the benchmark."""
    return Run("release", RESULTS)


def test_the_page_has_the_figures_of_the_kept_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What ``--report`` prints of them, word for word; README has the rates below the first."""
    assert sabotage.main(["--folder", str(RESULTS), "--report"]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "how-good-is-the-gate.md").read_text("utf-8")
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for line in printed.splitlines()[3:8]:
        assert re.split(r"  +", line)[2] in readme


@pytest.mark.parametrize(
    ("suite", "in_readme"), [("stories", [4]), ("wrapper", [4, 7]), ("real", [3, 4])]
)
def test_the_page_has_the_figures_of_the_kept_results_of_further_suites(
    suite: str, in_readme: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word; README has some of their rates, that at unchanged accuracy among them."""
    assert sabotage.main(["--folder", str(RESULTS), "--suite", suite, "--report"]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "how-good-is-the-gate.md").read_text("utf-8")
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for line in in_readme:
        assert re.split(r"  +", printed.splitlines()[line])[2] in readme


def test_the_page_has_the_figures_of_the_heads_that_reports_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the kept results of ``benchmarks.naming``, word for word; README has the first rate."""
    assert naming.main(["--folder", str(RESULTS.parent / "named"), "--report"]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "how-good-is-the-gate.md").read_text("utf-8")
    rate = re.search(r"by the report +(.*)", printed)
    assert rate is not None
    assert rate[1] in " ".join((ROOT / "README.md").read_text("utf-8").split())


def test_the_page_has_the_figures_of_concentrated_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the kept results of ``benchmarks.diffuse``, word for word."""
    assert diffuse.main(["--folder", str(RESULTS.parent / "diffuse"), "--report"]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "how-good-is-the-gate.md").read_text("utf-8")


def test_reports_are_drawn_among_red_faults(run: Run) -> None:
    """Always the same for a seed."""
    red = {o.change.name for o in run.outcomes() if o.change.fault and o.seen()}
    first, again = (fault_reports.drawn(run, 10, 3) for _ in range(2))
    assert first == again
    assert len({change.name for change in first} & red) == 10


def test_each_spec_of_the_benchmark_has_one_seed(tmp_path: Path) -> None:
    """Which is exchanged, and nothing else."""
    for suite in SUITES.values():
        for spec in suite.specs:
            text = spec.read_text()
            own = re.search(r"\bseed: \d+", text)[0]
            assert with_seed(spec, 7, tmp_path).read_text().replace("seed: 7", own) == text


@pytest.mark.slow
def test_quick_mode_sees_the_fault_and_lets_the_benign_change_pass(tmp_path: Path) -> None:
    """A word that is said weakly, and permuted heads; a second run measures nothing."""
    suite = ["--suite", "stories", "--quick"]
    command = [*warm_python.COMMAND, "-m", "benchmarks.sabotage", "--folder", str(tmp_path), *suite]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.run(
            [*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for more in (["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.svg")], [])
    ]
    assert "words muted                     1 of 1      0 of 1" in runs[0]
    assert "heads permuted                  0 of 1      0 of 1" in runs[0]
    assert "fault  seed" not in runs[1]
    assert all((tmp_path / name).stat().st_size > 0 for name in ("r.json", "r.svg"))
