"""From a YAML file to a validated spec: valid specs, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pytest_mechanism import registry
from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.errors import SpecError
from pytest_mechanism.spec.find import is_spec
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.spec.spec import Spec

SPEC = """\
mechanism: 1
circuit: demo
applies_to: {labels: [base, ft*], shape: {n_heads: 4}}
task: {family: entity_tracking, boxes: 5, rows: 100, seed: 3}
groups:
  a: {heads: {3: [1, 0]}, at: last}
  b: {heads: {1: [2], 0: [3]}, at: query_label, into: {group: a, via: v}}
found_on: base
ablation: {value: mean, prompts: 60}
confidence: 0.9
claims:
  solves: {kind: accuracy, on: [base, ft], at_least: 0.6}
  enough: {kind: faithfulness, on: ft, between: [0.9, 1.1]}
  holds: {kind: encodes, group: b, variable: position, at_least: 0.5}
  moves: {kind: cmap, group: [a, b], donor: ft, recipient: base, recovers_at_least: 0.1}
  same: {kind: transfer, from: base, to: ft, beats: {model: base}}
"""

HEAD = "mechanism: 1\ncircuit: x\n"
TASK = "task: {family: entity_tracking}\n"
GROUPS = "groups: {g: {heads: {0: [0]}, at: last}}\n"
FAMILIES = f"valid: {', '.join(sorted(registry.task_families()))}"
KINDS = f"valid: {', '.join(sorted(registry.claim_kinds()))}"
CLAIMS = "claims: {a: {kind: accuracy, at_least: 0.5}}\n"


@pytest.fixture
def loaded(tmp_path: Path):
    def load_text(text: str) -> Spec:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, Path("x.yaml"))

    return load_text


@pytest.fixture
def problems(loaded):
    def of(text: str) -> list[str]:
        with pytest.raises(SpecError) as problem:
            loaded(text)
        result = problem.value
        return [
            str(error)
            for error in (result.problems if isinstance(result, SpecErrors) else [result])
        ]

    return of


def test_a_spec_is_read_as_it_is_written(loaded) -> None:
    """The loaded object contains every part of the spec."""
    spec = loaded(SPEC)
    assert (
        spec.circuit,
        tuple(getattr(spec.task.settings, n) for n in ("boxes", "rows", "seed", "fillers")),
        {name: group.members() for name, group in spec.groups.items()},
        (spec.groups["b"].into.group, spec.groups["b"].into.via),
        (spec.found_on, spec.ablation.value, spec.ablation.prompts, spec.confidence),
        {name: claim.kind for name, claim in spec.claims.items()},
    ) == (
        "demo",
        (5, 100, 3, 0),
        {"a": [(3, 0), (3, 1)], "b": [(0, 3), (1, 2)]},
        ("a", "v"),
        ("base", "mean", 60, 0.9),
        {"solves": "accuracy", "enough": "faithfulness", "holds": "encodes"}
        | {"moves": "cmap", "same": "transfer"},
    )


def test_what_is_not_said_has_a_default(loaded) -> None:
    """Version, name, task and one claim are a whole spec."""
    spec = loaded(HEAD + TASK + CLAIMS)
    assert (
        spec.groups,
        spec.found_on,
        spec.ablation.value,
        spec.ablation.prompts,
        spec.confidence,
        spec.task.settings.boxes,
        spec.task.settings.rows,
    ) == ({}, None, "positional_mean", 500, 0.95, 7, 500)


def test_a_claim_knows_its_line(loaded) -> None:
    """Failure reports point at the claim in the file."""
    spec = loaded(SPEC)
    assert {name: spec.line(name) for name in spec.claims} == {
        "solves": 12,
        "enough": 13,
        "holds": 14,
        "moves": 15,
        "same": 16,
    }


@pytest.mark.parametrize(
    ("claim", "roles", "models"),
    [
        ("solves", ("base", "ft"), {"base": ("base",), "ft": ("ft",)}),
        ("enough", ("ft",), {"ft": ("ft",)}),
        ("holds", ("base", "ft"), {"base": ("base",), "ft": ("ft",)}),
        ("moves", ("pair",), {"pair": ("base", "ft")}),
        ("same", ("pair",), {"pair": ("ft", "base")}),
    ],
)
def test_a_claim_becomes_one_test_per_role(loaded, claim: str, roles: tuple, models: dict) -> None:
    """A claim on one model has an item for each role, a claim that compares has ``pair``."""
    result = loaded(SPEC).claims[claim]
    assert (roles, models) == (
        result.roles(),
        {role: result.models(role) for role in result.roles()},
    )


ONE = "x.yaml:3: "
CASES = {
    "not a mapping": ("[1]\n", "x.yaml:1: a spec is a mapping; its first key is 'mechanism: 1'"),
    "other version": (
        "mechanism: 2\ncircuit: x\n" + TASK + CLAIMS,
        "x.yaml:1: mechanism: 2 is not a supported version; valid: 1",
    ),
    "version true": (
        "mechanism: true\ncircuit: x\n" + TASK + CLAIMS,
        "x.yaml:1: mechanism: True is not a supported version; valid: 1",
    ),
    "unknown key": (
        HEAD + "clams: {}\n" + TASK + CLAIMS,
        ONE
        + "unknown key 'clams'; did you mean 'claims'? valid: ablation, applies_to, atol, circuit, "
        "claims, confidence, drift, extends, found_on, groups, mechanism, task",
    ),
    "no name": (
        "mechanism: 1\n" + TASK + CLAIMS,
        "x.yaml:1: circuit: must be a name; use letters, digits and '_', 100 characters at most",
    ),
    "bad name": (
        "mechanism: 1\ncircuit: a b\n" + TASK + CLAIMS,
        "x.yaml:2: circuit: must be a name; use letters, digits and '_', 100 characters at most",
    ),
    "found_on list": (
        HEAD + "found_on: [base]\n" + TASK + CLAIMS,
        ONE + "found_on: must be a role, such as base",
    ),
    "confidence 1": (
        HEAD + "confidence: 1\n" + TASK + CLAIMS,
        ONE + "confidence: must lie between 0.8 and 1, such as 0.95",
    ),
    "confidence small": (
        HEAD + "confidence: 0.4\n" + TASK + CLAIMS,
        ONE + "confidence: must lie between 0.8 and 1, such as 0.95",
    ),
    "no task": (
        HEAD + CLAIMS,
        f"x.yaml:1: task: needs a family; {FAMILIES}",
    ),
    "unknown family": (
        HEAD + "task: {family: entity_traking}\n" + CLAIMS,
        ONE + "task: unknown family 'entity_traking'; did you mean 'entity_tracking'? " + FAMILIES,
    ),
    "too few rows": (
        HEAD + "task: {family: entity_tracking, rows: 3}\n" + CLAIMS,
        ONE + "rows: must be greater than or equal to 20, got 3",
    ),
    "rows as text": (
        HEAD + "task: {family: entity_tracking, rows: '30'}\n" + CLAIMS,
        ONE + "rows: must be a valid integer, got '30'",
    ),
    "unknown task key": (
        HEAD + "task:\n  family: entity_tracking\n  row: 30\n" + CLAIMS,
        "x.yaml:5: task: unknown key 'row'; did you mean 'rows'? "
        "valid: boxes, family, fillers, rows, seed",
    ),
    "ablation value": (
        HEAD + "ablation: {value: positional-mean}\n" + TASK + CLAIMS,
        ONE + "value: 'positional-mean' is not valid; did you mean 'positional_mean'? "
        "valid: mean, positional_mean, resample, zero",
    ),
    "too few prompts": (
        HEAD + "ablation: {prompts: 49}\n" + TASK + CLAIMS,
        ONE + "prompts: must be greater than or equal to 50, got 49",
    ),
    "labels as text": (
        HEAD + "applies_to: {labels: ft}\n" + TASK + CLAIMS,
        ONE + "labels: must be a valid list, got 'ft'",
    ),
    "unknown size": (
        HEAD + "applies_to: {shape: {n_head: 4}}\n" + TASK + CLAIMS,
        ONE + "shape.n_head: 'n_head' is not valid; did you mean 'n_heads'? "
        "valid: d_head, d_model, d_vocab, n_heads, n_kv_heads, n_layers",
    ),
    "groups a number": (
        HEAD + TASK + "groups: 5\n" + CLAIMS,
        "x.yaml:4: groups: must be name: {heads: {layer: [head, ...]}, at: position}, ...",
    ),
    "groups a list": (
        HEAD + TASK + "groups: [a]\n" + CLAIMS,
        "x.yaml:4: groups: must be name: {heads: {layer: [head, ...]}, at: position}, ... (not a list: no '-' "
        "before them)",
    ),
    "group name": (
        HEAD + TASK + "groups: {a-b: {heads: {0: [0]}, at: last}}\n" + CLAIMS,
        "x.yaml:4: group name 'a-b': use letters, digits and '_', 100 characters at most",
    ),
    "query at another position": (
        HEAD
        + TASK
        + "groups:\n  g: {heads: {1: [0]}, at: last}\n"
        + "  h: {heads: {0: [0]}, at: query_label, into: {group: g, via: q}}\n"
        + CLAIMS,
        "x.yaml:6: group h: works at query_label, its reader g at last; a query is made where the "
        "reader works, so via: q needs the same position (valid here: k, v)",
    ),
    "no heads": (
        HEAD + TASK + "groups: {g: {heads: {0: []}, at: last}}\n" + CLAIMS,
        "x.yaml:4: g.heads.0: must have at least 1 item, got []",
    ),
    "no position": (
        HEAD + TASK + "groups:\n  g: {heads: {0: [1]}}\n" + CLAIMS,
        "x.yaml:5: groups.g: key 'at' is missing",
    ),
    "negative head": (
        HEAD + TASK + "groups: {g: {heads: {0: [-1]}, at: last}}\n" + CLAIMS,
        "x.yaml:4: g.heads.0.0: must be greater than or equal to 0, got -1",
    ),
    "head twice": (
        HEAD + TASK + "groups: {g: {heads: {0: [1, 1]}, at: last}}\n" + CLAIMS,
        "x.yaml:4: group g names a head twice",
    ),
    "layer twice": (
        HEAD + TASK + "groups: {g: {heads: {0: [1], '0': [2]}, at: last}}\n" + CLAIMS,
        "x.yaml:4: group g names a head twice",
    ),
    "unknown position": (
        HEAD + TASK + "groups: {g: {heads: {0: [0]}, at: query_labl}}\n" + CLAIMS,
        "x.yaml:4: group g: unknown position 'query_labl'; did you mean 'query_label'? valid: "
        "all_labels, all_objects, correct_object, last, previous_query_label, query_label",
    ),
    "unknown receiver": (
        HEAD
        + TASK
        + "groups:\n  g: {heads: {0: [0]}, at: last}\n  h: {heads: {1: [0]}, at: last,\n"
        + "      into: {group: gg, via: q}}\n"
        + CLAIMS,
        "x.yaml:7: group h: into an unknown group 'gg'; did you mean 'g'? valid: g",
    ),
    "via z": (
        HEAD
        + TASK
        + "groups: {g: {heads: {0: [0]}, at: last, into: {group: g, via: z}}}\n"
        + CLAIMS,
        "x.yaml:4: g.into.via: 'z' is not valid; valid: input, k, q, v",
    ),
    "unknown key in into": (
        HEAD
        + TASK
        + "groups: {g: {heads: {0: [0]}, at: last}, h: {heads: {0: [1]}, at: last, "
        + "into: {group: g, via: q, vi: q}}}\n"
        + CLAIMS,
        "x.yaml:4: groups.h.into: unknown key 'vi'; did you mean 'via'? valid: group, via",
    ),
    "no claims": (
        HEAD + TASK,
        "x.yaml:1: claims: a spec needs claims, each as name: {kind: ..., ...}",
    ),
    "empty claims": (
        HEAD + TASK + "claims: {}\n",
        "x.yaml:4: claims: a spec needs claims, each as name: {kind: ..., ...}",
    ),
    "claim name": (
        HEAD + TASK + "claims: {a b: {kind: accuracy, at_least: 0.5}}\n",
        "x.yaml:4: claim name 'a b': use letters, digits and '_', 100 characters at most",
    ),
    "claim a number": (
        HEAD + TASK + "claims: {1: {kind: accuracy, at_least: 0.5}}\n",
        "x.yaml:4: claim name 1: use letters, digits and '_', 100 characters at most",
    ),
    "no kind": (
        HEAD + TASK + "claims: {a: {at_least: 0.5}}\n",
        "x.yaml:4: claim a: needs a kind; " + KINDS,
    ),
    "unknown kind": (
        HEAD + TASK + "claims: {a: {kind: acuracy}}\n",
        "x.yaml:4: claim a: unknown kind 'acuracy'; did you mean 'accuracy'? " + KINDS,
    ),
    "claim without content": (
        HEAD + TASK + "claims:\n  a: {kind: accuracy}\n",
        "x.yaml:5: claims.a: needs one of at_least, at_most, not_worse_than",
    ),
    "threshold above 1": (
        HEAD + TASK + "claims:\n  a:\n    kind: accuracy\n    at_least: 60\n",
        "x.yaml:7: a.at_least: must lie between 0.01 and 1 (a share below 0.01 is hardly different "
        "from 0, and no share exceeds 1), got 60; 60 % is 0.6",
    ),
    "threshold as text": (
        HEAD + TASK + "claims: {a: {kind: accuracy, at_least: '0.5'}}\n",
        "x.yaml:4: a.at_least: must be a valid number, got '0.5'; write 0.5, without quotes",
    ),
    "margin alone": (
        HEAD + TASK + "claims: {a: {kind: accuracy, on: ft, at_least: 0.5, margin: 0.1}}\n",
        "x.yaml:4: claims.a: not_worse_than and margin go together",
    ),
    "not worse than itself": (
        HEAD + TASK + "claims: {a: {kind: accuracy, not_worse_than: base, margin: 0.1}}\n",
        "x.yaml:4: claims.a: a model is never worse than itself (base)",
    ),
    "unknown claim key": (
        HEAD + TASK + "claims: {a: {kind: accuracy, atleast: 0.5, at_most: 0.9}}\n",
        "x.yaml:4: claims.a: unknown key 'atleast'; did you mean 'at_least'? valid: at_least, "
        "at_most, atol, drift, kind, margin, not_worse_than, on, severity",
    ),
    "between one": (
        HEAD + TASK + GROUPS + "claims: {a: {kind: faithfulness, between: [0.9]}}\n",
        "x.yaml:5: claims.a.between: needs 2 values",
    ),
    "between backwards": (
        HEAD + TASK + GROUPS + "claims: {a: {kind: faithfulness, between: [1.1, 0.9]}}\n",
        "x.yaml:5: claims.a: between: the first number must be smaller than the second",
    ),
    "key of a nested part": (
        HEAD
        + TASK
        + GROUPS
        + "claims: {a: {kind: transfer, from: base, to: ft, beats: {model: base, modle: b}}}\n",
        "x.yaml:5: claims.a.beats: unknown key 'modle'; did you mean 'model'? valid: model",
    ),
    "alias of a field": (
        HEAD + TASK + GROUPS + "claims: {a: {kind: transfer, to: ft, beats: {model: base}}}\n",
        "x.yaml:5: claims.a: key 'from' is missing",
    ),
    "groups needed": (
        HEAD + TASK + "claims: {a: {kind: faithfulness, between: [0.9, 1.1]}}\n",
        "x.yaml:4: claim a: kind faithfulness needs groups",
    ),
    "unknown group": (
        HEAD
        + TASK
        + GROUPS
        + "claims: {a: {kind: encodes, group: gg, variable: position, at_least: 0.5}}\n",
        "x.yaml:5: claim a: unknown group 'gg'; did you mean 'g'? valid: g",
    ),
    "unknown group in a list": (
        HEAD
        + TASK
        + GROUPS
        + "claims: {a: {kind: cmap, group: [g, h], donor: ft, recipient: base, "
        + "recovers_at_least: 0.5}}\n",
        "x.yaml:5: claim a: unknown group 'h'; valid: g",
    ),
    "unknown variable": (
        HEAD
        + TASK
        + GROUPS
        + "claims: {a: {kind: encodes, group: g, variable: positon, at_least: 0.5}}\n",
        "x.yaml:5: claim a: unknown variable 'positon'; did you mean 'position'? "
        "valid: box_label, next_position, object, position, position_box_first, position_boxes_before, "
        "position_contained_in, position_more_commas, position_no_commas, position_not_in, "
        "position_segment_first, position_segment_last, position_text_first, position_text_last",
    ),
    "role twice": (
        HEAD + TASK + "claims: {a: {kind: accuracy, on: [ft, ft], at_least: 0.5}}\n",
        "x.yaml:4: claim a: on names a role twice",
    ),
    "role name": (
        HEAD + TASK + "claims: {a: {kind: accuracy, on: a-b, at_least: 0.5}}\n",
        "x.yaml:4: claim a: role 'a-b': use letters, digits and '_'; the pair's roles are base "
        "and ft",
    ),
}


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_with_file_line_and_choices(
    problems, text: str, message: str
) -> None:
    """A single mistake is one line: the place, the mistake, and the valid choices."""
    assert [message] == problems(text)


def test_all_mistakes_are_found_at_once_in_the_order_of_the_file(problems) -> None:
    """One lint shows everything that is wrong, from top to bottom."""
    text = HEAD + "found_on: 3\n" + TASK + "clams: 1\n" + "claims: {a: {kind: x}, b: {}}\n"
    assert [message.split(": ")[0] for message in problems(text)] == [
        "x.yaml:3",
        "x.yaml:5",
        "x.yaml:6",
        "x.yaml:6",
    ]


@pytest.mark.parametrize(
    ("into", "circle"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "a -> b -> c -> b"),
        ({"a": "b", "b": "c"}, None),
        ({"a": "c", "b": "c"}, None),
    ],
)
def test_groups_do_not_read_each_other_in_a_circle(
    problems, loaded, into: dict[str, str], circle: str | None
) -> None:
    """A circle of groups is named in full, once; several groups may write into one."""
    groups = "groups:\n" + "".join(
        f"  {name}: {{heads: {{{i}: [0]}}, at: last"
        + (f", into: {{group: {into[name]}, via: q}}" if name in into else "")
        + "}\n"
        for i, name in enumerate("abc")
    )
    text = HEAD + TASK + groups + CLAIMS
    if circle is None:
        assert list("abc") == list(loaded(text).groups)
        return
    assert [
        f"x.yaml:5: groups {circle} read each other in a circle; the group that writes the answer "
        "has no into"
    ] == problems(text)


def test_extends_takes_over_what_is_not_said(loaded, tmp_path: Path) -> None:
    """Task, groups and so on come from the other file; its claims and its name do not."""
    (tmp_path / "other.yaml").write_text(SPEC)
    spec = loaded(HEAD + "extends: other.yaml\n" + TASK + CLAIMS)
    assert (
        spec.circuit,
        spec.task.settings.boxes,
        list(spec.groups),
        spec.found_on,
        spec.ablation.value,
        spec.confidence,
        spec.applies_to.labels,
        list(spec.claims),
    ) == ("x", 7, ["a", "b"], "base", "mean", 0.9, ["base", "ft*"], ["a"])


def test_extends_reaches_into_a_folder_below(loaded, tmp_path: Path) -> None:
    """The other spec may lie in a folder below this one's."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "other.yaml").write_text(SPEC)
    assert list(loaded(HEAD + "extends: shared/other.yaml\n" + CLAIMS).groups) == ["a", "b"]


