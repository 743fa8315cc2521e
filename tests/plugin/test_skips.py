"""Skips: which are red, which make a run red, and that the candidate is judged in every green run."""

import json

import pytest

OK, RED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
NO_FT = "no claim judged the role ft, the candidate for release*"

MARK = """
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        if "second" in item.nodeid:
            item.add_marker(pytest.mark.{mark})
"""
FIXTURE = """
import pytest
@pytest.fixture(autouse=True)
def gone(request):
    if "second" in request.node.nodeid:
        pytest.skip("no disk")
"""
HOOK = """
import pytest
def pytest_runtest_{phase}({item}):
    if "second" in {item}.nodeid:
        pytest.skip("no disk")
"""
SKIPS = {
    "mark": MARK.format(mark="skip(reason='slow')"),
    "skipif": MARK.format(mark="skipif(True, reason='slow')"),
    "fixture": FIXTURE,
    "hook of set-up": HOOK.format(phase="setup", item="item"),
    "hook of the call": HOOK.format(phase="call", item="item"),
    "xfail, not run": MARK.format(mark="xfail(run=False)"),
}


@pytest.fixture
def two(project):
    """A claim that is judged, and one that somebody keeps from it."""
    project.spec("first", "second")
    project.values(first=0.9, second=0.9)
    return project


def claims(project, *arguments):
    """Exit code, and `claim.role` -> verdict; the file says the exit code too."""
    result = project.run("-q", "--mechanism-json", "out.json", *arguments)
    content = json.loads((project.path / "out.json").read_text())
    assert content["exit_code"] == result.ret
    return result, {f"{c['claim']}.{c['role']}": c["verdict"] for c in content["claims"]}


OFTEN = ("mark", "fixture")


@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=[] if h in OFTEN else pytest.mark.slow) for h in SKIPS]
)
def test_a_skip_is_in_the_file_and_red_where_none_is_allowed(two, how):
    """Whatever skips a claim."""
    two.pytester.makeconftest(SKIPS[how])

    result, verdicts = claims(two)
    assert result.ret == OK
    assert verdicts == {
        "first.base": "pass", "first.ft": "pass", "second.base": "skipped", "second.ft": "skipped",
    }  # fmt: skip

    result, verdicts = claims(two, "--mechanism-no-skips")
    assert result.ret == RED
    assert [verdicts["second.base"], verdicts["second.ft"]] == ["error", "error"]
    result.stdout.fnmatch_lines(["*second on ft is skipped, which --mechanism-no-skips forbids: *"])


@pytest.mark.parametrize("how", ["mark", pytest.param("hook of the call", marks=pytest.mark.slow)])
def test_a_skipped_claim_with_an_accepted_score_is_red_where_those_are_required(two, how):
    """And one that nobody accepted is not: it was never judged."""
    two.accept()
    two.pytester.makeconftest(SKIPS[how])

    assert claims(two)[0].ret == OK
    result, verdicts = claims(two, "--mechanism-require-accepted")
    assert result.ret == RED
    assert verdicts["second.ft"] == "error"
    result.stdout.fnmatch_lines(["*second on ft is skipped and has an accepted score (*): *"])
    before = two.accepted()
    two.run("--mechanism-require-accepted", "--snapshot-update")
    assert two.accepted() == before

    two.score_file().unlink()
    two.accept("-k", "first")
    assert claims(two, "--mechanism-require-accepted")[0].ret == OK


@pytest.mark.slow
def test_a_spec_that_does_not_apply_is_a_skip_too(two):
    """By --mechanism-no-skips or its ini key, and by an accepted score."""
    two.spec("third", name="other", top="applies_to: {shape: {n_heads: 99}}")
    two.values(third=0.9)

    assert claims(two)[0].ret == OK
    assert claims(two, "--mechanism-no-skips")[0].ret == RED
    assert claims(two, "-o", "mechanism_no_skips=true")[0].ret == RED
    two.spec("third", name="other")
    two.accept()
    two.spec("third", name="other", top="applies_to: {shape: {n_heads: 99}}")
    result, verdicts = claims(two, "--mechanism-require-accepted")
    assert (result.ret, verdicts["third.ft"]) == (RED, "error")


