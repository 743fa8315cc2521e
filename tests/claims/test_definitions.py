"""Claims say what their definitions say: which heads are asked for, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.claims.circuits import random_circuits
from pytest_mechanism.claims.cmap import Cmap
from pytest_mechanism.claims.context import ClaimContext
from pytest_mechanism.claims.encodes import Encodes
from pytest_mechanism.claims.minimality import Minimality
from pytest_mechanism.claims.needed_heads import at_most
from pytest_mechanism.claims.transfer import Transfer
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.fields.groups import Group
from pytest_mechanism.measurements.cmap import CodeResult, CrossModelPatching, HeadCode, HeadCodes
from pytest_mechanism.measurements.dcm import DcmMask, MaskResult
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.spec.definition import definition
from pytest_mechanism.spec.load import load
from pytest_mechanism.statistics.estimates import Sampling, exceeds
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking, EntityTrackingParameters
from pytest_mechanism.types import Observations, Setting

ROOT = Path(__file__).parents[2]
N = 140
IDS = [f"rows-{i}" for i in range(N)]
CLUSTERS = [f"context-{i // 7}" for i in range(N)]
ZERO, ONE = np.zeros(N), np.ones(N)
GROUPS = {
    "fetchers": Group(heads={3: [0, 1, 2], 2: [5]}, at="last"),
    "movers": Group(heads={2: [1], 1: [0, 6]}, at="last"),
    "readers": Group(heads={0: [2]}, at="query_label"),
}


def seen(kind: type[Observations] = Observations, /, *fields: Any, **values: Any) -> Any:
    return kind(IDS, CLUSTERS, {k: np.asarray(v, float) for k, v in values.items()}, *fields)


def masked(text: str) -> Any:
    """What a mask gives that selects these heads, as ``layer.head`` words."""
    heads = [head.split(".") for head in text.split()]
    return seen(MaskResult, tuple((int(layer), int(head)) for layer, head in heads), patched=ONE)


def coded(heads: Any, code: Callable[[str], dict[str, Any]], **values: Any) -> Any:
    """What CMAP gives where each head has such a code: its agreement, and the head that it is
    ``like``."""
    codes = []
    for layer, head, at in heads:
        given = code(f"{layer}.{head} at {at}")
        like = given.get("like", "").partition(".")[2]
        done_by, part = int(like) if like else None, given.get("part", "z")
        if part != "z":  # z is written in one code
            codes.append(HeadCode(layer, head, at, 1.0))
        codes.append(HeadCode(layer, head, at, given["agreement"], done_by, part))
    return seen(CodeResult, tuple(codes), **values)


def share(p: float) -> Any:
    found = np.zeros(N)
    found[np.random.default_rng(0).permutation(N)[: round(p * N)]] = 1
    return found


@pytest.fixture
def case() -> ClaimContext:
    task = EntityTracking(EntityTrackingParameters(family="entity_tracking", rows=N))
    shape = Shape(4, 8, 8, 64, 8, 300)
    setting = Setting(0, "float32", "cpu", "reference")
    return ClaimContext("ft", GROUPS, Ablation(), task, 0.95, {"base": shape, "ft": shape}, setting)


def arguments(m: Measurement) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(m.request.spelled())
    return found


# -- encodes: the control of a learned mask


def encodes(case: ClaimContext, mask: str, **fields: Any) -> tuple[Any, list[Measurement]]:
    """The verdict where a mask selects some heads, and what was asked."""
    claim = Encodes(kind="encodes", group="fetchers", variable="object", heads="learned",
                    **{"at_least": 0.5} | fields)  # fmt: skip
    asked: list[Measurement] = []

    def fake(m: Measurement) -> Observations:
        asked.append(m)
        if isinstance(m.request, DcmMask):
            return masked(mask)
        given = arguments(m)
        columns = {"patched": share(0.9) if given["heads"] else ZERO, "floor": ZERO, "ceiling": ONE}
        return seen(**columns, **({"control": ZERO} if given["control"] else {}))

    return claim.judge(case, fake), asked


@pytest.mark.parametrize(
    ("mask", "layers"), [("3.0", [3]), ("3.1 3.2", [3, 3]), ("2.5 3.0", [2, 3]), ("2.5", [2])]
)
def test_the_control_of_a_learned_mask_is_drawn_anew(
    case: ClaimContext, mask: str, layers: list[int]
) -> None:
    """As many heads as were selected, from their layers, none of the group, and named so."""
    verdict, (learned, moved) = encodes(case, mask)
    assert arguments(learned)["heads"] == [[2, 5], [3, 0], [3, 1], [3, 2]]
    given = arguments(moved)
    assert given["heads"] == [[int(x) for x in head.split(".")] for head in mask.split()]
    assert [layer for layer, _ in given["control"]] == layers
    assert {tuple(h) for h in given["control"]}.isdisjoint(GROUPS["fetchers"].members())
    many = "1 random head" if len(layers) == 1 else f"{len(layers)} random heads"
    assert verdict.score.control.name == f"{many} of the same layers"
    assert f"heads selected by DCM: {mask}" in verdict.score.metric
    assert verdict.status == "pass"


def test_a_mask_that_selects_nothing_shows_nothing(case: ClaimContext) -> None:
    """No head is patched, and none stands beside: the group does not carry the variable."""
    verdict, (_, moved) = encodes(case, "")
    assert (arguments(moved)["heads"], arguments(moved)["control"]) == ([], [])
    assert (verdict.status, verdict.score.value, verdict.score.control) == ("fail", 0.0, None)


def test_lambda_and_rate_of_the_mask_are_the_claims(case: ClaimContext) -> None:
    """Published by default; without a mask they say nothing and are refused."""
    _, (learned, _) = encodes(case, "3.0")
    assert (arguments(learned)["sparsity"], arguments(learned)["rate"]) == (0.01, 0.1)
    _, (learned, _) = encodes(case, "3.0", mask_sparsity=0.1, mask_rate=0.02)
    assert (arguments(learned)["sparsity"], arguments(learned)["rate"]) == (0.1, 0.02)
    with pytest.raises(
        ValueError, match="mask_rate is a setting of the mask: needs heads: learned"
    ):
        Encodes(kind="encodes", group="a", variable="object", at_least=0.5, mask_rate=0.02)


# -- cmap: learned heads, and heads that speak another code


def cmap(
    case: ClaimContext,
    code: Callable[[str], dict[str, Any]],
    masks: dict[str, str] | None = None,
    **fields: Any,
) -> tuple[Any, list[Measurement]]:
    """The verdict where each head has such a code, and masks select these heads."""
    base = share(0.6)
    claim = Cmap(kind="cmap", donor="ft", recipient="base",
                 **{"group": "movers", "recovers_at_least": 0.3} | fields)  # fmt: skip
    asked: list[Measurement] = []

    def fake(m: Measurement) -> Observations:
        asked.append(m)
        if isinstance(m.request, Performance):
            return seen(correct=base if m.on == "base" else ONE)
        if isinstance(m.request, DcmMask):
            return masked((masks or {})[arguments(m)["variable"]])
        given = arguments(m)
        alone = given.get("alone", {})
        heads = (*given["heads"], *given["control"], *(h for hs in alone.values() for h in hs))
        to_ft = m.on == "ft"
        moved = np.minimum(ONE, share(0.7)) if to_ft else np.maximum(base, share(0.9))
        still = ONE if to_ft else base
        beside = {name: still if name.endswith("control") else moved for name in alone}
        return coded(heads, code, patched=moved, control=still, **beside)

    return claim.judge(replace(case, role="pair"), fake), asked


def same(_: str) -> dict[str, Any]:
    return {"agreement": 0.9}


def test_cmap_exchanges_the_heads_that_masks_select_in_the_donor(case: ClaimContext) -> None:
    """The published form: a mask for each group's own variable, its control anew."""
    masks = {"object": "3.1", "position": "1.0 2.1"}
    verdict, asked = cmap(
        case, same, masks, group=["fetchers", "movers"], heads="learned",
        variable={"fetchers": "object", "movers": "position"},
    )  # fmt: skip
    learned = [m for m in asked if isinstance(m.request, DcmMask)]
    assert {m.on for m in learned} == {"ft"}
    (exchange,) = [m for m in asked if isinstance(m.request, CrossModelPatching)]
    given = arguments(exchange)
    assert given["heads"] == [[3, 1, "last"], [1, 0, "last"], [2, 1, "last"]]
    assert sorted(layer for layer, _, _ in given["control"]) == [1, 2, 3]
    members = {h for n in ("fetchers", "movers") for h in GROUPS[n].members()}
    assert {(layer, h) for layer, h, _ in given["control"]}.isdisjoint(members)
    assert verdict.status == "pass"
    assert verdict.score.name == "fetchers+movers (learned heads) from ft into base"