def test_a_mistake_of_the_extended_file_is_blamed_on_extends(problems, tmp_path: Path) -> None:
    """What came from elsewhere is reported on the line that brought it in."""
    (tmp_path / "other.yaml").write_text(HEAD + "task: {family: entity_tracking, rows: 1}\n")
    assert problems(HEAD + "extends: other.yaml\n" + CLAIMS) == [
        "x.yaml:3: rows: must be greater than or equal to 20, got 1"
    ]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("3", "extends: must be the name of a spec in the same folder"),
        ("../other.yaml", "extends: ../other.yaml lies outside this spec's folder"),
        ("/etc/passwd", "extends: /etc/passwd lies outside this spec's folder"),
        ("link.yaml", "extends: link.yaml lies outside this spec's folder"),
        (
            "othr.yaml",
            "extends: no file othr.yaml; did you mean 'other.yaml'? "
            "valid: link.yaml, list.yaml, other.yaml, self.yaml",
        ),
        ("x.yaml", "extends: x.yaml extends another spec itself; only one level is allowed"),
        ("self.yaml", "extends: self.yaml extends another spec itself; only one level is allowed"),
        ("list.yaml", "extends: list.yaml is not a spec"),
        ('"a\\0b"', "extends: 'a\\x00b' cannot be the name of a file"),
        ('"\\ud800"', "extends: '\\ud800' cannot be the name of a file"),
        ("a" * 300, f"extends: '{'a' * 56}... cannot be the name of a file"),
    ],
    ids=lambda value: value[:12],
)
def test_extends_reaches_no_further_than_its_folder(
    problems, tmp_path: Path, extends: str, message: str
) -> None:
    """extends names a spec of the same folder, one level deep."""
    (tmp_path / "other.yaml").write_text(SPEC)
    (tmp_path / "list.yaml").write_text("[1]\n")
    (tmp_path / "self.yaml").write_text(HEAD + "extends: other.yaml\n" + CLAIMS)
    (tmp_path / "link.yaml").symlink_to("/etc/hostname")
    assert [f"x.yaml:3: {message}"] == problems(HEAD + f"extends: {extends}\n" + CLAIMS)


