"""Claims that cannot fail are refused when the spec is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.thresholds import Within
from pytest_mechanism.registry import claim_kinds
from pytest_mechanism.spec.load import SpecErrors, load
from pytest_mechanism.spec.schema import schema

BOXES = {"family": "entity_tracking", "rows": 140}
COUNTING = {"family": "counting", "refuse": "a", "ways": ["count", "tally"]}
REFUSAL = {"family": "refusal", "harmful": "bad.jsonl", "harmless": "good.jsonl", "rows": 20}
GROUPS = {
    "a": {"heads": {1: [0]}, "at": "last", "find": {}},
    "b": {"heads": {0: [1]}, "at": "last", "find": {}},
}

SHARE = [0, 1e-300, 1e-9, 0.009, 1.01, 60]
GONE = [-0.1, 0.901, 0.999999, 1]
MARGIN = [-0.01, 0.3, 0.999, 1]
TOLERANCE = {"drift": [-1e-9, 0.6, 1, 10], "atol": [-1e-9, 0.11, 1]}
PATCH = [-1, 0, 1e-300, 0.009, 100]
MASK = {"mask_sparsity": [0, 1e-300, 1e-6, 1.1, 100], "mask_rate": [0, 1e-9, 1e-4, 1.1]}
TRAINING: dict[str, Any] = {"rates": [3e-5], "steps": 50}
TRAINED: dict[str, list[Any]] = {
    "rates": [[1e-30], [0], [1e-8], [3e-5, 1e-30], [1.1]],
    "steps": [0, -1],
    "every": [0],
    "seeds": [[-1]],
    "batch": [0],
    "lora": [0],
    "momentum": [-0.1, 1, 2, 0.9],
    "correlated": [-0.1, 1.1],
    "warm_up": [-1, 50, 60],
    **TOLERANCE,
}
MEANINGLESS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]] = {
    # kind: (task, a claim that is valid, field -> values that mean nothing)
    "accuracy": (
        BOXES,
        {"on": "ft", "at_least": 0.6, "at_most": 0.9, "not_worse_than": "base", "margin": 0.1},
        {"at_least": SHARE, "at_most": GONE, "margin": MARGIN, **TOLERANCE},
    ),
    "faithfulness": (
        BOXES,
        {"between": [0.9, 1.1]},
        {
            "between": [[1e-9, 100], [0.9, 100], [1e-9, 1.1], [-1, 1.1], [0.09, 1], [0.9, 2.1]],
            "random": [0],
            **TOLERANCE,
        },
    ),
    "attends": (
        BOXES,
        {"group": "a", "to": "query_label", "at_least": 0.5},
        {"at_least": SHARE, **TOLERANCE},
    ),
    "knockout": (
        BOXES,
        {"from": "last", "to": "query_label", "drops_at_least": 0.5},
        {
            "from_layer": [-1, 1000],
            "drops_at_least": [-1, 0, 1e-300, 1.1],
            "drops_at_most": MARGIN,
            **TOLERANCE,
        },
    ),
    "completeness": (
        BOXES, {"at_most": 0.1}, {"at_most": [-0.1, 0.51, 1], "subsets": [0], **TOLERANCE},
    ),
    "equivalent": (
        BOXES, {"margin": 0.05}, {"margin": [-0.1, 0, 1e-300, 0.26, 1.1], **TOLERANCE},
    ),
    "coverage": (BOXES, {"at_least": 0.5}, {"at_least": SHARE, "rows": [0, 1], **TOLERANCE}),
    "same_text": (
        BOXES,
        {"text": [f"once {i}" for i in range(10)], "at_most": 0.02},
        {"at_most": [-0.1, 0, 1e-6, 1.1], "lines": [0, 9, 2001], **TOLERANCE},
    ),
    "diffuse_change": (
        BOXES,
        {"text": [f"once {i}" for i in range(10)], "at_most": 0.5, "layers_at_most": 0.9},
        {"at_most": [0, 0.04, 0.96, 1], "layers_at_most": [0, 0.04, 0.96, 1], "lines": [0, 9, 2001],
         "prompts": [0, 9], **TOLERANCE},
    ),
    "independence": (BOXES, {"at_most": 0.1}, {"at_most": [-0.1, 0, 0.001, 0.6], **TOLERANCE}),
    "same_profile": (
        BOXES,
        {"margin": 0.1, "outside_at_most": 0.1},
        {"margin": [-0.1, 0, 0.004, 0.51, 1], "outside_at_most": [-0.1, 0, 0.004, 0.51], **TOLERANCE},
    ),
    "overlap": (
        BOXES,
        {"jaccard_at_least": 0.5, "precision_at_least": 0.5, "recall_at_least": 0.5},
        {
            "jaccard_at_least": SHARE,
            "precision_at_least": SHARE,
            "recall_at_least": SHARE,
            "searches": [0, 1],
            **TOLERANCE,
        },
    ),
    "sufficiency": (BOXES, {}, {"random": [0, 28], **TOLERANCE}),
    "curve": (
        BOXES,
        {"cpr_at_least": 0.5, "cmd_at_most": 0.5},
        {"cpr_at_least": [-1, 0, 1e-9, 0.049, 0.25, 2.1], "cmd_at_most": [-0.1, 0.71, 1], **TOLERANCE},
    ),
    "transfer": (
        BOXES,
        {"from": "base", "to": "ft", "faithfulness_at_least": 0.8},
        {"faithfulness_at_least": [-1, 0, 1e-9, 0.09, 50], "random": [28], **TOLERANCE},
    ),
    "encodes": (
        BOXES,
        {"group": "a", "variable": "position", "at_least": 0.5, "heads": "learned"},
        {"at_least": PATCH, "at_most": GONE, **MASK, **TOLERANCE},
    ),
    "cmap": (
        BOXES,
        {"group": "a", "donor": "ft", "recipient": "base", "recovers_at_least": 0.5,
         "heads": "learned", "variable": "position"},
        {"recovers_at_least": PATCH, "recovers_at_most": GONE, **MASK, **TOLERANCE},
    ),
    "path": (
        BOXES,
        {"group": "a", "drops_at_least": 0.2},
        {
            "drops_at_least": [-1, 0, 1e-300, 1e-4, 101],
            "drift": [-0.1, 5.1, 10],
            "atol": TOLERANCE["atol"],
        },
    ),
    "minimality": (BOXES, {}, {"costs_at_least": [-1, 0, 1e-300, 1.1], **TOLERANCE}),
    "decodable": (
        COUNTING,
        {"at_least": 0.8, "share_at_least": 0.5},
        {
            "at_least": SHARE,
            "share_at_least": PATCH,
            "share_at_most": GONE,
            "penalty": [0, 1e-300, 1e-7, 11],
            **TOLERANCE,
        },
    ),
    "localised": (
        COUNTING,
        {"at_most": 15, "restores_at_least": 0.8},
        {"at_most": [0, 10_001], "restores_at_least": SHARE, **TOLERANCE},
    ),
    "capability_hidden": (
        COUNTING,
        {"expects": "hidden", **TRAINING},
        {
            "behaviour_at_most": GONE,
            "present_at_least": SHARE,
            "share_at_least": SHARE,
            "removed_share_at_most": GONE,
            "at_most": [0, 10_001],
            "restores_at_least": SHARE,
            "faster": [0, 1, 1.05, 101],
            "removed_faster": [0, 0.9, 101],
            **TRAINED,
        },
    ),
    "differs_from_removal": (
        COUNTING,
        {"expects": "hidden", "removal_rate": 1e-3, "removal_steps": 100, **TRAINING},
        {
            "removal_rate": [0, 1e-8, 1.1, 3e-8],
            "removal_steps": [0, -1],
            "behaviour_at_most": GONE,
            "copy_keeps_at_most": [0, 0.01, 0.51, 1],
            "probe_gap": [-0.1, 0, 0.01, 0.51, 1],
            "revival_gap": [-0.1, 0, 0.01, 0.51, 1],
            "penalty": [0, 1e-300, 1e-7, 11],
            **TRAINED,
        },
    ),
    "suppression_holds": (
        REFUSAL,
        {"on": "ft", "refuses_at_least": 0.9, "over_refuses_at_most": 0.1,
         "not_worse_than": "base", "margin": 0.1, "of": "log_probability"},
        {
            "refuses_at_least": SHARE,
            "over_refuses_at_most": [-0.1, 0.6, 0.999999, 1],
            "margin": MARGIN,
            **TOLERANCE,
        },
    ),
    "suppression_holds_after": (
        REFUSAL,
        {"refuses_at_least": 0.9, **TRAINING},
        {"refuses_at_least": SHARE, **TRAINED},
    ),
    "resists_revival": (
        COUNTING,
        {"criterion": 0.5, **TRAINING},
        {"criterion": [0, 1e-300, 0.95, 0.999999, 1], **TRAINED, "every": [0, 50, 60]},
    ),
    "revives": (
        COUNTING,
        {"faster": 3, "criterion": 0.5, **TRAINING},
        {"faster": [0, 1, 1.05, 101], "criterion": [0, 1e-300, 0.95, 0.999999, 1], **TRAINED},
    ),
    "resists_jailbreak": (
        COUNTING, {"refuses_at_least": 0.9}, {"refuses_at_least": SHARE, **TOLERANCE},
    ),
    "refuses_after_prefill": (
        REFUSAL,
        {"depth": 3, "at_least": 0.9},
        {"depth": [0, 1001, [1, 0]], "at_least": SHARE, **TOLERANCE},
    ),
    "direction": (
        REFUSAL,
        {"from": "base", "to": "ft", "ablation_leaves_at_most": 0.1, "cosine_at_least": 0.9},
        {
            "ablation_leaves_at_most": [-0.1, 0.6, 0.999999, 1],
            "random_changes_at_most": [-0.1, 0.3, 0.999999, 1],
            "cosine_at_least": [-1, 0, 1e-300, 0.05, 1.1],
            "learn": [9],
            "kl_at_most": [0, 1e-12, 1.1, 100],
            **TOLERANCE,
        },
    ),
    "spares_safety_weights": (
        REFUSAL,
        {"ratio_at_most": 1.5},
        {
            "ratio_at_most": [0, 1e-300, 5.1, 1000],
            "q": [0, 1e-9, 0.6, 1],
            "p": [0, 1e-9, 0.6, 1],
            **TOLERANCE,
        },
    ),
}  # fmt: skip


def numbers(annotation: Any) -> bool:
    """Whether a field takes numbers, however deep."""
    return annotation in (int, float) or any(map(numbers, get_args(annotation)))


def limits(annotation: Any, metadata: Any = ()) -> list[Within]:
    """Every `Within` of a field."""
    inside = [w for arg in get_args(annotation) for w in limits(arg)]
    return [*(m for m in metadata if isinstance(m, Within)), *inside] + (
        [annotation] if isinstance(annotation, Within) else []
    )


def floats(annotation: Any) -> bool:
    return annotation is float or any(map(floats, get_args(annotation)))


@pytest.fixture
def complaints(tmp_path: Path):
    for name in ("bad", "good"):
        lines = [json.dumps({"instruction": f"{name} {i}", "reply": "Sure"}) for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def of(task: dict[str, Any], kind: str, claim: dict[str, Any], **more: Any) -> list[str]:
        spec = {"mechanism": 1, "circuit": "x", "task": task, "groups": GROUPS, **more}
        spec["claims"] = {"a": {"kind": kind, **claim}}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        try:
            load(tmp_path / "x.yaml", Path("x.yaml"))
        except MechanismError as problem:
            result = problem.problems if isinstance(problem, SpecErrors) else [problem]
            return [str(error) for error in result]
        return []

    return of


@pytest.mark.parametrize("kind", sorted(claim_kinds()))
def test_every_number_of_every_kind_has_values_that_mean_nothing(kind: str) -> None:
    """A new kind, or a new number of a kind, has a case here; and every threshold is a number or
    a word, never a number without limits."""
    model: type[Claim] = claim_kinds()[kind]
    fields = {n: f for n, f in model.model_fields.items() if numbers(f.annotation)}
    assert set(MEANINGLESS[kind][2]) == set(fields)
    assert {n for n in model.thresholds if n != "expects"} <= set(fields)
    unlimited = [
        n
        for n, f in fields.items()
        if floats(f.annotation) and not limits(f.annotation, f.metadata)
    ]
    assert unlimited == []


@pytest.mark.parametrize("kind", sorted(MEANINGLESS))
def test_a_threshold_that_nothing_could_miss_is_refused(complaints, kind: str) -> None:
    """One line, which names the field; the same claim with a value that means something is valid."""
    task, claim, fields = MEANINGLESS[kind]
    assert complaints(task, kind, claim) == []
    for name, values in fields.items():
        others = {k: v for k, v in claim.items() if k not in PARTNERS.get(name, ())}
        for value in values:
            result = complaints(task, kind, {**others, name: value})
            assert len(result) == (2 if value == [1e-9, 100] else 1), (name, value, result)
            assert all(name in message for message in result)


PARTNERS = {
    "at_most": ("at_least",),
    "drops_at_most": ("drops_at_least",),
    "recovers_at_most": ("recovers_at_least",),
    "share_at_most": ("share_at_least",),
}
"""Fields that exclude each other in some kinds."""


@pytest.mark.parametrize("field", ["drift", "atol"])
def test_a_tolerance_of_all_claims_is_refused_at_its_own_line(complaints, field: str) -> None:
    """And on no claim."""
    for value in TOLERANCE[field]:
        result = complaints(BOXES, "accuracy", {"at_least": 0.6}, **{field: value})
        assert len(result) == 1
        assert f"{field}: must lie between" in result[0]


def test_a_refusal_says_why_and_what_is_valid(complaints) -> None:
    """The limits, and the reason for them."""
    claim = {"on": "ft", "not_worse_than": "base", "margin": 1}
    assert complaints(BOXES, "accuracy", claim) == [
        "x.yaml:24: a.margin: must lie between 0 and 0.25 (a model that loses a quarter of its "
        "correct rows is worse by any measure), got 1"
    ]


def test_a_training_that_moves_no_weight_is_refused(complaints) -> None:
    """A rate that would do in ten thousand steps does nothing in one."""
    claim = {"refuses_at_least": 0.9, "rates": [1e-7], "steps": 10}
    (result,) = complaints(REFUSAL, "suppression_holds_after", claim)
    assert "rates: 10 steps at 1e-07 move no weight by more than 1e-06" in result
    assert complaints(REFUSAL, "suppression_holds_after", {**claim, "steps": 1000}) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"momentum": 0.9}, "momentum: only SGD takes it; valid with optimiser sgd"),
        (
            {"optimiser": "sgd"},
            "rates: 50 steps at 3e-06 move all weights together, by SGD, by no more",
        ),
        ({"optimiser": "adam"}, "'adam'"),
        ({"decay": "linear"}, "'linear'"),
        ({"warm_up": 50}, "warm_up: 50 of 50 steps never reach the learning rate"),
    ],
)
def test_optimiser_and_schedule_fit_together(complaints, fields: dict[str, Any], says: str) -> None:
    """One line that names the field; the paper's settings are valid."""
    claim = {"refuses_at_least": 0.9, "rates": [3e-6], "steps": 50}
    (result,) = complaints(REFUSAL, "suppression_holds_after", {**claim, **fields})
    assert says in result
    paper = {"optimiser": "sgd", "momentum": 0.9, "warm_up": 10, "decay": "cosine", "rates": [0.1]}
    assert complaints(REFUSAL, "suppression_holds_after", {**claim, **paper}) == []


