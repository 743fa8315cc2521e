"""The plugin together with other plugins: strict runs, foreign fixtures and options, xdist, no cache."""

import json

import pytest


@pytest.fixture
def mixed(project):
    """One claim of three is red on ft."""
    project.spec("one", "two", "three")
    project.values(one=0.9, two={"base": 0.9, "ft": 0.1}, three=0.8)
    return project


EXPECTED = {
    "one.base": "pass",
    "one.ft": "pass",
    "two.base": "pass",
    "two.ft": "fail",
    "three.base": "pass",
    "three.ft": "pass",
}


def test_no_cache_provider(mixed):
    """`-p no:cacheprovider` works; nothing is remembered then."""
    assert mixed.verdicts("-p", "no:cacheprovider") == EXPECTED
    assert not (mixed.path / ".pytest_cache").exists()


def test_strict_run(mixed):
    """`strict = true` in a project's pytest table accepts our markers and keys."""
    mixed.pytester.makepyprojecttoml(
        '[tool.pytest]\nstrict = true\nfilterwarnings = ["error"]\n'
        'mechanism_models = ["one = ./base"]\nmechanism_batch_size = 8\n'
    )

    assert mixed.verdicts() == EXPECTED


def test_foreign_snapshot_fixture(mixed):
    """The plugin does not take a project's own fixture `snapshot` for syrupy's."""
    mixed.pytester.makeconftest(
        "import pytest\n@pytest.fixture\ndef snapshot():\n    return 'something else'\n"
    )
    mixed.accept()

    assert mixed.verdicts() == EXPECTED
    assert sorted(mixed.accepted()) == sorted(EXPECTED)


def test_foreign_options(mixed):
    """A conftest may define --device, --dtype, --model and --batch-size."""
    mixed.pytester.makeconftest(
        "def pytest_addoption(parser):\n"
        "    for name in ('device', 'dtype', 'model', 'batch-size', 'store', 'json'):\n"
        "        parser.addoption(f'--{name}')\n"
    )

    assert mixed.verdicts("--device", "theirs") == EXPECTED


def test_autouse_fixture_of_the_project(mixed):
    """A project's autouse fixtures run around claims as around any test."""
    mixed.pytester.makeconftest(
        "import pathlib, pytest\n@pytest.fixture(autouse=True)\n"
        "def note(request):\n"
        "    with pathlib.Path('seen').open('a') as file: file.write(request.node.name + ' ')\n"
    )

    mixed.run("-k", "one")

    assert (mixed.path / "seen").read_text() == "base ft "


def test_syrupy_switched_off(mixed):
    """Without syrupy claims are red and say which plugin is missing."""
    result = mixed.result("-p", "no:syrupy")["claims"]

    assert {c["verdict"] for c in result} == {"error"}
    assert result[0]["reason"].startswith("the plugin syrupy keeps the accepted scores")


def test_warnings_as_errors(mixed):
    """`-W error` changes no verdict."""
    assert mixed.verdicts("-W", "error") == EXPECTED


def test_workers_give_the_same_verdicts(mixed):
    """With xdist the verdicts, the exit code and the one result file are those of a plain run."""
    result = mixed.run_on_workers("--mechanism-json", "out.json")

    claims = json.loads((mixed.path / "out.json").read_text())["claims"]
    assert {f"{c['claim']}.{c['role']}": c["verdict"] for c in claims} == EXPECTED
    assert len(claims) == len(EXPECTED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [p.name for p in mixed.path.glob("out*")] == ["out.json"]


def test_workers_print_one_table(mixed, monkeypatch):
    """With xdist there is one table, and one in the job summary, with every claim in both."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(mixed.path / "summary.md"))

    result = mixed.run_on_workers()

    assert sum("= mechanism: base+ft =" in line for line in result.outlines) == 1
    rows = [line for line in result.outlines if line.startswith(("pass  ", "fail  "))]
    assert len(rows) == len(EXPECTED)
    summary = (mixed.path / "summary.md").read_text()
    assert summary.count("### ") == 1
    assert summary.count(" | circuit.") == len(EXPECTED)


def test_ordinary_tests_see_nothing_of_us(project):
    """A project without specs gets no table, no file and no red run."""
    project.pytester.makepyfile(test_other="def test_other(): pass")

    result = project.run(pair=None)

    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*mechanism: *")
    assert not (project.path / "__scores__").exists()


def test_a_run_without_specs_imports_no_claims(pytester):
    """Every run of a project waits for what the plugin imports: without a spec neither claims nor pydantic's models."""
    pytester.makeconftest(
        "import sys\ndef pytest_unconfigure():\n    print('read:', sorted("
        "{'pytest_mechanism.claims.base', 'pytest_mechanism.spec.spec', 'scipy'} & {*sys.modules}))"
    )
    pytester.makepyfile(test_other="def test_other(): pass")

    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["read: []"])


@pytest.mark.parametrize("quiet", [(), ("-q",), ("--collect-only", "-q"), ("--no-header",)])
def test_a_run_without_claims_does_not_read_the_checkpoints_at_its_end(project, monkeypatch, quiet):
    """The ini file names a pair that other tests do not need; only a header shows its fingerprints."""
    from pytest_mechanism.checkpoints import fingerprint

    reads = []
    original = fingerprint.of_reference
    monkeypatch.setattr(
        fingerprint,
        "of_reference",
        lambda *arguments: reads.append(arguments) or original(*arguments),
    )
    project.pytester.makeini("[pytest]\nmodel_pair = ./base,./ft\n")
    project.pytester.makepyfile(test_other="def test_other(): pass")
    result = project.pytester.runpytest_inprocess("test_other.py", *quiet)
    assert result.ret == 0
    assert (len(reads) > 0) == (quiet == ())
