"""From what a user typed to a folder: ``[label=]reference``.

A reference is an alias from the ini key ``mechanism_models``, a folder, ``zoo:name`` (embedded),
``hf:org/name@revision`` or ``reference+adapter``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints.shape import read_config
from pytest_mechanism.errors import BadReference, MechanismError, choices

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ZOO = Path(__file__).parent.parent / "zoo"


@dataclass(frozen=True)
class Reference:
    """A checkpoint that somebody named.

    Attributes:
        label: how reports and score folders call it.
        text: the reference as typed, without the label.
        folder: the checkpoint on disk.
    """

    label: str
    text: str
    folder: Path


def zoo_names() -> list[str]:
    """Names of the embedded checkpoints."""
    return sorted(p.parent.name for p in ZOO.glob("*/config.json"))


def parse_pair(text: str, aliases: Mapping[str, str], root: Path) -> tuple[Reference, Reference]:
    """``base,ft`` -> the references of the roles ``base`` and ``ft``.

    Raises:
        BadReference: not exactly two, equal labels, or one that cannot be resolved.
    """
    sides = [side.strip() for side in text.split(",")]
    if len(sides) != 2 or not all(sides):
        raise BadReference(
            f"--model-pair takes two checkpoints with a comma between them, as in "
            f"--model-pair base,ft; got {text!r}"
        )
    base, ft = (parse_reference(side, aliases, root) for side in sides)
    if base.label == ft.label:
        raise BadReference(
            f"--model-pair: both sides are labelled {base.label!r}; "
            f"tell them apart as in {base.label}_a={base.text},{ft.label}_b={ft.text}"
        )
    return base, ft


def parse_reference(text: str, aliases: Mapping[str, str], root: Path) -> Reference:
    """``[label=]reference`` -> a folder that exists.

    Raises:
        BadReference: unknown alias, missing folder, or a kind of reference that cannot be
            loaded yet.
    """
    label, equals, rest = text.partition("=")
    given = (rest if equals else text).strip()
    label = label.strip() if equals else default_label(given)
    if not LABEL.fullmatch(label):
        raise BadReference(
            f"{label!r} cannot be a label: use letters, digits, '_', '.' and '-', "
            f"as in --model-pair base={given},..."
        )
    return Reference(label, given, resolve(given, aliases, root))


def default_label(reference: str) -> str:
    """The last name in a reference: ``zoo:ft`` -> ft, ``./out/step_500`` -> step_500."""
    tail = reference.rstrip("/\\").replace("\\", "/").split("/")[-1]
    tail = tail.split(":")[-1].split("@")[0].replace("+", "_")
    return re.sub(r"[^A-Za-z0-9_.-]", "_", tail).lstrip("._-") or "model"


def resolve(text: str, aliases: Mapping[str, str], root: Path) -> Path:
    """The folder of a reference, aliases followed once."""
    if not text:
        raise BadReference(f"an empty checkpoint reference; {choices('', known(aliases))}")
    if text in aliases:
        target = aliases[text].strip()
        if target in aliases and target != text:
            raise BadReference(f"alias {text!r} points to another alias, {target!r}")
        return resolve(target, {}, root)
    if text.startswith("zoo:"):
        name = text.removeprefix("zoo:")
        if name not in zoo_names():
            raise BadReference(f"no embedded checkpoint {name!r}; {choices(name, zoo_names())}")
        return ZOO / name
    if text.startswith("hf:"):
        raise BadReference(
            f"{text}: references to the Hugging Face hub are not supported yet; download the "
            "checkpoint and give its folder"
        )
    # an existing folder may have '+' in its name, so look before taking it for an adapter
    try:
        folder = (root / Path(text).expanduser()).resolve()
        exists = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as problem:  # too long, ~nobody, a loop of links
        raise BadReference(f"{text[:60]!r} cannot be a folder: {problem}"[:200]) from None
    if not exists:
        if "+" in text:
            raise BadReference(
                f"{text}: references with an adapter (+) are not supported yet; merge the adapter "
                "into its base and give the folder"
            )
        what = "folder" if any(c in text for c in "/\\.~") else "alias or folder"
        raise BadReference(f"no {what} {text!r}; {choices(text, known(aliases))}, or a folder")
    check_folder(folder, text)
    return folder


def known(aliases: Mapping[str, str]) -> list[str]:
    return [*aliases, *(f"zoo:{name}" for name in zoo_names())]


def check_folder(folder: Path, text: str) -> None:
    """What can be said about a checkpoint folder without reading its weights."""
    if (folder / "adapter_config.json").exists():
        raise BadReference(
            f"{text} is an adapter folder, which is not supported yet; merge it into its base"
        )
    try:
        read_config(folder)
    except MechanismError as problem:
        raise BadReference(f"{text}: {problem.message}") from None
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise BadReference(
            f"{text} has no *.safetensors file"
            + ("; pickled weights are not loaded, save them as safetensors" if pickled else "")
        )
    if not (folder / "tokenizer.json").exists():
        raise BadReference(
            f"{text} has no tokenizer.json; save a fast tokenizer beside the weights "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
