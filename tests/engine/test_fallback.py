"""The reference engine measures families that the branch engine does not support, and reports say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import FAMILIES
from sweep import LAST, TOKENS, silenced
from torch import Tensor

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.loading.model import LoadedModel, load_model
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.engine import record
from pytest_mechanism.engine.branch import BranchEngine
from pytest_mechanism.engine.interface import Branch, Knockout, Site, Tokens
from pytest_mechanism.engine.layout import Layout
from pytest_mechanism.engine.reference import ReferenceEngine
from pytest_mechanism.engine.selfcheck import check, disagreement
from pytest_mechanism.errors import SelfCheckError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.path_patching import PathPatching
from pytest_mechanism.model_families import layers
from pytest_mechanism.model_families.bridge import BridgeModel
from pytest_mechanism.model_families.layers import UnsupportedFamily, visible_keys
from pytest_mechanism.model_families.wrapped import replaced_forward
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import canonical

OTHER = Tokens(TOKENS.ids + 100, TOKENS.lengths - 2)


def difference_of_engines(model: LoadedModel) -> str | None:
    reference, branch = ReferenceEngine(model.wrapped), BranchEngine(model.wrapped)
    return disagreement(model, reference, branch, TOKENS, OTHER)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", [*FAMILIES, "neox"])
def test_families_that_are_understood_get_the_branch_engine(
    loaded: Callable[..., LoadedModel], family: str, dtype: str
) -> None:
    """In every dtype: rounding is no disagreement."""
    model = loaded(family, dtype)
    assert difference_of_engines(model) is None
    for engine in (ReferenceEngine(model.wrapped), BranchEngine(model.wrapped)):
        check(model, engine, TOKENS, OTHER)


@pytest.mark.parametrize("engine", [ReferenceEngine, BranchEngine])
@pytest.mark.parametrize(
    ("family", "cuts"), [*((family, True) for family in FAMILIES), ("opt", False)]
)
def test_attention_that_cannot_be_cut_is_an_error(
    loaded: Callable[..., LoadedModel], family: str, cuts: bool, engine: Any
) -> None:
    """Where transformer-lens leaves attention to transformers, a knockout would change nothing; all
    else works there, by the branch engine too."""
    model = loaded(family, "float32")
    run = engine(model.wrapped).run(TOKENS)
    assert difference_of_engines(model) is None
    branches = [Branch(), Branch(knockouts=[Knockout(0, LAST, LAST - 1)])]
    if cuts:
        whole, cut = (outcome.logits for outcome in run.branches(branches))
        assert float((whole - cut).abs().max()) > 1e-3
    else:
        with pytest.raises(SelfCheckError, match="attention of this family cannot be blocked"):
            list(run.branches(branches))


# -- norms, which the branch engine computes by the plain model's own modules


@pytest.mark.filterwarnings("ignore:A forward hook edited")
@pytest.mark.parametrize("point", ["hook_scale", "hook_normalized"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_hooks_inside_norms_are_heard(
    loaded: Callable[..., LoadedModel], family: str, point: str
) -> None:
    """A hook that halves what it gets changes branches, as it does in the reference engine."""
    model = loaded(family)
    halved = [(f"blocks.2.ln2.{point}", lambda activation, hook=None: activation / 2)]

    def outcome(engine: type[ReferenceEngine | BranchEngine]) -> Tensor:
        (branch,) = engine(model.wrapped).run(TOKENS).branches([Branch([silenced(0, LAST, 0)])])
        return branch.logits

    plain = outcome(BranchEngine)
    with model.wrapped.hooked(halved):
        heard, wanted = outcome(BranchEngine), outcome(ReferenceEngine)
    torch.testing.assert_close(heard, wanted, rtol=0, atol=1e-5)
    assert float((heard - plain).abs().max()) > 1e-3


def test_a_norm_that_transformer_lens_computes_otherwise_is_found(
    loaded: Callable[..., LoadedModel],
) -> None:
    """The engines disagree where a plain norm does more than transformer-lens knows."""
    model = loaded("gpt2", "float32")
    norm = model.wrapped.layers[1].module.ln1.original_component
    with replaced_forward(norm, lambda hidden: 1.1 * type(norm).forward(norm, hidden)):
        assert difference_of_engines(model) is not None
    assert difference_of_engines(model) is None


# -- families that are not understood


def mask_with_distances(arguments: dict[str, Any]) -> None:
    """A mask that also says how far a key is."""
    mask = arguments["attention_mask"]
    arguments["attention_mask"] = mask - torch.arange(mask.shape[-1], dtype=mask.dtype) / 8


def one_mask_a_head(arguments: dict[str, Any]) -> None:
    arguments["attention_mask"] = arguments["attention_mask"].expand(-1, 4, -1, -1)


def unknown_tensor(arguments: dict[str, Any]) -> None:
    arguments["per_layer_input"] = torch.zeros(1)


def no_cache(arguments: dict[str, Any]) -> None:
    arguments["past_key_values"] = None


STRANGE: dict[Callable[[dict[str, Any]], None], str] = {
    mask_with_distances: "attention masks do more than hide keys",
    one_mask_a_head: "attention masks of shape (3, 4, 8, 8) are not understood",
    unknown_tensor: "a layer takes per_layer_input, which is not understood",
    no_cache: "3 of 3 layers ran, 0 kept a cache",
}


@pytest.fixture
def family(gqa: LoadedModel) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], Any]]:
    """A family whose model calls its layers in a way of its own."""
    handles = []

    def of(change: Callable[[dict[str, Any]], None]) -> LoadedModel:
        def before(_: Any, args: Any, arguments: dict[str, Any]) -> Any:
            arguments = dict(arguments)
            change(arguments)
            return args, arguments

        handles.extend(
            block.register_forward_pre_hook(before, with_kwargs=True)
            for block in gqa.wrapped.bridge.blocks
        )
        return gqa

    yield of
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("change", STRANGE, ids=lambda change: change.__name__)
def test_a_family_that_is_not_understood_is_not_guessed(family: Any, change: Any) -> None:
    """The branch engine raises an error that names what it does not support."""
    model = family(change)
    assert ReferenceEngine(model.wrapped).run(TOKENS).outcome.logits.isfinite().all()
    with pytest.raises(UnsupportedFamily) as problem:
        assert BranchEngine(model.wrapped).run(TOKENS).outcome
    assert str(problem.value) == STRANGE[change]
    assert difference_of_engines(model) == STRANGE[change]


@pytest.mark.parametrize(
    ("attention", "reason"),
    [("local", "layer 1 masks keys by their distance in columns"), ("global", None)],
)
def test_a_window_that_is_counted_in_columns_is_seen_before_a_prompt_outgrows_it(
    tiny: Callable[[str], Path], tmp_path: Path, attention: str, reason: str | None
) -> None:
    """Side by side behind a longer prompt, branches would leave it; here nothing does yet."""
    folder = shutil.copytree(tiny("neo"), tmp_path / "neo")
    config = json.loads((folder / "config.json").read_text())
    layers = {"attention_types": [[["global", attention], 1]], "window_size": 64}
    layers["attention_layers"] = ["global", attention]
    (folder / "config.json").write_text(json.dumps(config | layers))
    model = load_model("base", folder, "cpu", "float32", lambda _: [5, 6, 7])
    result = difference_of_engines(model)
    assert (result or "").startswith(reason or "")
    assert (result is None) == (reason is None)


def test_whatever_a_family_raises_is_the_reason(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that were not made to be called for some tokens raise what they like, in one line."""

    def forward(*_: Any) -> Any:
        raise TypeError("layer takes\n3 arguments")

    monkeypatch.setattr(record, "last_mlp_at", forward)
    assert difference_of_engines(gqa) == "TypeError: layer takes 3 arguments"