def test_one_variable_may_be_meant_for_all_groups(case: ClaimContext) -> None:
    _, asked = cmap(case, same, {"position": "1.0"}, heads="learned", variable="position")
    assert arguments(asked[-1])["heads"] == [[1, 0, "last"]]


def test_nothing_is_exchanged_where_the_masks_select_nothing(case: ClaimContext) -> None:
    verdict, asked = cmap(case, same, {"position": ""}, heads="learned", variable="position")
    assert (verdict.status, verdict.scores) == ("inconclusive", ())
    assert "selects no head of movers in ft" in verdict.reason
    assert all(not isinstance(m.request, CrossModelPatching) for m in asked)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"heads": "learned"}, "heads: learned and variable go together"),
        ({"variable": "position"}, "heads: learned and variable go together"),
        ({"heads": "learned", "variable": {"movers": "position"}, "group": ["movers", "readers"]},
         "needs one for each of movers, readers"),
        ({"mask_rate": 0.2}, "needs heads: learned"),
    ],
)  # fmt: skip
def test_what_a_learned_cmap_needs(fields: dict[str, Any], says: str) -> None:
    """A variable for each group."""
    with pytest.raises(ValueError, match=says):
        Cmap(kind="cmap", donor="ft", recipient="base", recovers_at_least=0.3,
             **{"group": "movers"} | fields)  # fmt: skip


