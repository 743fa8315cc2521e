"""The result file and the exit code agree, whatever marks, hooks and options do to a test."""

import json

import pytest

OK, RED, STOPPED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED

XFAIL = """
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        if "second" in item.nodeid:
            item.add_marker(pytest.mark.xfail({how}))
"""
SWALLOW = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome = "passed"
    return report
"""
INSTEAD = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""
TEARDOWN = """
import pytest
@pytest.fixture(autouse=True)
def cleaned():
    yield
    raise OSError("no disk")
"""
RERUN = """
import pytest
from _pytest.runner import runtestprotocol
from pathlib import Path
def pytest_runtest_protocol(item, nextitem):
    '''As pytest-rerunfailures does it: all attempts are reported, the last one counts.'''
    for attempt in range(3):
        Path("values.json").write_text('{"first": 0.9, "second": %s}' % (0.9 if attempt == 2 else 0.1))
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = any(r.failed for r in reports) and attempt < 2
        for report in reports:
            if again and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not again:
            return True
"""


@pytest.fixture
def two(project):
    project.spec("first", "second")
    project.values(first=0.9, second=0.1)
    return project


def result(project, *arguments, run=None):
    """The run, and the result file, whose exit code is the run's."""
    path = project.path / "out.json"
    outcome = (run or project.run)("-q", "--mechanism-json", path, *arguments)
    content = json.loads(path.read_text())
    assert content["exit_code"] == outcome.ret
    return outcome, content


def verdicts(content):
    return {f"{c['claim']}.{c['role']}": c["verdict"] for c in content["claims"]}


def explained(content):
    """Each claim's verdict, cause and rows' verdicts."""
    return {
        (c["verdict"], c["cause"], tuple(row["verdict"] for row in c["rows"]))
        for c in content["claims"]
        if c["claim"] == "second"
    }


def second(content):
    return [(c["verdict"], c["reason"]) for c in content["claims"] if c["claim"] == "second"]


@pytest.mark.parametrize("how", ["", "reason='known'", "strict=True, reason='known'"])
def test_an_expected_failure_does_not_count(two, how):
    """Exit code 0, so no verdict is red; the reason contains the failure."""
    two.pytester.makeconftest(XFAIL.format(how=how))

    outcome, content = result(two, "--junitxml", "unit.xml")

    assert outcome.ret == OK
    why = " (known)" if how else ""
    for verdict, reason in second(content):
        assert verdict == "skipped"
        assert reason.startswith(f"expected to fail by an xfail mark{why}; fail: ")
    assert {cause for _, cause, _ in explained(content)} == {None}
    outcome.stdout.fnmatch_lines(["2 skipped (circuit): expected to fail by an xfail mark*"])
    assert 'name="mechanism_verdict" value="fail"' not in (two.path / "unit.xml").read_text()


def test_an_expected_failure_that_passes(two):
    """Counts as a pass; under strict it is red, in the file too."""
    two.values(second=0.9)
    two.pytester.makeconftest(XFAIL.format(how=""))
    outcome, content = result(two)
    assert (outcome.ret, set(verdicts(content).values())) == (OK, {"pass"})

    two.pytester.makeconftest(XFAIL.format(how="strict=True, reason='known'"))
    outcome, content = result(two)
    assert outcome.ret == RED
    assert second(content) == [("error", "[XPASS(strict)] known")] * 2
    # the claim held, and a row says that something else is red
    assert explained(content) == {("error", "not_judged", ("pass", "error"))}


def test_a_run_of_expected_failures_judged_nothing(project):
    """Red, as one of skips is."""
    project.spec("second")
    project.values(second=0.1)
    project.pytester.makeconftest(XFAIL.format(how=""))

    assert result(project)[0].ret == RED
    assert result(project, "--mechanism-no-skips")[1]["claims"][0]["verdict"] == "error"


def test_a_hook_that_lets_a_red_claim_pass(two):
    """The run is red all the same, and says why."""
    two.pytester.makeconftest(SWALLOW)

    outcome, content = result(two)

    assert outcome.ret == RED
    assert verdicts(content)["second.ft"] == "fail"
    outcome.stdout.fnmatch_lines(["*something in this project let its test pass: this run is red"])


def test_a_hook_that_takes_the_place_of_a_claim(two):
    """What nobody judged does not pass."""
    two.pytester.makeconftest(INSTEAD)

    outcome, content = result(two)

    assert outcome.ret == RED
    assert set(verdicts(content).values()) == {"error"}
    assert "a hook of the project ran in place of its test" in content["claims"][0]["reason"]


