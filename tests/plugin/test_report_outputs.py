"""What a run leaves behind: table, failure text, result file, JUnit, the CI job's summary."""

import json
import xml.etree.ElementTree as ET
from importlib.metadata import version

import pytest

from pytest_mechanism.checkpoints.fingerprint import fingerprint


@pytest.fixture
def mixed(project):
    """A claim that passes on base and fails on ft, over several lines of YAML."""
    project.spec("good: {at_least: 0.75,\n    drift: 0.1}")
    project.values(good={"base": 0.9, "ft": 0.25})
    return project


# -- the terminal


def test_header_names_the_pair(mixed):
    """The header shows role, reference, label, the start of the fingerprint, and the folder."""
    base = fingerprint(mixed.path / "base").model[:12]
    ft = fingerprint(mixed.path / "ft").model[:12]

    mixed.run(pair="old=./base,./ft").stdout.fnmatch_lines(
        [
            f"mechanism: base = ./base (label old), fingerprint {base}, from {mixed.path}/base",
            f"mechanism: ft = ./ft (label ft), fingerprint {ft}, from {mixed.path}/ft",
        ],
        consecutive=True,
    )


def test_header_without_a_pair_is_empty(mixed):
    """Without a pair, the plugin adds no line to the header."""
    mixed.run(pair=None).stdout.no_fnmatch_line("mechanism: *")


def test_table(mixed):
    """One line per claim and role: verdict, score, interval, threshold, baseline."""
    mixed.run().stdout.fnmatch_lines(
        [
            "*= mechanism: base+ft =*",
            "verdict  claim         role  score  interval        claimed        baseline",
            "pass     circuit.good  base  0.900  [[]0.838, 0.963]  at least 0.75  none yet",
            "fail     circuit.good  ft    0.250  [[]0.188, 0.312]  at least 0.75  none yet",
        ],
    )


def test_table_shows_drift(mixed):
    """With a baseline, the table shows the difference and its kind."""
    mixed.accept()
    mixed.checkpoint("ft", "other weights")
    mixed.values(good={"base": 0.9, "ft": 0.95})

    result = mixed.run()

    result.stdout.fnmatch_lines(["pass     circuit.good  base  *  same"])
    result.stdout.fnmatch_lines(["pass     circuit.good  ft    *  +0.700 better"])


def test_first_line_of_a_failure_is_in_the_short_summary(mixed):
    """The short summary contains the sentence about the failure."""
    mixed.run("-ra").stdout.fnmatch_lines(
        [
            "FAILED circuit.yaml::good::ft - good on ft: fixed score 0.250 [[]0.188, 0.312]; "
            "claimed: at least 0.75"
        ]
    )


def test_failure_shows_the_yaml_with_line_numbers(mixed):
    """With -v, a failure shows the claim's YAML, then claim, score, interval and control."""
    mixed.run("-v").stdout.fnmatch_lines(
        [
            "good on ft: fixed score 0.250 [[]0.188, 0.312]; claimed: at least 0.75",
            "",
            "circuit.yaml:5: FAILED",
            "  5 |   good: {kind: fixed, reads: good, at_least: 0.75,",
            "  6 |     drift: 0.1}",
            "",
            "  claimed   at least 0.75",
            "  measured  fixed score = 0.2500, 95% confidence interval [[]0.1875, 0.3125], 100 rows in 20 contexts",
            "            what values.json says",
            "  control   a coin = 0.2500 [[]0.1250, 0.3750]",
            "  meaning   the number in the file is lower than claimed",
            "  baseline  no baseline yet; --snapshot-update accepts this score",
        ],
        consecutive=True,
    )


def test_inconclusive_says_how_many_rows_would_settle_it(mixed):
    """An inconclusive claim is called red and says how many rows would settle it."""
    mixed.values(good=0.78)

    result = mixed.run("-ra", "-v")

    result.stdout.fnmatch_lines(["circuit.yaml:5: INCONCLUSIVE (counts as red)"])
    result.stdout.fnmatch_lines(
        ["FAILED *good::ft - * does not show whether it is at least 0.75; about *rows*"]
    )


def test_quiet_run_still_has_the_table(mixed):
    """`-q` leaves out the header and keeps the table, with the checkpoints above it."""
    result = mixed.run("-q")

    result.stdout.fnmatch_lines(
        ["*= mechanism: base+ft =*", "mechanism: base = *", "mechanism: ft = *", "verdict *",
         "*", "fail     circuit.good  ft  *"]
    )  # fmt: skip


def test_no_progress_where_nobody_watches(mixed):
    """Outside an interactive terminal nothing is drawn."""
    result = mixed.run()

    assert "\r" not in result.stdout.str() + result.stderr.str()
    assert result.errlines == []


# -- the result file


