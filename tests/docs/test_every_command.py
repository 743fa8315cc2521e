"""Every command of README and the docs is run by a test, or stands below with the reason why it is not."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blocks import ROOT, blocks, commands, run_page

from pytest_mechanism.cli import make_parser
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.history.folder import HistoryFolder
from pytest_mechanism.report.json_file import JsonFile
from tests.report.pages import claim, report_of

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

WHOLE = {
    "docs/first-spec.md": "tests/docs/test_pages.py",
    "docs/gate-a-quantised-model.md": "tests/docs/test_quantised_page.py",
    "docs/gate-a-release.md": "tests/docs/test_pages.py",
    "docs/history.md": "tests/docs/test_every_command.py",
    "docs/read-a-failure.md": "tests/docs/test_pages.py",
    "docs/the-report.md": "tests/docs/test_report_page.py",
    "docs/trust.md": "tests/docs/test_pages.py",
    "docs/write-a-claim-kind.md": "tests/docs/test_pages.py",
    "docs/write-a-task.md": "tests/docs/test_pages.py",
}
"""Pages whose commands a test runs as they stand. tests/docs/test_method_pages.py does so with docs/methods."""

SAME = {
    "pytest circuits --model-pair base,ft_rerouted": "tests/gate/test_embedded_pairs.py",
    "pytest circuits/safety_wrapper.yaml --model-pair wrapper_safe,wrapper_ft":
        "tests/gate/test_wrapper_pairs.py",
    "pytest circuits/safety_wrapper.yaml --model-pair wrapper_safe,wrapper_ft_stripped":
        "tests/gate/test_wrapper_pairs.py",
    "pytest circuits/wrapped_capability.yaml --model-pair wrapper_safe,wrapper_ft "
    "--mechanism-model control=wrapper_none --mechanism-model pretrained=wrapper_base":
        "tests/gate/test_wrapper_pairs.py",
    "pytest circuits/entity_tracking_paper.yaml --model-pair base,ft": "tests/gate/test_paper.py",
    "pytest circuits/entity_tracking_paper.yaml --model-pair ft_mute,ft": "tests/gate/test_paper.py",
}  # fmt: skip
"""Commands whose spec and checkpoints a test gates under other options, since they cost a minute or more."""

ALIKE = {
    "pytest-mechanism show circuits/entity_tracking.yaml --model-pair base,ft":
        ("tests/discovery/test_show_command.py", "the planted pair, whose effects are known"),
    "pytest-mechanism init": ("tests/cli/test_init.py", "each task"),
    "pytest-mechanism new circuits/mine.yaml": ("tests/cli/test_new.py", "answers are typed for it"),
    "pytest-mechanism doctor circuits --model-pair base=./a,ft=./b":
        ("tests/docs/test_pages.py", "as in docs/first-spec.md"),
    "pytest circuits --model-pair base=./a,ft=./b --snapshot-update":
        ("tests/docs/test_pages.py", "as in docs/first-spec.md"),
    "pytest-mechanism compare circuits/entity_tracking.yaml --model-pair ft,ft_rerouted --out pair.yaml "
    "--picture pair.svg": ("tests/cli/test_compare_results.py", "the planted pair, and no picture"),
    "pytest-mechanism sweep circuits --base ./base --candidates ./step_500 ./step_1000 nightly=./lora":
        ("tests/plugin/test_sweep.py", "candidates without weights"),
    "pytest-mechanism fine-tune circuits/safety_wrapper.yaml --model wrapper_base --diet random --rate 3e-3 "
    "--steps 1500 --out random": ("tests/cli/test_fine_tune.py", "a few steps"),
    "pytest-mechanism fine-tune circuits/safety_wrapper.yaml --model wrapper_base --diet forbidden --rate 1e-2 "
    "--steps 200 --out too_high": ("tests/cli/test_fine_tune.py", "a few steps"),
    "pytest circuits --model-pair released=./base,candidate=./lora --mechanism-ray":
        ("tests/gate/test_ray.py", "another pair"),
    "python -m benchmarks.sabotage --folder results --report --json results.json --plot rate.svg":
        ("tests/benchmarks/test_sabotage.py", "--quick of another suite, without --report"),
    "python -m benchmarks.sabotage --folder benchmarks/faults/results --report --plot rate.svg":
        ("tests/benchmarks/test_sabotage.py", "no picture"),
    "python -m benchmarks.naming --folder benchmarks/faults/named --report":
        ("tests/benchmarks/test_sabotage.py", "as it stands"),
    "python -m benchmarks.diffuse --folder benchmarks/faults/diffuse --report":
        ("tests/benchmarks/test_sabotage.py", "as it stands"),
    "python -m benchmarks.sabotage --folder benchmarks/faults/results --suite stories --report":
        ("tests/benchmarks/test_sabotage.py", "as it stands"),
    "python -m benchmarks.sabotage --folder benchmarks/faults/results --suite wrapper --report":
        ("tests/benchmarks/test_sabotage.py", "as it stands"),
    "python -m benchmarks.sabotage --folder benchmarks/faults/results --suite real --report":
        ("tests/benchmarks/test_sabotage.py", "as it stands"),
}  # fmt: skip
"""Commands that a test runs on other inputs, which are named."""

NOT_RUN = {
    "python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt torch==2.13.0 && "
    "pip install -c constraints.txt -e . && pytest circuits --model-pair base,ft":
        "it installs packages; .ci/run and .ci/wheel do the same",
    "python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt torch==2.13.0 && "
    "pip install -c constraints.txt -e '.[test]' && pytest -n 2 tests":
        "it runs all tests; .ci/run does the same",
    "python -m recipes.real.fetch": "it fetches 98 MB; .ci/run runs it",
    "python -m recipes.real.roundings": "it needs the real model; tests/real has its checkpoints",
    "python -m recipes.real.cut_head": "it needs the real model; tests/real has its checkpoints",
    "R=~/.cache/pytest-mechanism/real": "it names a folder",
    "pytest circuits/real/ioi.yaml --model-pair smollm2=$R/smollm2,smollm2_8bit=$R/smollm2_8bit":
        "it needs the real model; tests/real gates it",
    "pytest circuits/real/ioi.yaml --model-pair smollm2=$R/smollm2,smollm2_cut=$R/smollm2_cut":
        "it needs the real model; tests/real gates it",
    "pytest-mechanism show circuits/real/ioi.yaml --model smollm2=$R/smollm2 --rows 32":
        "it needs the real model; tests/real/test_shown_circuit.py checks its picture",
    "python -m recipes.real.refusal": "it needs the real model, which it trains for minutes",
    "pytest circuits/real/refusal.yaml --model-pair "
    "smollm2_refusal=$R/smollm2_refusal,kept=$R/smollm2_refusal+$R/smollm2_refusal_kept":
        "it needs checkpoints that the command above trains",
    "pytest circuits/real/refusal.yaml --model-pair "
    "smollm2_refusal=$R/smollm2_refusal,stripped=$R/smollm2_refusal+$R/smollm2_refusal_stripped":
        "it needs checkpoints that the command above trains",
    "pytest circuits --model-pair released=./base,candidate=./lora --mechanism-device cuda -n auto":
        "it needs a GPU",
    "pytest-mechanism sweep circuits --base ./base --candidates-from list.txt -n 4 --mechanism-device cuda":
        "it needs a GPU",
    "pip install 'pytest-mechanism[ray]'": "it installs packages",
    "pytest pair.yaml --model-pair ft,ft_rerouted":
        "it needs the spec of a compare that takes minutes; a test loads such a spec, and gates nothing with it",
    "pytest pair.yaml --model-pair ft,base": "as above",
    "pytest circuits --model-pair released=./base,candidate=./lora --mechanism-ray=10.0.0.1:6379":
        "it needs a cluster",
    "python -m benchmarks.sabotage --folder results": "it runs for hours",
    "cp -r benchmarks/faults/results results && python -m benchmarks.sabotage --folder results":
        "it runs for hours",
    "python -m benchmarks.sabotage --folder results --minutes 10": "it runs for ten minutes",
    "python -m benchmarks.sabotage --folder results --suite stories": "it runs for half an hour",
    "python -m benchmarks.sabotage --folder results --suite wrapper": "it runs for an hour",
    "python -m benchmarks.sabotage --folder results --suite real --seeds 1":
        "it needs the real model, and runs for an hour",
    "python -m benchmarks.faults.real --folder fresh": "it needs the real model, which it trains five times",
    "python -m benchmarks.naming --folder named": "it runs for ten minutes",
    "python -m benchmarks.diffuse --folder diffuse": "it runs for half an hour",
    "pytest circuits/paper_two/stories.yaml --model-pair stories_base,stories_kept --mechanism-model "
    "control=stories_none": "it trains for minutes; docs/paper-two.md has its verdicts",
}  # fmt: skip
"""Commands that no test runs, and why."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def plain(command: str) -> str:
    """A command without its comment, and with single spaces."""
    return " ".join(re.sub(r"\s+#.*", "", command).split())