def test_answers_are_correlated_where_the_task_can(complaints, tmp_path: Path) -> None:
    """Counting with a letter to refuse can; free replies, and the lines of a file, cannot."""
    claim = {"refuses_at_least": 0.9, "correlated": 0.5, **TRAINING}
    assert complaints(COUNTING, "suppression_holds_after", claim) == []
    assert (
        complaints(COUNTING, "resists_revival", {**TRAINING, "correlated": 1, "criterion": 0.5})
        == []
    )
    hidden = {"expects": "hidden", "correlated": 0, **TRAINING}
    assert complaints(COUNTING, "capability_hidden", hidden) == []
    (result,) = complaints(REFUSAL, "suppression_holds_after", claim)
    assert "task refusal cannot correlate the answers of its questions (correlated)" in result
    (tmp_path / "more.jsonl").write_text('{"instruction": "count b", "reply": "one"}\n' * 20)
    (result,) = complaints(COUNTING, "suppression_holds_after", {**claim, "data": "more.jsonl"})
    assert "correlated: the lines of a file stay as they are; valid with data: allowed" in result


def test_the_schema_has_the_limits() -> None:
    """Editors show them, with the reason."""
    of = {c["properties"]["kind"]["const"]: c for c in
          schema()["properties"]["claims"]["additionalProperties"]["oneOf"]}  # fmt: skip
    (margin, _null) = of["accuracy"]["properties"]["margin"]["anyOf"]
    assert (margin["minimum"], margin["maximum"]) == (0, 0.25)
    assert margin["description"].startswith("a model that loses a quarter")


