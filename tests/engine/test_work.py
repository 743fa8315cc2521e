"""How much work the branch engine saves, and which runs it keeps."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

import pytest
import torch
from sweep import HEADS, LAST, LAYERS, LENGTH, ROWS, TOKENS, logits, of_each_head, silenced
from torch import Tensor

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine import branch as branch_module
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    Branch,
    Edit,
    Knockout,
    Part,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.memory import RECORD_BYTES
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.model_families.bridge import BridgeModel

# -- work


class Work:
    """Counts what goes through a model.

    Attributes:
        tokens: by layer, how many.
        attention: by layer, how often it was computed.
        forwards: how often the model was run from its first layer on.
    """

    def __init__(self, model: BridgeModel) -> None:
        self.model = model
        self.tokens: Counter[int] = Counter()
        self.attention: Counter[int] = Counter()
        self.forwards = 0

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        for i, layer in enumerate(self.model.layers):

            def count(_: Any, args: Any, kwargs: Any, i: int = i) -> None:
                hidden = args[0] if args else kwargs["hidden_states"]
                self.tokens[i] += hidden.shape[0] * hidden.shape[1]
                self.forwards += i == 0 and hidden.shape[1] == LENGTH

            handle = layer.module.original_component.register_forward_pre_hook(
                count, with_kwargs=True
            )
            self.stack.callback(handle.remove)

            def scores(_: Tensor, hook: Any = None, i: int = i) -> None:
                self.attention[i] += 1

            hook = (Site(i, "scores").hook, scores)
            self.stack.enter_context(self.model.hooked([hook]))
        return self

    def __exit__(self, *problem: object) -> None:
        self.stack.close()


def test_branches_at_the_last_token_cost_that_token_in_the_layers_above(model: LoadedModel) -> None:
    """One record, then for each branch one token a row in its layer and those above: no more."""
    branches = of_each_head(LAST)
    with Work(model.wrapped) as work:
        list(BranchEngine(model.wrapped).run(TOKENS).branches(branches))
    record = ROWS * LENGTH
    joined = [HEADS * (layer + 1) * ROWS for layer in range(LAYERS)]
    assert [work.tokens[layer] for layer in range(LAYERS)] == [record + n for n in joined]


def test_circuits_that_lack_one_head_are_computed_from_that_head_on(model: LoadedModel) -> None:
    """Below it, each is the whole circuit: one token a row in the layers from its head upwards."""
    whole = [ActiveHeads(layer, LAST, (head,)) for layer in range(LAYERS) for head in range(2)]
    branches = [Branch(freeze_attention=True, active_heads=whole)]
    branches += [
        Branch(freeze_attention=True, active_heads=[a for a in whole if a is not gone])
        for gone in whole
    ]
    with Work(model.wrapped) as work:
        list(BranchEngine(model.wrapped).run(TOKENS).branches(branches))
    joined = [1 + 2 * (layer + 1) for layer in range(LAYERS)]
    record = ROWS * LENGTH
    assert [work.tokens[layer] for layer in range(LAYERS)] == [record + ROWS * n for n in joined]


def test_shorter_rows_cost_their_padding_and_no_more(model: LoadedModel) -> None:
    """Rows differ in how many tokens follow the edit; all are as wide as the widest."""
    lengths = torch.tensor([LENGTH, 3, 5])
    at = torch.tensor([[6], [2], [1]])  # 2, 1 and 4 tokens from there on
    with Work(model.wrapped) as work:
        list(
            BranchEngine(model.wrapped)
            .run(Tokens(TOKENS.ids, lengths))
            .branches([Branch([silenced(1, at)])])
        )
    assert [work.tokens[layer] - ROWS * LENGTH for layer in range(LAYERS)] == [
        0,
        ROWS * 4,
        ROWS * 4,
    ]


def test_an_answer_that_is_not_wanted_ends_at_the_last_reading(model: LoadedModel) -> None:
    """Path patching's first pass stops where its receivers listen."""
    branch = Branch(
        [silenced(0, LAST)], [Reading(Site(1, "q"), LAST)], freeze_attention=True, answer=False
    )
    with Work(model.wrapped) as work:
        run = BranchEngine(model.wrapped).run(TOKENS)
        assert run.outcome.logits.shape == (ROWS, 256)
        before = work.tokens.copy()
        list(run.branches([branch]))
    assert work.tokens - before == {0: ROWS, 1: ROWS}


