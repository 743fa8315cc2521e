"""Merges an adapter into its base's weights, with the library PEFT.

PEFT's own model, which runs the adapter beside the base, is the truth. The merged model must give
the same logits (`check_logits`), or the adapter stays beside the weights:

- Weights that several modules share (tied embeddings, repeated layers) are copied for each module
  before the adapter of one of them is merged, since PEFT adds to the shared tensor.
- In half precision, W + BA may round to W, and a small adapter would be lost.
- Merged into quantised weights, an adapter would be rounded to their few levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_mechanism.checkpoints.adapter import adapter_config, check_adapter, check_ranks
from pytest_mechanism.checkpoints.hub import offline
from pytest_mechanism.checkpoints.trust import PICKLED_ADAPTER, SAFE_ADAPTER, TRUST_NOTHING, Trust
from pytest_mechanism.errors import MechanismError, first_line, one_line, out_of_memory

PREFIX = "base_model.model."
"""PEFT's prefix to the names of the base's modules."""

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""Maximum error of the merged logits, in standard deviations of the logits."""

LOST = 0.1
"""Maximum share of the adapter's effect that rounding may lose."""

PROBE = 32
"""Number of token ids, spread over the vocabulary, for the check beside the prompt."""

ROWS = {
    ".weight": 0,
    ".base_layer.weight": 0,
    ".modules_to_save.weight": 0,
    ".token_adapter.base_layer.weight": 0,
    ".lora_embedding_A": 1,
    ".lora_B.weight": 0,
}
"""Tensors that an adapter may have for an embedding or output matrix -> the dimension of the words."""


class InexactMergeError(Exception):
    """The merged model differs from the base with the adapter beside it; says how."""


def with_adapter(
    model: Any,
    folder: Path,
    trust: Trust = TRUST_NOTHING,
    probe: Tensor | None = None,
    merge: bool = True,
) -> Any:
    """The model with an adapter merged into its weights, or beside them.

    Args:
        model: the base, which is changed.
        folder: of the adapter.
        trust: whether the adapter's weights may be pickled.
        probe: [1, S], token ids of a prompt.
        merge: False leaves the adapter beside the weights.

    Raises:
        InexactMergeError: the merged model gives other logits; discard it then.
        MechanismError: PEFT is missing, or the adapter does not fit.
    """
    check_adapter(folder, str(folder), trust)
    check_ranks(folder)
    with offline(), ignore_warnings():
        try:
            from peft import PeftModel
        except ImportError:
            raise MechanismError(
                "an adapter needs the library PEFT: pip install 'pytest-mechanism[peft]'"
            ) from None
        shapes = tensor_shapes(folder)
        old = resize(model, folder, shapes)
        with blame_adapter(folder), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        missing = [w for w in caught if "missing adapter keys" in str(w.message)]
        if missing:
            raise MechanismError(
                f"{folder}: the adapter's weights do not fit its config or base: "
                f"{one_line(str(missing[0].message))[:200]}"
            )
        check_all_used(adapted, folder, shapes)
        if not merge:
            return adapted.get_base_model()
        prompts = probes(model, probe)
        with blame_adapter(folder):
            expected = logits(adapted, prompts)
            with adapted.disable_adapter():
                without = logits(adapted, prompts)
        unshare(adapted)
        try:
            merged = adapted.merge_and_unload()
        except Exception as problem:  # PEFT can run some kinds of layers, but not merge them
            if out_of_memory(problem):
                raise
            raise InexactMergeError(f"PEFT cannot merge it: {first_line(problem)}") from None
        check_new_rows(merged, folder, old)
        if expected.isfinite().all():  # else the check of the weights reports the cause
            check_logits(logits(merged, prompts), expected, without, model.dtype)
        return merged


@contextmanager
def ignore_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def blame_adapter(folder: Path) -> Iterator[None]:
    """Context in which any error of PEFT is reported as an adapter that does not fit."""
    try:
        yield
    except MechanismError:
        raise
    except Exception as problem:
        raise MechanismError(f"{folder} does not fit its base: {first_line(problem)}") from None


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an adapter's weights.

    Raises:
        MechanismError: they cannot be read.
    """
    try:
        if (folder / SAFE_ADAPTER).is_file():
            from safetensors import safe_open

            with safe_open(folder / SAFE_ADAPTER, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        weights = torch.load(folder / PICKLED_ADAPTER, map_location="cpu", weights_only=True)
        return {str(name): tuple(tensor.shape) for name, tensor in weights.items()}
    except Exception as problem:  # a damaged file makes the libraries raise anything
        raise MechanismError(f"{folder}: {first_line(problem)}") from None


def check_all_used(adapted: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Checks that PEFT has used all weights of the adapter.

    Raises:
        MechanismError: PEFT has silently ignored some.
    """
    from peft import get_peft_model_state_dict

    # an adapter with embeddings has some of them twice, also under the names of PEFT's modules
    inside = {name.replace(".default", "") for name in adapted.state_dict()}
    places = {*get_peft_model_state_dict(adapted), *inside}
    if surplus := sorted({*shapes} - places):
        raise MechanismError(
            f"{folder}: {len(surplus)} of the adapter's weights have no place in its base, "
            f"first {surplus[0][:120]}; its config or base belongs to another adapter"
        )