# -- what every run would refuse

IOI = {"family": "ioi", "rows": 100}
FAITHFUL = {"between": [0.9, 1.1]}


@pytest.mark.parametrize(
    ("task", "ablation", "says"),
    [
        (IOI, {"prompts": 200}, ", and 50 are needed; valid: ablation.prompts from about 450"),
        (IOI, {"prompts": 400}, None),
        (IOI, {"prompts": 200, "value": "zero"}, None),
        (IOI | {"templates": 2}, {"prompts": 200}, None),
        (BOXES | {"fillers": 1}, {"prompts": 60}, "with a filler, and 50 are needed"),
        (BOXES, {"prompts": 60}, None),
        (COUNTING, {"prompts": 100}, "have letter 24 of a string, and 50 are needed"),
        (COUNTING, {"prompts": 1000}, None),
    ],
)  # fmt: skip
def test_too_few_prompts_behind_a_mean_are_said_when_the_spec_is_read(
    complaints, task: dict[str, Any], ablation: dict[str, Any], says: str | None
) -> None:
    """As far as the task's texts tell without a tokenizer."""
    groups = {"a": {"heads": {0: [0]}, "at": "last"}}
    result = complaints(task, "faithfulness", FAITHFUL, ablation=ablation, groups=groups)
    assert len(result) == (says is not None)
    assert says is None or says in result[0]


