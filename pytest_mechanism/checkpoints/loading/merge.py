"""An adapter in PEFT's format, put into its base's weights; the library is PEFT.

What counts is the model that PEFT runs, base and adapter side by side. The merged model must give
the same logits (`same`), or the adapter stays beside the weights:

- Weights that several modules share (an output matrix that is the embedding, layers that are
  repeated) get a copy for each module before an adapter of one of them is merged, since PEFT adds
  to the shared tensor, for all of them.
- In half precision, W + BA may round to W: a small adapter would be gone.
- Merged into quantised weights, an adapter is rounded to their few levels.
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
from pytest_mechanism.checkpoints.trust import NONE, PICKLED_ADAPTER, SAFE_ADAPTER, Trust
from pytest_mechanism.errors import MechanismError, first_line, one_line, out_of_memory

PREFIX = "base_model.model."
"""What PEFT puts before the name of a base's module."""

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""How far merged logits may be off, in standard deviations of the logits."""

LOST = 0.1
"""Share of what an adapter changes that may be lost in rounding, of the whole."""

PROBE = 32
"""Token ids, spread over the vocabulary, that an adapter is checked on beside the prompt."""


ROWS = {
    ".weight": 0,
    ".base_layer.weight": 0,
    ".modules_to_save.weight": 0,
    ".token_adapter.base_layer.weight": 0,
    ".lora_embedding_A": 1,
    ".lora_B.weight": 0,
}
"""What an adapter may hold of an embedding or output matrix, and which dimension counts words."""


class Inexact(Exception):
    """Merged, the adapter is another model than beside its base; the reason."""


def with_adapter(
    model: Any, folder: Path, trust: Trust = NONE, probe: Tensor | None = None, merge: bool = True
) -> Any:
    """The model with an adapter's weights in its own, or beside them.

    Args:
        model: the base; it is changed.
        folder: of the adapter.
        trust: whether its weights may be pickled.
        probe: [1, S], ids of a prompt.
        merge: False leaves the adapter beside the weights.

    Raises:
        Inexact: merged, it gives other logits; the model is of no use then.
        MechanismError: PEFT is missing, or the adapter does not fit.
    """
    check_adapter(folder, str(folder), trust)
    check_ranks(folder)
    with offline(), silence():
        try:
            from peft import PeftModel
        except ImportError:
            raise MechanismError(
                "an adapter needs the library PEFT: pip install 'pytest-mechanism[peft]'"
            ) from None
        shapes = tensors(folder)
        old = resize(model, folder, shapes)
        with blaming(folder), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        missing = [w for w in said if "missing adapter keys" in str(w.message)]
        if missing:
            raise MechanismError(
                f"{folder}: the adapter's weights do not fit its config or base: "
                f"{one_line(str(missing[0].message))[:200]}"
            )
        fits_somewhere(adapted, folder, shapes)
        if not merge:
            return adapted.get_base_model()
        several = probes(model, probe)
        with blaming(folder):
            wanted = logits(adapted, several)
            with adapted.disable_adapter():
                without = logits(adapted, several)
        unshare(adapted)
        try:
            merged = adapted.merge_and_unload()
        except Exception as problem:  # a kind of layer that PEFT can run and not merge
            if out_of_memory(problem):
                raise
            raise Inexact(f"PEFT cannot merge it: {first_line(problem)}") from None
        known_rows(merged, folder, old)
        if wanted.isfinite().all():  # else whoever looks at the weights says whose fault it is
            same(logits(merged, several), wanted, without, model.dtype)
        return merged


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def blaming(folder: Path) -> Iterator[None]:
    """Whatever an adapter of another model makes PEFT raise is the adapter's fault."""
    try:
        yield
    except MechanismError:
        raise
    except Exception as problem:
        raise MechanismError(f"{folder} does not fit its base: {first_line(problem)}") from None


def tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's weights.

    Raises:
        MechanismError: they cannot be read.
    """
    try:
        if (folder / SAFE_ADAPTER).is_file():
            from safetensors import safe_open

            with safe_open(folder / SAFE_ADAPTER, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        found = torch.load(folder / PICKLED_ADAPTER, map_location="cpu", weights_only=True)
        return {str(name): tuple(value.shape) for name, value in found.items()}
    except Exception as problem:  # whatever a damaged file makes the libraries raise
        raise MechanismError(f"{folder}: {first_line(problem)}") from None


def fits_somewhere(adapted: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Every weight of an adapter has its place.

    Raises:
        MechanismError: PEFT left some out without a word.
    """
    from peft import get_peft_model_state_dict

    # an adapter with embeddings has some of them twice, by names of PEFT's modules too
    inside = {name.replace(".default", "") for name in adapted.state_dict()}
    places = {*get_peft_model_state_dict(adapted), *inside}
    if surplus := sorted({*shapes} - places):
        raise MechanismError(
            f"{folder}: {len(surplus)} of the adapter's weights fit nothing in its base, "
            f"first {surplus[0][:120]}; its config or base belongs elsewhere"
        )


