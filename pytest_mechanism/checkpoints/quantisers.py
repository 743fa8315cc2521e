"""Which quantised weights a checkpoint's folder may have, by quantization_config in its config.json. No torch.

transformers hands that entry to a library, which builds objects of it. Three libraries are accepted, with
limits on what the entry may name; others import or fetch code that it names.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.gguf_file import quantisation
from pytest_mechanism.checkpoints.trust import TRUST_REMOTE_CODE, Trust
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import is_gguf

BITSANDBYTES = "bitsandbytes"

LIBRARIES = {
    BITSANDBYTES: BITSANDBYTES,
    "bitsandbytes_4bit": BITSANDBYTES,
    "bitsandbytes_8bit": BITSANDBYTES,
    "compressed-tensors": "compressed-tensors",
    "torchao": "torchao",
}
"""Accepted values of quant_method -> the package that reads the weights."""

CLASS = re.compile(r"[A-Z][A-Za-z0-9]{0,99}|torch\.dtype")
"""What an entry may ask torchao to build: its classes, but not its functions."""

PATTERN = "re:"
MOST_REPEATS = 6
"""Repetitions in a pattern of compressed-tensors, which are tried on the names of all modules."""


def quantiser(config: Mapping[str, Any]) -> str | None:
    """How a config.json says that its weights are quantised, or None: ``torchao``."""
    entry = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(entry, Mapping):
        return None
    kind = entry.get("quant_method")
    if (bits := bits_of_weights(entry)) is not None:
        return f"{BITSANDBYTES}, {bits} bits"
    return kind if isinstance(kind, str) else None


def bits_of_weights(entry: Mapping[str, Any]) -> int | None:
    """The bits of a weight that bitsandbytes has quantised; None if an entry does not say so."""
    return next((bits for bits in (4, 8) if entry.get(f"load_in_{bits}bit")), None)


def library(folder: Path) -> str:
    """The package that reads the weights of a checkpoint; empty if transformers does it alone."""
    if is_gguf(folder):
        return "gguf"
    try:
        config = read_config(folder)
    except MechanismError:  # an adapter's folder has no config.json
        return ""
    kind = quantiser(config)
    return "" if kind is None else LIBRARIES.get(kind.partition(",")[0], "")


def already_quantised(folder: Path) -> str | None:
    """Why a checkpoint's weights are not quantised on loading, or None.

    Raises:
        MechanismError: the checkpoint is damaged.
    """
    if is_gguf(folder):
        stored = f"the file stores its weights as {quantisation(folder)}"
    elif (kind := quantiser(read_config(folder))) is not None:
        stored = f"its weights are quantised by {kind}"
    else:
        return None
    return f"{stored} already; run without this option, or name a checkpoint with full weights"


def quantiser_problem(place: str, entry: Any, trust: Trust) -> str | None:
    """Why the weights that an entry of config.json describes cannot be loaded, or None.

    Args:
        place: of the entry, for the error.
        entry: the value of quantization_config or compression_config.
        trust: what the user allows.
    """
    if trust.remote_code:
        return None
    kind = entry.get("quant_method") if isinstance(entry, Mapping) else entry
    if kind is None and isinstance(entry, Mapping):
        kind = None if bits_of_weights(entry) is None else BITSANDBYTES
    if not isinstance(kind, str) or kind not in LIBRARIES:
        return (
            f"{place} in config.json asks for {str(kind)[:40]!r}, for which transformers imports or "
            f"fetches more code; save the weights unquantised, or quantised by one of "
            f"{', '.join(sorted(set(LIBRARIES.values())))} ({TRUST_REMOTE_CODE} allows it)"
        )
    library = LIBRARIES[kind]
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        return (
            f"its weights are quantised by {library}, which is not installed: pip install {library}"
        )
    if kind == "torchao":
        wrong = next((name for name in classes(entry) if not CLASS.fullmatch(name)), None)
        if wrong is not None:
            return f"{place} in config.json names {wrong[:40]!r}, which is no class of torchao"
    if kind == "compressed-tensors":
        wrong = next((text for text in texts(entry) if is_slow_pattern(text)), None)
        if wrong is not None:
            return (
                f"{place} in config.json has the pattern {wrong[:60]!r}, which may take for ever; at most "
                f"{MOST_REPEATS} repetitions, and none of a group"
            )
    return None


def classes(entry: Any) -> Iterator[str]:
    """What an entry asks torchao to build, at any depth."""
    for value in with_contents(entry):
        if isinstance(value, Mapping) and "_type" in value:
            yield str(value["_type"])


def texts(entry: Any) -> Iterator[str]:
    """All texts in an entry, at any depth."""
    for value in with_contents(entry):
        if isinstance(value, str):
            yield value


def with_contents(value: Any) -> Iterator[Any]:
    """A value of a JSON file, and all values in it, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def is_slow_pattern(text: str) -> bool:
    """Whether a text is a pattern that could take exponentially long on a module's name."""
    if not text.startswith(PATTERN):
        return False
    return len(re.findall(r"[*+{]", text)) > MOST_REPEATS or bool(re.search(r"\)[*+{]", text))
