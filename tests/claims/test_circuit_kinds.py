"""Claim kinds about circuits, from a spec to a verdict, on planted models and their control pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import comb, log
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evaluators import open_evaluator

from pytest_mechanism.claims.completeness import magnitude
from pytest_mechanism.claims.sufficiency import excused, least_draws
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Estimate
from pytest_mechanism.types import Verdict
from recipes.entity_tracking_data import save_tokenizer
from recipes.folders import save_half
from recipes.planted import Circuit, build, by_position
from recipes.planted_heads import value_fetcher
from recipes.planted_residual import PLACES

GROUPS = {
    "value_fetcher": {"heads": {3: [1, 4]}, "at": "last"},
    "pos_transmitter": {
        "heads": {2: [6]}, "at": "last", "into": {"group": "value_fetcher", "via": "q"},
    },
    "pos_detector": {
        "heads": {1: [2]}, "at": "query_label", "into": {"group": "pos_transmitter", "via": "v"},
    },
    "struct_reader": {
        "heads": {0: [1, 5]}, "at": "previous_query_label",
        "into": {"group": "pos_detector", "via": "v"},
    },
}  # fmt: skip
TRANSMITTER: dict[str, Any] = {"pos_transmitter": {"heads": {2: [6]}, "at": "last"}}

Judge = Callable[..., dict[str, Verdict]]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The verdicts on the claims of a spec, by name and role."""

    def of(pair: str, claims: Mapping[str, Any], groups: Any = GROUPS, rows: int = 70) -> Any:
        folder = tmp_path_factory.mktemp("spec")
        spec = {
            "mechanism": 1,
            "circuit": "x",
            "task": {"family": "entity_tracking", "boxes": 7, "fillers": 0, "rows": rows},
            "groups": groups,
            "ablation": {"value": "positional_mean", "prompts": 200},
            "claims": dict(claims),
        }
        (folder / "x.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        loaded = load(folder / "x.yaml")
        evaluator = open_evaluator("--model-pair", pair, "--store", folder / "store")
        return {
            f"{name} {role}": evaluator.judge(loaded, claim, role)
            for name, claim in loaded.claims.items()
            for role in claim.roles()
        }

    return of


def saved(circuit: Circuit, folder: Path) -> Path:
    """The checkpoint of a planted circuit."""
    save_half(build(circuit), folder)
    save_tokenizer(folder, PLACES)
    return folder


def outcomes(verdicts: Mapping[str, Verdict]) -> dict[str, tuple[str, str | None]]:
    return {name: (v.status, v.cause and str(v.cause)) for name, v in verdicts.items()}


BY_POSITION_AND_BY_LABEL = "base=zoo:planted_ft,ft=zoo:planted_label"
"""Two models that solve the task; the second reads no position."""


@pytest.mark.slow
def test_attention_and_its_blocking_tell_a_mechanism_from_another(judge: Judge) -> None:
    """The transmitter looks at the query's label in both models. The answer needs the detector's look
    at the same label before in one, and the fetcher's look at it in the other."""
    found = judge(
        BY_POSITION_AND_BY_LABEL,
        {
            "looks": {
                "kind": "attends", "group": "pos_transmitter", "to": "query_label", "at_least": 0.9,
            },
            "fetches": {
                "kind": "attends", "group": "value_fetcher", "to": "correct_object", "at_least": 0.3,
            },
            "by_position": {
                "kind": "knockout", "from": "query_label", "to": "previous_query_label",
                "drops_at_least": 0.5,
            },
            "by_label": {
                "kind": "knockout", "from": "last", "to": "previous_query_label",
                "from_layer": 3, "drops_at_most": 0.1,
            },
        },
    )  # fmt: skip
    assert outcomes(found) == {
        "looks base": ("pass", None),
        "looks ft": ("pass", None),
        "fetches base": ("pass", None),
        "fetches ft": ("fail", "refuted"),
        "by_position base": ("pass", None),
        "by_position ft": ("fail", "refuted"),
        "by_label base": ("pass", None),
        "by_label ft": ("fail", "refuted"),
    }
    for name in ("looks base", "fetches ft"):
        assert "correlational" in found[name].reason


@pytest.mark.slow
def test_independence_sees_that_a_circuit_lacks_the_heads(judge: Judge) -> None:
    """Without the planted circuit nothing is left of the model's scores; without a head that does nothing, all
    is. Without random heads, the scores are still those of the model."""
    claims = {"rest": {"kind": "independence", "at_most": 0.1, "on": "ft"}}
    pair = "base=zoo:planted_base,ft=zoo:planted_ft"
    (whole,) = judge(pair, claims, rows=210).values()
    (idle,) = judge(
        pair, claims, {"value_fetcher": {"heads": {3: [0]}, "at": "last"}}, rows=210
    ).values()
    assert (whole.status, idle.status) == ("pass", "fail")
    assert abs(whole.scores[0].value) < 0.03
    assert idle.scores[0].value > 0.9
    assert all(v.scores[0].control.value > 0.5 for v in (whole, idle))  # type: ignore[union-attr]


def test_a_layer_that_the_model_lacks_is_an_error_with_its_layers(judge: Judge) -> None:
    claim = {
        "kind": "knockout", "from": "last", "to": "query_label", "from_layer": 4,
        "drops_at_least": 0.5, "on": "ft",
    }  # fmt: skip
    (found,) = judge(BY_POSITION_AND_BY_LABEL, {"late": claim}).values()
    assert found.status == "error"
    assert "from_layer is 4; the model of role ft has layers 0 to 3" in found.reason


# -- completeness

COMPLETE = {"complete": {"kind": "completeness", "at_most": 0.1, "on": "ft", "subsets": 6}}


def test_the_planted_circuit_is_complete_and_a_part_of_it_is_not(judge: Judge) -> None:
    """Nothing reads the distractors, so no gap is left. A circuit of one group misses the rest: K is
    nothing then."""
    (whole,) = judge("base=zoo:planted_ft,ft=zoo:planted_ft", COMPLETE).values()
    assert (whole.status, whole.score.value) == ("pass", 0.0)
    assert whole.score.control.value > 0.3
    (part,) = judge("base=zoo:planted_ft,ft=zoo:planted_ft", COMPLETE, TRANSMITTER).values()
    assert (part.status, part.cause) == ("fail", "refuted")
    assert part.score.value > 0.8
    assert "largest gap, without nothing: " in part.reason


@pytest.mark.slow
def test_a_faithful_circuit_with_a_spare_outside_is_incomplete(
    judge: Judge, tmp_path: Path
) -> None:
    """Two fetchers write all of the answer beside the circuit's two: it is faithful, and without its
    fetchers the model still answers."""
    heads = {(3, 1): value_fetcher(+1), (3, 4): value_fetcher(-1)}
    spare = {(3, 0): value_fetcher(-1), (3, 7): value_fetcher(+1)}
    folder = saved(by_position(1.0, heads | spare), tmp_path / "spare")
    claims = {
        **COMPLETE,
        "faithful": {"kind": "faithfulness", "on": "ft", "between": [0.9, 1.1]},
    }
    found = judge(f"base=zoo:planted_ft,ft={folder}", claims)
    assert outcomes(found) == {
        "complete ft": ("fail", "refuted"),
        "faithful ft": ("pass", None),
    }
    assert found["complete ft"].score.value > 0.8
    assert "largest gap, without group value_fetcher" in found["complete ft"].reason


# -- sufficiency

SUFFICIENT = {"sufficient": {"kind": "sufficiency", "on": "ft"}}


def test_the_planted_circuit_beats_random_ones_and_distractors_do_not(judge: Judge) -> None:
    """29 of 29. Heads that nothing reads lead over nothing, and answer nothing."""
    pair = "base=zoo:planted_ft,ft=zoo:planted_ft"
    (planted,) = judge(pair, SUFFICIENT).values()
    assert planted.status == "pass"
    assert [(s.name, s.value) for s in planted.scores] == [
        ("lead over random circuits", 1.0), ("accuracy of the circuit", 1.0),
    ]  # fmt: skip
    assert "29 of 29 beaten, rank test p = 0.033" in planted.reason
    distractors = {"a": {"heads": {3: [0], 2: [1, 2]}, "at": "last"}}
    (others,) = judge(pair, SUFFICIENT, distractors).values()
    assert (others.status, others.cause) == ("fail", "refuted")
    assert "accuracy of the circuit 0.000" in others.reason


@pytest.mark.parametrize(
    ("draws", "confidence", "may"),
    [(28, 0.95, -1), (29, 0.95, 0), (45, 0.95, 0), (46, 0.95, 1), (98, 0.99, -1), (99, 0.99, 0)],
)
def test_as_many_random_circuits_may_do_as_well_as_both_tests_allow(
    draws: int, confidence: float, may: int
) -> None:
    """That many have p at most 1 - confidence in the rank test and in the binomial test of one in ten,
    and one more has not."""
    alpha = Fraction(str(round(1 - confidence, 2)))

    def both(k: int) -> bool:
        terms = [Fraction(9 ** (draws - i) * comb(draws, i), 10**draws) for i in range(k + 1)]
        return Fraction(1 + k, 1 + draws) <= alpha and sum(terms) <= alpha

    assert excused(draws, confidence) == may
    assert (may < 0 or both(may), both(may + 1)) == (True, False)
    assert (draws >= least_draws(confidence)) == (may >= 0)


# -- curve

OTHERWISE = {
    "cpr_at_least": 0.2,
    "axis": "logarithmic",
    "ranking": "absolute",
    "ranked_by": "attribution",
}
PLANTED_AREAS = {
    # six of 32 heads do it all: f is 0 up to 10 % (three heads), and 1 from 20 % (six heads) on
    "CPR, linear axis, signed ranking by ablation": 0.1 / 2 + 0.3 + 0.5,
    "CMD, linear axis, signed ranking by ablation": (0.1 - 0.001) + 0.1 / 2,
    "CPR, logarithmic axis, absolute ranking by attribution": (log(2) / 2 + log(5)) / log(1000),
    "CMD, logarithmic axis, absolute ranking by attribution": (log(100) + log(2) / 2) / log(1000),
}


@pytest.mark.slow
def test_the_areas_of_a_planted_circuit_are_those_of_its_step(judge: Judge) -> None:
    """CPR and CMD by hand, on both axes; random rankings need nearly all heads."""
    both = {"kind": "curve", "on": "ft", "cpr_at_least": 0.3, "cmd_at_most": 0.7}
    claims = {"grows": both, "early": both | OTHERWISE}
    found = judge("base=zoo:planted_ft,ft=zoo:planted_ft", claims)
    scores = {score.name: score for verdict in found.values() for score in verdict.scores}
    assert {name: score.value for name, score in scores.items()} == pytest.approx(PLANTED_AREAS)
    assert found["grows ft"].status == "pass"
    assert scores["CPR, linear axis, signed ranking by ablation"].control.value < 0.6
    assert found["early ft"].reason.startswith("CMD 0.717")


# -- equivalent

EQUAL = {"equal": {"kind": "equivalent", "margin": 0.1}}


@pytest.mark.parametrize(
    ("pair", "status", "cause", "value"),
    [
        ("base=zoo:planted_ft,ft=zoo:planted_label", "pass", None, 0.0),
        ("base=zoo:planted_base,ft=zoo:planted_ft", "fail", "refuted", 2 / 7),
    ],
)
def test_models_that_do_equally_well_are_equivalent(
    judge: Judge, pair: str, status: str, cause: str | None, value: float
) -> None:
    """Whatever their mechanism is. The better one is not equivalent to the worse one."""
    (found,) = judge(pair, EQUAL).values()
    assert (found.status, found.cause) == (status, cause)
    assert found.score.value == pytest.approx(value, abs=0.05)
    assert found.score.confidence == pytest.approx(0.9)


# -- random weights


@pytest.mark.slow
def test_random_weights_pass_no_claim(judge: Judge, tmp_path: Path) -> None:
    """Null: a model that guesses has no gaps, looks and losses that show anything, nor an equal."""
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    folder = saved(by_position(1.0, {}), tmp_path / "random")
    model = GPT2LMHeadModel(GPT2LMHeadModel.from_pretrained(folder).config)
    save_half(model, folder)
    claims = {
        **COMPLETE,
        **SUFFICIENT,
        **EQUAL,
        "grows": {"kind": "curve", "on": "ft", "cpr_at_least": 0.26},
        "looks": {
            "kind": "attends", "on": "ft", "group": "pos_transmitter", "to": "query_label",
            "at_least": 0.01,
        },
        "blocked": {
            "kind": "knockout", "on": "ft", "from": "last", "to": "query_label",
            "drops_at_most": 0.2,
        },
    }  # fmt: skip
    found = judge(f"base={folder},ft={folder}", claims)
    assert outcomes(found) == {
        "complete ft": ("inconclusive", "at_chance"),
        "sufficient ft": ("inconclusive", "at_chance"),
        "equal pair": ("inconclusive", "reference_fails"),
        "grows ft": ("inconclusive", "at_chance"),
        "looks ft": ("inconclusive", "at_chance"),
        "blocked ft": ("inconclusive", "at_chance"),
    }


@pytest.mark.parametrize(
    ("interval", "size"), [((-0.3, -0.1), (0.1, 0.3)), ((-0.1, 0.05), (0.0, 0.1))]
)
def test_the_size_of_a_gap_has_the_interval_of_either_sign(interval: Any, size: Any) -> None:
    """Its upper bound is that of the larger deviation."""
    signed = Estimate(sum(interval) / 2, interval, 0.05, 100, 20)
    found = magnitude(signed)
    assert found == replace(signed, value=abs(signed.value), interval=size)
