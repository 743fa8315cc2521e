"""``pytest-mechanism``: lint and schema, without a model and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_mechanism import __version__
from pytest_mechanism.cli import main
from pytest_mechanism.spec.load import load
from pytest_mechanism.spec.schema import schema
from pytest_mechanism.statistics.power import power

SPEC = """\
mechanism: 1
circuit: demo
task: {family: entity_tracking, rows: 100}
groups:
  a: {heads: {3: [1, 0]}, at: last}
  b: {heads: {0: [3]}, at: query_label, into: {group: a, via: v}}
claims:
  solves: {kind: accuracy, at_least: 0.6}
  holds: {kind: encodes, group: b, variable: position, at_least: 0.5}
  same: {kind: transfer, from: base, to: ft, beats: {model: base}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(SPEC)
    return path


def test_a_valid_spec_is_one_line_and_exit_code_0(
    spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """lint says how many claims and tests a spec makes."""
    code = main(["lint", str(spec)])
    assert (0, f"{spec}: ok, 3 claims, 5 tests\n", "") == (code, *capsys.readouterr())


def test_each_mistake_of_each_spec_is_a_line_on_stderr(
    tmp_path: Path, spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """Bad specs do not hide each other, nor the good one; the exit code is 2."""
    (tmp_path / "bad.yaml").write_text("mechanism: 1\ncircuit: x\nfound_on: 1\nzzz: 1\n")
    (tmp_path / "broken.yml").write_text("mechanism: 1\na: [\n")
    code = main(["lint", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (2, f"{spec}: ok, 3 claims, 5 tests\n") == (code, out)
    assert [f"{tmp_path}/bad.yaml:{n}" for n in (1, 1, 3, 4)] + [f"{tmp_path}/broken.yml:3"] == [
        line.split(": ")[0] for line in err.splitlines()
    ]


def test_a_folder_is_searched_for_specs(
    tmp_path: Path, spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """In a folder only files whose first key is ``mechanism`` count, at any depth."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yml").write_text(SPEC)
    (tmp_path / "ci.yaml").write_text("jobs: {}\n")
    (tmp_path / "folder.yaml").mkdir()
    code = main(["lint", str(tmp_path)])
    assert (0, [f"{tmp_path}/deep/one.yml", str(spec)]) == (
        code,
        [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()],
    )


def test_a_named_file_counts_whatever_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file that the user names is checked even if it does not look like a spec."""
    path = tmp_path / "ci.yaml"
    path.write_text("circuit: x\n")
    assert (main(["lint", str(path)]), str(path) in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "pytest-mechanism: none.yaml does not exist"),
        (".", "pytest-mechanism: . has no spec; its first key would be 'mechanism: 1'"),
        ("a" * 300, f"pytest-mechanism: {'a' * 300}: File name too long"),
    ],
    ids=["missing", "empty folder", "too long"],
)
def test_a_path_that_cannot_be_linted_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
    message: str,
) -> None:
    """A mistyped path is exit code 2 with one line, never a green lint."""
    monkeypatch.chdir(tmp_path)
    assert (2, "", message + "\n") == (main(["lint", name]), *capsys.readouterr())


@pytest.mark.parametrize("arguments", [[], ["lint"], ["lnt"], ["lint", "--fix", "x"]])
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    """Unknown commands and options show how it is used."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code, "usage: pytest-mechanism" in capsys.readouterr().err) == (2, True)


def test_version_is_printed(capsys: pytest.CaptureFixture) -> None:
    """--version names the installed version."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (0, f"pytest-mechanism {__version__}\n") == (ended.value.code, capsys.readouterr().out)


def test_a_resolved_spec_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """--resolved follows extends, fills in defaults, and is a spec itself."""
    (tmp_path / "parent.yaml").write_text(SPEC)
    child = tmp_path / "child.yaml"
    child.write_text(
        "mechanism: 1\ncircuit: child\nextends: parent.yaml\nfound_on: base\n"
        "applies_to: {labels: [ft*]}\n"
        "claims:\n  same: {kind: transfer, from: base, to: ft, faithfulness_at_least: 0.5}\n"
        "  near: {kind: faithfulness, between: [0.9, 1.1]}\n"
    )
    assert main(["lint", "--resolved", str(child)]) == 0
    printed = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    names = ("circuit", "applies_to", "task", "groups", "found_on", "ablation", "claims")
    spec, reloaded = load(child), load(again)
    assert [getattr(spec, name) for name in names] == [getattr(reloaded, name) for name in names]
    assert (
        "extends" in yaml.safe_load(printed),
        yaml.safe_load(printed)["ablation"]["prompts"],
    ) == (
        False,
        500,
    )


def scores(folder: Path, pair: str, entries: dict) -> None:
    path = folder / "__scores__" / pair / "demo.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"mechanism_scores": 1, "scores": entries}))


JUDGED = {"value": 0.7, "standard_error": 0.02, "n": 500, "low": 0.6, "high": None}


def test_power_is_printed_for_each_accepted_score(
    spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """--power says per claim the chance that an unchanged model passes, and flags a low one."""
    near = {**JUDGED, "low": 0.69}
    entries = {
        "solves.base": {"value": 0.7, "judged": [JUDGED]},
        "solves.ft": {"value": 0.7, "judged": [near]},
        "holds.ft": {"value": 0.7, "judged": []},
    }
    scores(spec.parent, "base+ft", entries)
    code = main(["lint", "--power", str(spec)])
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    good, weak = power([JUDGED], 0.95), power([near], 0.95)
    assert (code, good.passes > 0.9, weak.passes < 0.9) == (0, True, True)
    assert (
        f"{good.passes:.3f} with 500 rows ({good.rows:,} rows give 0.9)",
        f"{weak.passes:.3f} with 500 rows ({weak.rows:,} rows give 0.9)"
        "  <- too few rows, or a threshold too near the score",
        "no threshold was judged: not counted",
        f"{good.passes + weak.passes - 1:.3f} or more (chances of failing added: claims share "
        "their rows)  <- some claim is red too often",
        "a model exactly at a threshold passes at most 2.5% of the time",
    ) == (
        lines["solves.base"].split(maxsplit=1)[1],
        lines["solves.ft"].split(maxsplit=1)[1],
        lines["holds.ft"].split(maxsplit=1)[1],
        lines["the"].removeprefix("  the whole spec").strip(),
        lines["a"].strip(),
    )


def test_power_of_a_score_beyond_its_threshold_names_no_rows(
    spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """An accepted score may be red; no number of rows makes it pass."""
    entries = {"solves.base": {"value": 0.7, "judged": [{**JUDGED, "low": 0.8}]}}
    scores(spec.parent, "base+ft", entries)
    assert main(["lint", "--power", str(spec)]) == 0
    out = capsys.readouterr().out
    assert "0.000 with 500 rows (no number of rows gives 0.9)" in out


def test_power_does_not_plan_by_thresholds_that_the_spec_no_longer_has(
    spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """A score that was judged by others is named and not counted."""
    entries = {"solves.base": {"value": 0.7, "judged": [JUDGED], "asked": {"at_least": 0.9}}}
    scores(spec.parent, "base+ft", entries)
    assert main(["lint", "--power", str(spec)]) == 0
    out = capsys.readouterr().out
    assert "solves.base" in out
    assert "accepted under other thresholds than the spec has now: not counted" in out
    assert "the whole spec" not in out


def test_power_without_accepted_scores_says_how_to_accept_some(
    spec: Path, capsys: pytest.CaptureFixture
) -> None:
    """There is nothing to plan from before a first run."""
    assert (
        main(["lint", "--power", str(spec)]),
        "no accepted scores to plan from" in capsys.readouterr().out,
    ) == (0, True)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"value": "x"},
        {"value": 1, "judged": [{}]},
        {"value": 1, "judged": [3]},
        {"value": 1, "judged": [JUDGED | {"n": 0}]},
        {"value": 1, "judged": [JUDGED | {"interval": 3}]},
        {"value": 1, "judged": [JUDGED | {"clusters": "x"}]},
    ],
    ids=["no value", "text", "empty bound", "no bound", "no rows", "no interval", "no contexts"],
)
def test_damaged_accepted_scores_are_one_line(
    spec: Path, capsys: pytest.CaptureFixture, entry: dict
) -> None:
    """lint names a score file that was damaged by hand, and the mistake; exit code 2."""
    scores(spec.parent, "base+ft", {"solves.base": entry})
    code = main(["lint", "--power", str(spec)])
    err = capsys.readouterr().err
    assert (code, err.count("\n"), "demo.json" in err) == (2, 1, True)


def test_schema_is_printed_as_json(capsys: pytest.CaptureFixture) -> None:
    """``schema`` prints what editors read."""
    assert (0, schema()) == (main(["schema"]), json.loads(capsys.readouterr().out))


CHECK = """
import sys
from pytest_mechanism.cli import main
codes = [main([*arguments, *paths]) for arguments, paths in {commands!r}]
heavy = sorted({{"torch", "transformers", "transformer_lens", "matplotlib"}} & set(sys.modules))
print(codes, heavy)
"""


def test_no_command_imports_torch(spec: Path) -> None:
    """lint, lint --resolved, lint --power and schema run without torch and matplotlib."""
    scores(spec.parent, "base+ft", {"solves.base": {"value": 0.7, "judged": [JUDGED]}})
    commands = [
        (["lint"], [str(spec)]),
        (["lint", "--resolved"], [str(spec)]),
        (["lint", "--power"], [str(spec)]),
        (["lint"], [str(spec.parent)]),
        (["schema"], []),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(commands=commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0] []"


def test_the_module_is_a_script_with_an_exit_code(tmp_path: Path) -> None:
    """``python -m pytest_mechanism.cli`` is the console script: a bad spec ends it with 2."""
    path = tmp_path / "x.yaml"
    path.write_text("mechanism: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_mechanism.cli", "lint", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode,
        done.stdout,
        done.stderr.startswith(f"{path}:1: "),
        "Traceback" in done.stderr,
    ) == (2, "", True, False)