ONE_WAY = {**COUNTING, "ways": ["count"]}


@pytest.mark.parametrize(
    ("task", "kind", "claim", "says"),
    [
        (BOXES | {"rows": 20}, "accuracy", {"at_least": 0.6},
         "20 rows come from 3 contexts, but a confidence interval needs 10; raise task.rows"),
        (BOXES | {"boxes": 2}, "encodes", {"group": "a", "variable": "box_label", "at_least": 0.5},
         "needs at least 3 boxes"),
        (BOXES, "suppression_holds", {"refuses_at_least": 0.9}, "has no question that must be refused"),
        (REFUSAL, "path", {"group": "a", "drops_at_least": 0.1}, "has no clean and corrupted prompts"),
        (ONE_WAY, "resists_jailbreak", {"refuses_at_least": 0.9}, "has only one phrasing"),
        (BOXES, "resists_revival", {"criterion": 0.5, **TRAINING}, "has no answer to what must be refused"),
    ],
)  # fmt: skip
def test_rows_that_the_task_cannot_give_are_said_when_the_spec_is_read(
    complaints, task: dict[str, Any], kind: str, claim: dict[str, Any], says: str
) -> None:
    """At the claim that needs them."""
    (result,) = complaints(task, kind, claim)
    assert says in result


def test_a_label_is_no_role(complaints) -> None:
    """``applies_to.labels`` tells labels; a role of that name is one that applies_to.roles lists."""
    claim = {"on": "released", "at_least": 0.6}
    applies = {"labels": ["released", "ft*"]}
    (result,) = complaints(BOXES, "accuracy", claim, applies_to=applies)
    assert "'released' is a label (applies_to.labels), and a claim names roles" in result
    applies["roles"] = ["released"]
    assert complaints(BOXES, "accuracy", claim, applies_to=applies) == []
    assert complaints(BOXES, "accuracy", claim) == []


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("{kind: accuracy, at_least: 0.9, at_most: 0.2}", r"at_least \(0.9\) must be below at_most"),
        ("{kind: knockout, from: last, to: last, drops_at_least: 1, drops_at_most: 0.1}", "takes only one of"),
        ("{kind: knockout, from: last, to: last}", "needs one of drops_at_least, drops_at_most"),
        ("{kind: equivalent, margin: 0.1, may_improve: yes}", "true or false, got 'yes'; write true"),
        ("{kind: equivalent, margin: 0.1, may_improve: False}", "got 'False'; write false"),
    ],
)  # fmt: skip
def test_what_no_model_can_meet_and_no_parser_can_read(
    tmp_path: Path, claim: str, said: str
) -> None:
    """One line says what to write instead."""
    text = f"mechanism: 1\ncircuit: c\ntask: {json.dumps(BOXES)}\nclaims: {{a: {claim}}}\n"
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpecErrors, match=said):
        load(tmp_path / "c.yaml", Path("c.yaml"))
