"""Packs as a GPU gets them: filled by tokens of all rows, wide branches in rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from float64 import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import Launches
from strategies import EngineCase, cases, farthest
from sweep import HEADS, LAYERS, of_each_head

from pytest_mechanism.checkpoints.loading.model import LoadedModel
from pytest_mechanism.engine import branch as branch_module
from pytest_mechanism.engine import layout, planning
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Edit, Reading, Site, Tokens
from pytest_mechanism.engine.reference import ReferenceEngine

LONG = Tokens(torch.arange(2 * 40).view(2, 40), torch.tensor([40, 33]))
"""Prompts longer than the columns that a CPU computes side by side."""

LAST = LONG.last[:, None]


@pytest.fixture(autouse=True, scope="module")
def whole() -> Iterator[None]:
    """A float64 model computes in float64 throughout."""
    with exact():
        yield


@settings(max_examples=8, deadline=None)
@given(data=st.data(), fill=st.sampled_from([40, 200, 1 << 14]))
def test_every_outcome_is_the_references(
    model: LoadedModel, data: st.DataObject, fill: int
) -> None:
    """Any branches, wide ones in rows of their own: equal within 1e-9, whatever the number of tokens."""
    case = data.draw(cases(model.shape, branches=6))
    repeated = EngineCase(case.tokens, case.edits, case.readings, [*case.branches] * 3)
    wanted = repeated.outcomes(ReferenceEngine(model.wrapped))
    with pytest.MonkeyPatch.context() as patch:  # the drawn prompts are short
        patch.setattr(planning, "WIDE", 2)
        patch.setattr(layout, "MOST_COLUMNS", 2)
        patch.setattr(branch_module, "LEAST_COLUMNS", 2)
        result = repeated.outcomes(BranchEngine(model.wrapped, fill=fill))
    assert farthest(repeated, result, wanted)[0] <= 1e-9


@pytest.mark.parametrize("place", [None, LAST // 2])
def test_wide_branches_attend_over_their_own_keys_alone(
    gqa: LoadedModel, place: torch.Tensor | None
) -> None:
    """All heads at every position, and from the middle on: as many scores as if each went alone."""
    keys: list[int] = []

    def scores(activation: torch.Tensor, hook: object = None) -> None:
        keys.append(activation.shape[-1])

    branches = of_each_head(place)
    wanted = list(ReferenceEngine(gqa.wrapped).run(LONG).branches(branches))
    run = BranchEngine(gqa.wrapped, fill=1 << 14).run(LONG)
    assert run.outcome.logits.isfinite().all()
    with gqa.wrapped.hooked([(Site(LAYERS - 1, "scores").hook, scores)]):
        result = list(run.branches(branches))
    assert keys == [40]
    for mine, theirs in zip(result, wanted, strict=True):
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=0, atol=1e-9)


def launches(model: LoadedModel, branches: list[Branch], fill: int | None = None) -> int:
    """Of these branches alone."""
    engine = BranchEngine(model.wrapped, fill=fill)
    run = engine.run(LONG)
    assert run.outcome.logits.isfinite().all()
    list(run.branches(branches))  # numbers of heads and rows are carried over once and for all
    with Launches() as counted:
        list(run.branches(branches))
    return counted.count


def kinds(place: torch.Tensor | None) -> dict[str, Callable[[int], list[Branch]]]:
    reading = Reading(Site(LAYERS - 1, "q"), LAST, (0, 2))

    def each(count: int, **more: object) -> list[Branch]:
        nothing = torch.zeros((), dtype=torch.float64)
        sites = [(Site(i % LAYERS, "z"), (i % HEADS,)) for i in range(count)]
        edits = [Edit(site, nothing, place, heads) for site, heads in sites]
        return [Branch([edit], **more) for edit in edits]  # type: ignore[arg-type]

    return {
        "answers": each,
        "readings": lambda n: each(n, readings=[reading], freeze_attention=True, answer=False),
    }


@pytest.mark.parametrize("kind", ["answers", "readings"])
def test_more_branches_in_a_pack_launch_no_more_operations(gqa: LoadedModel, kind: str) -> None:
    """Edits, readings, checks and logits are made for all branches of a pack together."""
    of = kinds(LAST)[kind]
    assert launches(gqa, of(30), 1 << 14) == launches(gqa, of(15), 1 << 14)


def test_branches_at_all_positions_launch_as_few_operations_as_at_the_last(
    gqa: LoadedModel,
) -> None:
    """They go side by side, too; the difference is the layout of a pack, which is made once."""
    everywhere, last = launches(gqa, of_each_head(None), 1 << 14), launches(gqa, of_each_head(LAST))
    assert everywhere <= 1.2 * last


@pytest.mark.parametrize(("family", "most"), [("gpt2", 64), ("llama-gqa", 92)])
def test_a_layer_launches_little_besides_the_models_own_operations(
    loaded: Callable[..., LoadedModel], family: str, most: int
) -> None:
    """A layer of a pack, a third of the pack's layout and of its unembedding included."""
    assert launches(loaded(family), of_each_head(LAST)) <= most * LAYERS