def test_unreadable_yaml_in_the_extended_file_is_reported_there(problems, tmp_path: Path) -> None:
    """A file that is no YAML is named itself, with its own line."""
    (tmp_path / "other.yaml").write_text("mechanism: 1\na: [\n")
    (message,) = problems(HEAD + "extends: other.yaml\n" + CLAIMS)
    assert message.startswith("other.yaml:3: is not valid YAML")


SHAPE = Shape(n_layers=4, n_heads=4, n_kv_heads=2, d_model=64, d_head=16, d_vocab=200)


@pytest.mark.parametrize(
    ("labels", "shapes", "reason"),
    [
        ({"base": "base", "ft": "ft_3"}, {"base": SHAPE, "ft": SHAPE}, None),
        (
            {"base": "base", "ft": "goat"},
            {"base": SHAPE, "ft": SHAPE},
            "spec applies to labels base, ft*; ft is goat",
        ),
        (
            {"base": "base", "ft": "FT"},
            {},
            "spec applies to labels base, ft*; ft is FT",
        ),
        (
            {"base": "base", "ft": "ft"},
            {"base": SHAPE, "ft": Shape(4, 8, 8, 64, 8, 200)},
            "spec applies to n_heads = 4; ft has 8",
        ),
        ({"base": "base", "ft": "ft"}, {}, None),
    ],
)
def test_a_spec_is_silent_about_other_models_and_says_why(
    loaded, labels: dict, shapes: dict, reason: str | None
) -> None:
    """Labels match patterns, case and all; sizes must be equal; an unknown size is no reason."""
    assert reason == loaded(SPEC).skip_reason(labels, shapes)


