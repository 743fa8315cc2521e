"""Groups that name MLPs and attention outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mechanism.fields.groups import Group
from pytest_mechanism.nodes import readers
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.spec.schema import schema
from pytest_mechanism.spec.spec import Spec

HEAD = "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking}\n"
SOLVES = "claims: {a: {kind: accuracy, at_least: 0.5}}\n"
Load = Callable[[str], Spec]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Loads the text of a spec whose groups are on line 4."""

    def of(groups: str, claims: str = SOLVES) -> Spec:
        path = tmp_path / "x.yaml"
        path.write_text(f"{HEAD}groups: {groups}\n{claims}", encoding="utf-8")
        return load(path, Path("x.yaml"))

    return of


def test_a_group_names_heads_mlps_and_attention_outputs(loaded: Load) -> None:
    """Members come in order: by layer, heads first; one at several positions comes once for each."""
    spec = loaded(
        "{g: {heads: {1: [3, 0]}, mlps: {1: last, 0: everywhere, 2: [last, query_label.first]}, "
        "attention_outputs: {2: query_label}, at: last}}"
    )
    group = spec.groups["g"]
    assert isinstance(group, Group)
    assert group.kinds == ("heads", "mlps", "attention_outputs")
    assert group.placed() == [
        (0, "mlp", "everywhere"),
        (1, 0, "last"),
        (1, 3, "last"),
        (1, "mlp", "last"),
        (2, "attention", "query_label"),
        (2, "mlp", "last"),
        (2, "mlp", "query_label.first"),
    ]


def test_a_group_of_heads_is_defined_as_before(loaded: Load) -> None:
    """Accepted scores hash the definition, which has no keys of members that the group does not name."""
    spec = loaded("{g: {heads: {1: [0]}, at: last}}")
    assert spec.definition()["groups"] == {
        "g": {"heads": {"1": [0]}, "at": "last", "into": None, "find": None}
    }


def test_members_beyond_heads_define_the_score(loaded: Load) -> None:
    """Two circuits that differ in an MLP have different definitions."""
    heads = "heads: {1: [0]}, at: last"
    several = [loaded(f"{{g: {{{heads}{more}}}}}") for more in ("", ", mlps: {2: last}")]
    assert several[0].definition() != several[1].definition()


def test_the_schema_has_the_keys_of_members() -> None:
    """Editors complete them, and no longer require heads."""
    group = schema()["$defs"]["Group"]
    assert {"mlps", "attention_outputs"} <= group["properties"].keys()
    assert group["required"] == ["at"]