def test_what_the_reference_engine_raises_is_not_the_fast_ones_fault(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that cannot be run at all is not measured by anything."""

    def forward(*_: Any) -> Any:
        raise TypeError("a model that is no model")

    monkeypatch.setattr(ReferenceEngine, "forward", forward)
    with pytest.raises(TypeError, match="no model"):
        difference_of_engines(gqa)


def windowed(length: int) -> Tensor:
    """Each token sees itself and the one before."""
    return torch.ones(length, length).tril().triu(-1).bool()


@pytest.mark.parametrize("rows", [1, 2])
def test_masks_are_read_whatever_their_type(rows: int) -> None:
    """Booleans, or numbers added to scores; one for all rows, or one a row."""
    tokens = Tokens(torch.zeros(2, 4, dtype=torch.long), torch.tensor([4, 3]))
    observed = windowed(4).expand(rows, 1, 4, 4)
    added = torch.zeros(rows, 1, 4, 4).masked_fill(~observed, torch.finfo(torch.float32).min)
    for mask in (observed, added):
        assert torch.equal(visible_keys(mask, tokens.lengths, 4), windowed(4).expand(2, 4, 4))


def test_without_a_mask_tokens_see_what_stands_before_them() -> None:
    """Padding is no one's key."""
    tokens = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 2]))
    result = visible_keys(None, tokens.lengths, 3).long().tolist()
    assert result == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 0]]]