def crossings(asked: list[Measurement]) -> list[Measurement]:
    return [m for m in asked if isinstance(m.request, CrossModelPatching)]


def test_a_cmap_both_ways_exchanges_each_models_activations(case: ClaimContext) -> None:
    """Both shares are judged; the first score, which is accepted, is that from donor to recipient."""
    verdict, asked = cmap(case, same, both_ways=True, recovers_at_least=0.5)
    assert [(m.on, m.inputs[0].on) for m in crossings(asked)] == [("base", "ft"), ("ft", "base")]
    shares = {judged.score.name: round(judged.score.value, 2) for judged in verdict.judged}
    assert shares == {"movers from ft into base": 0.75, "movers from base into ft": 0.75}
    assert verdict.score.name == "movers from ft into base"
    assert (verdict.status, len(verdict.parts), len(verdict.checks)) == ("pass", 2, 2)
    red, _ = cmap(case, same, both_ways=True, recovers_at_least=0.9)
    assert red.status == "fail"


def test_each_group_is_reported_beside_all_together(case: ClaimContext) -> None:
    """One measurement; each group's share and change have random heads of their own."""
    verdict, asked = cmap(case, same, group=["fetchers", "movers"], each=True)
    (crossed,) = crossings(asked)
    alone = arguments(crossed)["alone"]
    assert set(alone) == {
        "only fetchers",
        "only fetchers control",
        "only movers",
        "only movers control",
    }
    assert len(alone["only movers control"]) == len(alone["only movers"]) == 3
    assert [score.name for score in verdict.scores] == [
        f"{group} from ft into base{what}"
        for group in ("fetchers+movers", "fetchers", "movers")
        for what in ("", ": change of accuracy")
    ]
    assert all(score.control is not None for score in verdict.scores)
    assert [judged.score.name for judged in verdict.judged] == ["fetchers+movers from ft into base"]


