"""The branch engine against the reference engine, which is the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from float64 import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FAMILIES, PARTS, EngineCase, batches, cases, farthest, gaps
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine import branch
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    ActiveMlp,
    Branch,
    Edit,
    Knockout,
    Outcome,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.memory import TokenLimit
from pytest_mechanism.engine.reference import ReferenceEngine

Loaded = Callable[..., LoadedModel]

ENGINES = pytest.mark.parametrize("engine", [ReferenceEngine, BranchEngine])


@pytest.fixture(autouse=True, scope="module")
def whole() -> Iterator[None]:
    """A float64 model computes in float64 throughout."""
    with exact():
        yield


def examples_at_most(examples: int) -> Callable[[Any], Any]:
    return settings(max_examples=examples, deadline=None)


def tokens_of(*lengths: int) -> Tokens:
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(0, 256, (len(lengths), max(lengths)), generator=generator)
    return Tokens(ids, torch.tensor(lengths))


# -- equal outcomes


@examples_at_most(15)
@given(data=st.data())
def test_every_outcome_is_the_references_in_float64(model: LoadedModel, data: Any) -> None:
    """Any edits, readings, branches with frozen attention, active heads and knockouts: equal within 1e-9."""
    case = data.draw(cases(model.shape))
    wanted = case.outcomes(ReferenceEngine(model.wrapped))
    result = case.outcomes(BranchEngine(model.wrapped))
    assert farthest(case, result, wanted)[0] <= 1e-9


@examples_at_most(25)
@given(data=st.data())
def test_a_record_of_some_tokens_changes_no_bit(loaded: Loaded, data: Any) -> None:
    """A large record keeps only what branches need; their numbers are those of a whole one."""
    model = loaded("llama-gqa", "float32")
    case = data.draw(cases(model.shape))
    wanted = case.outcomes(BranchEngine(model.wrapped))
    result = case.outcomes(BranchEngine(model.wrapped, memory=1))
    assert farthest(case, result, wanted)[0] == 0


@pytest.mark.parametrize("family", FAMILIES)
@examples_at_most(10)
@given(data=st.data())
def test_every_outcome_is_the_references_in_float32(loaded: Loaded, family: str, data: Any) -> None:
    """Equal within 1e-4 of the logits' standard deviation."""
    model = loaded(family, "float32")
    case = data.draw(cases(model.shape))
    wanted = case.outcomes(ReferenceEngine(model.wrapped))
    result = case.outcomes(BranchEngine(model.wrapped))
    assert farthest(case, result, wanted)[1] <= 1e-4


@examples_at_most(10)
@given(data=st.data())
def test_circuits_that_share_heads_are_the_references(model: LoadedModel, data: Any) -> None:
    """Held branches that follow each other below the layer where they differ: whole circuits of heads and
    MLPs, ones that lack some, equal ones and strangers, in any order and on a run with edits of its own."""
    shape, tokens = model.shape, data.draw(batches())
    rows, length = tokens.ids.shape
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    places = [
        tokens.last[:, None],
        torch.randint(0, length, (rows, 1), generator=generator).minimum(tokens.last[:, None]),
        None,
    ]
    heads = st.tuples(
        # the number after the last head is the MLP
        st.integers(0, shape.n_layers - 1),
        st.integers(0, shape.n_heads),
        st.integers(0, 2),
    )
    circuits = data.draw(st.lists(st.sets(heads, max_size=6), min_size=1, max_size=3))
    branches = []
    for circuit in circuits:
        for lacking in data.draw(st.lists(st.sets(heads, max_size=2), min_size=1, max_size=3)):
            alive, mlp = sorted(circuit - lacking), shape.n_heads
            heads_of = [ActiveHeads(layer, places[p], (h,)) for layer, h, p in alive if h != mlp]
            mlps = [ActiveMlp(layer, places[p]) for layer, h, p in alive if h == mlp]
            answer = data.draw(st.booleans())
            branches.append(Branch((), (), True, heads_of, mlps, answer=answer))
    branches = data.draw(st.permutations(branches))
    size = (1, 1, shape.n_heads, shape.d_head)
    silent = [
        Edit(Site(layer, "z"), torch.randn(size, generator=generator, dtype=torch.float64))
        for layer in range(shape.n_layers)
    ]
    width = (1, 1, 1, shape.d_model)
    silent += [
        Edit(Site(layer, "mlp_out"), torch.randn(width, generator=generator, dtype=torch.float64))
        for layer in data.draw(st.sampled_from([range(0), range(shape.n_layers)]))
    ]
    shift = Edit(Site(1, data.draw(st.sampled_from(PARTS))), torch.ones(()), keep=torch.tensor(0.9))
    edits = [*silent, shift] if data.draw(st.booleans()) else silent
    case = EngineCase(tokens, edits, [], branches)
    wanted = case.outcomes(ReferenceEngine(model.wrapped))
    result = case.outcomes(BranchEngine(model.wrapped))
    assert farthest(case, result, wanted)[0] <= 1e-9