def test_a_spec_without_applies_to_speaks_about_every_model(loaded) -> None:
    """No label and no size rules a model out unless the spec says so."""
    assert loaded(HEAD + TASK + CLAIMS).skip_reason({"ft": "anything"}, {"ft": SHAPE}) is None


def test_the_shipped_specs_are_valid() -> None:
    """Every spec of this repository's circuits folder loads."""
    folder = Path(__file__).parents[2] / "circuits"
    assert all(load(path).claims for path in folder.glob("*.yaml"))
    assert list(folder.glob("*.yaml")) != []


@pytest.mark.parametrize("first", ["mechansim: 1\n", ""])
def test_a_spec_whose_first_key_went_wrong_is_not_passed_over(tmp_path, first: str) -> None:
    """A typing error there would take its claims out of the gate without a word."""
    path = tmp_path / "x.yaml"
    path.write_text(f"{first}circuit: x\n" + TASK + CLAIMS)
    assert is_spec(path)
    with pytest.raises(SpecErrors, match=r"x\.yaml:1: the first key of a spec is 'mechanism: 1'"):
        load(path)


def test_a_misspelt_section_is_reported_without_what_follows_from_it(tmp_path) -> None:
    """One line for one mistake."""
    path = tmp_path / "x.yaml"
    text = "gruops: {g: {heads: {0: [0]}, at: last}}\n"
    claim = "claims: {a: {kind: faithfulness, between: [0.9, 1.1]}}\n"
    path.write_text("mechanism: 1\ncircuit: x\n" + TASK + text + claim)
    with pytest.raises(SpecErrors) as caught:
        load(path)
    assert len(caught.value.problems) == 1


