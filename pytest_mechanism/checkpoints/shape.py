"""The sizes of a checkpoint (layers, heads, widths), read from its config.json or GGUF header without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.adapter import MOST_LAYERS, replicated_layers
from pytest_mechanism.checkpoints.config import config_file, read_config
from pytest_mechanism.checkpoints.config_defaults import defaults
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import is_gguf
from pytest_mechanism.model_families.sizes import SIZE_NAMES, WRITTEN_LIMITS, has_one_kv_head

MOST = {
    "n_layers": MOST_LAYERS,
    "n_heads": 2_000,
    "n_kv_heads": 2_000,
    "d_model": 1 << 20,
    "d_head": 1 << 20,
}
MOST |= {"d_vocab": 10_000_000}
MOST_HEADS = 200_000
"""Several times the largest model of today; the number of heads is that of all layers."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer.

    Attributes:
        n_layers: number of blocks.
        n_heads: query heads of a block.
        n_kv_heads: key-value heads of a block (fewer than ``n_heads`` with GQA).
        d_model: width of the residual stream.
        d_head: width of one head.
        d_vocab: rows of the embedding.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int

    def heads(self) -> list[tuple[int, int]]:
        """Every (layer, head)."""
        return [(layer, h) for layer in range(self.n_layers) for h in range(self.n_heads)]


def read_shape(folder: Path, adapter: Path | None = None) -> Shape:
    """Sizes from config.json, or from its ``text_config`` if a model has several parts; of a GGUF file,
    from its header.

    The defaults of the model's config class fill in what config.json leaves out.

    Args:
        folder: of the checkpoint, or its GGUF file.
        adapter: folder of an adapter, which may repeat layers.

    Raises:
        MechanismError: config.json is damaged, or a size is missing or implausible.
    """
    part, own = text_config(folder)

    def lookup(key: str) -> Any:
        # every config has the model's width: a file without it is damaged, so no default counts
        return part.get(key) if key in part or key in SIZE_NAMES["d_model"] else own.get(key)

    shape = find_sizes(lookup, folder, set(part))
    layers = None if adapter is None else replicated_layers(adapter)
    return shape if layers is None else replace(shape, n_layers=layers)


def read_positions(folder: Path) -> int | None:
    """How many tokens of a text a model can read; None where its files name no limit.

    Raises:
        MechanismError: config.json is damaged.
    """
    part, own = text_config(folder)
    limits = [part.get(name, own.get(name)) for name in WRITTEN_LIMITS]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def text_config(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The language model's part of config.json, and the defaults of the model's config class.

    Raises:
        MechanismError: config.json is damaged.
    """
    config = read_config(folder)
    inner = config.get("text_config")
    part = inner if isinstance(inner, dict) and inner else config
    own = defaults(str(part.get("model_type") or ""))
    if not own and part is inner:
        own = defaults(str(config.get("model_type") or ""), "text_config")
    return part, own


def loaded_shape(config: Any, folder: Path, adapter: Path | None = None) -> Shape:
    """Sizes of a loaded model, from the config object with which transformers built it.

    Raises:
        MechanismError: the number of layers or heads differs from that of `read_shape`, by which specs
            name heads.
    """
    text = config.get_text_config()

    def lookup(key: str) -> Any:
        try:
            return getattr(text, key, None)
        except Exception:  # layers of different sizes
            return None

    planned = read_shape(folder, adapter)
    try:
        shape = find_sizes(lookup, folder)
    except MechanismError:
        return planned
    for name in ("n_layers", "n_heads"):
        before, loaded = getattr(planned, name), getattr(shape, name)
        if before != loaded:
            advice = "" if is_gguf(folder) else f"; add it to the file as {SIZE_NAMES[name][0]}"
            raise MechanismError(
                f"{config_file(folder)} says {name} {before}, but transformers loads the model with "
                f"{loaded}{advice}"
            )
    return shape


def find_sizes(lookup: Callable[[str], Any], folder: Path, written: Collection[str] = ()) -> Shape:
    """Sizes under any of the families' names.

    Args:
        lookup: key -> value, or None.
        folder: for errors.
        written: keys in config.json, which take precedence over defaults.

    Raises:
        MechanismError: a size is missing, implausible, or not a positive integer.
    """
    sizes: dict[str, int] = {}
    for name, keys in SIZE_NAMES.items():
        order = sorted(keys, key=lambda key: key not in written)
        key, value = next(((k, lookup(k)) for k in order if lookup(k) is not None), (keys[0], None))
        if isinstance(value, (int, float)) and value > MOST[name]:
            raise MechanismError(
                f"{config_file(folder)}: {key} is {value:,}, but no model has over {MOST[name]:,}"
            )
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            sizes[name] = value
    missing = {"n_layers", "n_heads", "d_model", "d_vocab"} - set(sizes)
    if missing:
        raise MechanismError(
            f"{config_file(folder)} does not say {', '.join(sorted(missing))}; "
            "is it a decoder-only language model?"
        )
    if sizes["n_layers"] * sizes["n_heads"] > MOST_HEADS:
        raise MechanismError(
            f"{config_file(folder)}: {sizes['n_layers']:,} layers of {sizes['n_heads']:,} heads, but "
            f"no model has over {MOST_HEADS:,} heads"
        )
    if has_one_kv_head(lookup):
        sizes["n_kv_heads"] = 1
    sizes.setdefault("n_kv_heads", sizes["n_heads"])
    sizes.setdefault("d_head", sizes["d_model"] // sizes["n_heads"])
    return Shape(**sizes)