def test_inputs_are_asked_of_donor_and_recipient_and_named(case: ClaimContext) -> None:
    """In one order, however the spec lists them."""
    verdict, asked = cmap(case, same, activations=["v", "q"])
    (crossed,) = crossings(asked)
    assert arguments(crossed)["parts"] == ["q", "v"]
    assert crossed.inputs[0].request.parts == ("q", "v")
    assert verdict.score.name == "q and v of movers from ft into base"


def test_choices_that_came_later_leave_the_request_of_z_as_it_was(case: ClaimContext) -> None:
    """Its stored results stay valid, and its accepted score is one of the same definition."""
    _, asked = cmap(case, same)
    (crossed,) = crossings(asked)
    assert set(arguments(crossed)) == {"heads", "control", "rows", "stream"}
    assert json.loads(crossed.inputs[0].request.spelled()).keys() == {"heads", "rows", "stream"}
    fields = {
        "kind": "cmap",
        "group": "movers",
        "donor": "ft",
        "recipient": "base",
        "recovers_at_least": 0.3,
    }
    assert {"activations", "each", "both_ways"} <= {*Cmap(**fields).added_later}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"each": True}, "each: true needs several groups"),
        ({"group": ["movers", "movers"]}, "group names a group twice"),
        ({"activations": ["q", "q"]}, "activations names one of q, k, v twice"),
        ({"activations": []}, "at least 1 item"),
        ({"activations": "scores"}, "'z', 'q', 'k' or 'v'"),
        ({"activations": ["z"]}, "'q', 'k' or 'v'"),
    ],
)
def test_what_an_exchange_may_be(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cmap(kind="cmap", donor="ft", recipient="base", recovers_at_least=0.3,
             **{"group": "movers"} | fields)  # fmt: skip


@pytest.mark.parametrize(
    ("activations", "odd", "wanted"),
    [
        # the same head, its z in another basis
        ("q", {"z": (0.1, "2.1")}, "pass"),
        ("v", {"z": (0.1, "2.1")}, "inconclusive"),
        ("q", {"z": (0.1, "2.4")}, "inconclusive"),
        ("q", {"z": (0.1, None)}, "inconclusive"),
        ("q", {"q": (0.1, None)}, "inconclusive"),
    ],
)
def test_which_codes_an_exchange_of_inputs_needs(
    case: ClaimContext, activations: str, odd: dict[str, Any], wanted: str
) -> None:
    """q and k stay in the head: its z may have another basis, but it must be the same head. v is z's code."""
    ((part, (agreement, like)),) = odd.items()
    code = {"agreement": agreement, "part": part, **({"like": like} if like else {})}
    verdict, _ = cmap(
        case,
        lambda n: code if n.startswith("2.1 ") else {"agreement": 0.9},
        activations=activations,
    )
    assert verdict.status == wanted
    if part == "q":
        assert "the queries of head 2.1 of ft at last score other tokens" in verdict.reason


def test_keys_are_exchanged_only_between_models_that_share_them_alike(case: ClaimContext) -> None:
    shapes = {"base": case.shapes["base"], "ft": replace(case.shapes["ft"], n_kv_heads=4)}
    fields = {
        "kind": "cmap",
        "group": "movers",
        "donor": "ft",
        "recipient": "base",
        "recovers_at_least": 0.3,
    }
    Cmap(**fields, activations="q").check_matching_sizes("pair", shapes)
    with pytest.raises(MechanismError, match=r"need the same n_kv_heads \(8 and 4\)"):
        Cmap(**fields, activations="k").check_matching_sizes("pair", shapes)


def test_shared_keys_are_said_in_the_metric(case: ClaimContext) -> None:
    """Under GQA, what is exchanged is not a head's own."""
    grouped = {role: replace(shape, n_kv_heads=4) for role, shape in case.shapes.items()}
    of = {
        part: cmap(replace(case, shapes=grouped), same, activations=part)[0].score.metric
        for part in ("q", "k")
    }
    assert [("GQA" in of[part]) for part in ("q", "k")] == [False, True]


@pytest.mark.parametrize("like", ["2.1", "2.4", None])
def test_heads_of_another_code_give_no_number(case: ClaimContext, like: str | None) -> None:
    """One of the exchanged heads is enough, whatever the patch does."""
    odd = {"agreement": 0.1, **({"like": like} if like else {})}
    verdict, _ = cmap(case, lambda n: odd if n.startswith("2.1 ") else {"agreement": 0.9})
    assert (verdict.status, verdict.scores) == ("inconclusive", ())
    assert "not comparable by index: the output of head 2.1 of ft at last" in verdict.reason


def test_a_control_in_another_code_is_none(case: ClaimContext) -> None:
    """Where its heads' work is done elsewhere; a head whose work nobody does may be a control."""
    moved = {h for h, _ in ((f"{x}.{y}", 0) for x, y in GROUPS["movers"].members())}

    def control_is(odd: dict[str, Any]) -> Any:
        return cmap(case, lambda n: {"agreement": 0.9} if n.split(" ")[0] in moved else odd)[0]

    verdict = control_is({"agreement": 0.1, "like": "0.0"})
    assert (verdict.status, verdict.score.control) == ("inconclusive", None)
    assert "there is no control: not comparable by index" in verdict.reason
    assert control_is({"agreement": 0.1}).status == "pass"


# -- transfer: heads that have changed places


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ({"agreement": 0.9}, "fail"),
        ({"agreement": 0.1}, "fail"),
        ({"agreement": 0.1, "like": "SELF"}, "fail"),
        ({"agreement": 0.1, "like": "3.7"}, "inconclusive"),
    ],
    ids=["one code", "another head", "another basis", "another place"],
)
def test_a_circuit_fails_unless_its_heads_have_changed_places(
    case: ClaimContext, code: dict[str, Any], wanted: str
) -> None:
    """A circuit of head numbers says nothing where another head has the number."""

    def fake(m: Measurement) -> Observations:
        if isinstance(m.request, Performance):
            return seen(correct=ONE)
        if isinstance(m.request, HeadCodes):
            heads = arguments(m.inputs[0])["heads"]
            return coded(
                heads,
                lambda n: {k: n.split(" ")[0] if v == "SELF" else v for k, v in code.items()},
            )
        if "random_0" in m.request.spelled():
            return seen(**{f"random_{i}_correct": ZERO for i in range(29)})
        return seen(circuit_correct=share(0.3), empty_correct=ZERO)

    claim = Transfer.model_validate(
        {"kind": "transfer", "from": "base", "to": "ft", "beats": {"model": "base"}}
    )
    verdict = claim.judge(replace(case, role="pair"), fake)
    assert verdict.status == wanted
    assert ("not comparable by index" in verdict.reason) == (wanted == "inconclusive")