@pytest.mark.parametrize("part", PARTS)
def test_a_runs_own_edits_are_made_once_in_its_branches(gqa: LoadedModel, part: Any) -> None:
    """Mixed by half: made twice, or not at all, they would come out otherwise."""
    tokens = tokens_of(4, 6)
    half, last = torch.tensor(0.5, dtype=torch.float64), tokens.last[:, None]
    case = EngineCase(
        tokens,
        [Edit(Site(1, part), torch.ones(()), keep=half)],
        [],
        [
            Branch(
                [Edit(Site(1, branch_part), torch.zeros(()), at=at)],
                freeze_attention=frozen,
                active_heads=active,
            )
            for branch_part in PARTS
            for at in (last, None)
            for frozen, active in (
                (False, ()),
                (True, ()),
                (True, (ActiveHeads(1, at), ActiveHeads(2, last))),
            )
        ],
    )
    wanted = case.outcomes(ReferenceEngine(gqa.wrapped))
    result = case.outcomes(BranchEngine(gqa.wrapped))
    assert farthest(case, result, wanted)[0] <= 1e-9


@pytest.mark.parametrize("family", ["neox", "gemma2"])
@examples_at_most(10)
@given(data=st.data())
def test_layers_of_another_make_are_the_models_own(loaded: Loaded, family: str, data: Any) -> None:
    """Attention parallel to the MLP; sliding windows, soft-caps and norms after each part."""
    model = loaded(family, "float32")
    case = data.draw(cases(model.shape, windowed=family == "gemma2"))
    wanted = case.outcomes(ReferenceEngine(model.wrapped))
    result = case.outcomes(BranchEngine(model.wrapped))
    assert farthest(case, result, wanted)[1] <= 1e-4


@examples_at_most(15)
@given(data=st.data(), most=st.sampled_from([1, 2, 3]), least=st.sampled_from([1, 32]))
def test_what_goes_at_once_and_in_which_order_changes_nothing(
    model: LoadedModel, data: Any, most: int, least: int
) -> None:
    """One by one, two by two, in small or large packs, shuffled: the same outcomes."""
    case = data.draw(cases(model.shape, branches=6))
    order = data.draw(st.permutations(range(len(case.branches))))
    shuffled = replace(case, branches=[case.branches[i] for i in order])
    with pytest.MonkeyPatch.context() as patch:
        wanted = case.outcomes(BranchEngine(model.wrapped))
        patch.setattr(branch, "LEAST_COLUMNS", least)
        run, *result = shuffled.outcomes(
            BranchEngine(model.wrapped, limit=TokenLimit(most * len(case.tokens.ids)))
        )
    back = [run, *(result[order.index(i)] for i in range(len(order)))]
    assert farthest(case, back, wanted)[0] <= 1e-9


