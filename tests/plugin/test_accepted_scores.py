"""Accepted scores: what drifts, what an update writes, and what it leaves alone."""

import json
from fnmatch import fnmatch

import pytest


@pytest.fixture
def accepted(project):
    """A claim on both roles whose score 0.9 is accepted."""
    project.spec("good")
    project.values(good=0.9)
    project.accept()
    return project


def claim_on_ft(project, *arguments):
    """The result of the claim on ft."""
    return next(c for c in project.result(*arguments)["claims"] if c["role"] == "ft")


def edit(path, value):
    """Write a value of its own into the accepted score of ft, as text."""
    data = json.loads(path.read_text())
    data["scores"]["good.ft"]["value"] = "HERE"
    path.write_text(json.dumps(data).replace('"HERE"', value))


# -- what is written


def test_without_a_baseline_the_verdict_decides(project):
    """A score that nobody accepted passes or fails by its verdict, and no file appears."""
    project.spec("good")
    project.values(good={"base": 0.9, "ft": 0.1})

    result = project.result()["claims"]

    assert [(c["verdict"], c["drift_state"], c["baseline"]) for c in result] == [
        ("pass", "new", None),
        ("fail", "new", None),
    ]
    assert not (project.path / "__scores__").exists()


@pytest.mark.parametrize("run", ["run", "run_on_workers"])
def test_scores_that_cannot_be_accepted_are_one_line_before_anything_runs(project, run):
    """Their folder is a file: the run does not measure first."""
    project.spec("good")
    project.values(good=0.9)
    (project.path / "__scores__").write_text("mine")

    result = getattr(project, run)("--snapshot-update")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [line for line in (*result.outlines, *result.errlines) if line.startswith("ERROR: ")]
    assert len(said) == 1
    assert fnmatch(said[0], "ERROR: accepted scores: */base+ft cannot be written: * is a file")
    result.assert_outcomes()
    assert getattr(project, run)().ret == 0


def test_update_writes_one_file_for_pair_and_spec(accepted):
    """Scores are in `__scores__/<label>+<label>/<spec>.json` beside the spec."""
    assert [str(p.relative_to(accepted.path)) for p in accepted.path.glob("__scores__/**/*.*")] == [
        "__scores__/base+ft/circuit.json"
    ]
    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.9}


def test_update_brings_bounds_up_to_date_and_leaves_scores(accepted):
    """After a threshold was changed, `lint --power` plans by the one that the spec has now."""
    before = json.loads(accepted.score_file().read_text())["scores"]
    accepted.spec("good: {at_least: 0.75}")

    accepted.run()
    assert json.loads(accepted.score_file().read_text())["scores"] == before
    accepted.accept()

    after = json.loads(accepted.score_file().read_text())["scores"]
    for name, entry in before.items():
        entry["asked"] = {"at_least": 0.75, "near_at_most": None}
        entry["judged"][0]["low"] = 0.75
        assert after[name] == entry


def test_accepted_score_says_under_what_it_was_taken(accepted):
    """The entry has the value, its interval, rows, control, settings and the role's fingerprint."""
    stored = json.loads(accepted.score_file().read_text())["scores"]["good.ft"]

    assert sorted(stored) == [
        "asked",
        "better",
        "clusters",
        "confidence",
        "control",
        "definition",
        "fingerprints",
        "interval",
        "judged",
        "method",
        "metric",
        "n",
        "name",
        "setting",
        "standard_error",
        "value",
    ]
    assert stored["control"] == {"name": "a coin", "value": 0.25, "interval": [0.125, 0.375]}
    assert sorted(stored["fingerprints"]) == ["ft", "tokenizers"]


def test_labels_name_the_folder(project):
    """Labels given with the pair name the folder of its scores."""
    project.spec("good")
    project.values(good=0.9)
    project.accept(pair="v1=./base,v2=./ft")

    assert project.accepted(pair="v1+v2") == {"good.base": 0.9, "good.ft": 0.9}


def test_update_says_nothing_about_missing_baselines(project):
    """The run that accepts scores does not ask for another one that accepts them."""
    project.spec("good")
    project.values(good=0.9)

    result = project.accept()

    result.stdout.no_fnmatch_line("*--snapshot-update accepts*")
    result.stdout.fnmatch_lines(["pass     circuit.good  base  0.900  *  accepted now"])


def test_update_of_a_red_run_says_nothing_about_missing_baselines(project, monkeypatch):
    """Also where a narrow terminal counts what holds."""
    monkeypatch.setenv("COLUMNS", "80")
    project.spec("good", "bad")
    project.values(good=0.9, bad=0.1)

    project.run().stdout.fnmatch_lines(["2 of 4 claims hold, * have no baseline;*"])
    project.run("--snapshot-update").stdout.no_fnmatch_line("*no baseline*")


