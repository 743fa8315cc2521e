"""Exit codes: 0 green, 1 a claim is red, 2 bad spec, 4 bad option, 5 nothing selected."""

import json

import pytest

from pytest_mechanism.plugin.items import NO_PAIR


@pytest.fixture
def green(project):
    project.spec("good")
    project.values(good=0.9)
    return project


def only_line(result):
    """The one line of a usage error; nothing else may be there."""
    lines = [line for line in result.errlines + result.outlines if line.strip()]
    assert len(lines) == 1, lines
    return lines[0]


def test_all_claims_pass(green):
    """A green gate exits 0."""
    result = green.run()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


def test_one_red_claim(green):
    """One failing claim makes the exit code 1."""
    green.values(good={"base": 0.9, "ft": 0.1})

    result = green.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)


def test_inconclusive_is_red(green):
    """A claim that the rows do not settle makes the exit code 1."""
    green.values(good=0.5)

    assert green.verdicts() == {"good.base": "inconclusive", "good.ft": "inconclusive"}
    assert green.run().ret == pytest.ExitCode.TESTS_FAILED


def test_no_pair_is_red_and_says_what_to_add(green):
    """Without a pair, one claim fails for all, and its message names the option to add."""
    result = green.run("-ra", pair=None)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [f"FAILED circuit.yaml::good::base - {NO_PAIR}; 1 other claim did not run either"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_no_pair_is_red_under_xdist(green):
    """Without a pair xdist gives exit code 1 too."""
    result = green.run_on_workers("-ra", workers=1, pair=None)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"FAILED circuit.yaml::good::base - {NO_PAIR}*"])


def test_no_pair_with_a_further_model_is_red(green):
    """A further model is no pair: claims still fail with the sentence."""
    result = green.run("-ra", "--mechanism-model", "control=./base", pair=None)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"FAILED circuit.yaml::good::base - {NO_PAIR}*"])


def test_no_pair_does_not_touch_other_tests(green):
    """A project's own tests run without a pair."""
    green.pytester.makepyfile(test_other="def test_other(): pass")

    assert green.run("test_other.py", pair=None).ret == pytest.ExitCode.OK


def test_unknown_alias(green):
    """An unknown alias exits 4 and lists the known ones."""
    green.pytester.makeini("[pytest]\nmechanism_models = release = ./base\n")

    result = green.run(pair="release,relaese")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = only_line(result)
    assert line.startswith("ERROR: no alias or folder 'relaese'; did you mean 'release'? valid: ")
    assert "release, zoo:base, zoo:ft" in line


def test_missing_folder(green):
    """A folder that is not there exits 4 and lists the known references."""
    result = green.run(pair="./base,./gone")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = only_line(result)
    assert line.startswith("ERROR: no folder './gone'; valid: zoo:base, zoo:ft")
    assert line.endswith(", or a folder")


def test_unknown_embedded_model(green):
    """An unknown `zoo:` name exits 4 and lists the embedded ones."""
    result = green.run(pair="zoo:base,zoo:bsae")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert only_line(result).startswith(
        "ERROR: no embedded checkpoint 'bsae'; did you mean 'base'? valid: base, ft"
    )


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no *.safetensors file"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_folder_that_is_no_checkpoint(green, missing, sentence):
    """A folder without one of its parts exits 4 and says which."""
    (green.path / "ft" / missing).unlink()

    result = green.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in only_line(result)


def test_config_without_sizes(green):
    """A config.json that does not say how many layers there are exits 4."""
    (green.path / "ft" / "config.json").write_text("{}")

    result = green.run("-q")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *config.json does not say d_model, d_vocab, *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_config_without_sizes_under_xdist(green):
    """Under xdist too, and no worker crashes over it."""
    (green.path / "ft" / "config.json").write_text("{}")

    result = green.run_on_workers("-q", workers=1)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_bad_spec(green):
    """A bad spec exits 2 and names file, line and the valid choices."""
    green.spec("good: {at_laest: 0.5}")

    result = green.run()

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["circuit.yaml:5: claims.good: unknown key 'at_laest'; did you mean 'at_least'?*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_every_problem_of_a_bad_spec_is_shown(green):
    """All problems of a spec come in one run, in the order of their lines."""
    green.spec("good: {at_least: 2.0}", "1bad")

    lines = [x for x in green.run().outlines if x.startswith("circuit.yaml:")]

    assert [x.split(" ")[0] for x in lines] == ["circuit.yaml:5:", "circuit.yaml:6:"]


def test_bad_spec_without_a_pair(green):
    """A bad spec exits 2 whether or not there is a pair."""
    green.spec("good: {at_laest: 0.5}")

    assert green.run(pair=None).ret == pytest.ExitCode.INTERRUPTED


def test_bad_spec_stops_the_good_ones(green):
    """One bad spec among good ones still exits 2."""
    green.spec("1bad", name="another")

    assert green.run().ret == pytest.ExitCode.INTERRUPTED


def test_bad_spec_under_xdist_is_not_green(green):
    """Under xdist a bad spec is red as well, and its line is shown."""
    green.spec("good: {at_laest: 0.5}")

    result = green.run_on_workers(workers=1)

    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    result.stdout.fnmatch_lines(["circuit.yaml:5: claims.good: unknown key 'at_laest'*"])


def test_every_claim_skipped(green):
    """A run in which no spec applies judged nothing: exit code 1, and a sentence that says so. With -rs,
    pytest alone lists the skips, once per spec."""
    green.spec("good", top="applies_to: {labels: [other*]}")

    result = green.run("-rs")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        [
            "every claim was skipped, so nothing was judged: this run is red. See applies_to in the"
            " specs",
            "SKIPPED [[]2] circuit.yaml:4: spec applies to labels other[*]; base is base",
        ]
    )
    assert result.stdout.str().count("applies to labels other") == 1
    result.stdout.no_fnmatch_line("verdict *")