def test_a_spec_may_need_further_roles(loaded) -> None:
    """Without a checkpoint for them it is skipped, naming the option."""
    spec = loaded(HEAD + "applies_to: {roles: [control, pretrained]}\n" + TASK + CLAIMS)
    shapes = {"base": SHAPE, "ft": SHAPE, "control": SHAPE}
    reason = spec.skip_reason({"base": "a", "ft": "b"}, shapes)
    assert reason is not None
    assert "--mechanism-model pretrained=REFERENCE" in reason
    assert spec.skip_reason({"base": "a", "ft": "b"}, shapes | {"pretrained": SHAPE}) is None


@pytest.mark.parametrize(
    ("at", "kept"),
    [("query_label.first", "query_label.first"), ("query_label.last", "query_label")],
)
def test_a_position_may_ask_for_the_first_token_of_a_word(loaded, at: str, kept: str) -> None:
    """``.last`` is what a bare name means."""
    assert loaded(SPEC.replace("at: query_label", f"at: {at}")).groups["b"].at == kept


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (
            "query_label.frst",
            "'frst' is not a token of a word; valid: query_label.first, query_label.last",
        ),
        ("query_labl.first", "unknown position 'query_labl'; did you mean 'query_label'?"),
        ("query_label.first.first", "unknown position 'query_label.first'"),
        (".first", "unknown position ''"),
    ],
)
def test_a_wrong_token_of_a_word_is_one_line(problems, at: str, says: str) -> None:
    """With the line of ``at`` and what would be right."""
    (result,) = problems(SPEC.replace("at: query_label", f"at: {at}"))
    assert result.startswith(f"x.yaml:7: group b: {says}")