def test_missing_baseline_names_the_command(project):
    """A run without a baseline names the option that accepts one."""
    project.spec("good")
    project.values(good=0.9)

    project.run().stdout.fnmatch_lines(
        [
            "2 of 2 scores pass and have no baseline yet: --snapshot-update accepts them, and later "
            "runs are compared with them"
        ]
    )


def test_a_score_that_nobody_accepted_is_red_where_that_is_required(project):
    """One line per claim says how to accept its score. The run that accepts it is green, and so is the next
    run. A claim that fails anyway keeps its own reason."""
    project.spec("good", "bad")
    project.values(good=0.9, bad=0.1)
    strict = "--mechanism-require-accepted"

    result = project.run(strict, "-ra", "-k", "good or (bad and base)")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=3, deselected=1)
    line = "no baseline yet; --snapshot-update accepts this score (--mechanism-require-accepted)"
    result.stdout.fnmatch_lines(
        [
            f"good on base: {line}",
            f"FAILED circuit.yaml::good::base - good on base: {line}",
            "FAILED circuit.yaml::bad::base - bad on base: fixed score 0.100 *",
        ]
    )
    assert result.stdout.str().count("circuit.yaml:5") == 0  # no excerpt: nothing is wrong with it
    assert project.accept(strict, "-k", "good").ret == pytest.ExitCode.OK
    assert project.run(strict, "-k", "good").ret == pytest.ExitCode.OK
    project.pytester.makeini("[pytest]\nmechanism_require_accepted = true\n")
    assert project.verdicts("-k", "good", pair="new=./base,./ft") == {
        "good.base": "fail",
        "good.ft": "fail",
    }


# -- unchanged checkpoints


def test_unchanged_run_is_green(accepted):
    """The same score again is the same."""
    result = claim_on_ft(accepted)

    assert (result["verdict"], result["drift_state"], result["drift"]) == ("pass", "same", 0)


def test_drift_on_unchanged_checkpoints_fails(accepted):
    """With the fingerprints as stored, a score off by more than atol is red: exit 1."""
    accepted.values(good={"base": 0.9, "ft": 0.902})

    result = accepted.run("-ra")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "FAILED circuit.yaml::good::ft - good on ft: the score moved from 0.9000 to 0.9020 "
            "(allowed 0.001) on unchanged checkpoints: the tool or the machine changed"
        ]
    )


def test_drift_within_atol_is_the_same(accepted):
    """With the fingerprints as stored, a score within atol is as accepted."""
    accepted.values(good=0.9008)

    assert claim_on_ft(accepted)["drift_state"] == "same"


def test_tolerance_is_that_of_the_spec_now(accepted):
    """A tolerance raised in the spec counts at once; the stored file has none."""
    accepted.values(good=0.92)
    accepted.spec("good: {atol: 0.05}")

    assert claim_on_ft(accepted)["verdict"] == "pass"


def test_update_within_tolerance_leaves_the_file_as_it_is(accepted):
    """An update within tolerance writes nothing, so that a baseline cannot creep."""
    before = accepted.score_file().read_bytes()
    accepted.values(good=0.9008)

    accepted.accept()

    assert accepted.score_file().read_bytes() == before


def test_update_accepts_a_moved_score(accepted):
    """An update accepts a score that moved on unchanged checkpoints, and is green."""
    accepted.values(good={"base": 0.9, "ft": 0.95})

    assert accepted.accept().ret == pytest.ExitCode.OK
    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.95}
    assert accepted.run().ret == pytest.ExitCode.OK


# -- new checkpoints


def test_worse_by_more_than_drift_fails(accepted):
    """On new weights a score worse than accepted by more than drift, surely, is red."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.7})

    result = claim_on_ft(accepted)

    assert (result["verdict"], result["drift_state"], result["drift"]) == ("fail", "worse", -0.2)
    assert accepted.run().ret == pytest.ExitCode.TESTS_FAILED


def test_worse_within_the_interval_passes(accepted):
    """On new weights a loss that the interval does not tell from `drift` passes."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.8})

    result = claim_on_ft(accepted)

    assert (result["verdict"], result["drift_state"], result["drift"]) == ("pass", "changed", -0.1)


def test_drift_is_that_of_the_claim(accepted):
    """A claim's own `drift` says how much worse new weights may be."""
    accepted.spec("good: {drift: 0.2}")
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.7})

    assert claim_on_ft(accepted)["verdict"] == "pass"


