"""Requests: what each method is asked to do, as a value."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest
from pydantic import ValidationError

from pytest_mechanism import measurements
from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.attention import AttentionShare
from pytest_mechanism.measurements.cells import CellPerformance
from pytest_mechanism.measurements.circuit import CircuitPerformance
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching, HeadCodes
from pytest_mechanism.measurements.curve import TrainingCurve
from pytest_mechanism.measurements.dcm import DcmMask
from pytest_mechanism.measurements.direction import (
    DirectionAblation,
    DirectionComparison,
    RefusalDirection,
)
from pytest_mechanism.measurements.edges import EdgeAttribution
from pytest_mechanism.measurements.exchange import MemberExchange, WholeDonation
from pytest_mechanism.measurements.grafting import (
    AnswerDonation,
    GraftDivergence,
    MemberGraft,
)
from pytest_mechanism.measurements.interchange import Interchange
from pytest_mechanism.measurements.knockout import AttentionKnockout
from pytest_mechanism.measurements.matching import HeadMatching
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.member_weights import MemberWeights, WeightDonation
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.measurements.probing import LinearProbes
from pytest_mechanism.measurements.profile import EffectProfile
from pytest_mechanism.measurements.pruning import Pruning
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.refusal import RefusalRate
from pytest_mechanism.measurements.removal import HeadRemoval
from pytest_mechanism.measurements.request import Cost, Request
from pytest_mechanism.measurements.screen import AttributionPatching
from pytest_mechanism.measurements.sizes import CircuitSizes
from pytest_mechanism.measurements.snip import SafetyEntries, WeightChange
from pytest_mechanism.measurements.text_divergence import TextDivergence, TextDonation
from pytest_mechanism.registry import resolve

ROWS = {"rows": 12, "stream": "rows"}
HEADS = [(1, 0), (1, 3)]
PLACED = [(1, 0, "last"), (0, 2, "label")]
SEARCH = {"learn": 6, "validate_on": 4, "kl_at_most": 0.1}

EXAMPLES: list[Request] = [
    Performance(**ROWS),
    CircuitPerformance(**ROWS, ablation=Ablation(), alive={"some": PLACED, "none": []}),
    PathPatching(**ROWS, senders={"group": HEADS}, at="last", receivers=[(2, 1)], via="q"),
    EffectProfile(**ROWS, senders={"1.0": HEADS[:1]}, at="last", receivers=[(2, 1)], via="q"),
    HeadMatching(**ROWS),
    CellPerformance(**ROWS),
    AttentionShare(**ROWS, heads={"group": HEADS}, query="last", key="label"),
    AttentionKnockout(**ROWS, query="last", key="label", starts=[0, 2], seed=0),
    HeadRemoval(**ROWS, ablation=Ablation(), removed={"some": PLACED, "none": []}),
    CircuitSizes(
        **ROWS,
        heads=16,
        counts=[0, 2],
        ranking="signed",
        ranked_by="ablation",
        draws=1,
        seed=0,
        rank_rows=6,
        ablation=Ablation(),
    ),
    AttributionPatching(**ROWS, heads=HEADS, at="last"),
    EdgeAttribution(**ROWS, senders=[*HEADS, [0, "mlp"]], at="last"),
    Interchange(rows=12, heads=HEADS, control=[], at="last", variable="position"),
    DcmMask(heads=HEADS, at="last", variable="position", sparsity=0.01, rate=0.1),
    LinearProbes(**ROWS, asked="rows", position="last", train=24, chosen=8, penalty=0.1, seed=0),
    ActivationDonation(**ROWS, heads=PLACED),
    CrossModelPatching(**ROWS, heads=PLACED, control=[]),
    HeadCodes(**ROWS),
    WholeDonation(**ROWS),
    MemberExchange(**ROWS, members={"1.0": HEADS[:1], "1.mlp": [(1, "mlp")]}),
    WeightDonation(),
    MemberWeights(),
    MemberGraft(**ROWS, members={"1.0": HEADS[:1], "1.mlp": [(1, "mlp")]}),
    AnswerDonation(**ROWS),
    GraftDivergence(members={"1.0": HEADS[:1], "1.mlp": [(1, "mlp")]}, outside=True, rows=4),
    TextDonation(name="notes.txt", lines=[("line 1", "once a fox", "1")]),
    TextDivergence(lines=1),
    RefusalRate(**ROWS, asked="forbidden"),
    RefusalDirection(**SEARCH),
    DirectionAblation(**ROWS, search=SEARCH, random=1, seed=0),
    DirectionComparison(learn=6),
    Pruning(**ROWS, units="heads", counts=[0, 2], draws=1, seed=0, scored=6, chosen=4),
    SafetyEntries(q=0.1, p=0.05, scored=4),
    WeightChange(seed=0),
    TrainingCurve(
        **ROWS, watch="forbidden", recipe=Recipe("capability", 1e-3, 2, every=1, seed=0, batch=4)
    ),
]

EACH = pytest.mark.parametrize("request_", EXAMPLES, ids=lambda request: type(request).__name__)


def test_every_request_of_the_package_is_an_example_here() -> None:
    """So that the tests below are about all of them."""
    modules = [
        import_module(f"{measurements.__name__}.{m.name}")
        for m in iter_modules(measurements.__path__)
    ]
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Request) and "implementation" in vars(kind)
    }
    assert kinds == {type(request) for request in EXAMPLES}


@EACH
def test_a_request_names_a_function_that_takes_it(request_: Request) -> None:
    """Its second parameter is annotated with the request's class, or a base of it."""
    method = resolve(request_.implementation)
    name = list(method.__annotations__.values())[1]
    assert name in {kind.__name__ for kind in type(request_).__mro__}


