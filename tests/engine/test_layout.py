"""Which tokens a branch computes, and what each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CaseBuilder, batches
from torch import Tensor

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.engine.interface import (
    ActiveHeads,
    Branch,
    Edit,
    Knockout,
    Reading,
    Site,
    Tokens,
)
from pytest_mechanism.engine.layout import Layout
from pytest_mechanism.engine.planning import NO_TOKEN, Planner, pack_branches

LAYERS = 3
SHAPE = Shape(LAYERS, n_heads=4, n_kv_heads=2, d_model=8, d_head=2, d_vocab=256)
TOKENS = Tokens(torch.zeros(2, 6, dtype=torch.long), torch.tensor([5, 3]))
"""Two rows of five and three tokens, and one column that no row needs."""


def places_of(*places: int | Sequence[int]) -> Tensor:
    """[2, K]: the same places of both rows, or one list a row."""
    return torch.tensor([list(p) if isinstance(p, Sequence) else [p] for p in places])


def edit(layer: int, places: Tensor | None) -> Edit:
    return Edit(Site(layer, "z"), torch.zeros(()), places)


def active(branch: Branch) -> list[list[int]]:
    """Token positions that are computed, row by row."""
    result = Planner(TOKENS, LAYERS).plan(branch).active.tolist()
    return [[p for p in row if p != NO_TOKEN] for row in result]


def layers(branch: Branch) -> tuple[int, int]:
    planned = Planner(TOKENS, LAYERS).plan(branch)
    return planned.first, planned.last


# -- what is computed


def test_a_branch_computes_from_its_first_position_on() -> None:
    """Attention is causal, so positions before the edit stay unchanged."""
    assert active(Branch([edit(0, places_of(3, 1))])) == [[3, 4], [1, 2]]


def test_the_first_of_several_positions_counts() -> None:
    """In each row separately, in any order of the edits."""
    branch = Branch([edit(0, places_of([4, 3], [2, 2])), edit(2, places_of(4, 0))])
    assert active(branch) == [[3, 4], [0, 1, 2]]


def test_a_branch_with_frozen_attention_computes_what_it_names_and_the_answer() -> None:
    """z carries all that flows between tokens, and it is frozen."""
    branch = Branch(
        [edit(0, places_of(1, 0))],
        [Reading(Site(2, "q"), places_of(3, 0))],
        freeze_attention=True,
        active_heads=[ActiveHeads(1, places_of(0, 1))],
    )
    assert active(branch) == [[0, 1, 3, 4], [0, 1, 2]]


def test_without_an_answer_the_last_token_is_not_computed() -> None:
    """A first pass of path patching costs its position alone."""
    assert active(Branch([edit(0, places_of(1, 0))], freeze_attention=True, answer=False)) == [
        [1],
        [0],
    ]


def test_the_queries_of_a_knockout_are_computed_and_its_keys_are_not() -> None:
    """A key that is cut is not changed."""
    branch = Branch(knockouts=[Knockout(1, places_of(4, 2), places_of(0, 0))])
    assert active(branch) == [[4], [2]]


@pytest.mark.parametrize("frozen", [False, True])
def test_padding_is_not_computed(frozen: bool) -> None:
    """Not for an edit of every position, and not where padding is named."""
    assert active(Branch([edit(0, None)], freeze_attention=frozen)) == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert active(Branch([edit(0, places_of(5, 4))], freeze_attention=frozen)) == [[4], [2]]


def test_active_heads_have_no_effect_without_frozen_attention() -> None:
    """Every head computes its attention there."""
    assert active(Branch(active_heads=[ActiveHeads(0, places_of(0, 0))])) == [[4], [2]]
    assert layers(Branch(active_heads=[ActiveHeads(0)])) == (2, 2)


@pytest.mark.parametrize(
    ("branch", "wanted"),
    [
        (Branch([edit(1, None)]), (1, 2)),
        (Branch([edit(2, None), edit(1, None)], [Reading(Site(0, "z"))]), (0, 2)),
        (Branch([edit(0, None)], [Reading(Site(1, "k"))], answer=False), (0, 1)),
        (Branch(freeze_attention=True, active_heads=[ActiveHeads(1)]), (1, 2)),
        (Branch(knockouts=[Knockout(1, places_of(1, 1), places_of(0, 0))]), (1, 2)),
        (Branch(), (2, 2)),
    ],
    ids=["edit", "reading below", "no answer", "active heads", "knockout", "nothing"],
)
def test_a_branch_needs_its_lowest_layer_up_to_its_answer_or_last_reading(
    branch: Branch, wanted: tuple[int, int]
) -> None:
    """What lies below and above is not computed."""
    assert layers(branch) == wanted


def test_branches_that_name_the_same_tensor_share_their_tokens_if_they_are_alike() -> None:
    """With frozen attention or not, with an answer or without: those compute other tokens at the same positions."""
    place, shared = places_of(1, 0), Planner(TOKENS, LAYERS)
    unlike = [
        Branch([edit(0, place)], freeze_attention=frozen, answer=answer)
        for frozen in (False, True)
        for answer in (False, True)
    ]
    assert [shared.plan(b).active.tolist() for b in unlike] == [
        Planner(TOKENS, LAYERS).plan(b).active.tolist() for b in unlike
    ]
    assert shared.plan(Branch([edit(2, place)])).active is shared.plan(unlike[1]).active


# -- what goes side by side


@st.composite
def tokens_and_branches(draw: st.DrawFn) -> tuple[Tokens, list[Branch]]:
    tokens = draw(batches())
    drawn = CaseBuilder(draw, SHAPE, tokens)
    return tokens, [drawn.branch() for _ in range(draw(st.integers(1, 6)))]


@settings(max_examples=20, deadline=None)
@given(tokens_and_branches(), st.integers(1, 20))
def test_packs_keep_the_order_and_the_room(case: tuple[Tokens, list[Branch]], room: int) -> None:
    """Every branch once, those with frozen attention apart; a pack is too wide only where one branch alone is."""
    tokens, branches = case
    result = list(pack_branches(map(Planner(tokens, LAYERS).plan, branches), room))
    assert [id(p.branch) for pack in result for p in pack] == [id(b) for b in branches]
    for pack in result:
        assert len({p.branch.freeze_attention for p in pack}) == 1
        assert len(pack) == 1 or sum(p.active.shape[1] for p in pack) <= room


def layout(tokens: Tokens, branches: Sequence[Branch]) -> Layout:
    planner = Planner(tokens, LAYERS)
    planned = [planner.plan(b) for b in branches]
    return Layout(tokens, sorted(planned, key=lambda p: p.first))


@settings(max_examples=20, deadline=None)
@given(tokens_and_branches())
def test_a_token_sees_its_own_branchs_tokens_instead_of_the_runs(
    case: tuple[Tokens, list[Branch]],
) -> None:
    """Key by key: the run's where it saw them and its branch leaves them, its branch's own where
    those replace them, nothing of other branches."""
    tokens, branches = case
    made = layout(tokens, branches)
    rows, length = tokens.ids.shape
    generator = torch.Generator().manual_seed(int(tokens.ids.sum()))
    visible = torch.rand(rows, length, length, generator=generator) < 0.7
    visible = (visible | torch.eye(length).bool()).tril()
    mask = made.mask(visible, torch.float64)[:, 0]
    active, owner = made.active.tolist(), made.owner.tolist()
    for row in range(rows):
        for column, place in enumerate(active[row]):
            sees = (mask[row, column] == 0).tolist()
            if place == NO_TOKEN:
                assert any(sees)  # or its attention would not be a number
                continue
            member = made.members[owner[column]]
            own = {p for p in member.active[row].tolist() if p != NO_TOKEN}
            wanted = {k for k in range(length) if visible[row, place, k]}
            run = {k for k in range(made.prefix) if sees[k]}
            side = [c for c in range(len(owner)) if sees[made.prefix + c]]
            assert run == wanted - own
            assert {active[row][c] for c in side} == wanted & own
            assert {owner[c] for c in side} <= {owner[column]}


@settings(max_examples=20, deadline=None)
@given(tokens_and_branches(), st.data())
def test_a_position_is_found_in_its_branchs_columns(
    case: tuple[Tokens, list[Branch]], data: Any
) -> None:
    """Or reported as absent, if the branch does not compute it."""
    tokens, branches = case
    made = layout(tokens, branches)
    places = CaseBuilder(data.draw, SHAPE, tokens).at()
    everywhere = torch.arange(tokens.ids.shape[1]).expand_as(tokens.ids)
    wanted = everywhere if places is None else places
    for i, member in enumerate(made.members):
        columns, result = made.locate(i, places)
        there = torch.ones_like(wanted).bool() if result is None else result
        computed = (member.active[:, :, None] == wanted[:, None]).any(1)
        assert there.tolist() == computed.tolist()
        assert made.positions.gather(1, columns)[there].tolist() == wanted[there].tolist()
        assert set(made.owner[columns[there]].tolist()) <= {i}