def test_better_passes_and_is_reported(accepted):
    """On new weights a better score passes; the report says that the baseline can be raised."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 1.0})

    result = accepted.run()

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "1 score is better than its baseline by more than the tolerance; --snapshot-update "
            "raises the baseline"
        ]
    )


def test_better_is_accepted_by_an_update(accepted):
    """An update raises the baseline to a better score."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 1.0})

    accepted.accept().stdout.no_fnmatch_line("*raises the baseline*")

    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 1.0}


def test_worse_is_accepted_by_an_update(accepted):
    """An update accepts a worse score whose verdict is green."""
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.7})

    result = accepted.accept("--mechanism-json", "out.json")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["pass *  base  *  same", "pass *  ft  *  -0.200 accepted now"])
    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.7}
    claims = json.loads((accepted.path / "out.json").read_text())["claims"]
    assert [(c["drift_state"], c["accepted_now"], c["baseline"]) for c in claims] == [
        ("same", False, 0.9),
        ("changed", True, 0.9),
    ]


def test_a_score_of_another_definition_is_accepted_anew(accepted):
    """What the spec measures now has no baseline until an update writes one, however far apart."""
    path = accepted.path / "circuit.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    accepted.values(good=0.7)
    accepted.run().stdout.fnmatch_lines(["pass *  base  *  redefined"])
    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.9}

    accepted.accept().stdout.fnmatch_lines(["pass *  base  *  accepted now"])

    assert accepted.accepted() == {"good.base": 0.7, "good.ft": 0.7}
    assert claim_on_ft(accepted)["drift_state"] == "same"


def test_new_weights_within_tolerance_keep_the_old_baseline(accepted):
    """An update on new weights within tolerance leaves the file byte for byte."""
    before = accepted.score_file().read_bytes()
    accepted.checkpoint("ft", "other weights")
    accepted.values(good={"base": 0.9, "ft": 0.88})

    accepted.accept()

    assert accepted.score_file().read_bytes() == before


# -- what an update leaves alone


def test_update_of_one_role_keeps_the_other(accepted):
    """An update of one role writes its score and keeps the other role's."""
    accepted.values(good=0.95)

    accepted.accept("-m", 'role(name="ft")')

    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.95}


def test_update_of_one_node_id_keeps_the_other(accepted):
    """So does an update by node id."""
    accepted.values(good=0.95)

    accepted.accept("circuit.yaml::good::base")

    assert accepted.accepted() == {"good.base": 0.95, "good.ft": 0.9}


def test_update_by_keyword_keeps_other_claims(project):
    """An update with `-k` keeps the scores of the claims left out."""
    project.spec("one", "two")
    project.values(one=0.9, two=0.9)
    project.accept()
    project.values(one=0.95, two=0.95)

    project.accept("-k", "one")

    assert project.accepted() == {
        "one.base": 0.95,
        "one.ft": 0.95,
        "two.base": 0.9,
        "two.ft": 0.9,
    }


def test_update_of_the_last_failed_keeps_the_rest(project):
    """An update with `--lf` keeps the scores of claims that were green."""
    project.spec("one", "two")
    project.values(one=0.9, two=0.9)
    project.accept()
    project.values(two=0.1)
    project.run()

    project.accept("--lf")

    assert project.accepted() == {"one.base": 0.9, "one.ft": 0.9, "two.base": 0.1, "two.ft": 0.1}


def test_claim_whose_name_begins_with_another(project):
    """An update of a claim keeps that of one whose name begins in the same way."""
    project.spec("one", "one_more")
    project.values(one=0.9, one_more=0.9)
    project.accept()
    project.values(one=0.95, one_more=0.95)

    project.accept("circuit.yaml::one")

    assert project.accepted() == {
        "one.base": 0.95,
        "one.ft": 0.95,
        "one_more.base": 0.9,
        "one_more.ft": 0.9,
    }


def test_update_of_a_red_claim_accepts_its_score_and_stays_red(accepted):
    """A claim that fails its threshold has its score accepted by an update, and is still red."""
    accepted.values(good={"base": 0.9, "ft": 0.1})

    assert accepted.accept().ret == pytest.ExitCode.TESTS_FAILED
    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.1}


def test_update_keeps_the_score_of_an_unchanged_red_claim(project):
    """A second update of a red claim leaves the file as it is."""
    project.spec("good")
    project.values(good=0.1)
    project.accept()
    before = project.score_file().read_bytes()

    project.accept()

    assert project.score_file().read_bytes() == before