def test_no_two_requests_share_a_method() -> None:
    assert len({request.implementation for request in EXAMPLES}) == len(EXAMPLES)


@EACH
def test_a_request_is_what_its_key_says(request_: Request) -> None:
    """Read back from the text that is hashed, it is equal, and so is its hash; its revision is a
    positive number."""
    again = type(request_).model_validate_json(request_.spelled())
    assert (again, hash(again)) == (request_, hash(request_))
    assert request_.revision >= 1


OF_GIVEN_TEXT = (TextDonation, TextDivergence, GraftDivergence)


@EACH
def test_a_request_has_a_cost_and_its_rows_are_in_it(request_: Request) -> None:
    """No row set is larger than the cost's number of rows; measurements of weights and of text have no rows."""
    cost = request_.cost({"family": "stories", "reply_tokens": 3})
    sets = request_.row_sets()
    of_weights = isinstance(request_, (WeightChange, WeightDonation, MemberWeights))
    assert (sets == ()) == (of_weights or isinstance(request_, OF_GIVEN_TEXT))
    assert max([cost.prompt_count, 1]) <= cost.rows


def test_the_performance_on_a_task_that_judges_replies_costs_a_row_for_each_token() -> None:
    """Stories are judged whole, refusal's capability by its first token."""
    request = Performance(rows=10, stream="rows", asked="capability")
    costs = [request.cost({"family": name, "reply_tokens": 3}) for name in ("stories", "refusal")]
    assert [(cost.rows, cost.reply_rows) for cost in costs] == [(30, 20), (10, 0)]


def test_the_cost_of_a_search_for_a_direction_grows_with_layers_and_template_tokens() -> None:
    """Both kinds of validation instructions run once for each candidate: 80 % of the layers, at each
    token that the template writes after the instruction (about 5 for a chat template)."""
    search = RefusalDirection(learn=100, validate_on=10, kl_at_most=0.1)
    assert [
        search.cost(task).rows_with(layers)
        for task, layers in (({}, 0), ({}, 10), ({"template": "u {instruction} a b"}, 10))
    ] == [210, 370, 530]
    assert search.cost({"template": "chat"}).rows_with(10) == 210 + 10 * 80


def test_an_ablation_costs_a_search_only_for_the_direction_of_its_own_model() -> None:
    """The direction of another model is an input, whose cost counts on that model."""
    fields = {**ROWS, "random": 1, "seed": 0}
    own, other = (DirectionAblation(**fields, search=s) for s in (SEARCH, None))
    search = RefusalDirection(**SEARCH)
    assert own.cost({}).rows_with(7) - other.cost({}).rows_with(7) == search.cost({}).rows_with(7)


def test_order_of_names_makes_no_other_request() -> None:
    unsorted, in_order = ({"b": HEADS, "a": HEADS}, {"a": HEADS, "b": HEADS})
    first, second = (
        PathPatching(**ROWS, senders=senders, at="last") for senders in (unsorted, in_order)
    )
    assert (first, list(first.senders)) == (second, ["a", "b"])


def test_an_unknown_or_missing_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="row"):
        Performance(row=3, rows=3, stream="rows")
    with pytest.raises(ValidationError, match="stream"):
        Performance(rows=3)


def test_the_stream_is_changed_where_there_is_one() -> None:
    assert Performance(rows=3, stream="a").on_stream("b") == Performance(rows=3, stream="b")
    assert WeightChange(seed=0).on_stream("b") == WeightChange(seed=0)


def test_a_cost_that_cannot_be_computed_is_one_line() -> None:
    """A mistake in a request of another package is no traceback."""

    class Broken(Request):
        implementation = "m:measure"

        def cost(self, task: object) -> Cost:
            return Cost(rows=1 // 0)

    with pytest.raises(Exception, match="the cost of m:measure is unknown: ZeroDivisionError"):
        _ = Measurement(Broken(), "base", "{}").cost


def test_requests_import_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, pytest_mechanism.measurements as m\n"
        "for each in pkgutil.iter_modules(m.__path__, 'pytest_mechanism.measurements.'):\n"
        "    importlib.import_module(each.name)\n"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
