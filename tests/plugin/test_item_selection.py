"""Which claims run: node ids, ``-k``, ``-m``, ``--lf``, ``--deselect``."""

import pytest


def run_items(result):
    """``claim::role`` of every item that was run, in order (the run must have had ``-v``)."""
    return [
        line.split()[0].partition(".yaml::")[2]
        for line in result.outlines
        if ".yaml::" in line and line.endswith("%]")
    ]


@pytest.fixture
def two_claims(project):
    project.spec("first", "second")
    project.values(first=0.9, second={"base": 0.9, "ft": 0.1})
    return project


def test_items_are_named_file_claim_role(two_claims):
    """A claim on a role is the item `file::claim::role`."""
    result = two_claims.run("--collect-only", "-q")

    assert result.outlines[:4] == [
        "circuit.yaml::first::base",
        "circuit.yaml::first::ft",
        "circuit.yaml::second::base",
        "circuit.yaml::second::ft",
    ]
    assert result.ret == 0


def test_the_claim_is_a_collector(two_claims):
    """A claim can be selected as a whole by its node id."""
    assert run_items(two_claims.run("-v", "circuit.yaml::first")) == ["first::base", "first::ft"]


def test_node_id_selects_one_item(two_claims):
    """The full node id runs one role of one claim."""
    assert run_items(two_claims.run("-v", "circuit.yaml::second::base")) == ["second::base"]


def test_keyword_selects_by_claim_and_role(two_claims):
    """`-k` looks at the names of claims and roles."""
    assert run_items(two_claims.run("-v", "-k", "second and base")) == ["second::base"]


def test_marker_selects_a_role(two_claims):
    """`-m 'role(name="ft")'` runs only the claims about ft."""
    assert run_items(two_claims.run("-v", "-m", 'role(name="ft")')) == ["first::ft", "second::ft"]


def test_role_marker_is_not_fooled_by_claim_names(project):
    """`-k ft` also takes a claim whose name holds "ft"; the role marker does not."""
    project.spec("ft_improves: {on: base}", "other")
    project.values(ft_improves=0.9, other=0.9)

    assert run_items(project.run("-v", "-k", "ft")) == ["ft_improves::base", "other::ft"]
    assert run_items(project.run("-v", "-m", 'role(name="ft")')) == ["other::ft"]


def test_marker_selects_a_kind(two_claims):
    """`-m 'kind(name=...)'` selects by the kind of claim."""
    assert len(run_items(two_claims.run("-v", "-m", 'kind(name="fixed")'))) == 4
    assert two_claims.run("-m", 'kind(name="accuracy")').ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_marker_mechanism_tells_claims_from_other_tests(two_claims):
    """`-m 'not mechanism'` leaves ordinary tests alone."""
    two_claims.pytester.makepyfile(test_other="def test_other(): pass")

    two_claims.run("-m", "not mechanism").assert_outcomes(passed=1, deselected=4)


def test_last_failed_runs_the_red_role_alone(two_claims):
    """`--lf` runs the role that was red and not the claim's other role."""
    two_claims.run()

    assert run_items(two_claims.run("-v", "--lf")) == ["second::ft"]


def test_failed_first_runs_the_red_role_first(two_claims):
    """`--ff` puts the red role first and keeps the others."""
    two_claims.run()

    assert run_items(two_claims.run("-v", "--ff")) == [
        "second::ft",
        "first::base",
        "first::ft",
        "second::base",
    ]


def test_deselect_leaves_out_one_role(two_claims):
    """`--deselect` takes a node id."""
    result = two_claims.run("-v", "--deselect", "circuit.yaml::second::ft")

    assert run_items(result) == ["first::base", "first::ft", "second::base"]
    assert result.ret == 0


def test_keyword_does_not_change_a_verdict(two_claims):
    """A claim that is judged alone has the same verdict as in a full run."""
    together = two_claims.verdicts()
    alone = two_claims.verdicts("-k", "second and ft")

    assert alone == {"second.ft": together["second.ft"]} == {"second.ft": "fail"}


def test_keyword_that_matches_nothing_exits_5(two_claims):
    """Nothing selected is pytest's exit code 5, never green."""
    assert two_claims.run("-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_other_yaml_is_left_alone(two_claims):
    """YAML without the key `mechanism` is not ours."""
    (two_claims.path / "other.yaml").write_text("circuit: other\nnested: {mechanism: 1}\n")

    assert len(two_claims.result()["claims"]) == 4


def test_both_suffixes_are_collected(two_claims):
    """Specs end in .yaml or .yml."""
    (two_claims.path / "circuit.yaml").rename(two_claims.path / "circuit.yml")

    assert [c["id"] for c in two_claims.result("-k", "first")["claims"]] == [
        "circuit.yml::first::base",
        "circuit.yml::first::ft",
    ]


def test_several_specs_of_a_folder_are_all_run(two_claims):
    """A folder may hold several specs."""
    two_claims.spec("first", name="circuits/another")

    assert [c["id"] for c in two_claims.result("-k", "first")["claims"]] == [
        "circuit.yaml::first::base",
        "circuit.yaml::first::ft",
        "circuits/another.yaml::first::base",
        "circuits/another.yaml::first::ft",
    ]


def test_failure_heading_shows_claim_and_role(two_claims):
    """The heading of a failure reads claim[role]."""
    two_claims.run().stdout.fnmatch_lines(["*___ second[[]ft[]] ___*"])


def test_third_party_kind_comes_through_its_entry_point(two_claims):
    """A claim kind of another package works without touching ours."""
    assert {c["kind"] for c in two_claims.result()["claims"]} == {"fixed"}