# -- vocabulary


def ends(model: Any) -> dict[str, Any]:
    """Name -> module of the embedding and the output matrix."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name: m for name, m in model.named_modules() if any(m is each for each in modules)}


def vocabulary(model: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Words of the model that an adapter was trained on; None where it does not say."""
    found = [
        shapes[f"{PREFIX}{name}{of}"][dim]
        for name in ends(model)
        for of, dim in ROWS.items()
        if len(shapes.get(f"{PREFIX}{name}{of}", ())) == 2
    ]
    if found:
        return max(found)
    trained = adapter_config(folder).get("trainable_token_indices")
    several = trained.values() if isinstance(trained, dict) else [trained or []]
    numbers = [int(i) for each in several for i in each if isinstance(i, int)]
    have = model.get_input_embeddings().weight.shape[0]
    return max(numbers) + 1 if numbers and max(numbers) >= have else None


def resize(model: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Gives the base as many words as the adapter knows; returns how many it had. New rows are no
    numbers until the adapter fills them."""
    old = int(model.get_input_embeddings().weight.shape[0])
    new = vocabulary(model, folder, shapes)
    if new is not None and new != old:
        with blaming(folder), torch.no_grad():
            model.resize_token_embeddings(new, mean_resizing=False)
            for end in ends(model).values():
                end.weight[old:] = float("nan")
                if getattr(end, "bias", None) is not None:
                    end.bias[old:] = 0
    return old


def known_rows(model: Any, folder: Path, old: int) -> None:
    """The adapter filled all rows that the base does not have.

    Raises:
        MechanismError: it did not.
    """
    for name, end in ends(model).items():
        new = end.weight.shape[0] - old
        if new > 0 and not bool(torch.isfinite(end.weight[old:]).all()):
            raise MechanismError(
                f"{folder}: the adapter was trained with {new} more words than its base has, and "
                f"their rows of {name} are in neither; merge it where it was trained, and name the merged "
                "folder"
            )


# -- merging


def unshare(adapted: Any) -> None:
    """Weights that several modules share, and that an adapter changes in one of them, become each
    module's own."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    touched: set[int] = set()
    for module in adapted.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((module, name))
        if isinstance(module, BaseTunerLayer):
            touched |= {id(p) for p in module.get_base_layer().parameters()}
    model = adapted.get_base_model()
    for key, several in holders.items():
        if len(several) > 1 and key in touched:
            for module, name in several[1:]:
                own = module.get_parameter(name)
                setattr(module, name, nn.Parameter(own.detach().clone(), own.requires_grad))
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is not None and not tied(first, last):
        untie(model)


def tied(first: Any, last: Any) -> bool:
    """Whether the output matrix is the embedding's."""
    own = [getattr(m, "get_base_layer", lambda m=m: m)() for m in (first, last)]
    return own[0].weight is own[1].weight


def untie(model: Any) -> None:
    """Nothing ties them again, such as a change of the vocabulary's size."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}


@torch.no_grad()
def logits(model: Any, several: list[Tensor]) -> Tensor:
    """[all tokens, V] in float64."""
    return torch.cat([model(input_ids=ids).logits[0].double().cpu() for ids in several])


def probes(model: Any, probe: Tensor | None) -> list[Tensor]:
    """The prompt, and ids from the first to the last."""
    embedding = model.get_input_embeddings().weight
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or PROBE
    spread = torch.linspace(0, embedding.shape[0] - 1, min(PROBE, longest)).long()[None]
    known = probe is not None and int(probe.max()) < embedding.shape[0]
    found = [probe, spread] if probe is not None and known else [spread]
    return [ids.to(embedding.device) for ids in found]


def same(found: Tensor, wanted: Tensor, without: Tensor, dtype: torch.dtype) -> None:
    """Merged logits are those of the base with the adapter beside it, up to rounding that is small
    beside all differences between logits, and beside what the adapter changes.

    Raises:
        Inexact: they are not.
    """
    gap = (found - wanted).square().mean().sqrt().item()
    scale = wanted.std().item()
    if not gap <= ROUNDING[dtype] * scale:
        raise Inexact(f"merged logits are off by {gap / max(scale, 1e-12):.2g} standard deviations")
    there = without.isfinite()  # words that the base does not have are no numbers in it
    effect = (wanted - without)[there].square().mean().sqrt().item() if there.any() else math.inf
    exact = 1e-6 * scale
    if dtype in (torch.bfloat16, torch.float16) and not gap <= max(LOST * effect, exact):
        raise Inexact(
            f"in this precision, {min(1.0, gap / max(effect, 1e-12)):.0%} of what it changes is lost"
        )
