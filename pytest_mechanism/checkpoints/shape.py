"""How many layers and heads a checkpoint has, read from its config.json without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.adapter import MOST_LAYERS, replicated_layers
from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.config_defaults import defaults
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.model_families.sizes import SIZE_NAMES, has_one_kv_head

MOST = {
    "n_layers": MOST_LAYERS,
    "n_heads": 2_000,
    "n_kv_heads": 2_000,
    "d_model": 1 << 20,
    "d_head": 1 << 20,
}
MOST |= {"d_vocab": 10_000_000}
MOST_HEADS = 200_000
"""Several times what the largest model of today has; heads are counted over all layers."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer.

    Attributes:
        n_layers: number of blocks.
        n_heads: query heads a block.
        n_kv_heads: key-value heads a block (fewer than ``n_heads`` under GQA).
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
    """Sizes from config.json (its ``text_config`` where a model has several parts), and what it
    leaves out from the defaults of its class in transformers; no torch.

    Args:
        folder: of the checkpoint.
        adapter: folder of an adapter, which may repeat layers.

    Raises:
        MechanismError: config.json is damaged, or does not say a size, or says one that no model has.
    """
    config = read_config(folder)
    inner = config.get("text_config")
    part = inner if isinstance(inner, dict) and inner else config
    own = defaults(str(part.get("model_type") or ""))
    if not own and part is inner:
        own = defaults(str(config.get("model_type") or ""), "text_config")

    def look(key: str) -> Any:
        # whoever writes a config writes the model's width: a file without it is damaged
        return part.get(key) if key in part or key in SIZE_NAMES["d_model"] else own.get(key)

    found = sizes(look, folder, set(part))
    layers = None if adapter is None else replicated_layers(adapter)
    return found if layers is None else replace(found, n_layers=layers)


def loaded_shape(config: Any, folder: Path, adapter: Path | None = None) -> Shape:
    """Sizes of a loaded model, from its config object: what transformers built it by.

    Raises:
        MechanismError: it has other layers or heads than were read before it was loaded, by which
            specs name heads.
    """
    text = config.get_text_config()

    def look(key: str) -> Any:
        try:
            return getattr(text, key, None)
        except Exception:  # layers that differ have no one size
            return None

    planned = read_shape(folder, adapter)
    try:
        found = sizes(look, folder)
    except MechanismError:
        return planned
    for name in ("n_layers", "n_heads"):
        if getattr(found, name) != getattr(planned, name):
            raise MechanismError(
                f"{folder / 'config.json'} says {name} {getattr(planned, name)}, and transformers "
                f"loads it with {getattr(found, name)}; write it there, as {SIZE_NAMES[name][0]}"
            )
    return found


def sizes(look: Callable[[str], Any], folder: Path, written: Collection[str] = ()) -> Shape:
    """Sizes by whatever a family calls them.

    Args:
        look: key -> value, or None.
        folder: for errors.
        written: keys that somebody wrote; they go before defaults.

    Raises:
        MechanismError: one is missing or no positive whole number.
    """
    found: dict[str, int] = {}
    for name, keys in SIZE_NAMES.items():
        order = sorted(keys, key=lambda key: key not in written)
        key, value = next(((k, look(k)) for k in order if look(k) is not None), (keys[0], None))
        if isinstance(value, (int, float)) and value > MOST[name]:
            raise MechanismError(
                f"{folder / 'config.json'}: {key} is {value:,}, and no model has over {MOST[name]:,}"
            )
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[name] = value
    missing = {"n_layers", "n_heads", "d_model", "d_vocab"} - set(found)
    if missing:
        raise MechanismError(
            f"{folder / 'config.json'} does not say {', '.join(sorted(missing))}; "
            "is it a decoder-only language model?"
        )
    if found["n_layers"] * found["n_heads"] > MOST_HEADS:
        raise MechanismError(
            f"{folder / 'config.json'}: {found['n_layers']:,} layers of {found['n_heads']:,} heads, and "
            f"no model has over {MOST_HEADS:,} heads"
        )
    if has_one_kv_head(look):
        found["n_kv_heads"] = 1
    found.setdefault("n_kv_heads", found["n_heads"])
    found.setdefault("d_head", found["d_model"] // found["n_heads"])
    return Shape(**found)
