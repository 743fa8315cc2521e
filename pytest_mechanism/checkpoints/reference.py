"""References to checkpoints as users type them, ``[label=]reference``, and the folders they name.

A reference is an alias from the ini key ``mechanism_models``, a folder, a GGUF file, ``zoo:name``
(embedded), ``hf:org/name@revision``, ``hf:org/name/file.gguf@revision``, ``tracr:path`` (a compiled
program: path.json and path.npz) or ``reference+adapter``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints.adapter import (
    base_reference,
    check_adapter,
    is_adapter,
    named_otherwise,
)
from pytest_mechanism.checkpoints.folder_check import check_files, check_folder
from pytest_mechanism.checkpoints.gguf_file import files_in
from pytest_mechanism.checkpoints.hub import PREFIX, fetch
from pytest_mechanism.checkpoints.trust import TRUST_NOTHING, Trust
from pytest_mechanism.errors import BadReference, MechanismError, choices
from pytest_mechanism.files import GGUF, is_gguf

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
COMPILED = "tracr:"
ZOO = Path(__file__).parent.parent / "zoo"


class Aliases(dict[str, str]):
    """Names for checkpoints.

    Attributes:
        folder: the base of relative paths in them: the folder of their ini file.
    """

    def __init__(self, names: Mapping[str, str], folder: Path) -> None:
        super().__init__(names)
        self.folder = folder


@dataclass(frozen=True)
class Reference:
    """A checkpoint that the user named.

    Attributes:
        label: its name in reports and score folders.
        text: the reference as typed, without the label.
        folder: the checkpoint's folder, or its GGUF file; with an adapter, that of its base.
        adapter: folder of an adapter to merge into it, or None.
    """

    label: str
    text: str
    folder: Path
    adapter: Path | None = None

    @property
    def place(self) -> str:
        """The resolved folders, since the typed reference may be an alias or a relative path."""
        inside = self.folder.parent == ZOO
        base = f"zoo:{self.folder.name}" if inside else str(self.folder)
        return base if self.adapter is None else f"{base} + {self.adapter}"

    @property
    def other_base(self) -> str | None:
        """The base that the adapter names, if it is not the one with which it is used (`adapter.named_otherwise`)."""
        return None if self.adapter is None else named_otherwise(self.adapter, self.folder)

    @property
    def tokenizer(self) -> Path:
        """The folder, or the GGUF file, of the tokenizer; an adapter may have its own."""
        if self.adapter is not None and (self.adapter / "tokenizer.json").exists():
            return self.adapter
        return self.folder


def zoo_names() -> list[str]:
    """Names of the embedded checkpoints."""
    return sorted(p.parent.name for p in ZOO.glob("*/config.json"))


def parse_pair(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = TRUST_NOTHING
) -> tuple[Reference, Reference]:
    """``base,ft`` -> the references of the roles ``base`` and ``ft``.

    Raises:
        BadReference: not two checkpoints, equal labels, or a reference that cannot be resolved.
    """
    sides = [side.strip() for side in text.split(",")]
    if len(sides) != 2 or not all(sides):
        raise BadReference(
            f"--model-pair takes two checkpoints, separated by a comma, as in --model-pair base,ft; "
            f"got {text!r}"
        )
    base, ft = (parse_reference(side, aliases, root, trust) for side in sides)
    if base.label == ft.label:
        raise BadReference(
            f"--model-pair: both checkpoints have the label {base.label!r}; "
            f"label them, as in {base.label}_a={base.text},{ft.label}_b={ft.text}"
        )
    return base, ft


def further_roles(texts: Sequence[str]) -> dict[str, str]:
    """``ROLE=[LABEL=]REFERENCE`` of checkpoints beside the pair -> role and reference.

    Raises:
        MechanismError: a role is missing, is one of the pair's, or is set twice.
    """
    references: dict[str, str] = {}
    for text in texts:
        role, equals, rest = text.partition("=")
        role = role.strip()
        if not equals or not role.isidentifier():
            raise MechanismError(f"--mechanism-model takes ROLE=REFERENCE, got {text!r}")
        if role in ("base", "ft", "pair"):
            raise MechanismError(
                f"--mechanism-model: the role {role!r} belongs to the pair; use --model-pair"
            )
        if role in references:
            raise MechanismError(f"--mechanism-model: the role {role!r} is set twice")
        references[role] = rest
    return references


def parse_reference(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = TRUST_NOTHING
) -> Reference:
    """``[label=]reference`` -> a folder that exists.

    Raises:
        BadReference: unknown alias, missing folder, or a folder that cannot be loaded.
    """
    label, reference = labelled(text)
    if not LABEL.fullmatch(label):
        raise BadReference(
            f"{label!r} cannot be a label: use up to 100 letters, digits, '_', '.' and '-', "
            f"as in --model-pair base={reference},..."
        )
    return Reference(label, reference, *resolve(reference, aliases, root, trust))


def labelled(text: str) -> tuple[str, str]:
    """Label and reference of ``[label=]reference``. No label has a slash, so the name of a folder in
    ``runs/lr=1e-4`` keeps its ``=``."""
    label, equals, rest = text.partition("=")
    if not equals or "/" in label or "\\" in label:
        reference = text.strip()
        return default_label(reference), reference
    return label.strip(), rest.strip()


def default_label(reference: str) -> str:
    """The last name in a reference: ``zoo:ft`` -> ft, ``./out/step_500`` -> step_500,
    ``./out/model.Q8_0.gguf`` -> model.Q8_0."""
    tail = reference.rstrip("/\\").replace("\\", "/").split("/")[-1]
    tail = tail.split(":")[-1].split("@")[0].removesuffix(GGUF).replace("+", "_")
    if reference.startswith(COMPILED):
        tail = tail.removesuffix(".json").removesuffix(".npz")
    return re.sub(r"[^A-Za-z0-9_.-]", "_", tail).lstrip("._-")[:100] or "model"


Resolved = tuple[Path, Path | None]
"""The folder, or the GGUF file, of a checkpoint, and the folder of its adapter."""


def resolve(  # noqa: C901 - one decision, read from top to bottom
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = TRUST_NOTHING
) -> Resolved:
    """The folders of a reference. An alias may not name another alias."""
    if not text:
        raise BadReference(f"an empty checkpoint reference; {choices('', valid_names(aliases))}")
    if text in aliases:
        target = aliases[text].strip()
        if target in aliases and target != text:
            raise BadReference(f"alias {text!r} names another alias, {target!r}; name its target")
        if not isinstance(aliases, Aliases):
            return resolve(target, {}, root, trust)
        try:
            return resolve(target, {}, aliases.folder, trust)
        except BadReference as problem:
            near = aliases.folder
            raise BadReference(f"alias {text!r}, relative to {near}: {problem.message}") from None
    # a folder may have '+' in its name, so the name of an existing folder is no adapter reference
    elsewhere = text.startswith(("zoo:", PREFIX, COMPILED))
    folder = None if elsewhere else existing_checkpoint(text, root)
    if folder is None and "+" in text:
        return base_and_adapter(text, aliases, root, trust)
    if text.startswith("zoo:"):
        name = text.removeprefix("zoo:")
        if name not in zoo_names():
            raise BadReference(f"no embedded checkpoint {name!r}; {choices(name, zoo_names())}")
        return ZOO / name, None
    if text.startswith(PREFIX):
        folder = fetch(text, trust)
    if text.startswith(COMPILED):
        from pytest_mechanism.checkpoints.tracr import compiled_folder

        folder = compiled_folder(text, root)
    if folder is None:
        raise nothing_there(text, aliases, root)
    if is_adapter(folder):
        return adapter_alone(folder, text, root, trust)
    check_folder(folder, text, trust)
    return folder, None


def existing_folder(text: str, root: Path) -> Path | None:
    """The folder of this name, or None."""
    try:
        folder = (root / Path(text).expanduser()).resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError) as problem:  # too long, ~nobody, a loop of links
        raise BadReference(f"{text[:60]!r} cannot be a folder: {problem}"[:200]) from None


def existing_checkpoint(text: str, root: Path) -> Path | None:
    """The folder or GGUF file of this name, or None.

    Raises:
        BadReference: another file has this name.
    """
    if (folder := existing_folder(text, root)) is not None:
        return folder
    path = root / Path(text).expanduser()
    if not path.is_file():
        return None
    # a link's own name counts: in the hub's cache, the file it leads to has no ending
    path = path.parent.resolve() / path.name
    if not is_gguf(path):
        raise BadReference(
            f"{text} is a file; a checkpoint is a folder, or one file whose name ends in {GGUF}"
        )
    return path


def nothing_there(text: str, aliases: Mapping[str, str], root: Path) -> BadReference:
    """The error about a reference that names no file or folder."""
    if (link := root / Path(text).expanduser()).is_symlink():
        return BadReference(f"{text} is a link to {str(link.readlink())!r}, which is missing")
    if text.lower().endswith(GGUF):
        near = (root / Path(text).expanduser()).parent
        names = files_in(near)
        others = f"; in {near}: {choices(Path(text).name, names)}" if names else ""
        return BadReference(f"no file {text!r}{others}")
    kind = "folder" if any(c in text for c in "/\\.~") else "alias or folder"
    if (near_by := folder_like(text, root)) is not None:
        return BadReference(f"no {kind} {text!r}; did you mean {near_by!r}?")
    return BadReference(f"no {kind} {text!r}; {choices(text, valid_names(aliases))}, or a folder")


def folder_like(text: str, root: Path) -> str | None:
    """A folder with nearly this name, spelled like it; None if there is none, or an alias or an embedded checkpoint
    may be meant as well."""
    if not any(c in text for c in "/\\.~"):
        return None
    typed = Path(text)
    near = (root / typed.expanduser()).parent
    try:
        names = [entry.name for entry in near.iterdir() if entry.is_dir()]
    except OSError:
        return None
    found = difflib.get_close_matches(typed.name, names, n=1, cutoff=0.6)
    return (
        text[: len(text) - len(typed.name)] + found[0]
        if found and text.endswith(typed.name)
        else None
    )


def base_and_adapter(
    text: str, aliases: Mapping[str, str], root: Path, trust: Trust = TRUST_NOTHING
) -> Resolved:
    """``base+adapter``; the adapter is a folder or a hub reference."""
    left, _, right = text.rpartition("+")
    if not left or not right:
        raise BadReference(f"{text}: write BASE+ADAPTER, with the adapter's folder after the plus")
    base, other = resolve(left, aliases, root, trust)
    if other is not None:
        raise BadReference(f"{text}: a checkpoint can have one adapter, not two")
    adapter = fetch(right, trust) if right.startswith(PREFIX) else existing_folder(right, root)
    if adapter is None:
        near = folder_like(right, root)
        hint = "" if near is None else f"; did you mean {near!r}?"
        raise BadReference(f"{text}: the adapter's folder {right!r} does not exist{hint}")
    check_adapter(adapter, text, trust)
    check_files(adapter, text)
    return base, adapter


def adapter_alone(adapter: Path, text: str, root: Path, trust: Trust = TRUST_NOTHING) -> Resolved:
    """An adapter's folder and the base that it names: a folder, or in the hub's cache. The network
    serves references of the user alone, and not those of a file."""
    if (adapter / "config.json").exists():
        # transformers would apply the adapter silently
        raise BadReference(
            f"{text} holds both a checkpoint and an adapter; move the adapter to its own folder"
        )
    check_adapter(adapter, text, trust)
    check_files(adapter, text)
    named = base_reference(adapter, text)
    for near in (adapter, root):
        folder = existing_folder(named, near)
        if folder is not None:
            check_folder(folder, named, trust)
            return folder, adapter
    try:
        folder = fetch(f"{PREFIX}{named}", trust, cached=True)
    except BadReference:
        raise BadReference(
            f"{text} is an adapter of {named!r}, which is neither a folder nor in the hub's cache; "
            f"write BASE+{text}, with the base as a folder or as hf:org/name"
        ) from None
    check_folder(folder, named, trust)
    return folder, adapter


def valid_names(aliases: Mapping[str, str]) -> list[str]:
    """Aliases and embedded checkpoints."""
    return [*aliases, *(f"zoo:{name}" for name in zoo_names())]