@pytest.mark.slow
def test_skips_are_red_under_xdist(two):
    """In workers as here."""
    two.accept()
    path = f"import sys\nsys.path.insert(0, {str(two.third_party)!r})\n"
    two.pytester.makeconftest(path + SKIPS["mark"])

    result, verdicts = claims(two, "--mechanism-require-accepted", "-n", "1")

    assert result.ret == RED
    assert [verdicts["second.base"], verdicts["second.ft"]] == ["error", "error"]


# -- the candidate


@pytest.fixture
def uneven(project):
    """A claim about base alone, and one about each."""
    project.spec("old: {on: base}", "both")
    project.spec("compares: {on: pair}", name="pair")
    project.values(old=0.9, both=0.9, compares=0.9)
    return project


def test_a_run_that_judged_base_alone_is_red(project):
    """And says so, in the terminal and in the result file."""
    project.spec("old: {on: base}")
    project.values(old=0.9)

    result, verdicts = claims(project)

    assert (result.ret, verdicts) == (RED, {"old.base": "pass"})
    result.stdout.fnmatch_lines([NO_FT])
    reasons = json.loads((project.path / "out.json").read_text())["reasons"]
    assert [reason.partition(",")[0] for reason in reasons] == ["no claim judged the role ft"]


def test_a_claim_that_compares_ft_judges_it(project):
    """Its role is pair."""
    project.spec("compares: {on: pair}")
    project.values(compares=0.9)

    assert claims(project)[0].ret == OK


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-k", "old"], RED),
        (["-k", "base"], RED),
        (["-m", "kind(name='fixed')", "-k", "old"], RED),
        (["-k", "both"], OK),
        (["-k", "compares"], OK),
        (["circuit.yaml", "--deselect", "circuit.yaml::both::ft"], OK),
        (["circuit.yaml::old"], OK),
        (["circuit.yaml::both::base"], OK),
        (["-m", "role(name='base')"], OK),
        (["-m", "not role(name='ft')", "circuit.yaml"], OK),
    ],
)
@pytest.mark.slow
def test_what_somebody_selects(uneven, arguments, code):
    """A role or a claim that is named is meant; -k, files and folders name none."""
    result, verdicts = claims(uneven, *arguments)

    assert result.ret == code, result.stdout.str()
    assert verdicts
    assert result.stdout.str().count("no claim judged the role ft") == (code == RED)


def test_last_failed_is_about_what_failed(uneven):
    """A second run on base alone is what the user asked for."""
    uneven.values(old=0.1)
    uneven.run()
    uneven.values(old=0.9)

    result, verdicts = claims(uneven, "--lf")

    assert (result.ret, verdicts) == (OK, {"old.base": "pass"})


def test_base_alone_is_red_under_xdist(project):
    """On the controller."""
    project.spec("old: {on: base}")
    project.values(old=0.9)

    result = project.run_on_workers("-q", workers=1)

    assert result.ret == RED
    result.stdout.fnmatch_lines([NO_FT])


def test_a_skipped_ft_leaves_the_run_red(project):
    """Judged on base, skipped on ft."""
    project.spec("second")
    project.values(second=0.9)
    project.pytester.makeconftest(SKIPS["fixture"].replace('"second"', '"::ft"'))

    result, verdicts = claims(project)

    assert (result.ret, verdicts) == (RED, {"second.base": "pass", "second.ft": "skipped"})
    result.stdout.fnmatch_lines([NO_FT])


def test_a_pair_on_the_command_line_and_no_spec_is_red(project):
    """Other tests that pass judge no checkpoint; a pair in the ini file is for all runs."""
    project.pytester.makepyfile(test_other="def test_other(): pass")

    result = project.run("-q")
    assert result.ret == RED
    result.stdout.fnmatch_lines(["the command names a pair and no claim ran*"])

    project.pytester.makeini("[pytest]\nmodel_pair = ./base,./ft\n")
    assert project.run("-q", pair=None).ret == OK
    project.spec("good")
    project.values(good=0.9)
    assert project.run("-q", "-m", "not mechanism").ret == OK