def test_every_claim_skipped_under_xdist(green):
    """Under xdist a run that judged nothing exits 1 too."""
    green.spec("good", top="applies_to: {labels: [other*]}")

    assert green.run_on_workers(workers=1).ret == pytest.ExitCode.TESTS_FAILED


def test_one_spec_that_applies_is_enough(green):
    """A skipped spec together with a judged one leaves the gate green."""
    green.spec("good", name="elsewhere", top="applies_to: {shape: {n_heads: 12}}")

    result = green.run()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["2 skipped (elsewhere): spec applies to *"])
    assert result.stdout.str().count("spec applies to ") == 1


def test_interrupted_run_of_skipped_claims_stays_interrupted(green):
    """An interrupt is exit code 2 even where every claim so far was skipped."""
    green.spec("good", top="applies_to: {labels: [other*]}")
    green.pytester.makepyfile(test_zz="import pytest\ndef test_stop(): pytest.exit('enough')")

    assert green.run("circuit.yaml", "test_zz.py").ret == pytest.ExitCode.INTERRUPTED


def test_missing_role_is_an_error_that_says_how_to_give_it(green):
    """A claim about a role that this run has no checkpoint for is red and names the option."""
    green.spec("good: {on: [base, control]}")

    claims = green.result()["claims"]

    assert [(c["role"], c["verdict"]) for c in claims] == [("base", "pass"), ("control", "error")]
    assert claims[1]["reason"] == (
        "needs a checkpoint for the role 'control', this run has base, ft: add "
        "--mechanism-model control=REFERENCE"
    )


def test_further_role(green):
    """`--mechanism-model control=FOLDER` gives a claim its role."""
    green.spec("good: {on: control}")
    green.checkpoint("random")

    assert green.verdicts("--mechanism-model", "control=./random") == {"good.control": "pass"}


def test_claim_that_crashes_is_red_and_reported(green):
    """A bug in a claim kind is a red error in the result file, not a missing line."""
    green.values(good={"base": 0.9, "ft": "crash"})

    claims = green.result()["claims"]

    assert [(c["role"], c["verdict"]) for c in claims] == [("base", "pass"), ("ft", "error")]
    assert claims[1]["reason"] == "RuntimeError: a bug in the claim kind"


def test_claim_that_crashes_in_planning_is_red(green):
    """A bug in what a claim kind says it needs fails that claim alone."""
    green.values(good={"base": 0.9, "ft": "crash early"})

    result = green.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)


def test_claim_that_cannot_be_asked_is_an_error_in_one_line(green):
    """A claim that cannot be judged is red, with its reason and no traceback."""
    green.values(good={"base": 0.9, "ft": "error"})

    result = green.run("-ra")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["FAILED circuit.yaml::good::ft - good on ft: this model cannot be asked"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_claim_that_a_fixture_stops_is_an_error(green):
    """A claim whose set-up fails in a fixture of the project is in the result file, as an error."""
    green.pytester.makeconftest(
        "import pytest\n@pytest.fixture(autouse=True)\ndef broken(): raise OSError('no disk')\n"
    )

    claims = green.result()["claims"]

    assert [(c["verdict"], c["reason"]) for c in claims] == [("error", "OSError: no disk")] * 2
    assert green.run().ret == pytest.ExitCode.TESTS_FAILED


def test_every_claim_skipped_by_a_mark(green):
    """Claims that the project's own marks skip count as skipped: judging nothing exits 1."""
    green.pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.skip(reason='slow'))\n"
    )

    claims = green.result()["claims"]

    assert [(c["verdict"], c["reason"]) for c in claims] == [("skipped", "slow")] * 2
    assert green.run().ret == pytest.ExitCode.TESTS_FAILED


def test_collect_only_is_no_result(green):
    """`--collect-only` exits 0 and leaves the result file of an earlier run alone."""
    before = green.result()

    result = green.run("--collect-only", "--mechanism-json", "out.json")

    assert result.ret == pytest.ExitCode.OK
    assert json.loads((green.path / "out.json").read_text()) == before