# -- random circuits


def test_random_circuits_have_the_sizes_of_the_circuit(case: ClaimContext) -> None:
    """At each position as many different heads as the groups have there together."""
    drawn = arguments(random_circuits(case, "ft", 40))["alive"]
    assert len(drawn) == 40
    for alive in drawn.values():
        heads = [tuple(each) for each in alive]
        assert len(set(heads)) == len(heads)
        assert [at for *_, at in heads].count("last") == 7
        assert [at for *_, at in heads].count("query_label") == 1
    assert len({json.dumps(alive) for alive in drawn.values()}) == 40


# -- minimality


def test_k_holds_three_tenths_of_the_others_rounded_up() -> None:
    """ceil(0.3 N), in whole numbers: of 10 others 3, of 11 four."""
    assert [at_most(n) for n in (0, 1, 3, 4, 7, 10, 11, 20, 70)] == [0, 1, 1, 2, 3, 3, 4, 6, 21]


def test_p_is_about_the_threshold() -> None:
    """An effect of 0.2 is surely above 0, and nowhere near surely above 0.25."""
    gap, how = share(0.2), Sampling(CLUSTERS, 0.95, 0)
    assert exceeds(gap, 0.0, how) < 0.001
    assert exceeds(gap, 0.25, how) > 0.8
    assert exceeds(ZERO, 0.01, how) == 1.0
    assert exceeds(ONE, 0.01, how) < 0.001