def test_result_file(mixed):
    """The result file has the documented shape, exactly."""
    mixed.accept()

    result = mixed.result("-k", "ft")

    assert list(result) == [
        "mechanism_json",
        "pair",
        "claims",
        "not_run",
        "deselected",
        "reasons",
        "checkpoints_loaded",
        "measurements",
        "versions",
        "exit_code",
        "finished",
        "conclusion",
    ]
    assert result["mechanism_json"] == 1
    assert result["pair"] == {
        role: {
            "label": role,
            "reference": f"./{role}",
            "folder": str(mixed.path / role),
            "adapter": None,
            "fingerprint": fingerprint(mixed.path / role).model,
        }
        for role in ("base", "ft")
    }
    assert result["checkpoints_loaded"] == 0
    assert result["measurements"] == {"done": 0, "from_store": 0}
    assert result["versions"]["pytest-mechanism"] == version("pytest-mechanism")
    (claim,) = result["claims"]
    assert claim.pop("seconds") >= 0
    assert claim.pop("notes") == []
    assert len(claim.pop("definition")) == 16
    (score,) = claim.pop("scores")
    assert claim == {
        "id": "circuit.yaml::good::ft",
        "circuit": "circuit",
        "claim": "good",
        "kind": "fixed",
        "role": "ft",
        "models": ["ft"],
        "verdict": "fail",
        "cause": "refuted",
        "meaning": "the number in the file is lower than claimed",
        "reason": "fixed score 0.250 [0.188, 0.312]; claimed: at least 0.75",
        "score": 0.25,
        "interval": [0.1875, 0.3125],
        "n": 100,
        "threshold": "at least 0.75",
        "control": {"name": "a coin", "value": 0.25, "interval": [0.125, 0.375]},
        "baseline": 0.25,
        "drift": 0.0,
        "drift_state": "same",
        "accepted_now": False,
        "located": None,
        "severity": "block",
        "groups": [],
        "order": 10,
        "evidence": None,
        "rows": [
            {
                "verdict": "fail",
                "cause": "refuted",
                "name": "fixed score",
                "score": 0.25,
                "interval": [0.1875, 0.3125],
                "n": 100,
                "threshold": "at least 0.75",
                "compared": True,
                "low": 0.75,
                "high": None,
            }
        ],
        "line": 5,
        "yaml": ["  good: {kind: fixed, reads: good, at_least: 0.75,", "    drift: 0.1}"],
    }
    assert (score["name"], score["value"], score["clusters"]) == ("fixed score", 0.25, 20)


def test_result_file_has_further_models(mixed):
    """The result file lists further models together with the pair."""
    mixed.checkpoint("control")

    result = mixed.result("--mechanism-model", "control=./control")

    assert list(result["pair"]) == ["base", "ft", "control"]


def test_result_file_of_claims_without_a_score(project):
    """Where there is no score its fields are null; skipped claims are in the file too."""
    project.spec("good: {on: ft}")
    project.spec("elsewhere: {on: ft}", name="other", top="applies_to: {labels: [x*]}")
    project.values(good="error")

    claims = project.result()["claims"]

    assert [c["verdict"] for c in claims] == ["error", "skipped"]
    assert [c["reason"] for c in claims] == [
        "this model cannot be asked",
        "spec applies to labels x*; base is base",
    ]
    for claim in claims:
        nulls = ("score", "interval", "n", "control", "baseline", "drift", "drift_state")
        assert [claim[key] for key in nulls] == [None] * 7


def test_result_file_replaces_an_older_one(mixed):
    """A second run replaces the file and leaves no temporary one."""
    (mixed.path / "out.json").write_text('{\n "mechanism_json": 1, "old": 1}')

    assert mixed.result()["mechanism_json"] == 1
    assert [p.name for p in mixed.path.glob("out*")] == ["out.json"]