@pytest.mark.parametrize("failure", ["error", "no score", "crash", "crash early"])
def test_update_keeps_the_score_of_a_claim_without_one(accepted, failure):
    """A claim that gave no score in an update keeps its accepted one."""
    before = accepted.score_file().read_bytes()
    accepted.values(good={"base": 0.9, "ft": failure})

    accepted.accept()

    assert accepted.score_file().read_bytes() == before


def test_update_keeps_the_scores_of_skipped_claims(accepted):
    """A spec that does not apply keeps its accepted scores in an update."""
    before = accepted.score_file().read_bytes()
    accepted.spec("good", top="applies_to: {labels: [other]}")
    accepted.spec("good", name="another")

    accepted.accept()

    assert accepted.score_file().read_bytes() == before


def test_update_keeps_the_score_of_an_expected_failure(accepted):
    """A claim marked xfail by the project keeps its accepted score in an update."""
    accepted.pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[1].add_marker(pytest.mark.xfail(run=False))\n"
    )
    before = accepted.score_file().read_bytes()

    accepted.accept()

    assert accepted.score_file().read_bytes() == before


def test_update_without_a_pair_changes_nothing(accepted):
    """An update that forgot the pair keeps every score."""
    before = accepted.score_file().read_bytes()

    assert accepted.accept(pair=None).ret == pytest.ExitCode.TESTS_FAILED
    assert accepted.score_file().read_bytes() == before


def test_update_takes_out_a_claim_that_is_gone(accepted):
    """An update of the whole spec removes the score of a claim that it no longer makes."""
    accepted.spec("good: {on: base}")

    accepted.accept()

    assert accepted.accepted() == {"good.base": 0.9}


def test_score_of_a_claim_that_is_gone_is_no_green_run(accepted):
    """A whole run with a score that no claim claims any more is red, as with any snapshot."""
    accepted.spec("good: {on: base}")

    assert accepted.run().ret == pytest.ExitCode.TESTS_FAILED


def test_other_pairs_are_never_touched(accepted):
    """An update for one pair leaves the files of other pairs as they are."""
    accepted.accept(pair="other=./base,ft=./ft")
    other = accepted.score_file(pair="other+ft")
    before = other.read_bytes()
    accepted.values(good=0.95)

    accepted.accept()

    assert other.read_bytes() == before
    assert accepted.accepted() == {"good.base": 0.95, "good.ft": 0.95}


def test_other_specs_of_the_folder_are_kept(accepted):
    """An update of one spec keeps the scores of the folder's other specs."""
    accepted.spec("good", name="another")
    accepted.accept()
    accepted.values(good=0.95)

    accepted.accept("another.yaml")

    assert accepted.accepted() == {"good.base": 0.9, "good.ft": 0.9}
    assert accepted.accepted("another") == {"good.base": 0.95, "good.ft": 0.95}


def test_specs_of_equal_name_in_two_folders(project):
    """Specs of the same name in different folders have files of their own."""
    project.spec("good", name="one/circuit")
    project.spec("bad", name="two/circuit")
    project.values(good=0.9, bad=0.1)

    project.accept()

    assert project.accepted("one/circuit") == {"good.base": 0.9, "good.ft": 0.9}
    assert project.accepted("two/circuit") == {"bad.base": 0.1, "bad.ft": 0.1}


@pytest.fixture
def amber(accepted):
    """An ordinary snapshot test next to the spec, with both snapshots accepted."""
    accepted.pytester.makepyfile(test_amber="def test_a(snapshot): assert [1, 2] == snapshot")
    accepted.accept()
    return accepted


def files(project):
    return {
        str(p.relative_to(project.path)): p.read_bytes()
        for name in ("__scores__", "__snapshots__")
        for p in project.path.glob(f"{name}/**/*.*")
    }


@pytest.mark.parametrize(
    "selection",
    [
        (),
        ("circuit.yaml",),
        ("test_amber.py",),
        ("-k", "ft"),
        ("-k", "test_a"),
        ("-m", "mechanism"),
    ],
)
def test_ordinary_snapshots_and_scores_leave_each_other_alone(amber, selection):
    """An update of all snapshots, of scores or of an ordinary snapshot test changes nothing of the other
    kind."""
    before = files(amber)
    assert sorted(before) == ["__scores__/base+ft/circuit.json", "__snapshots__/test_amber.ambr"]

    # without a judged claim, pytest refuses a pair that nothing uses
    judges = not any("test_a" in argument for argument in selection)
    expected = pytest.ExitCode.OK if judges else pytest.ExitCode.TESTS_FAILED
    assert amber.accept(*selection).ret == expected

    assert files(amber) == before