def test_a_fixture_that_fails_when_it_is_torn_down(two):
    """The claim is red in both; one that was red before keeps its own reason."""
    two.pytester.makeconftest(TEARDOWN)

    outcome, content = result(two)

    assert outcome.ret == RED
    assert verdicts(content)["first.ft"] == "error"
    assert "no disk" in content["claims"][0]["reason"]
    assert verdicts(content)["second.ft"] == "fail"


def test_a_claim_that_is_run_again_has_its_last_outcome_once(two):
    """Red, red, green."""
    two.pytester.makeconftest(RERUN)

    outcome, content = result(two, "--junitxml", "unit.xml")

    assert outcome.ret == OK
    assert [c["id"].partition("::")[2] for c in content["claims"]] == [
        "first::base", "first::ft", "second::base", "second::ft",
    ]  # fmt: skip
    assert set(verdicts(content).values()) == {"pass"}
    assert 'name="mechanism_verdict" value="pass"' in (two.path / "unit.xml").read_text()


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_claims_behind_the_first_red_one_are_listed(two, option):
    """As not run."""
    two.spec("third", name="zz")
    two.values(third=0.9)

    outcome, content = result(two, option)

    assert outcome.ret in (RED, STOPPED)
    assert content["not_run"] == [
        "circuit.yaml::second::ft",
        "zz.yaml::third::base",
        "zz.yaml::third::ft",
    ]
    assert len(content["claims"]) == 3


def test_deselected_claims_are_listed(two):
    """By --deselect, -k and -m; here and in workers. The conclusion names the options that were used."""
    two.values(second=0.9)
    outcome, content = result(two, "--deselect", "circuit.yaml::second", "-k", "not nothing")
    assert content["deselected"] == ["circuit.yaml::second::base", "circuit.yaml::second::ft"]
    assert (outcome.ret, content["not_run"]) == (OK, [])

    said = content["conclusion"]["sentences"][-1]
    assert said == "-k and --deselect left out 2 claims."

    outcome, content = result(two, "-m", "role(name='ft')", run=two.run_on_a_worker)
    assert content["conclusion"]["sentences"][-1] == "-m left out 2 claims."
    assert sorted(content["deselected"]) == [
        "circuit.yaml::first::base",
        "circuit.yaml::second::base",
    ]
    assert (outcome.ret, content["not_run"]) == (OK, [])


def test_a_claim_that_a_hook_takes_out_without_a_word_is_listed(two):
    """A conftest that splits the tests between jobs need not tell pytest."""
    two.pytester.makeconftest("""
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if "second" not in item.nodeid]
    """)
    outcome, content = result(two)

    assert content["deselected"] == ["circuit.yaml::second::base", "circuit.yaml::second::ft"]
    said = content["conclusion"]["sentences"][-1]
    assert said == "A hook of this project left out 2 claims."
    assert outcome.ret == OK


def test_a_run_that_ends_itself_green_before_its_claims_is_red(two):
    """`pytest.exit` with code 0."""
    two.values(second=0.9)
    two.pytester.makepyfile(test_a="import pytest\ndef test_stop(): pytest.exit('enough', 0)")

    outcome, content = result(two, "test_a.py", "circuit.yaml")

    assert outcome.ret == RED
    assert len(content["not_run"]) == 4
    outcome.stdout.fnmatch_lines(["4 claims never ran, such as circuit.yaml::first::base"])


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only", "--collect-only"])
def test_a_dry_run_is_no_result(two, option):
    """It leaves an earlier file alone."""
    before = result(two)[1]

    two.run("-q", option, "--mechanism-json", "out.json")

    assert json.loads((two.path / "out.json").read_text()) == before


READS = """
import pathlib, sys, pytest
@pytest.fixture(scope="module", autouse=True)
def once(request):
    yield request.module.__name__
@pytest.fixture(autouse=True)
def logged(request, once, tmp_path):
    seen = [request.module.__name__, request.module.__file__, request.function.__name__, request.cls,
            request.instance, request.path, request.fspath, request.node.originalname, request.node.name,
            request.getfixturevalue("tmp_path"), request.node.getparent(pytest.Module).name,
            request.function.__doc__, getattr(request.module, "pytestmark", None), request.node.module,
            request.keywords.get("mechanism"), request.node.location, request.node.function]
    assert once == "circuit"
    assert pathlib.Path(request.module.__file__).parent == request.path.parent
    yield
"""


def test_fixtures_may_look_at_what_runs(two):
    """At the module, the function and the node, in every scope; a spec is its own module."""
    two.values(second=0.9)
    two.pytester.makeconftest(READS)

    outcome, content = result(two)

    assert (outcome.ret, set(verdicts(content).values())) == (OK, {"pass"})