@examples_at_most(3)
@given(
    seed=st.integers(0, 2**20),
    short=st.integers(12, 23),
    turns=st.lists(st.integers(0, 2), max_size=20),
    gradients=st.tuples(*[st.booleans()] * 3),
)
def test_branches_of_one_record_may_be_taken_by_turns(
    gqa: LoadedModel, seed: int, short: int, turns: list[int], gradients: tuple[bool, ...]
) -> None:
    """Few tokens at a long prompt's end are written behind the record's own keys: nothing that
    another pack still needs is written over, and where gradients are wanted nothing is written."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (2, 24), generator=generator)
    tokens = Tokens(ids, torch.tensor([24, short]))
    last, early = tokens.last[:, None], torch.tensor([[2], [5]])
    share = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def edit(at: Tensor, part: Any, layer: int) -> Edit:
        heads, wide = (1, gqa.shape.d_model)
        if part in ("z", "v", "k"):
            heads = gqa.shape.n_heads if part == "z" else gqa.shape.n_kv_heads
            wide = gqa.shape.d_head
        value = torch.randn(2, 1, heads, wide, generator=generator, dtype=torch.float64)
        return Edit(Site(layer, part), value, at, keep=share)

    listening = [Reading(Site(2, part), last) for part in ("q", "z")]
    branches = [
        *(Branch([edit(last - n, p, n)], listening) for p in ("z", "v", "k") for n in (0, 1, 2)),
        *(
            Branch([edit(last, "resid_pre", n)], knockouts=[Knockout(1, last, early)])
            for n in (0, 1)
        ),
        Branch([edit(last - 1, "z", 0)], listening, freeze_attention=True, answer=False),
        Branch(
            [edit(last - 1, "k", 1)],
            freeze_attention=True,
            active_heads=[ActiveHeads(1, last), ActiveHeads(2, last)],
        ),
    ]
    case = EngineCase(tokens, [edit(early, "z", 0)], [], branches)
    case = replace(case, edits=[replace(case.edits[0], keep=None)])
    with torch.no_grad():
        wanted = case.outcomes(ReferenceEngine(gqa.wrapped))
    engine = BranchEngine(gqa.wrapped)
    runs = [case.run(engine) for _ in gradients]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch, "LEAST_COLUMNS", 3)  # packs of a branch or a few
        patch.setattr(branch, "MOST_COLUMNS", 3)
        taken = [
            r.branches(branches, with_gradients)
            for r, with_gradients in zip(runs, gradients, strict=True)
        ]
        result: list[list[Outcome]] = [[], [], []]
        for which in (*turns, *(i for i in range(3) for _ in branches)):
            for outcome in itertools.islice(taken[which], 1):
                readings = tuple(reading.detach() for reading in outcome.readings)
                result[which].append(Outcome(outcome.logits.detach(), readings))
    assert all(r.record is runs[0].record for r in runs)
    assert len(runs[0].record.spare_rooms) == (0 if all(gradients) else 2 * gqa.shape.n_layers)
    for outcomes in result:
        assert farthest(case, [runs[0].outcome, *outcomes], wanted)[0] <= 1e-9


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_read_and_patched_with_itself(model: LoadedModel, part: Any) -> None:
    """Reading a part of all layers and putting it back changes no logit."""
    tokens = tokens_of(4, 8)
    sites = [Site(layer, part) for layer in range(model.shape.n_layers)]
    run = BranchEngine(model.wrapped).run(tokens, readings=[Reading(site) for site in sites])
    edits = [Edit(site, value) for site, value in zip(sites, run.outcome.readings, strict=True)]
    (again,) = run.branches([Branch(edits)])
    torch.testing.assert_close(again.logits, run.outcome.logits, rtol=0, atol=1e-9)


# -- branches that ask for little


def test_no_branches_have_no_outcomes(model: LoadedModel) -> None:
    """A run without branches is a run."""
    assert list(BranchEngine(model.wrapped).run(tokens_of(3)).branches([])) == []


@pytest.mark.parametrize("edits", [(), (Edit(Site(1, "z"), torch.zeros(()), heads=(1,)),)])
@pytest.mark.parametrize(
    "empty",
    [
        Branch(),
        Branch(freeze_attention=True),
        Branch(active_heads=[ActiveHeads(1)]),
        Branch(readings=[Reading(Site(0, "mlp_out"))]),
    ],
    ids=["nothing", "frozen", "active but not frozen", "reading"],
)
def test_a_branch_that_changes_nothing_is_its_run(
    model: LoadedModel, edits: Sequence[Edit], empty: Branch
) -> None:
    """Its logits are the run's, the run's edits included."""
    run = BranchEngine(model.wrapped).run(tokens_of(2, 5), edits)
    (result,) = run.branches([empty])
    torch.testing.assert_close(result.logits, run.outcome.logits, rtol=0, atol=1e-9)


def test_a_held_branch_with_everything_alive_lifts_the_runs_edits_of_z(model: LoadedModel) -> None:
    """All heads active everywhere: as if z had never been edited."""
    tokens, engine = tokens_of(2, 5), BranchEngine(model.wrapped)
    layers = range(model.shape.n_layers)
    silent = [Edit(Site(layer, "z"), torch.zeros(())) for layer in layers]
    (result,) = engine.run(tokens, silent).branches(
        [Branch(freeze_attention=True, active_heads=[ActiveHeads(layer) for layer in layers])]
    )
    torch.testing.assert_close(result.logits, engine.run(tokens).outcome.logits, rtol=0, atol=1e-9)


@ENGINES
def test_a_held_branch_with_every_mlp_active_lifts_the_runs_edits_of_mlps(
    model: LoadedModel, engine: Any
) -> None:
    """All heads and MLPs active everywhere: as if nothing had been edited."""
    tokens, layers = tokens_of(2, 5), range(model.shape.n_layers)
    silent = [Edit(Site(n, part), torch.zeros(())) for n in layers for part in ("z", "mlp_out")]
    heads, mlps = [ActiveHeads(n) for n in layers], [ActiveMlp(n) for n in layers]
    with_all = Branch(freeze_attention=True, active_heads=heads, active_mlps=mlps)
    (result,) = engine(model.wrapped).run(tokens, silent).branches([with_all])
    whole = engine(model.wrapped).run(tokens).outcome
    torch.testing.assert_close(result.logits, whole.logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_branch_that_asks_for_nothing_gives_nothing(model: LoadedModel, frozen: bool) -> None:
    """No answer and no readings: [R, 0] logits and no tensors."""
    edit = Edit(Site(0, "z"), torch.zeros(()), at=torch.tensor([[0], [1]]))
    run = BranchEngine(model.wrapped).run(tokens_of(2, 5))
    (result,) = run.branches([Branch([edit], freeze_attention=frozen, answer=False)])
    assert (result.logits.shape, result.readings) == ((2, 0), ())


def test_a_branch_may_name_padding_alone(model: LoadedModel) -> None:
    """The values read there are undefined, but their shape is right."""
    tokens = Tokens(torch.ones(2, 5, dtype=torch.long), torch.tensor([2, 3]))
    padding = Reading(Site(1, "z"), torch.tensor([[4], [3]]))
    run = BranchEngine(model.wrapped).run(tokens)
    (result,) = run.branches([Branch(readings=[padding], freeze_attention=True, answer=False)])
    assert result.readings[0].shape == (2, 1, model.shape.n_heads, model.shape.d_head)


# -- gradients


def learned(case: EngineCase) -> tuple[EngineCase, list[Tensor]]:
    """The case with a share for each layer that all branches mix by, and values, to be learned."""
    shares = torch.linspace(0.2, 0.8, 3, dtype=torch.float64, requires_grad=True)
    leaves = [shares]

    def leaf(edit: Edit) -> Edit:
        leaves.append(edit.value.clone().requires_grad_())
        return replace(edit, value=leaves[-1], keep=shares[edit.site.layer])

    result = [replace(b, edits=[leaf(edit) for edit in b.edits]) for b in case.branches]
    return replace(case, branches=result), leaves


def slopes(case: EngineCase, engine: Any, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a fixed mixture of everything that comes out."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    everywhere = torch.arange(case.tokens.ids.shape[1]).expand_as(case.tokens.ids)
    for b, outcome in zip(
        case.branches, case.run(engine).branches(case.branches, gradients=True), strict=True
    ):
        for i, output in enumerate((outcome.logits, *outcome.readings)):
            weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            if i:
                at = b.readings[i - 1].at
                there = (everywhere if at is None else at) <= case.tokens.last[:, None]
                output, weights = output[there], weights[there]  # noqa: PLW2901 - padding says nothing
            total = total + (output * weights).sum()
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    result = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, result, strict=True)]


@examples_at_most(15)
@given(data=st.data())
def test_gradients_are_the_references(model: LoadedModel, data: Any) -> None:
    """Gradients of mixing shares that several branches have in common, and of inserted values."""
    case, leaves = learned(data.draw(cases(model.shape, branches=3)))
    wanted = slopes(case, ReferenceEngine(model.wrapped), leaves)
    result = slopes(case, BranchEngine(model.wrapped), leaves)
    for gradient, reference in zip(result, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-8)


@ENGINES
def test_a_position_named_twice_counts_once_in_the_gradient(
    model: LoadedModel, engine: Any
) -> None:
    """Rows with fewer places repeat their last one: as finite differences have it, once."""
    tokens = tokens_of(4, 6)
    at = torch.tensor([[1, 1, 1], [0, 1, 2]])
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(2, 1, 4, model.shape.d_head, generator=generator, dtype=torch.float64)
    weights = torch.randn(256, generator=generator, dtype=torch.float64)
    run = engine(model.wrapped).run(tokens)

    def loss(share: Tensor, gradients: bool) -> Tensor:
        branches = [Branch([Edit(Site(1, "z"), value, at, keep=share)])]
        (outcome,) = run.branches(branches, gradients)
        return (outcome.logits * weights).sum()

    share = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    (result,) = torch.autograd.grad(loss(share, gradients=True), share)
    up, down = (loss(share.detach() + step, gradients=False) for step in (1e-5, -1e-5))
    assert float(result) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


@ENGINES
def test_grad_mode_stays_in_the_engine(model: LoadedModel, engine: Any) -> None:
    """Between outcomes the caller's own mode holds; without gradients nothing carries a graph."""
    share = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    tokens = tokens_of(3, 5)
    edit = Edit(Site(0, "z"), torch.zeros(()), at=tokens.last[:, None], keep=share)
    run = engine(model.wrapped).run(tokens)
    observed: list[tuple[bool, bool]] = []
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            for gradients in (True, False):
                for outcome in run.branches([Branch([edit])] * 2, gradients):
                    observed.append((torch.is_grad_enabled(), outcome.logits.requires_grad))  # noqa: PERF401 - reads as a loop with its condition
    assert observed == [(mode, g) for mode in (True, False) for g in (True, True, False, False)]