def test_p_knows_of_contexts() -> None:
    """Rows of one context are one thing: 4 contexts of 20 that differ are less than 28 rows of 140."""
    one = np.array([1.0 if i // 7 < 4 else 0.0 for i in range(N)])
    alone = Sampling(IDS, 0.95, 0)
    together = Sampling(CLUSTERS, 0.95, 0)
    assert exceeds(one, 0.08, alone) < 0.001
    assert exceeds(one, 0.08, together) > 0.04
    few = Sampling([f"c{i // 14}" for i in range(N)], 0.95, 0)
    assert exceeds(ONE, 0.5, few) == pytest.approx(1 / 2**10)  # exact: all ten of a sign


def test_a_red_minimality_names_the_heads_that_do_not_cost_the_threshold(
    case: ClaimContext,
) -> None:
    """A head that surely costs 0.05 is named where 0.1 is asked for, and not where 0.01 is."""
    small = share(0.9).copy()
    small[np.flatnonzero(small)[::18]] = 0  # 5 % of all rows
    small[np.flatnonzero(share(0.9))[1::18]] = 0

    def fake(m: Measurement) -> Observations:
        if isinstance(m.request, Performance):
            return seen(correct=ONE)
        columns = {}
        for n in arguments(m)["alive"]:
            lost = n.endswith("gone")
            columns[f"{n}_correct"] = (
                (small if n.startswith("readers:0.2") else share(0.3)) if lost else share(0.9)
            )
        return seen(**columns)

    def verdict(least: float) -> Any:
        return Minimality(kind="minimality", on="ft", costs_at_least=least).judge(case, fake)

    assert verdict(0.01).status == "pass"
    red = verdict(0.2)
    assert red.status == "fail"
    assert red.reason.endswith(
        "; heads without a significant cost of 0.2 (corrected for 8 comparisons): 0.2 of readers"
    )


# -- fields that came later


def test_a_field_that_came_later_leaves_the_definition_as_it_was() -> None:
    """At its default a spec means what it meant, so that accepted scores stay; at another value its
    score is another one."""
    spec = load(ROOT / "circuits" / "entity_tracking.yaml")
    stored = json.loads(
        (ROOT / "circuits" / "__scores__" / "base+ft" / "entity_tracking.json").read_text()
    )["scores"]
    for claim_name in ("fetchers_hold_object", "ft_improves_fetching"):
        claim = spec.claims[claim_name]
        (key,) = {k for k in stored if k.startswith(claim_name) and not k.endswith("base")}
        assert definition(spec, claim) == stored[key]["definition"]
        learned = claim.model_copy(update={"heads": "learned", "mask_rate": 0.2})
        again = claim.model_copy(update={"heads": "learned"})
        assert len({definition(spec, c) for c in (claim, learned, again)}) == 3


def test_optimiser_and_schedule_define_a_claim_unless_they_are_the_defaults(tmp_path: Path) -> None:
    """Accepted scores of AdamW at a constant rate stay valid; any other training defines another score."""
    accepted = ROOT / "circuits" / "__scores__" / "wrapper_safe+wrapper_ft" / "safety_wrapper.json"
    entry = json.loads(accepted.read_text())["scores"]["survives_more_training.ft"]
    text = (ROOT / "circuits" / "safety_wrapper.yaml").read_text()

    def defined(more: str) -> str:
        (tmp_path / "x.yaml").write_text(text.replace("rates: [3e-5],", f"rates: [3e-5], {more}"))
        spec = load(tmp_path / "x.yaml")
        return definition(spec, spec.claims["survives_more_training"])

    for same in ("", "optimiser: adamw, warm_up: 0, decay: none,"):
        assert defined(same) == entry["definition"]
    others = ("warm_up: 5,", "decay: cosine,", "warm_up: 5, decay: cosine,")
    assert len({defined(""), *map(defined, others)}) == 4