def test_a_read_only_forward_ends_at_its_last_reading(model: LoadedModel) -> None:
    """A donor's activations cost the layers up to theirs."""
    with Work(model.wrapped) as work:
        run = BranchEngine(model.wrapped).run(
            TOKENS, readings=[Reading(Site(1, "z"))], answer=False
        )
        assert run.outcome.logits.shape == (ROWS, 0)
    assert work.tokens == {0: ROWS * LENGTH, 1: ROWS * LENGTH}


@pytest.mark.parametrize(
    ("branch", "computed"),
    [
        (Branch([silenced(0, LAST, 1)], freeze_attention=True), {}),
        (
            Branch(
                [silenced(0, LAST, 1)],
                freeze_attention=True,
                active_heads=[ActiveHeads(2, LAST, (3,))],
            ),
            {2: 1},
        ),
        (Branch([silenced(0, LAST)], [Reading(Site(1, "q"), LAST)], freeze_attention=True), {1: 1}),
        (Branch([silenced(0, LAST)]), {1: 1, 2: 1}),
        (Branch([silenced(1, LAST, part="q")]), {1: 1, 2: 1}),
        (Branch([silenced(1, LAST, part="attn_out")]), {2: 1}),
        (Branch(knockouts=[Knockout(2, LAST, LAST - 1)]), {2: 1}),
    ],
    ids=["frozen", "active head", "frozen, q read", "z", "q", "attn_out", "knockout"],
)
def test_attention_is_computed_only_where_z_may_have_changed(
    model: LoadedModel, branch: Branch, computed: dict[int, int]
) -> None:
    """A branch with frozen attention needs it where a head is active or q, k or v are read; others above their edit."""
    run = BranchEngine(model.wrapped).run(TOKENS)
    assert run.outcome.logits.shape == (ROWS, 256)
    with Work(model.wrapped) as work:
        list(run.branches([branch]))
    assert work.attention == computed


def test_progress_hears_of_every_run_and_branch(model: LoadedModel) -> None:
    """The rows of a run, then those of each branch."""
    heard: list[int] = []
    engine = BranchEngine(model.wrapped, tick=heard.append)
    list(engine.run(TOKENS).branches(of_each_head(LAST)[:4]))
    assert heard == [ROWS] * 5


# -- memory


def test_the_same_run_is_made_once(gqa: LoadedModel) -> None:
    """The outcome, the readings of z and the branches of repeated runs come from one forward pass."""
    engine = BranchEngine(gqa.wrapped)
    edits = [silenced(0, LAST, 2)]
    with Work(gqa.wrapped) as work:
        first = engine.run(TOKENS, edits).outcome.logits
        again = engine.run(Tokens(TOKENS.ids.clone(), TOKENS.lengths), [silenced(0, LAST, 2)])
        reading = engine.run(TOKENS, edits, [Reading(Site(1, "z"), LAST)], answer=False)
        list(again.branches([Branch()]))
        assert torch.equal(again.outcome.logits, first)
        assert reading.outcome.readings[0].shape[:3] == (ROWS, 1, HEADS)
    assert work.forwards == 1


VALUE = torch.ones(1, 1, HEADS, 1, dtype=torch.bfloat16)
PLACE = Edit(Site(1, "z"), VALUE, LAST)