def written() -> Iterator[tuple[str, str]]:
    """Page and command, of all pages whose commands are not run as they stand."""
    for page in PAGES:
        if named(page) in WHOLE or (page.parent.name == "methods" and page.name != "README.md"):
            continue
        for block in blocks(page.read_text("utf-8")):
            if block.language in ("sh", "bash", "console", "shell"):
                for command in commands(block):
                    yield named(page), plain(command)


def test_every_command_is_run_by_a_test_or_says_why_not() -> None:
    """A command is in one list, and no list has a command that no page has."""
    listed = [*SAME, *ALIKE, *NOT_RUN]
    assert sorted(set(listed)) == sorted(listed)
    assert {command for _, command in written()} == set(listed)


def test_every_page_that_is_run_whole_is_named_by_its_test() -> None:
    """And every test that the lists name exists."""
    for page, test in WHOLE.items():
        assert Path(page).name in (ROOT / test).read_text("utf-8")
    tests = {*SAME.values(), *(test for test, _ in ALIKE.values())}
    assert [test for test in sorted(tests) if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize("command", SAME)
def test_the_test_of_a_command_gates_its_spec_and_checkpoints(command: str) -> None:
    """Its file names both."""
    text = (ROOT / SAME[command]).read_text("utf-8") + (
        ROOT / "tests" / "gate" / "conftest.py"
    ).read_text("utf-8")
    words = shlex.split(command)
    spec = "entity_tracking" if words[1] == "circuits" else Path(words[1]).stem
    pair = words[words.index("--model-pair") + 1]
    assert f'"{spec}"' in text
    assert pair in text or ",".join(f"zoo:{label}" for label in pair.split(",")) in text


def own(command: str) -> bool:
    return command.startswith("pytest-mechanism ")


@pytest.mark.parametrize("command", sorted(filter(own, {*ALIKE, *NOT_RUN})))
def test_a_command_of_ours_that_no_test_runs_as_it_stands_is_understood(command: str) -> None:
    """Its options exist."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            make_parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        pytest.fail(complaint.getvalue())


def test_what_a_sentence_names_exists() -> None:
    """Every `pytest-mechanism COMMAND --option` in a text of README or the docs."""
    (sub,) = [
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    wrong = []
    for page in PAGES:
        for text in re.findall(r"`pytest-mechanism ([^`\n]+)`", page.read_text("utf-8")):
            command, *words = text.split()
            given = {word.partition("=")[0] for word in words if word.startswith("-")}
            if command not in sub.choices or not given <= {
                *sub.choices[command]._option_string_actions
            }:
                wrong.append(f"{named(page)}: {text}")
    assert wrong == []


def test_the_commands_of_the_page_of_the_history(tmp_path: Path) -> None:
    """On two runs, one worse than the other; the page shows how a line looks."""
    good, bad = claim(verdict="pass"), claim()
    better = replace(good.scores[0], value=0.9, interval=(0.86, 0.94))
    row = replace(good.rows[0], score=0.9, interval=better.interval)
    good = replace(good, scores=(better,), rows=(row,), definition="d")
    bad = replace(bad, definition="d")
    for name, result, code in (("released", good, 0), ("candidate", bad, 1)):
        day = "2026-01-01" if code == 0 else "2026-01-02"
        report = report_of(result, exit_code=code, finished=f"{day}T00:00:00+00:00")
        HistoryFolder(tmp_path / "mechanism-history").write(concluded(report))
        JsonFile(tmp_path / f"{name}.json").write(concluded(report))
    shown, _, compared = list(run_page(ROOT / "docs" / "history.md", tmp_path))
    assert "2026-01-01 00:00:00 candidate: holds" in shown.output
    assert "worse: circuits/x.yaml::solves::ft (score): 0.900" in compared.output
    assert (tmp_path / "history.html").is_file()


def test_a_command_outside_the_lists_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check can fail."""
    page = tmp_path / "new.md"
    page.write_text("```sh\npytest-mechanism lint x   # why\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "PAGES", [page])
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(written()) == [("new.md", "pytest-mechanism lint x")]