def test_ordinary_snapshots_and_other_pairs_scores(amber):
    """An update together with an ordinary snapshot test keeps the scores of other pairs."""
    amber.accept(pair="other=./base,ft=./ft")
    before = files(amber)

    amber.accept()

    assert len(before) == 3
    assert files(amber) == before


def test_new_only_update_accepts_what_is_new_alone(accepted):
    """`--snapshot-update-new-only` adds scores and changes none."""
    accepted.spec("good", "more")
    accepted.values(good=0.95, more=0.9)

    assert accepted.run("--snapshot-update-new-only").ret == pytest.ExitCode.TESTS_FAILED
    assert accepted.accepted() == {
        "good.base": 0.9,
        "good.ft": 0.9,
        "more.base": 0.9,
        "more.ft": 0.9,
    }


def test_update_on_workers_accepts_every_score(project):
    """An update with xdist accepts the scores of all workers."""
    project.spec("one", "two", "three")
    project.values(one=0.9, two=0.8, three=0.1)

    project.run_on_workers("--snapshot-update")

    assert project.accepted() == {
        f"{claim}.{role}": value
        for claim, value in (("one", 0.9), ("two", 0.8), ("three", 0.1))
        for role in ("base", "ft")
    }


# -- damaged files


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"0.9"', "null"]
)
def test_stored_score_that_is_no_number_is_an_error(accepted, value):
    """An accepted score that is not a finite number is red; it would match anything."""
    edit(accepted.score_file(), value)

    result = claim_on_ft(accepted)

    assert result["verdict"] == "error"
    assert result["reason"].startswith(
        f"{accepted.score_file()}:1: is not a valid file of accepted scores"
    )


def test_stored_score_of_400_digits_is_an_error(accepted):
    """An accepted score too large for a float is red and no crash."""
    edit(accepted.score_file(), "1" * 400)

    assert claim_on_ft(accepted)["verdict"] == "error"


def test_update_does_not_heal_a_stored_nan(accepted):
    """An update leaves a damaged file to be restored by its owner."""
    edit(accepted.score_file(), "NaN")
    before = accepted.score_file().read_bytes()

    assert accepted.accept().ret == pytest.ExitCode.TESTS_FAILED
    assert accepted.score_file().read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"mechanism_scores": 0, "scores": {}}',
        b'{"mechanism_scores": 1}',
        b'{"mechanism_scores": 1, "scores": []}',
        b'{"mechanism_scores": 1, "scores": {"good.ft": {}}}',
        b'{"mechanism_scores": 1, "scores": {"good.ft": 0.9}}',
    ],
)
def test_damaged_score_file_gives_one_line(accepted, content):
    """One line names the damaged file and what to do; the run never overwrites the file."""
    path = accepted.score_file()
    path.write_bytes(content)

    result = accepted.run("--snapshot-update", "-ra")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert path.read_bytes() == content
    result.stdout.fnmatch_lines(
        [
            f"FAILED circuit.yaml::good::ft - good on ft: {path}:1: is not a valid file of accepted scores *"
            "; restore it from version control, or delete it and accept the scores again with "
            "--snapshot-update"
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_damaged_file_of_another_spec_is_left_alone(accepted):
    """An update neither stumbles over the damaged file of another spec nor deletes it."""
    accepted.spec("good", name="another")
    accepted.accept()
    accepted.score_file().write_text("{")

    assert accepted.accept("another.yaml").ret == pytest.ExitCode.OK
    accepted.accept()

    assert accepted.score_file().read_text() == "{"
    assert accepted.accepted("another") == {"good.base": 0.9, "good.ft": 0.9}


def test_foreign_file_among_the_scores_is_left_alone(accepted):
    """A note that somebody put among the scores is neither unused nor deleted."""
    note = accepted.score_file().with_name("README.md")
    note.write_text("accepted by the release team")

    assert accepted.run().ret == pytest.ExitCode.OK
    assert accepted.accept().ret == pytest.ExitCode.OK
    assert note.exists()


def test_no_temporary_file_stays(accepted):
    """After an update there is nothing in the folder but the scores."""
    assert [p.name for p in accepted.score_file().parent.iterdir()] == ["circuit.json"]


def test_a_narrow_terminal_counts_the_scores_that_are_the_accepted_ones(accepted, monkeypatch):
    """The table for 80 columns has no room for a column that says ``same``."""
    monkeypatch.setenv("COLUMNS", "80")

    accepted.run().stdout.fnmatch_lines(["*2 of 2 scores are the same as their baselines"])