READ = "r: {mlps: {3: last}, at: last}"
CASES = {
    "nothing named": ("{g: {at: last}}", "groups.g: key 'heads' is missing (or mlps, or attention_outputs)"),
    "no layer": ("{g: {mlps: {}, at: last}}", "g.mlps: must have at least 1 item, got {}"),
    "no position": (
        "{g: {mlps: {0: lats}, at: last}}",
        "group g: unknown position 'lats'; did you mean 'last'? valid: POSITIONS, "
        "everywhere",
    ),
    "everywhere is no position of heads": (
        "{g: {heads: {0: [0]}, at: everywhere}}",
        "group g: unknown position 'everywhere'; valid: POSITIONS",
    ),
    "MLP twice": ("{g: {mlps: {0: [last, last]}, at: last}}", "group g names an MLP twice"),
    "MLP also everywhere": (
        "{g: {mlps: {0: [last, everywhere]}, at: last}}",
        "group g names an MLP twice",
    ),
    "layer spelled twice": (
        "{g: {attention_outputs: {0: last, '0': query_label}, at: last}}",
        "group g names an attention output twice",
    ),
    "head of an attention output": (
        "{g: {heads: {1: [2]}, at: last}, h: {attention_outputs: {1: everywhere}, at: last}}",
        "group g: head 2 of layer 1 at last is part of the attention output that group h names; name the "
        "head or the output",
    ),
    "discovered and named": (
        "{g: {heads: discovered, mlps: {0: last}, at: last}}",
        "groups.g: heads: discovered finds the group's members; for mlps among them write find: {members: "
        "[heads, mlps]}, or name them in a group of their own",
    ),
    "an unknown kind of members": (
        "{g: {heads: discovered, at: last, find: {members: [heads, mlp]}}}",
        "g.find.members.1: 'mlp' is not valid; did you mean 'mlps'? valid: attention_outputs, heads, mlps",
    ),
    "a kind of members twice": (
        "{g: {heads: discovered, at: last, find: {members: [mlps, mlps]}}}",
        "groups.g.find.members: names mlps twice",
    ),
    "a discovered reader without MLPs": (
        "{g: {heads: discovered, at: last, into: {group: r, via: input}}, r: {heads: discovered, at: last}}",
        "group g: its reader r has no MLPs, which alone read through via: input; valid: q, k, v",
    ),
    "MLPs read no query": (
        f"{{g: {{heads: {{0: [0]}}, at: last, into: {{group: r, via: q}}}}, {READ}}}",
        "group g: its reader r has MLPs, which read through via: input; valid: input",
    ),
    "heads have no input": (
        "{g: {heads: {0: [0]}, at: last, into: {group: r, via: input}}, r: {heads: {1: [0]}, at: last}}",
        "group g: its reader r has no MLPs, which alone read through via: input; valid: q, k, v",
    ),
    "MLPs read at their own position": (
        f"{{g: {{heads: {{0: [0]}}, at: query_label, into: {{group: r, via: input}}}}, {READ}}}",
        "group g: works at query_label, its reader r at last; an MLP reads where it works, so via: input needs "
        "the same position",
    ),
    "a reader elsewhere": (
        "{g: {heads: {0: [0]}, at: last, into: {group: r, via: input}}, "
        "r: {mlps: {3: everywhere}, at: last}}",
        "group g: its reader r has members at everywhere, and via: input is read at the reader's own position, "
        "last; make a group of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "message"), CASES.values(), ids=CASES)
def test_a_wrong_member_is_one_line_with_file_and_line(
    loaded: Load, groups: str, message: str
) -> None:
    """The place, the mistake, and what is valid."""
    valid = ", ".join(sorted(loaded("{g: {heads: {0: [0]}, at: last}}").task.positions))
    message = message.replace("POSITIONS", valid)
    with pytest.raises(SpecErrors) as refused:
        loaded(groups)
    assert [str(problem) for problem in refused.value.problems] == [f"x.yaml:4: {message}"]


@pytest.mark.parametrize("via", ["q", "v", "input"])
def test_members_read_through_the_input_that_they_have(loaded: Load, via: str) -> None:
    """A reader of heads and MLPs is valid with every input; an MLP elsewhere matters to none of the heads' inputs."""
    at = "last" if via == "input" else "[last, query_label]"
    spec = loaded(
        f"{{g: {{heads: {{0: [0]}}, at: last, into: {{group: r, via: {via}}}}}, "
        f"r: {{heads: {{1: [0]}}, mlps: {{3: {at}}}, at: last}}}}"
    )
    assert spec.groups["g"].into is not None
    members = [(1, 0), (3, "mlp")]
    assert readers(members, via) == ([(3, "mlp")] if via == "input" else [(1, 0)])


def test_named_mlps_stand_beside_discovered_groups(loaded: Load) -> None:
    """The search keeps them in its circuit."""
    spec = loaded(
        "{g: {heads: discovered, at: last, find: {members: [mlps, heads]}}, h: {mlps: {0: last}, at: last}}"
    )
    assert spec.groups["g"].searched == ("heads", "mlps")
    assert spec.definition()["groups"]["g"]["find"]["members"] == ["heads", "mlps"]


def test_a_search_for_heads_alone_is_defined_as_before(loaded: Load) -> None:
    """The definition of accepted scores has no key that the spec does not need."""
    spec = loaded("{g: {heads: discovered, at: last, find: {drops_at_least: 0.3}}}")
    assert "members" not in spec.definition()["groups"]["g"]["find"]


def test_claims_about_heads_refuse_groups_that_may_find_others(loaded: Load) -> None:
    """Before the search, in one line."""
    claims = "claims: {a: {kind: attends, group: g, to: query_label, at_least: 0.5}}\n"
    with pytest.raises(SpecErrors) as refused:
        loaded("{g: {heads: discovered, at: last, find: {members: [heads, mlps]}}}", claims)
    assert str(refused.value).startswith("x.yaml:5: claim a: group g may find mlps, and ")


def test_path_patching_sends_from_one_position(loaded: Load) -> None:
    """An MLP of a group at another position than the group's is refused where a claim patches its path."""
    claims = "claims: {a: {kind: path, group: g, drops_at_least: 0.1}}\n"
    with pytest.raises(SpecErrors) as refused:
        loaded("{g: {mlps: {2: everywhere}, at: last}, h: {mlps: {1: last}, at: last}}", claims)
    assert str(refused.value) == (
        "x.yaml:5: claim a: group g names the MLP of layer 2 at everywhere, and path patching sends from "
        "the group's position, last; valid groups: h"
    )


@pytest.mark.parametrize(
    ("sender", "reader", "reached"),
    [
        ("heads: {2: [0]}", "{heads: {2: [1], 1: [0]}, at: last}, via: q", False),
        ("heads: {2: [0], 1: [0]}", "{heads: {2: [1]}, at: last}, via: q", True),
        ("heads: {2: [0]}", "{mlps: {2: last}, at: last}, via: input", True),
        ("mlps: {2: last}", "{mlps: {2: last}, at: last}, via: input", False),
        ("attention_outputs: {1: last}", "{heads: {2: [1]}, at: last}, via: v", True),
        # of a group of both kinds, the MLP alone reads through `input`
        ("heads: {2: [0]}", "{heads: {3: [1]}, mlps: {1: last}, at: last}, via: input", False),
    ],
)
def test_a_reader_that_no_member_can_reach(
    loaded: Load, sender: str, reader: str, reached: bool
) -> None:
    """A path to it has no effect in any model, so `lint` says so. One member that reaches it is enough."""
    read, via = reader.rsplit(", ", 1)
    groups = f"{{r: {read}, s: {{{sender}, at: last, into: {{group: r, {via}}}}}}}"
    if reached:
        assert loaded(groups).groups["s"].into is not None
        return
    with pytest.raises(SpecErrors, match="which their output cannot reach"):
        loaded(groups)