# -- an engine that is wrong


def everything(self: Layout, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Other branches' tokens too, and what comes later."""
    width = self.positions.shape[1]
    return torch.zeros(len(visible), 1, width, self.prefix + width, dtype=dtype)


def run_alone(self: Layout, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The run's tokens as they were, none of the branch's own."""
    mask = MASK(self, visible, dtype)
    mask[..., : self.prefix] = 0
    mask[..., self.prefix :] = torch.finfo(dtype).min
    return mask


MASK = Layout.mask


@pytest.mark.parametrize("wrong", [everything, run_alone], ids=lambda wrong: wrong.__name__)
def test_an_engine_that_sees_the_wrong_keys_is_noticed(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    """Whatever makes its numbers others, they are compared before any is reported."""
    assert difference_of_engines(model) is None
    monkeypatch.setattr(Layout, "mask", wrong)
    assert "by the branch engine differ from reference" in str(difference_of_engines(model))


def test_a_layer_that_masks_by_itself_is_noticed(loaded: Callable[..., LoadedModel]) -> None:
    """GPT-Neo's local attention counts keys, so it is right for few branches and wrong for many."""
    model = loaded("neo", "float32")
    assert "the last of many by the branch engine differ" in str(difference_of_engines(model))


def test_a_read_only_forward_that_reads_something_else_is_noticed(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Donors' activations are compared too."""
    right = record.read_only_forward

    def flipped(*arguments: Any) -> Any:
        outcome = right(*arguments)
        return replace(outcome, readings=tuple(r.flip(2) for r in outcome.readings))

    monkeypatch.setattr("pytest_mechanism.engine.branch.read_only_forward", flipped)
    assert "readings alone by the branch engine differ" in str(difference_of_engines(gqa))


@pytest.mark.parametrize("site", [Site(2, "scores"), Site(0, "z")], ids=str)
def test_an_engine_whose_hooks_do_not_fire_is_noticed(
    gqa: LoadedModel, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    """It says so itself, and that is the reason."""
    right = BridgeModel.hooked

    def hooked(model: BridgeModel, hooks: Any) -> Any:
        deaf = [h for h in hooks if h[0] == site.hook and "Changes." in h[1].__qualname__]
        return right(model, [h for h in hooks if h not in deaf])

    monkeypatch.setattr(BridgeModel, "hooked", hooked)
    assert f"hook {site.hook} fired 0 times in one layer" in str(difference_of_engines(gqa))


# -- what becomes of it


SETTINGS = {"family": "entity_tracking", "boxes": 2, "rows": 20, "seed": 0}
SENDERS = {f"{layer}.{head}": [(layer, head)] for layer in range(3) for head in range(4)}
EFFECTS = Measurement(
    PathPatching(rows=20, stream="test", at="last", senders=SENDERS),
    "base",
    canonical(SETTINGS | {"revision": 1}),
)


@pytest.fixture
def runner(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[..., Runner]:
    """Measures on a tiny model, whose label is ``tiny``."""

    def of(engine: str, store: bool = False) -> Runner:
        folder = tiny("llama-gqa")
        return Runner(
            {"base": Reference("tiny", str(folder), folder)},
            {"base": Fingerprint("weights", "words")},
            ModelOptions(engine=engine),
            Store(tmp_path) if store else None,
        )

    return of


def test_engines_have_the_same_scores(runner: Any) -> None:
    """Each head's effect in float32 is the same, and neither run has a note."""
    result = []
    for engine in ("branch", "reference"):
        one_engine = runner(engine)
        result.append(one_engine.measure(EFFECTS).values)
        assert one_engine.notes == {}
    assert (
        list(result[0])
        == list(result[1])
        == [name for sender in SENDERS for name in (sender, f"ratio {sender}")]
    )
    for name, values in result[0].items():
        assert values == pytest.approx(result[1][name], abs=1e-5)


def test_a_measurement_by_the_other_engine_says_so(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its result and among the run's notes, also when it comes from the store."""
    right = runner("reference").measure(EFFECTS)
    monkeypatch.setattr(layers, "CACHE_ARGUMENTS", ())
    first = runner("branch", store=True)
    observed = first.measure(EFFECTS)
    monkeypatch.undo()
    again = runner("branch", store=True)
    again.measure(EFFECTS)
    why = observed.fallback
    assert first.notes == again.notes
    assert first.notes == {
        "base": f"tiny was measured by the reference engine, not by branch: {why}"
    }
    assert (again.from_store, again.checkpoint.loaded) == (1, 0)
    for name, values in observed.values.items():
        assert values.tolist() == right.values[name].tolist()
