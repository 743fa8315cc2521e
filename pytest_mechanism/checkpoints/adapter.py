"""Adapters in PEFT's format: ``reference+adapter``, or an adapter's folder that names its base.

An adapter is merged into its base's weights when they are read (the library is PEFT), so that
everything after it sees an ordinary model.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import BadReference, MechanismError, one_line

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def check_adapter(folder: Path, text: str) -> None:
    """What can be said without reading it.

    Raises:
        BadReference: it is no adapter, or its weights are pickled.
    """
    if not is_adapter(folder):
        raise BadReference(f"{text}: {folder} has no {CONFIG}, so it is no adapter")
    if not any(folder.glob("*.safetensors")):
        raise BadReference(
            f"{text}: {folder} has no *.safetensors file; pickled adapters are not loaded"
        )


def base_of(folder: Path, text: str) -> str:
    """The base that an adapter names.

    Raises:
        BadReference: none.
    """
    try:
        given = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base = given.get("base_model_name_or_path") if isinstance(given, dict) else None
    except (OSError, ValueError, RecursionError) as problem:
        raise BadReference(f"{folder / CONFIG} cannot be read as JSON: {problem}") from None
    if not isinstance(base, str) or not base.strip():
        raise BadReference(f"{text} is an adapter that names no base; write BASE+{text}")
    return base.strip()


def merged(model: Any, folder: Path) -> Any:
    """The model with an adapter's weights in its own.

    Raises:
        MechanismError: PEFT is missing, or the adapter does not fit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from peft import PeftModel
        except ImportError:
            raise MechanismError(
                "an adapter needs the library PEFT: pip install 'pytest-mechanism[peft]'"
            ) from None
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                adapted = PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
            missing = [w for w in said if "missing adapter keys" in str(w.message)]
            if missing:
                raise MechanismError(
                    f"{folder}: the adapter's weights do not fit its config or base: "
                    f"{one_line(str(missing[0].message))[:200]}"
                )
            return adapted.merge_and_unload()
        except MechanismError:
            raise
        except Exception as problem:  # whatever an adapter of another model makes PEFT raise
            lines = [line for line in str(problem).splitlines() if line.strip()]
            first = one_line(lines[0] if lines else type(problem).__name__)[:200]
            raise MechanismError(f"{folder} does not fit its base: {first}") from None