def test_result_file_that_cannot_be_written(mixed):
    """A path that turns out unwritable exits 4 with one line; the table is shown all the same."""
    (mixed.path / "gone").mkdir()
    mixed.pytester.makeconftest("""
        import pathlib
        def pytest_collection_finish():
            pathlib.Path("gone").rmdir()
    """)
    result = mixed.run("--mechanism-json", "gone/out.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ERROR: --mechanism-json: */gone/out.json cannot be written: *"])
    result.stdout.fnmatch_lines(["fail     circuit.good  ft  *"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_no_result_file_without_a_pair(mixed):
    """A run without a pair writes no result file."""
    mixed.run("--mechanism-json", "out.json", pair=None)

    assert not (mixed.path / "out.json").exists()


def test_result_file_of_a_bad_spec_does_not_stay_from_before(mixed):
    """A run that stops at a bad spec leaves no claims of an earlier run in the file."""
    mixed.result()
    mixed.spec("good: {at_laest: 0.5}")

    assert mixed.result()["claims"] == []


# -- JUnit


@pytest.mark.parametrize("wrong", ["an unknown option", "a conftest that fails"])
def test_result_file_does_not_stay_where_pytest_does_not_start(mixed, wrong):
    """A later step of a CI job would take it for the result of this run."""
    mixed.result("--mechanism-report", "out.html")
    if wrong == "a conftest that fails":
        mixed.pytester.makeconftest("1 / 0")
    more = ["--unknown"] if wrong == "an unknown option" else []

    run = mixed.run("--mechanism-json", "out.json", "--mechanism-report", "out.html", *more)

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert not (mixed.path / "out.json").exists()
    assert not (mixed.path / "out.html").exists()


@pytest.mark.parametrize("option", ["--help", "--markers", "--fixtures", "--collect-only"])
def test_result_file_stays_where_no_test_runs(mixed, option):
    """The ini file names it for all runs."""
    mixed.pytester.makeini("[pytest]\nmechanism_json = out.json\n")
    mixed.run()
    before = (mixed.path / "out.json").read_bytes()

    assert mixed.run(option).ret == 0

    assert (mixed.path / "out.json").read_bytes() == before


def test_result_file_replaces_no_other_file(mixed):
    """Such as a checkpoint's; an empty one, which ``mktemp`` makes, is replaced."""
    config = mixed.path / "base" / "config.json"
    before = config.read_bytes()
    run = mixed.run("--mechanism-json", "base/config.json")

    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        ["ERROR: --mechanism-json: */config.json exists and is no such output *"]
    )
    assert config.read_bytes() == before

    (mixed.path / "out.json").touch()
    assert mixed.result()["mechanism_json"] == 1


def test_junit_properties(mixed):
    """Each test case carries verdict, score, interval, rows, threshold and drift."""
    mixed.accept()
    mixed.run("--junit-xml", "out.xml")

    cases = ET.parse(mixed.path / "out.xml").iter("testcase")  # noqa: S314
    result = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in cases
    }
    assert result["ft"] == {
        "mechanism_verdict": "fail",
        "mechanism_cause": "refuted",
        "mechanism_score": "0.25",
        "mechanism_n": "100",
        "mechanism_threshold": "at least 0.75",
        "mechanism_baseline": "0.25",
        "mechanism_drift": "0.0",
        "mechanism_interval_low": "0.1875",
        "mechanism_interval_high": "0.3125",
    }
    assert result["base"]["mechanism_verdict"] == "pass"


def test_junit_failure_message(mixed):
    """The failure in the JUnit file begins with the sentence."""
    mixed.run("--junit-xml", "out.xml")

    (failure,) = ET.parse(mixed.path / "out.xml").iter("failure")  # noqa: S314
    assert failure.get("message").startswith("good on ft: fixed score 0.250 [0.188, 0.312]; cl")


# -- the job's summary


def test_job_summary(mixed, monkeypatch):
    """Where CI names a summary file, conclusion, reasons and table are appended to it as Markdown."""
    path = mixed.path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))

    mixed.run()

    assert path.read_text().splitlines() == [
        "before",
        "### pytest-mechanism: base+ft",
        "",
        "**1 of 2 claims broke. First, good on ft\\: the number in the file is lower than claimed (fixed score 0.250 "
        "\\[0.188, 0.312\\]; claimed\\: at least 0.75).**",
        "",
        "Next:",
        "",
        "```sh",
        "pytest circuit.yaml::good::ft --model-pair base=./base,ft=./ft -v",
        "```",
        "",
        "- **fail** circuit.good on ft: fixed score 0.250 \\[0.188, 0.312\\]; claimed\\: at least 0.75",
        "",
        "| verdict | claim | role | score | interval | claimed | baseline |",
        "|---|---|---|---|---|---|---|",
        "| ✅ pass | circuit.good | base | 0.900 | [0.838, 0.963] | at least 0.75 | none yet |",
        "| ❌ fail | circuit.good | ft | 0.250 | [0.188, 0.312] | at least 0.75 | none yet |",
        "",
    ]


def test_job_summary_that_cannot_be_written(mixed, monkeypatch):
    """A summary file that cannot be written causes a warning line and changes no verdict."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(mixed.path))

    result = mixed.run("-m", "role(name='base')")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["GITHUB_STEP_SUMMARY cannot be written: *"])


def test_empty_job_summary_variable(mixed, monkeypatch):
    """An empty variable means that there is no summary file."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")

    mixed.run().stdout.no_fnmatch_line("*GITHUB_STEP_SUMMARY*")


def test_result_file_is_plain_json(mixed):
    """The file is strict JSON: no NaN, no Infinity."""
    mixed.result()

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((mixed.path / "out.json").read_text(), parse_constant=refuse)