def test_a_probe_s_position_is_one_of_the_task_s(problems) -> None:
    """Said at lint, not when the probe runs."""
    (result,) = problems(
        SPEC + "  read: {kind: decodable, asked: rows, position: lst, at_least: 0.5}\n"
    )
    assert result.startswith("x.yaml:17: claim read: unknown position 'lst'; did you mean 'last'?")


def test_a_role_that_heads_cannot_have_been_found_on_is_named(tmp_path: Path) -> None:
    """A typing error would search on nobody's model."""
    path = tmp_path / "spec.yaml"
    text = "mechanism: 1\ncircuit: x\ntask: {family: entity_tracking}\nfound_on: bse\n"
    path.write_text(text + "claims:\n  solves: {kind: accuracy, on: base, at_least: 0.5}\n")
    with pytest.raises(
        SpecErrors, match=r"spec\.yaml:4: found_on: unknown role 'bse'; did you mean"
    ):
        load(path, Path("spec.yaml"))
    path.write_text(path.read_text().replace("bse", "control").replace("on: base", "on: control"))
    assert load(path).found_on == "control"


def test_a_resolved_spec_is_the_same_spec(loaded) -> None:
    """What `lint --resolved` prints needs no other file and no default, and means the same."""
    spec = loaded(SPEC + "atol: 0.01\n")
    again = loaded(yaml.safe_dump(spec.resolved(), sort_keys=False))
    assert (spec.resolved(), spec.definition()) == (again.resolved(), again.definition())
    assert {claim.atol for claim in again.claims.values()} == {0.01}


@pytest.mark.parametrize("key", ["atol", "drift", "confidence"])
def test_a_tolerance_without_a_value_is_no_default(problems, key: str) -> None:
    """An empty key is a slip, and not a way to say nothing."""
    (result,) = problems(HEAD + f"{key}:\n" + TASK + CLAIMS)
    assert result.startswith(f"x.yaml:3: {key}: must ")


def test_a_spec_cannot_be_changed(loaded) -> None:
    """A spec and its parts are frozen, so the run uses what was validated."""
    spec = loaded(SPEC)
    with pytest.raises(ValidationError, match="frozen"):
        spec.confidence = 0.99
