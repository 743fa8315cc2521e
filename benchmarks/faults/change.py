"""A change of a released checkpoint: a fault that a gate should see, or a benign change that it should let pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)

Edit = Callable[[LlamaForCausalLM], None]
"""Changes the weights of a model in place."""

Make = Callable[["Workshop", Path], None]
"""Writes the changed checkpoint into a folder."""


@dataclass(frozen=True)
class Workshop:
    """What changes are made from.

    Attributes:
        release: folder of the unharmed release.
        parent: folder of the model from which the release was fine-tuned.
        models: name -> folder of further embedded models.
    """

    release: Path
    parent: Path
    models: Path

    def load(self, folder: Path | None = None) -> LlamaForCausalLM:
        """A model in float32; the release by default."""
        return LlamaForCausalLM.from_pretrained(folder or self.release, dtype=torch.float32).eval()

    def save(self, model: LlamaForCausalLM, folder: Path, **options: object) -> None:
        """Writes a model with the release's tokenizer."""
        model.save_pretrained(folder, **options)
        for name in TOKENIZER:
            if (self.release / name).exists():
                shutil.copy(self.release / name, folder / name)


@dataclass(frozen=True)
class Change:
    """A change of the release.

    Attributes:
        name: unique in its list.
        kind: changes of one kind differ in place and strength.
        fault: whether the gate should see it; the other changes are benign.
        strength: in words.
        make: writes the changed checkpoint.
        hurt: the head that was changed, as ``2.1``, where it is a single one.
        taker: the head that does its work now, where there is one.
        refit: whether the sizes of this benign change say which faults are equivalent to none.
    """

    name: str
    kind: str
    fault: bool
    strength: str
    make: Make
    hurt: str | None = None
    taker: str | None = None
    refit: bool = False


def harmed(name: str, kind: str, strength: str, make: Make) -> Change:
    """A fault of no single head, or of a head that no report is asked to name."""
    return Change(name, kind, True, strength, make)


def edited(edit: Edit) -> Make:
    """A change of weights alone."""

    def make(shop: Workshop, folder: Path) -> None:
        model = shop.load()
        with torch.no_grad():
            edit(model)
        shop.save(model, folder)

    return make


def check_unique(changes: Sequence[Change]) -> list[Change]:
    """The changes, none of which has the name of another."""
    names = [change.name for change in changes]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    return list(changes)