OTHERS: dict[str, tuple[Tokens, list[Edit]]] = {
    "edits": (TOKENS, []),
    "twice": (TOKENS, [PLACE, PLACE]),
    "layer": (TOKENS, [replace(PLACE, site=Site(0, "z"))]),
    "part": (TOKENS, [replace(PLACE, site=Site(1, "q"))]),
    "value": (TOKENS, [replace(PLACE, value=VALUE * 2)]),
    "shape": (TOKENS, [replace(PLACE, value=VALUE.view(1, HEADS, 1, 1))]),
    "type": (TOKENS, [replace(PLACE, value=VALUE.view(torch.float16))]),
    "positions": (TOKENS, [replace(PLACE, at=LAST - 1)]),
    "everywhere": (TOKENS, [replace(PLACE, at=None)]),
    "heads": (TOKENS, [replace(PLACE, heads=(1, 0, 2, 3))]),
    "share": (TOKENS, [replace(PLACE, keep=torch.zeros(()))]),
    "ids": (Tokens(TOKENS.ids + 1, TOKENS.lengths), [PLACE]),
    "lengths": (Tokens(TOKENS.ids, TOKENS.lengths - 1), [PLACE]),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_runs_that_differ_in_anything_do_not_share_a_record(
    gqa: LoadedModel, difference: str
) -> None:
    """The key of a record contains everything that can change the run."""
    engine = BranchEngine(gqa.wrapped)
    assert engine.key(TOKENS, [PLACE]) != engine.key(*OTHERS[difference])


def test_records_that_were_not_asked_for_lately_make_room(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more bytes are kept than allowed, and the run asked for last is among them."""
    monkeypatch.setattr(branch_module, "WHOLE_RECORDS", 1)
    runs = [Tokens(TOKENS.ids + i, TOKENS.lengths) for i in range(3)]
    size = BranchEngine(gqa.wrapped).run(runs[0]).record.bytes
    engine = BranchEngine(gqa.wrapped, memory=2 * size)
    keys = [engine.key(tokens, ()) for tokens in runs]
    for i in (0, 1, 0, 2):
        assert engine.run(runs[i]).record.bytes == size
    assert list(engine.records) == [keys[0], keys[2]]


def test_records_that_must_go_do_so_before_the_next_is_made(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more are in memory at any time than may be kept."""
    monkeypatch.setattr(branch_module, "WHOLE_RECORDS", 1)
    runs = [Tokens(TOKENS.ids + i, TOKENS.lengths) for i in range(4)]
    size = BranchEngine(gqa.wrapped).run(runs[0]).record.bytes
    engine, beside = BranchEngine(gqa.wrapped, memory=2 * size), []
    right = branch_module.record

    def record(*arguments: Any) -> Any:
        beside.append(len(engine.records))
        return right(*arguments)

    monkeypatch.setattr(branch_module, "record", record)
    for tokens in runs:
        assert engine.run(tokens).outcome.logits.isfinite().all()
    assert beside == [0, 1, 1, 1]


@pytest.mark.parametrize("make", [BranchEngine, ReferenceEngine])
@pytest.mark.parametrize("answer", [True, False])
def test_readings_hold_nothing_but_what_they_name(
    gqa: LoadedModel, make: Any, answer: bool
) -> None:
    """A reading of one token's z does not keep the memory of the whole batch."""
    for site in (Site(1, "z"), Site(0, "mlp_out"), Site(2, "k")):
        run = make(gqa.wrapped).run(TOKENS, readings=[Reading(site, LAST)] * 2, answer=answer)
        first, second = run.outcome.readings
        assert first.untyped_storage().nbytes() == first.numel() * first.element_size()
        assert first.data_ptr() != second.data_ptr()
        assert torch.equal(first, second)


def test_a_record_larger_than_what_may_be_kept_is_not(gqa: LoadedModel) -> None:
    """It lives as long as its run, and its branches are right."""
    small, large = BranchEngine(gqa.wrapped, memory=1), BranchEngine(gqa.wrapped)
    branches = of_each_head(LAST)[:2]
    result = logits(small.run(TOKENS).branches(branches))
    assert list(small.records) == []
    assert torch.equal(result, logits(large.run(TOKENS).branches(branches)))


@pytest.mark.parametrize(
    ("at", "kept", "keys", "forwards"),
    [(LAST, 1, LENGTH, 1), (LAST - 2, 3, LENGTH - 3, 2), (None, LENGTH, 0, 2)],
)
def test_a_large_record_keeps_what_branches_compute_and_attend_to(
    gqa: LoadedModel, at: Tensor | None, kept: int, keys: int, forwards: int
) -> None:
    """The residual stream and z from the branches' first token on, the keys that they see; where the answer
    was asked for first, branches at the last token need no second forward, and others one."""
    engine = BranchEngine(gqa.wrapped, memory=1)
    run = engine.run(TOKENS)
    with Work(gqa.wrapped) as work:
        assert run.outcome.logits.isfinite().all()
        list(run.branches(of_each_head(at)))
    assert {tensor.shape[1] for tensor in (*run.record.residuals, *run.record.z)} == {kept}
    assert {tensor.shape[2] for tensor in (*run.record.keys, *run.record.values)} == {keys}
    tensors = (*run.record.residuals, *run.record.z, *run.record.keys, *run.record.values)
    assert all(t.untyped_storage().nbytes() <= 2 * t.numel() * t.itemsize for t in tensors)
    assert work.forwards == forwards


@pytest.mark.parametrize(("batches", "forwards"), [(0, 2), (2, 1), (3, 2)])
def test_records_keep_every_token_where_those_of_all_batches_fit(
    gqa: LoadedModel, batches: int, forwards: int
) -> None:
    """Branches that compute earlier tokens then need no further forward."""
    tokens = Tokens(TOKENS.ids, TOKENS.lengths, batches)
    engine = BranchEngine(gqa.wrapped)
    engine.memory = int(5 * engine.whole_bytes * TOKENS.ids.numel())
    with Work(gqa.wrapped) as work:
        for at in (LAST, LAST - 1):
            list(engine.run(tokens).branches([Branch([replace(PLACE, at=at)])]))
    assert work.forwards == forwards


def test_the_next_batch_keeps_what_branches_of_the_last_one_needed(gqa: LoadedModel) -> None:
    """So the answer and the branches of each further batch come from one forward."""
    engine = BranchEngine(gqa.wrapped, memory=1)
    with Work(gqa.wrapped) as work:
        for shift in range(4):
            run = engine.run(Tokens(TOKENS.ids + shift, TOKENS.lengths))
            assert run.outcome.logits.isfinite().all()
            list(run.branches(of_each_head(LAST - 2)[:2]))
    assert work.forwards == 5


def test_branches_leave_the_record_as_it_was(gqa: LoadedModel) -> None:
    """The same branches again, with others between: the same numbers to the last bit."""
    run = BranchEngine(gqa.wrapped).run(TOKENS, [silenced(0, LAST, 1)])
    parts: tuple[Part, ...] = ("resid_pre", "k", "v", "z", "attn_out", "mlp_out", "resid_post")
    every = [
        Branch([silenced(layer, None, part=part)], freeze_attention=frozen)
        for frozen in (False, True)
        for layer in range(LAYERS)
        for part in parts
    ]
    before = logits(run.branches(every))
    assert torch.equal(logits(run.branches(every)), before)


def test_whoever_writes_into_an_outcome_changes_nobody_elses(gqa: LoadedModel) -> None:
    """The caller owns logits and readings, even if the record keeps a copy."""
    engine = BranchEngine(gqa.wrapped)
    branch = Branch([silenced(0, TOKENS.last[:, None] - 1, part="mlp_out")], freeze_attention=True)
    for also in ("z", "attn_out"):
        run = engine.run(TOKENS, readings=[Reading(Site(1, "z")), Reading(Site(1, also))])
        before = run.outcome.logits.clone(), logits(run.branches([branch]))
        for tensor in (run.outcome.logits, *run.outcome.readings):
            tensor.zero_()
        assert torch.equal(engine.run(TOKENS).outcome.logits, before[0])
        assert torch.equal(logits(run.branches([branch])), before[1])


def test_whoever_writes_into_a_reading_changes_no_later_one(gqa: LoadedModel) -> None:
    """Readings that the engine keeps are not those that it hands out, the first time or later."""
    engine = BranchEngine(gqa.wrapped)

    def read() -> Tensor:
        run = engine.run(TOKENS, readings=[Reading(Site(1, "z"), LAST)], answer=False)
        return run.outcome.readings[0]

    first = read()
    expected = first.clone()
    for each in (first, read()):
        each.zero_()
        assert torch.equal(read(), expected)


@pytest.mark.parametrize(("memory", "forwards"), [(RECORD_BYTES, 1), (1, 2)])
def test_the_same_readings_are_read_once(gqa: LoadedModel, memory: int, forwards: int) -> None:
    """A run without an answer that reads the same places again takes no forward; an edit or whole prompts do, and so
    do other places of a batch that is large for the memory."""
    engine = BranchEngine(gqa.wrapped, memory=memory)
    same = [Reading(Site(layer, "z"), LAST) for layer in range(LAYERS)]

    def read(readings: list[Reading], edits: list[Edit] | None = None) -> Tensor:
        run = engine.run(TOKENS, edits or [], readings, answer=False)
        return run.outcome.readings[0]

    with Work(gqa.wrapped) as work:
        first, again = read(same), read(same)
        assert work.forwards == 1
        assert torch.equal(first, again)
        other = read([Reading(Site(layer, "z"), LAST - 1, (1,)) for layer in range(LAYERS)])
        assert work.forwards == forwards
        read(same, [PLACE])
        read(same, [PLACE])
        assert work.forwards == forwards + 2
        whole = read([Reading(Site(0, "z"))])
        read([Reading(Site(0, "z"))])
        assert work.forwards == forwards + 4
    rows = torch.arange(len(LAST))[:, None]
    assert torch.equal(other, whole[rows, LAST - 1][:, :, [1]])


def test_readings_make_room_for_others(gqa: LoadedModel) -> None:
    """No more bytes of readings are kept than allowed; too large ones are not kept."""
    engine = BranchEngine(gqa.wrapped, memory=1)
    places = [[Reading(Site(1, "z"), LAST - shift)] for shift in range(3)]
    size = engine.run(TOKENS, readings=places[0], answer=False).outcome.readings[0].nbytes
    for allowed, kept in ((2 * size, 2), (size - 1, 0)):
        engine.forget()
        engine.readings.limit = allowed
        for readings in places:
            assert engine.run(TOKENS, readings=readings, answer=False).outcome.readings
        assert len(engine.readings) == kept