# -- vocabulary


def vocabulary_modules(model: Any) -> dict[str, Any]:
    """Name -> module of the embedding and of the output matrix."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name: m for name, m in model.named_modules() if any(m is module for module in modules)}


def vocabulary_size(model: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """The vocabulary size of the model that an adapter was trained on; None if it does not tell."""
    sizes = [
        shapes[f"{PREFIX}{name}{of}"][dim]
        for name in vocabulary_modules(model)
        for of, dim in ROWS.items()
        if len(shapes.get(f"{PREFIX}{name}{of}", ())) == 2
    ]
    if sizes:
        return max(sizes)
    trained = adapter_config(folder).get("trainable_token_indices")
    lists = trained.values() if isinstance(trained, dict) else [trained or []]
    ids = [int(i) for indices in lists for i in indices if isinstance(i, int)]
    size = model.get_input_embeddings().weight.shape[0]
    return max(ids) + 1 if ids and max(ids) >= size else None


def resize(model: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Resizes the base to the adapter's vocabulary and returns the former size. New rows are NaN until
    the adapter fills them."""
    old = int(model.get_input_embeddings().weight.shape[0])
    new = vocabulary_size(model, folder, shapes)
    if new is not None and new != old:
        with blame_adapter(folder), torch.no_grad():
            model.resize_token_embeddings(new, mean_resizing=False)
            for module in vocabulary_modules(model).values():
                module.weight[old:] = float("nan")
                if getattr(module, "bias", None) is not None:
                    module.bias[old:] = 0
    return old


def check_new_rows(model: Any, folder: Path, old: int) -> None:
    """Checks that the adapter filled all rows beyond the base's vocabulary.

    Raises:
        MechanismError: it did not.
    """
    for name, module in vocabulary_modules(model).items():
        new = module.weight.shape[0] - old
        if new > 0 and not bool(torch.isfinite(module.weight[old:]).all()):
            raise MechanismError(
                f"{folder}: the adapter was trained with {new} more tokens than its base has, and their "
                f"rows of {name} are in neither; merge it where it was trained, and name the merged "
                "folder"
            )


# -- merging


def unshare(adapted: Any) -> None:
    """Copies weights that several modules share for each module, if an adapter changes one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    touched: set[int] = set()
    for module in adapted.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((module, name))
        if isinstance(module, BaseTunerLayer):
            touched |= {id(p) for p in module.get_base_layer().parameters()}
    model = adapted.get_base_model()
    for key, modules in holders.items():
        if len(modules) > 1 and key in touched:
            for module, name in modules[1:]:
                own = module.get_parameter(name)
                setattr(module, name, nn.Parameter(own.detach().clone(), own.requires_grad))
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is not None and not tied(first, last):
        untie(model)


def tied(first: Any, last: Any) -> bool:
    """Whether the output matrix is the embedding."""
    own = [getattr(m, "get_base_layer", lambda m=m: m)() for m in (first, last)]
    return own[0].weight is own[1].weight


def untie(model: Any) -> None:
    """Keeps transformers from tying the matrices again, as a resize of the vocabulary does."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}


@torch.no_grad()
def logits(model: Any, prompts: list[Tensor]) -> Tensor:
    """[tokens of all prompts, V] in float64."""
    return torch.cat([model(input_ids=ids).logits[0].double().cpu() for ids in prompts])


def probes(model: Any, probe: Tensor | None) -> list[Tensor]:
    """The probe prompt, if the model has all of its tokens, and ids spread over the vocabulary."""
    embedding = model.get_input_embeddings().weight
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or PROBE
    spread = torch.linspace(0, embedding.shape[0] - 1, min(PROBE, longest)).long()[None]
    has_tokens = probe is not None and int(probe.max()) < embedding.shape[0]
    prompts = [probe, spread] if probe is not None and has_tokens else [spread]
    return [ids.to(embedding.device) for ids in prompts]


def check_logits(merged: Tensor, expected: Tensor, without: Tensor, dtype: torch.dtype) -> None:
    """Checks the merged model's logits, with an error that is small beside the spread of the logits
    and beside the adapter's effect on them.

    Raises:
        InexactMergeError: the error is larger.
    """
    gap = (merged - expected).square().mean().sqrt().item()
    scale = expected.std().item()
    if not gap <= ROUNDING[dtype] * scale:
        off = gap / max(scale, 1e-12)
        raise InexactMergeError(f"merged logits are off by {off:.2g} standard deviations")
    finite = without.isfinite()  # NaN for tokens that the base does not have
    effect = (
        (expected - without)[finite].square().mean().sqrt().item() if finite.any() else math.inf
    )
    exact = 1e-6 * scale
    if dtype in (torch.bfloat16, torch.float16) and not gap <= max(LOST * effect, exact):
        lost = min(1.0, gap / max(effect, 1e-12))
        raise InexactMergeError(f"in this precision, rounding loses {lost:.0%} of its effect")