def test_gradients_of_a_runs_own_edits_are_refused(model: LoadedModel) -> None:
    """A record is made without a graph, so their gradients would be lost without a word."""
    share = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    run = BranchEngine(model.wrapped).run(
        tokens_of(3), [Edit(Site(0, "z"), torch.zeros(()), keep=share)]
    )
    with pytest.raises(ValueError, match="put them into the branch"):
        list(run.branches([Branch()], gradients=True))


# -- readings of the run itself


@examples_at_most(15)
@given(tokens=batches(), layer=st.integers(0, 2), data=st.data())
def test_a_read_only_forward_reads_what_a_whole_run_reads(
    model: LoadedModel, tokens: Tokens, layer: int, data: Any
) -> None:
    """Without an answer the forward ends at the last reading, and the model is as it was before."""
    readings = [Reading(Site(layer, data.draw(st.sampled_from(PARTS)))) for _ in range(2)]
    edits = [Edit(Site(0, "v"), torch.ones(()), heads=(1,))]
    engine, reference = BranchEngine(model.wrapped), ReferenceEngine(model.wrapped)
    wanted = reference.run(tokens, edits, readings).outcome
    result = engine.run(tokens, edits, readings, answer=False).outcome
    again = engine.run(tokens, edits, readings).outcome
    nothing = Outcome(wanted.logits[:, :0], wanted.readings)
    for observed, expected in ((result, nothing), (again, wanted)):
        assert max(gap[0] for gap in gaps(observed, expected, tokens, readings)) <= 1e-9
