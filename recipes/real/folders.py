"""Where the variants of the real model are written, and the command that writes them.

Every variant is a folder beside the model in the cache (`recipes.real.fetch`), under a name that begins
with ``smollm2_``: a checkpoint with its own weights, or an adapter in PEFT's format, which a gate reads
as ``smollm2+smollm2_NAME``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from recipes.folders import load, versions, write_record
from recipes.real import fetch

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Make = Callable[[Path], Mapping[str, Any]]
"""Writes a variant into an empty folder, and returns what its record says about it."""


def base_model() -> LlamaForCausalLM:
    """A fresh copy of the model, which is fetched first if it is not in the cache."""
    fetch.fetch()
    return load(fetch.folder())


def save(model: LlamaForCausalLM, target: Path) -> None:
    """Writes a checkpoint's folder in float32, with the model's own tokenizer."""
    model.save_pretrained(target)
    for file in target.glob("*.safetensors"):
        file.chmod(0o644)
    for name in TOKENIZER:
        shutil.copy(fetch.folder() / name, target / name)


def write(name: str, make: Make, module: str, again: bool = False) -> Path:
    """Makes a variant in the cache, unless it is there. An interrupted call leaves no folder."""
    target = fetch.cache() / name
    if target.is_dir() and not again:
        return target
    fetch.fetch()
    with tempfile.TemporaryDirectory(prefix="make-", dir=fetch.cache()) as work:
        made = Path(work) / name
        made.mkdir()
        record = make(made)
        write_record(made, {"made_by": f"python -m {module} {name}", **record, **versions()})
        if target.is_dir():
            shutil.rmtree(target)
        made.replace(target)
    return target


def command(
    description: str,
    variants: Mapping[str, Make],
    module: str,
    *,
    files: Callable[[Path], None] | None = None,
) -> None:
    """Reads ``[--again] [NAME ...]`` from the command line and makes the variants.

    Args:
        description: for ``--help``.
        variants: name -> how it is made, in the order in which they build on each other.
        module: of the recipe.
        files: writes the recipe's data files; adds the option ``--files DIR``, which makes no variant.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--again", action="store_true", help="replace what is in the cache")
    if files is not None:
        parser.add_argument("--files", type=Path, help="write the data files here, and no variant")
    listed = ", ".join(variants)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {listed}; default: all")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(variants)):
        parser.error(f"no variant {', '.join(unknown)}; valid: {listed}")
    if files is not None and arguments.files is not None:
        files(arguments.files)
        return
    torch.set_num_threads(1)
    for name, make in variants.items():
        if name in (arguments.names or variants):
            print(f"{name}: {write(name, make, module, arguments.again)}", flush=True)
